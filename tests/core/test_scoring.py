"""Token grids, and every score against a loop over tokens and channels."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigain_core.tokens import scoring
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.scoring import PADDINGS, SCORERS, score_tokens
from tests.core.loops import cosine, slow_laplacian

LAPLACIANS = ("laplacian-l1", "laplacian-l2")
COSINES = ("cosine-to-neighbours", "cosine-to-mean")
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))

sides = st.integers(1, 7)


def slow_dft(token):
    """Amplitudes by the definition, the channel mean first."""
    size = len(token)
    return [
        abs(sum(v * cmath.exp(-2j * cmath.pi * k * c / size) for c, v in enumerate(token)))
        for k in range(size)
    ]


def slow_token_score(tokens, n, height, width, scorer):
    """Table 5 for token n of one sample, tokens as lists of channels, all but the Laplacians."""
    token = tokens[n]
    mean = [sum(channel) / len(tokens) for channel in zip(*tokens, strict=True)]
    if scorer == "variance":
        centre = sum(token) / len(token)
        return sum((value - centre) ** 2 for value in token) / len(token)
    if scorer == "l1-norm":
        return sum(abs(value) for value in token)
    if scorer == "l2-norm":
        return math.hypot(*token)
    if scorer == "mean-deviation":
        return math.dist(token, mean)
    if scorer == "dft-amplitude":
        return sum(slow_dft(token)[1:])
    if scorer == "dft-centroid":
        amplitudes = slow_dft(token)
        return sum(k * a for k, a in enumerate(amplitudes, start=1)) / sum(amplitudes)
    if scorer == "cosine-to-mean":
        return cosine(token, mean)
    if scorer == "cosine-to-neighbours":
        places = [(n // width + dy, n % width + dx) for dy, dx in STEPS]
        inside = [y * width + x for y, x in places if 0 <= y < height and 0 <= x < width]
        cosines = [cosine(token, tokens[m]) for m in inside]
        return sum(cosines) / len(cosines) if cosines else 0.0
    if scorer.startswith("negated-"):
        return -slow_token_score(tokens, n, height, width, scorer.removeprefix("negated-"))
    raise KeyError(scorer)


def slow_laplacian_score(token, scorer):
    if scorer == "laplacian-l1":
        return sum(abs(value) for value in token) / len(token)
    return (sum(value**2 for value in token) / len(token)) ** 0.5


def slow_scores(x, height, width, scorer, padding):
    if scorer in LAPLACIANS:
        response = slow_laplacian(x, height, width, padding).tolist()
        rows = [[slow_laplacian_score(token, scorer) for token in sample] for sample in response]
    else:
        rows = [
            [slow_token_score(tokens, n, height, width, scorer) for n in range(len(tokens))]
            for tokens in x.tolist()
        ]
    return torch.tensor(rows, dtype=torch.float64)


def test_the_ten_scores_of_the_paper_and_the_negated_cosines():
    assert SCORERS[0] == "laplacian-l1"  # the default
    assert set(SCORERS) == {
        *LAPLACIANS,
        "variance",
        "l1-norm",
        "l2-norm",
        "mean-deviation",
        "dft-amplitude",
        "dft-centroid",
        *COSINES,
        "negated-cosine-to-neighbours",
        "negated-cosine-to-mean",
    }


@pytest.mark.parametrize("scorer", SCORERS)
@settings(max_examples=50)
@given(
    height=sides,
    width=sides,
    batch=st.integers(1, 3),
    channels=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    padding=st.sampled_from(PADDINGS),
    seed=st.integers(0, 99),
)
def test_scores_equal_a_loop_over_pixels(
    randn, height, width, batch, channels, dtype, padding, seed, scorer
):
    x = (3 * randn(batch, height * width, channels, seed=seed) + 0.3).to(dtype)
    scores = score_tokens(x, TokenGrid(height, width), scorer, padding)
    assert scores.dtype == torch.float32
    expected = slow_scores(x, height, width, scorer, padding)
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    padding=st.sampled_from(PADDINGS),
    seed=st.integers(0, 99),
)
def test_laplacian_of_whole_numbers_is_exact(randn, height, width, padding, seed):
    x = (4 * randn(1, height * width, 1, seed=seed)).round()
    scores = score_tokens(x, TokenGrid(height, width), "laplacian-l1", padding)
    expected = slow_laplacian(x, height, width, padding).abs().squeeze(2)
    assert torch.equal(scores.double(), expected)


@pytest.mark.parametrize("scorer", LAPLACIANS)
def test_zeros_outside_make_the_border_of_a_constant_image_look_detailed(scorer):
    x = torch.full((1, 20, 3), -1.5)
    zeros, replicate = (score_tokens(x, TokenGrid(4, 5), scorer, padding) for padding in PADDINGS)
    edge, inside = [3, 1.5, 1.5, 1.5, 3], [1.5, 0, 0, 0, 1.5]
    torch.testing.assert_close(zeros.view(4, 5), torch.tensor([edge, inside, inside, edge]))
    assert torch.equal(replicate, torch.zeros(1, 20))


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ([2, 2, 2, 2, 2, 2], {"l1-norm": 12, "variance": 0, "dft-amplitude": 0, "dft-centroid": 1}),
        ([0, 3, 0, 0], {"l2-norm": 3, "variance": 27 / 16, "dft-amplitude": 9}),
        ([0, 3, 0, 0], {"dft-centroid": 2.5}),
        ([1, -1, 1, -1, 1, -1], {"l1-norm": 6, "variance": 1, "dft-amplitude": 6}),
        ([1, -1, 1, -1, 1, -1], {"l2-norm": 6**0.5, "dft-centroid": 4}),
        ([-5], {"l1-norm": 5, "variance": 0, "dft-amplitude": 0, "dft-centroid": 1}),
        ([0, 0, 0], {"l2-norm": 0, "variance": 0, "dft-amplitude": 0, "dft-centroid": 0}),
    ],
)
def test_worked_tokens(token, expected):
    """A constant has the first bin alone, a spike all bins alike, an alternation the middle one."""
    x = torch.tensor([[token]]).float()
    for scorer, value in expected.items():
        score = score_tokens(x, TokenGrid(1, 1), scorer).item()
        assert score == pytest.approx(value, abs=1e-5), scorer


def test_mean_and_neighbours_pick_out_an_odd_token():
    """One token at right angles to all others: unusual, and its neighbours notice."""
    x = torch.tensor([1.0, 0.0]).repeat(1, 25, 1)
    x[0, 12] = torch.tensor([0.0, 1.0])
    scores = {scorer: score_tokens(x, TokenGrid(5, 5), scorer)[0] for scorer in SCORERS}
    for scorer in COSINES:
        assert scores[scorer].argmin() == 12
        assert scores[f"negated-{scorer}"].argmax() == 12
    assert scores["mean-deviation"].argmax() == 12
    neighbours = scores["cosine-to-neighbours"].view(5, 5)
    torch.testing.assert_close(neighbours[2], torch.tensor([1, 0.75, 0, 0.75, 1]))
    length = (24**2 + 1) ** 0.5  # of 25 times the mean
    assert scores["cosine-to-mean"][12].item() == pytest.approx(1 / length)
    assert scores["cosine-to-mean"][0].item() == pytest.approx(24 / length)


@pytest.mark.parametrize(
    ("scorer", "published"),
    [
        ("laplacian-l1", lambda score, channels: channels * score),
        ("laplacian-l2", lambda score, channels: channels**0.5 * score),
        ("variance", lambda score, channels: channels / (channels - 1) * score),
        ("dft-centroid", lambda score, channels: score - 1),
    ],
)
def test_scale_of_the_published_code(randn, scorer, published):
    """Its sums, its divisor C - 1 and its bins from 0 rank tokens as the paper's formulas do."""
    x, grid = randn(1, 12, 6), TokenGrid(3, 4)
    response = slow_laplacian(x, 3, 4, "zeros")
    amplitudes = torch.from_numpy(np.abs(np.fft.fft(x.numpy().astype(np.float64))))
    expected = {
        "laplacian-l1": response.abs().sum(-1),
        "laplacian-l2": response.square().sum(-1).sqrt(),
        "variance": x.var(-1),
        "dft-centroid": (torch.arange(6) * amplitudes).sum(-1) / amplitudes.sum(-1),
    }[scorer]
    scores = score_tokens(x, grid, scorer)
    torch.testing.assert_close(published(scores, 6), expected.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scorer", SCORERS)
def test_half_precision_tokens_are_scored_in_fp32(randn, dtype, scorer):
    x = (20000 * randn(2, 12, 4)).clamp(-6e4, 6e4).to(dtype)  # four times overflows fp16
    scores = score_tokens(x, TokenGrid(3, 4), scorer)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, score_tokens(x.float(), TokenGrid(3, 4), scorer))
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (3, 4)])
def test_all_zero_tokens_score_0(scorer, height, width):
    x = torch.zeros(2, height * width, 4)
    scores = score_tokens(x, TokenGrid(height, width), scorer)
    assert torch.equal(scores, torch.zeros(2, height * width))


@pytest.mark.parametrize("scorer", COSINES)
def test_a_zero_token_among_others_has_cosine_0(randn, scorer):
    x = randn(1, 9, 4)
    x[0, 4] = 0
    scores = score_tokens(x, TokenGrid(3, 3), scorer)
    assert torch.isfinite(scores).all()
    assert scores[0, 4] == 0
    assert (scores[0, :4] != 0).all()


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("channels", [4, 320])
def test_each_sample_is_scored_on_its_own(randn, scorer, channels):
    x = randn(3, 12, channels)
    scores = score_tokens(x, TokenGrid(3, 4), scorer)
    for sample in range(3):
        alone = score_tokens(x[sample : sample + 1], TokenGrid(3, 4), scorer)
        assert torch.equal(scores[sample], alone[0])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("scorer", ["laplacian-l1", "laplacian-l2", "cosine-to-neighbours"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (2, 5), (7, 1), (11, 6)])
def test_how_many_rows_are_in_hand_does_not_show(
    randn, monkeypatch, height, width, scorer, padding
):
    x, grid = randn(2, height * width, 5), TokenGrid(height, width)
    scores = score_tokens(x, grid, scorer, padding)
    for rows in (1, 2, 3, 5):
        monkeypatch.setattr(scoring, "_BAND", rows * 2 * width * 5)
        assert torch.equal(score_tokens(x, grid, scorer, padding), scores)


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_have_a_shape_without_values(scorer):
    x = torch.empty(2, 12, 4, dtype=torch.float16, device="meta")
    scores = score_tokens(x, TokenGrid(3, 4), scorer)
    assert (scores.shape, scores.dtype, scores.device.type) == ((2, 12), torch.float32, "meta")


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
