"""Token grids and Laplacian scores against a loop over pixels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.grid import TokenGrid
from bigain_core.scoring import PADDINGS, SCORERS, laplacian, score_tokens

SIZES = [(1, 1), (1, 7), (6, 1), (2, 2), (4, 4), (5, 7), (8, 3)]


def slow_laplacian(x, height, width, padding):
    """Sum of the four neighbours minus four times the pixel, one pixel after the other."""
    batch, _, channels = x.shape
    x = x.double()

    def pixel(sample, row, column):
        if padding == "zeros" and not (0 <= row < height and 0 <= column < width):
            return torch.zeros(channels, dtype=torch.float64)
        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        return x[sample, row * width + column]

    out = torch.empty(batch, height * width, channels, dtype=torch.float64)
    for sample in range(batch):
        for row in range(height):
            for column in range(width):
                total = -4 * pixel(sample, row, column)
                for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    total = total + pixel(sample, row + dy, column + dx)
                out[sample, row * width + column] = total
    return out


def slow_scores(x, height, width, scorer, padding):
    response = slow_laplacian(x, height, width, padding)
    rows = [
        [
            sum(abs(value) for value in token) / len(token)
            if scorer == "laplacian-l1"
            else (sum(value**2 for value in token) / len(token)) ** 0.5
            for token in sample
        ]
        for sample in response.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_scores_equal_a_loop_over_pixels(randn, height, width, scorer, padding):
    x = randn(2, height * width, 5)
    scores = score_tokens(x, TokenGrid(height, width), scorer, padding)
    expected = slow_scores(x, height, width, scorer, padding)
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    padding=st.sampled_from(PADDINGS),
    seed=st.integers(0, 99),
)
def test_laplacian_of_whole_numbers_is_exact(randn, height, width, padding, seed):
    x = (4 * randn(1, height * width, 2, seed=seed)).round()
    response = laplacian(x, TokenGrid(height, width), padding)
    assert response.shape == (1, height, width, 2)
    assert torch.equal(response.flatten(1, 2).double(), slow_laplacian(x, height, width, padding))


@pytest.mark.parametrize("scorer", SCORERS)
def test_zeros_outside_make_the_border_of_a_constant_image_look_detailed(scorer):
    x = torch.full((1, 20, 3), -1.5)
    scores = score_tokens(x, TokenGrid(4, 5), scorer, "zeros").view(4, 5)
    expected = torch.tensor(
        [[3, 1.5, 1.5, 1.5, 3], [1.5, 0, 0, 0, 1.5], [1.5, 0, 0, 0, 1.5], [3, 1.5, 1.5, 1.5, 3]]
    )
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("scorer", SCORERS)
def test_replicated_border_of_a_constant_image_is_smooth(scorer):
    x = torch.full((1, 20, 3), -1.5)
    scores = score_tokens(x, TokenGrid(4, 5), scorer, "replicate")
    assert torch.equal(scores, torch.zeros(1, 20))


def test_a_ramp_has_no_detail_inside():
    row, column = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    x = (2 * row + 3 * column + 1).view(1, 30, 1)
    scores = score_tokens(x, TokenGrid(5, 6)).view(5, 6)
    assert torch.equal(scores[1:-1, 1:-1], torch.zeros(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scorer", SCORERS)
def test_half_precision_tokens_are_scored_in_fp32(randn, dtype, scorer):
    x = (20000 * randn(2, 12, 4)).clamp(-6e4, 6e4).to(dtype)  # four times overflows fp16
    scores = score_tokens(x, TokenGrid(3, 4), scorer)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, score_tokens(x.float(), TokenGrid(3, 4), scorer))
    assert torch.isfinite(scores).all()


def test_each_sample_is_scored_on_its_own(randn):
    x = randn(3, 12, 4)
    scores = score_tokens(x, TokenGrid(3, 4))
    for sample in range(3):
        assert torch.equal(scores[sample], score_tokens(x[sample : sample + 1], TokenGrid(3, 4))[0])


@pytest.mark.parametrize(
    ("scorer", "padding"), [("laplacian", "zeros"), ("laplacian-l1", "reflect")]
)
def test_unknown_names_are_refused_with_the_known_ones(scorer, padding):
    with pytest.raises(ValueError, match="expected a scorer of .*laplacian-l1.* got") as error:
        score_tokens(torch.zeros(1, 4, 1), TokenGrid(2, 2), scorer, padding)
    assert repr(scorer) in str(error.value) and repr(padding) in str(error.value)


@pytest.mark.parametrize(
    ("height", "width", "cell", "rows", "columns"),
    [(4, 4, 2, 2, 2), (5, 7, 2, 2, 3), (9, 3, 4, 2, 0), (6, 6, 1, 6, 6)],
)
def test_a_grid_counts_tokens_and_whole_cells(height, width, cell, rows, columns):
    grid = TokenGrid(height, width)
    assert grid.tokens == height * width
    assert grid.cells(cell) == TokenGrid(rows, columns)
