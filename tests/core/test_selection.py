"""Which tokens are selected by score, over the image and in each cell."""

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.pooling import downsample_tokens
from bigain_core.tokens.selection import CELL_MODES, SELECTION_MODES, select_in_cells, select_tokens
from tests.core.loops import WORKED_EXAMPLE, slow_choice_in_cells

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


@pytest.mark.parametrize("mode", SELECTION_MODES)
@given(data=st.data(), tokens=st.integers(1, 300), levels=levels, dtype=dtypes)
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


@pytest.mark.parametrize("mode", CELL_MODES)
@given(height=sides, width=sides, cell=st.integers(1, 5), levels=levels, dtype=dtypes)
def test_selection_in_cells_equals_a_loop(mode, height, width, cell, levels, dtype):
    scores = scores_with_ties(2, height * width, levels, seed=height * 10 + width).to(dtype)
    chosen = select_in_cells(scores, TokenGrid(height, width), cell, mode)
    expected = [slow_choice_in_cells(row, height, width, cell, mode) for row in scores.tolist()]
    assert chosen.tolist() == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("high", [1, 2, 13, 10]), ("low", [5, 6, 9, 15]), ("median", [0, 3, 12, 11])],
)
def test_worked_selection_in_cells(mode, expected):
    assert select_in_cells(WORKED_EXAMPLE, TokenGrid(4, 4), 2, mode).tolist() == [expected]


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
