"""D(alpha, s), the pooling of keys and values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.pooling import downsample_tokens, pooled_grid
from tests.core.loops import pooled_windows

ALPHAS = (0.0, 0.5, 0.9, 1.0, 1.2)
RAMP_BY_2 = {
    0.0: [2.5, 4.5, 10.5, 12.5],
    0.5: [3.75, 5.75, 11.75, 13.75],
    0.9: [4.75, 6.75, 12.75, 14.75],
    1.0: [5.0, 7.0, 13.0, 15.0],
    1.2: [5.5, 7.5, 13.5, 15.5],
}
RAMP_BY_4 = {0.0: [7.5], 0.5: [8.75], 0.9: [9.75], 1.0: [10.0], 1.2: [10.5]}


def slow_pooling(x, height, width, factor, alpha):
    """Token by token in double precision, with exact fractions for the indices."""
    x = x.double()
    rows = [
        alpha * x[:, nearest] + (1 - alpha) * x[:, window].mean(1)
        for window, nearest in pooled_windows(height, width, factor)
    ]
    return torch.stack(rows, dim=1)


def as_image(x, height, width):
    return x.mT.unflatten(2, (height, width))


@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    factor=st.integers(1, 5),
    alpha=st.sampled_from(ALPHAS) | st.floats(-1, 2),
)
def test_pooling_equals_a_loop_over_windows(randn, height, width, factor, alpha):
    x = randn(2, height * width, 3)
    pooled = downsample_tokens(x, TokenGrid(height, width), factor, alpha)
    expected = slow_pooling(x, height, width, factor, alpha)
    assert pooled.shape[1] == pooled_grid(TokenGrid(height, width), factor).tokens
    torch.testing.assert_close(pooled.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("factor", "table"), [(2, RAMP_BY_2), (4, RAMP_BY_4)])
def test_worked_ramp(alpha, factor, table):
    x = torch.arange(16.0).view(1, 16, 1)
    pooled = downsample_tokens(x, TokenGrid(4, 4), factor, alpha)
    torch.testing.assert_close(pooled[0, :, 0], torch.tensor(table[alpha]))


@pytest.mark.parametrize(
    ("size", "factor", "indices"),
    [
        (8, 2, [1, 3, 5, 7]),
        (9, 3, [1, 4, 7]),
        (12, 4, [2, 6, 10]),
        (9, 2, [1, 3, 5, 7]),
        (10, 3, [1, 5, 8]),
        (11, 5, [2, 8]),
    ],
)
def test_worked_indices_of_the_nearest_token(size, factor, indices):
    ramp = torch.arange(float(size)).view(1, size, 1)
    for grid in (TokenGrid(size, 1), TokenGrid(1, size)):
        assert downsample_tokens(ramp, grid, factor, 1.0).flatten().tolist() == indices


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 14), (32, 20), (7, 8), (1, 6)])
def test_alpha_1_is_nearest_exact_interpolation(randn, height, width, factor):
    x = randn(2, height * width, 3)
    pooled = downsample_tokens(x, TokenGrid(height, width), factor, 1.0)
    size = (max(1, height // factor), max(1, width // factor))
    image = functional.interpolate(as_image(x, height, width), size, mode="nearest-exact")
    assert torch.equal(pooled, image.flatten(2).mT)


@pytest.mark.parametrize(("height", "width", "factor"), [(8, 8, 2), (12, 6, 3), (4, 16, 4)])
def test_alpha_0_is_average_pooling_where_sizes_divide(randn, height, width, factor):
    x = randn(2, height * width, 3)
    pooled = downsample_tokens(x, TokenGrid(height, width), factor, 0.0)
    image = functional.avg_pool2d(as_image(x, height, width), factor)
    torch.testing.assert_close(pooled, image.flatten(2).mT)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_factor_1_returns_the_argument(randn, alpha):
    x = randn(1, 12, 2)
    assert downsample_tokens(x, TokenGrid(3, 4), 1, alpha) is x


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_and_its_precision_are_kept(randn, dtype, alpha):
    x = randn(1, 48, 4).to(dtype)
    pooled = downsample_tokens(x, TokenGrid(6, 8), 2, alpha)
    assert pooled.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    expected = slow_pooling(x, 6, 8, 2, alpha)
    torch.testing.assert_close(pooled.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("factor", "tokens"), [(0, 12), (-2, 12), (2, 11)])
def test_a_bad_factor_or_token_count_is_refused(factor, tokens):
    with pytest.raises(ValueError, match=f"12 tokens for a 3 x 4 grid, got factor {factor} and"):
        downsample_tokens(torch.zeros(1, tokens, 1), TokenGrid(3, 4), factor, 0.9)
