"""Keys and values chosen by score: over the image and in each cell."""

import pytest
import torch

from bigain_core.methods import KVCellSelection, KVDownsampling, KVSelection
from bigain_core.schedules import AlphaSchedule
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.pooling import downsample_tokens
from bigain_core.tokens.selection import CELL_MODES, SELECTION_MODES
from tests.core.calls import MIDDLE
from tests.core.loops import slow_choice, slow_choice_in_cells, slow_scores


@pytest.mark.parametrize("choice", SELECTION_MODES)
@pytest.mark.parametrize(("height", "width", "ratio"), [(6, 8, 0.75), (5, 7, 0.5), (3, 3, 0.1)])
def test_keys_and_values_are_the_tokens_chosen_by_score(randn, height, width, ratio, choice):
    metric, x = randn(2, height * width, 8), randn(2, height * width, 3, seed=1)
    plan = KVSelection(choice, ratio).plan(metric, TokenGrid(height, width), MIDDLE, 0)
    count = int(height * width * (1 - ratio))
    for sample in range(2):
        chosen = slow_choice(slow_scores(metric[sample], height, width), count, choice)
        assert torch.equal(plan.context(x)[sample], x[sample, chosen])
    assert plan.queries(x) is x and plan.restore(x) is x
    assert (plan.query_tokens, plan.context_tokens) == (height * width, count)


@pytest.mark.parametrize(("side", "ratio"), [(1, 0.75), (2, 0.99), (3, 0.9999)])
def test_at_least_one_key_is_left(randn, side, ratio):
    plan = KVSelection("low", ratio).plan(randn(1, side**2, 4), TokenGrid(side, side), MIDDLE, 0)
    assert plan.context_tokens == 1


@pytest.mark.parametrize("choice", SELECTION_MODES)
def test_a_selection_is_attention_with_the_other_keys_masked(randn, choice):
    q, k, v = randn(3, 1, 36, 8)
    plan = KVSelection(choice, 0.6).plan(k, TokenGrid(6, 6), MIDDLE, 0)
    chosen = slow_choice(slow_scores(k[0], 6, 6), 14, choice)
    mask = torch.full((36,), -torch.inf)
    mask[chosen] = 0
    expected = (q @ k.mT + mask).softmax(-1) @ v
    out = (plan.queries(q) @ plan.context(k).mT).softmax(-1) @ plan.context(v)
    torch.testing.assert_close(plan.restore(out), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", CELL_MODES)
@pytest.mark.parametrize(
    ("height", "width", "factor"), [(6, 8, 2), (9, 7, 3), (7, 7, 4), (5, 8, 2), (2, 3, 4)]
)
def test_each_cell_gives_one_token_blended_with_its_average(randn, height, width, factor, choice):
    grid, metric = TokenGrid(height, width), randn(2, height * width, 8)
    x = randn(2, height * width, 3, seed=1)
    average = downsample_tokens(x, grid, factor, alpha=0.0)
    chosen = [
        slow_choice_in_cells(slow_scores(m, height, width), height, width, factor, choice)
        for m in metric
    ]
    selected = torch.stack([row[tokens] for row, tokens in zip(x, chosen, strict=True)])
    for blend, expected in {
        0.0: average,
        0.25: 0.25 * selected + 0.75 * average,
        1.0: selected,
    }.items():
        plan = KVCellSelection(choice, factor, blend).plan(metric, grid, MIDDLE, 0)
        torch.testing.assert_close(plan.context(x), expected, atol=1e-6, rtol=1e-6)
        assert (plan.query_tokens, plan.context_tokens) == (grid.tokens, average.shape[1])
    half = KVCellSelection(choice, factor).plan(metric, grid, MIDDLE, 0)
    torch.testing.assert_close(half.context(x), (selected + average) / 2, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("choice", CELL_MODES)
def test_the_ends_of_the_blend_are_exact(randn, choice):
    grid, x = TokenGrid(7, 9), randn(2, 63, 4)
    pooled = KVDownsampling(2, AlphaSchedule(0.0, 0.0)).plan(x, grid, MIDDLE, 0)
    average, alone = (KVCellSelection(choice, 2, b).plan(x, grid, MIDDLE, 0) for b in (0.0, 1.0))
    assert torch.equal(average.context(x), pooled.context(x))
    assert torch.isin(alone.context(x), x).all()
