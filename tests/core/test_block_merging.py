"""Adaptive block merge: whole blocks by rank."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.methods import BlockMerging
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import AGGREGATES, rank_blocks
from tests.core.calls import MIDDLE
from tests.core.loops import cell_members, slow_scores

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
    blocks = cell_members(height, width, cell)
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


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_the_method_ranks_blocks_by_their_laplacian(randn, aggregate):
    metric = randn(2, 63, 6)
    plan = BlockMerging(0.4, aggregate).plan(metric, TokenGrid(7, 9), MIDDLE, 0)
    scores = torch.tensor([slow_scores(x, 7, 9) for x in metric], dtype=torch.float64)
    check_against_the_loop(plan, scores, 7, 9, 2, 0.4, aggregate)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_blocks_of_equal_score_are_taken_in_raster_order(aggregate):
    plan = rank_blocks(torch.full((1, 64), 0.3), TokenGrid(8, 8), 2, 0.2, aggregate)
    assert plan.target.unique(return_counts=True)[1][:7].tolist() == [4, 4, 4, 4, 1, 1, 1]
