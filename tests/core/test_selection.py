"""Which tokens are selected by score, over the image and in each cell."""

from fractions import Fraction
from math import floor
from statistics import median_low

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.pooling import downsample_tokens
from bigain_core.tokens.scoring import SCORERS, score_tokens
from bigain_core.tokens.selection import CELL_MODES, SELECTION_MODES, select_in_cells, select_tokens

sides = st.integers(1, 9)
levels = st.integers(1, 9)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


def scores_with_ties(batch, tokens, levels, seed):
    """Whole numbers of few values, negative ones among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(levels, (batch, tokens), generator=generator).float() - 2


def slow_selection(row, count, mode):
    """Sorting in Python; exact fractions for the places of "uniform"."""
    tokens = range(len(row))
    ascending = sorted(tokens, key=lambda n: (row[n], n))
    if mode == "high":
        chosen = sorted(tokens, key=lambda n: (-row[n], n))[:count]
    elif mode == "low":
        chosen = ascending[:count]
    elif mode == "medium":
        start = (len(row) - count) // 2
        chosen = ascending[start : start + count]
    else:
        step = Fraction(len(row) - 1, count - 1) if count > 1 else 0
        chosen = [ascending[floor(i * step)] for i in range(count)]
    return sorted(chosen)


def slow_cell_selection(row, height, width, cell, mode):
    """Window after window, token after token."""
    h, w = max(1, height // cell), max(1, width // cell)
    ph, pw = height // h, width // w
    chosen = []
    for top in range(0, h * ph, ph):
        for left in range(0, w * pw, pw):
            tokens = [(top + y) * width + left + x for y in range(ph) for x in range(pw)]
            if mode == "high":
                wanted = max(row[n] for n in tokens)
            elif mode == "low":
                wanted = min(row[n] for n in tokens)
            else:
                wanted = median_low(row[n] for n in tokens)
            chosen.append(next(n for n in tokens if row[n] == wanted))
    return chosen


@pytest.mark.parametrize("mode", SELECTION_MODES)
@given(data=st.data(), tokens=st.integers(1, 40), levels=levels, dtype=dtypes)
def test_selection_equals_sorting_in_a_loop(mode, data, tokens, levels, dtype):
    count = data.draw(st.integers(0, tokens))
    seed = data.draw(st.integers(0, 99))
    scores = scores_with_ties(2, tokens, levels, seed).to(dtype)
    chosen = select_tokens(scores, count, mode)
    assert chosen.tolist() == [slow_selection(row, count, mode) for row in scores.tolist()]


@pytest.mark.parametrize(
    ("mode", "count", "expected"),
    [
        ("high", 3, [0, 3, 5]),
        ("low", 3, [1, 2, 6]),
        ("medium", 3, [2, 4, 7]),
        ("medium", 4, [0, 2, 4, 7]),
        ("uniform", 3, [3, 6, 7]),
        ("uniform", 1, [6]),
    ],
)
def test_worked_selection(mode, count, expected):
    """In ascending order the tokens are 6, 1, 2, 7, 4, 0, 5, 3."""
    scores = torch.tensor([[5.0, 1, 2, 9, 4, 7, 0, 3]])
    assert select_tokens(scores, count, mode).tolist() == [expected]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("high", [0, 1, 2]), ("low", [0, 1, 2]), ("medium", [3, 4, 5]), ("uniform", [0, 4, 8])],
)
def test_equal_scores_are_taken_in_raster_order(mode, expected):
    assert select_tokens(torch.full((1, 9), 0.5), 3, mode).tolist() == [expected]


@given(tokens=st.integers(1, 300), seed=st.integers(0, 99), data=st.data())
def test_uniform_selection_takes_distinct_tokens_from_end_to_end(tokens, seed, data):
    count = data.draw(st.integers(1, tokens))
    scores = torch.randn(1, tokens, generator=torch.Generator().manual_seed(seed))
    chosen = select_tokens(scores, count, "uniform")[0].tolist()
    assert len(set(chosen)) == count
    assert scores.argmin().item() in chosen
    assert count == 1 or scores.argmax().item() in chosen


@pytest.mark.parametrize("mode", SELECTION_MODES)
def test_all_or_no_tokens_can_be_selected(randn, mode):
    scores = randn(2, 12)
    assert torch.equal(select_tokens(scores, 12, mode), torch.arange(12).expand(2, 12))
    assert select_tokens(scores, 0, mode).shape == (2, 0)


@pytest.mark.parametrize("mode", SELECTION_MODES)
def test_each_sample_is_selected_on_its_own(randn, mode):
    scores = randn(3, 30)
    chosen = select_tokens(scores, 7, mode)
    for sample in range(3):
        assert torch.equal(chosen[sample], select_tokens(scores[sample : sample + 1], 7, mode)[0])
    assert not torch.equal(chosen[0], chosen[1])


@pytest.mark.parametrize("mode", CELL_MODES)
@given(height=sides, width=sides, cell=st.integers(1, 5), levels=levels, dtype=dtypes)
def test_selection_in_cells_equals_a_loop(mode, height, width, cell, levels, dtype):
    scores = scores_with_ties(2, height * width, levels, seed=height * 10 + width).to(dtype)
    chosen = select_in_cells(scores, TokenGrid(height, width), cell, mode)
    expected = [slow_cell_selection(row, height, width, cell, mode) for row in scores.tolist()]
    assert chosen.tolist() == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("high", [1, 2, 13, 10]), ("low", [5, 6, 9, 15]), ("median", [0, 3, 12, 11])],
)
def test_worked_selection_in_cells(mode, expected):
    # fmt: off
    scores = torch.tensor([[
         3.0,  9.0,  7.0,  5.0,
         8.0,  1.0,  4.0,  6.0,
        12.0,  2.0, 15.0, 10.0,
        11.0, 14.0, 13.0,  0.0,
    ]])
    # fmt: on
    assert select_in_cells(scores, TokenGrid(4, 4), 2, mode).tolist() == [expected]


@pytest.mark.parametrize("mode", CELL_MODES)
def test_equal_scores_in_a_cell_leave_its_first_token(mode):
    chosen = select_in_cells(torch.full((1, 35), 0.5), TokenGrid(5, 7), 2, mode)
    assert chosen.tolist() == [[0, 2, 4, 14, 16, 18]]


@pytest.mark.parametrize("mode", CELL_MODES)
@pytest.mark.parametrize(
    ("height", "width", "cell"), [(8, 8, 2), (9, 7, 2), (7, 7, 4), (1, 9, 2), (2, 3, 5), (5, 4, 1)]
)
def test_cells_are_the_windows_of_pooling(randn, height, width, cell, mode):
    """Pooled alone, each selected token shows up in its own place of the average."""
    grid = TokenGrid(height, width)
    chosen = select_in_cells(randn(1, grid.tokens), grid, cell, mode)[0]
    for place, token in enumerate(chosen.tolist()):
        x = torch.zeros(1, grid.tokens, 1)
        x[0, token] = 1
        average = downsample_tokens(x, grid, cell, alpha=0.0).flatten()
        assert len(average) == len(chosen)
        assert average.nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("mode", CELL_MODES)
def test_each_sample_is_selected_in_cells_on_its_own(randn, mode):
    scores, grid = randn(3, 30), TokenGrid(5, 6)
    chosen = select_in_cells(scores, grid, 2, mode)
    for sample in range(3):
        alone = select_in_cells(scores[sample : sample + 1], grid, 2, mode)
        assert torch.equal(chosen[sample], alone[0])
    assert not torch.equal(chosen[0], chosen[1])


def test_selections_have_a_shape_without_values():
    scores = torch.empty(2, 35, device="meta")
    for mode in SELECTION_MODES:
        chosen = select_tokens(scores, 9, mode)
        assert (chosen.shape, chosen.dtype, chosen.device.type) == ((2, 9), torch.long, "meta")
    for mode in CELL_MODES:
        chosen = select_in_cells(scores, TokenGrid(5, 7), 2, mode)
        assert (chosen.shape, chosen.dtype, chosen.device.type) == ((2, 6), torch.long, "meta")


def test_scoring_and_selection_leave_the_global_random_state_alone(randn):
    x, grid = randn(1, 12, 4), TokenGrid(3, 4)
    state = torch.get_rng_state()
    for scorer in SCORERS:
        scores = score_tokens(x, grid, scorer)
    for mode in SELECTION_MODES:
        select_tokens(scores, 5, mode)
    for mode in CELL_MODES:
        select_in_cells(scores, grid, 2, mode)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("count", "mode"), [(13, "low"), (-1, "low"), (3, "median")])
def test_a_bad_count_or_mode_is_refused(count, mode):
    expected = rf"between 0 and 12 tokens, got '{mode}' and {count}\."
    with pytest.raises(ValueError, match=r"BiGain: expected a selection mode of .*" + expected):
        select_tokens(torch.zeros(1, 12), count, mode)


@pytest.mark.parametrize(
    ("tokens", "cell", "mode"), [(12, 2, "medium"), (12, 0, "low"), (12, -1, "low"), (11, 2, "low")]
)
def test_a_bad_cell_mode_or_token_count_is_refused(tokens, cell, mode):
    expected = rf"3 x 4 grid, got '{mode}', cell {cell} and {tokens} scores\."
    with pytest.raises(ValueError, match=r"BiGain: expected a selection mode of .*" + expected):
        select_in_cells(torch.zeros(1, tokens), TokenGrid(3, 4), cell, mode)
