"""Keys and values chosen by score: over the image and in each cell."""

import statistics

import numpy as np
import pytest
import torch

from bigain_core.methods import KVCellSelection, KVDownsampling, KVSelection
from bigain_core.schedules import AlphaSchedule, DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.pooling import downsample_tokens
from bigain_core.tokens.selection import CELL_MODES, SELECTION_MODES

MIDDLE = DenoisingProgress(0.5)


def slow_scores(metric, height, width):
    """Mean absolute Laplacian with zeros outside."""
    image = np.pad(metric.double().numpy().reshape(height, width, -1), ((1, 1), (1, 1), (0, 0)))
    near = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
    return np.abs(near - 4 * image[1:-1, 1:-1]).mean(-1).flatten().tolist()


def slow_choice(scores, count, choice):
    ascending = sorted(range(len(scores)), key=lambda n: scores[n])
    if choice == "uniform":
        return sorted(ascending[i * (len(scores) - 1) // (count - 1)] for i in range(count))
    first = {"low": 0, "high": len(scores) - count, "medium": (len(scores) - count) // 2}[choice]
    return sorted(ascending[first : first + count])


def slow_choice_in_cells(scores, height, width, factor, choice):
    """Whole windows of the pooled grid, remainders dropped."""
    h, w = max(1, height // factor), max(1, width // factor)
    rows, columns = height // h, width // w
    pick = {"high": max, "low": min, "median": statistics.median_low}[choice]
    chosen = []
    for top in range(0, h * rows, rows):
        for left in range(0, w * columns, columns):
            cell = [(top + y) * width + left + x for y in range(rows) for x in range(columns)]
            wanted = pick([scores[n] for n in cell])
            chosen.append(next(n for n in cell if scores[n] == wanted))
    return chosen


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


@pytest.mark.parametrize("choice", SELECTION_MODES)
def test_the_published_ratio_keeps_a_quarter(randn, choice):
    plan = KVSelection(choice).plan(randn(1, 4096, 4), TokenGrid(64, 64), MIDDLE, 0)
    assert (plan.query_tokens, plan.context_tokens) == (4096, 1024)


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


@pytest.mark.parametrize("method", [KVSelection("high"), KVCellSelection("high", 2, 1.0)])
@pytest.mark.parametrize("option", [{"padding": "replicate"}, {"scorer": "variance"}])
def test_scorer_and_padding_matter(randn, method, option):
    metric, grid = randn(1, 400, 8), TokenGrid(20, 20)
    other = type(method)(**(vars(method) | option))
    chosen = (m.plan(metric, grid, MIDDLE, 0).chosen for m in (method, other))
    assert not torch.equal(*chosen)


@pytest.mark.parametrize("ratio", [-0.01, 1.0, 1.2, float("nan")])
def test_a_bad_ratio_is_refused(ratio):
    expected = f"BiGain: expected a ratio of at least 0 .* and below 1, .*got {ratio}"
    with pytest.raises(ValueError, match=expected):
        KVSelection("high", ratio)


@pytest.mark.parametrize("factor", [0, -2])
def test_a_bad_factor_is_refused(factor):
    with pytest.raises(ValueError, match=f"BiGain: expected a downsampling factor.*got {factor}"):
        KVCellSelection("high", factor)


@pytest.mark.parametrize("method", [KVSelection("median"), KVCellSelection("medium")])
def test_an_unknown_choice_is_refused(randn, method):
    with pytest.raises(ValueError, match=f"expected a selection mode of .*got '{method.choice}'"):
        method.plan(randn(1, 16, 4), TokenGrid(4, 4), MIDDLE, 0)
