"""Adaptive block merge: whole blocks by rank."""

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.methods import BlockMerging
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import AGGREGATES, rank_blocks
from bigain_core.tokens.plans import MERGE_MODES

MIDDLE = DenoisingProgress(0.5)
sides = st.integers(1, 9)
SLOW = {
    "max": max,
    "min": min,
    "sum": sum,
    "mean": statistics.fmean,
    "std": statistics.pstdev,
}


def slow_blocks(row, height, width, cell, ratio, aggregate):
    """Members of the merged blocks, one list each; equal blocks in raster order."""
    blocks = [
        [(top + y) * width + left + x for y in range(cell) for x in range(cell)]
        for top in range(0, height - cell + 1, cell)
        for left in range(0, width - cell + 1, cell)
    ]
    removed_by_one = cell * cell - 1
    count = int(height * width * ratio) // removed_by_one if removed_by_one else 0
    ranked = sorted(range(len(blocks)), key=lambda b: SLOW[aggregate]([row[n] for n in blocks[b]]))
    return [blocks[b] for b in ranked[:count]]


def check_against_the_loop(plan, scores, height, width, cell, ratio, aggregate):
    for sample, row in enumerate(scores.tolist()):
        expected = list(range(height * width))
        for members in slow_blocks(row, height, width, cell, ratio, aggregate):
            for token in members:
                expected[token] = members[0]
        assert plan.target[sample].tolist() == expected
        assert plan.query_tokens == plan.context_tokens == len(set(expected))


@pytest.mark.parametrize("aggregate", [a for a in AGGREGATES if a != "std"])
@given(height=sides, width=sides, cell=st.integers(1, 4), ratio=st.floats(0, 1), data=st.data())
def test_ranking_equals_a_loop_over_blocks(aggregate, height, width, cell, ratio, data):
    """Whole numbers of few values, so that blocks tie and sums are exact."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    levels = data.draw(st.integers(1, 9))
    scores = torch.randint(levels, (2, height * width), generator=generator).float() - 2
    plan = rank_blocks(scores, TokenGrid(height, width), cell, ratio, aggregate)
    check_against_the_loop(plan, scores, height, width, cell, ratio, aggregate)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.7])
@pytest.mark.parametrize(
    ("height", "width", "cell"), [(8, 8, 2), (9, 7, 2), (12, 10, 3), (5, 4, 4)]
)
def test_ranking_of_general_scores(randn, height, width, cell, ratio, aggregate):
    scores = randn(3, height * width)
    plan = rank_blocks(scores, TokenGrid(height, width), cell, ratio, aggregate)
    check_against_the_loop(plan, scores, height, width, cell, ratio, aggregate)


@pytest.mark.parametrize(
    ("aggregate", "merged"),
    [("max", [0, 1]), ("min", [2, 0]), ("sum", [0, 1]), ("mean", [0, 1]), ("std", [1, 0])],
)
def test_worked_ranking(aggregate, merged):
    """Blocks 1 2 2 1, 3 3 3 3, 0 9 0 9 and 8 1 8 9 in raster order."""
    # fmt: off
    scores = torch.tensor([[
        1.0, 2.0, 3.0, 3.0,
        2.0, 1.0, 3.0, 3.0,
        0.0, 9.0, 8.0, 1.0,
        0.0, 9.0, 8.0, 9.0,
    ]])
    # fmt: on
    plan = rank_blocks(scores, TokenGrid(4, 4), 2, 0.4, aggregate)
    first = [0, 2, 8, 10]
    members = {b: {first[b] + n for n in (0, 1, 4, 5)} for b in merged}
    for token, target in enumerate(plan.target[0].tolist()):
        block = next((b for b in merged if token in members[b]), None)
        assert target == (token if block is None else first[block])


@pytest.mark.parametrize(
    ("ratio", "blocks", "left"),
    [(0.7, 955, 1231), (0.75, 1024, 1024), (1.0, 1024, 1024), (0.0, 0, 4096), (0.0007, 0, 4096)],
)
def test_ratio_is_the_share_of_tokens_as_published(randn, ratio, blocks, left):
    method = BlockMerging(ratio)
    plan = method.plan(randn(1, 4096, 4), TokenGrid(64, 64), MIDDLE, 0)
    assert f"({blocks} of 1024 blocks)" in method.describe(TokenGrid(64, 64))
    assert plan.query_tokens == plan.context_tokens == left
    assert plan.sizes[0].bincount(minlength=5).tolist() == [0, left - blocks, 0, 0, blocks]


def test_remainders_are_untouched(randn):
    x = randn(1, 35, 4)
    plan = BlockMerging(1.0).plan(x, TokenGrid(5, 7), MIDDLE, 0)
    remainder = [n for n in range(35) if n // 7 == 4 or n % 7 == 6]
    assert plan.target[0, remainder].tolist() == remainder
    assert plan.query_tokens == 6 + len(remainder)
    restored = plan.restore(plan.queries(x))
    assert torch.equal(restored[0, remainder], x[0, remainder])


@pytest.mark.parametrize("mode", MERGE_MODES)
def test_a_merged_block_is_one_token_by_the_mode(randn, mode):
    x = randn(2, 36, 5)
    plan = BlockMerging(0.5, mode=mode).plan(x, TokenGrid(6, 6), MIDDLE, 0)
    restored = plan.restore(plan.queries(x))
    merged = 0
    for sample in range(2):
        for top in range(0, 36, 12):
            for first in range(top, top + 6, 2):
                members = [first, first + 1, first + 6, first + 7]
                group = x[sample, members].double()
                if plan.target[sample, members[3]] == members[3]:
                    assert torch.equal(restored[sample, members], x[sample, members])
                    continue
                merged += 1
                expected = group.mean(0)
                if mode == "mlerp":
                    expected = expected / expected.norm() * group.norm(dim=1).max()
                elif mode == "prune":
                    expected = group[0]
                for row in restored[sample, members]:
                    torch.testing.assert_close(row.double(), expected, atol=1e-5, rtol=1e-5)
    assert merged == 2 * 6


def slow_scores(metric, height, width):
    """Mean absolute Laplacian with zeros outside."""
    image = np.pad(metric.double().numpy().reshape(height, width, -1), ((1, 1), (1, 1), (0, 0)))
    near = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
    return np.abs(near - 4 * image[1:-1, 1:-1]).mean(-1).flatten()


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_the_method_ranks_blocks_by_their_laplacian(randn, aggregate):
    metric = randn(2, 63, 6)
    plan = BlockMerging(0.4, aggregate).plan(metric, TokenGrid(7, 9), MIDDLE, 0)
    scores = torch.tensor(np.stack([slow_scores(x, 7, 9) for x in metric]))
    check_against_the_loop(plan, scores, 7, 9, 2, 0.4, aggregate)


@pytest.mark.parametrize(
    "option", [{"padding": "replicate"}, {"scorer": "l2-norm"}, {"cell": 3}, {"aggregate": "std"}]
)
def test_scorer_padding_cell_and_aggregate_matter(randn, option):
    metric, grid = randn(1, 400, 8), TokenGrid(20, 20)
    default, other = (
        BlockMerging(0.4, **settings).plan(metric, grid, MIDDLE, 0) for settings in ({}, option)
    )
    assert not torch.equal(default.target, other.target)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_blocks_of_equal_score_are_taken_in_raster_order(aggregate):
    plan = rank_blocks(torch.full((1, 64), 0.3), TokenGrid(8, 8), 2, 0.2, aggregate)
    assert plan.target.unique(return_counts=True)[1][:7].tolist() == [4, 4, 4, 4, 1, 1, 1]


def test_each_sample_ranks_its_own_blocks(randn):
    scores = randn(3, 64)
    together = rank_blocks(scores, TokenGrid(8, 8), 2, 0.4, "max")
    for k in range(3):
        alone = rank_blocks(scores[k : k + 1], TokenGrid(8, 8), 2, 0.4, "max")
        assert torch.equal(together.target[k], alone.target[0])
    assert not torch.equal(together.target[0], together.target[1])


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio):
    for attempt in (
        lambda: BlockMerging(ratio),
        lambda: rank_blocks(torch.zeros(1, 4), TokenGrid(2, 2), 2, ratio, "max"),
    ):
        with pytest.raises(ValueError, match=f"a merge ratio between 0 .* and 1 .*got {ratio}"):
            attempt()


def test_an_unknown_aggregate_is_refused(randn):
    with pytest.raises(ValueError, match="expected an aggregate of .*'std'.* got 'median'"):
        BlockMerging(0.5, "median").plan(randn(1, 16, 4), TokenGrid(4, 4), MIDDLE, 0)
