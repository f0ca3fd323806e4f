"""Protected tokens take no part in merging."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.methods import Protection, TokenMerging
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import DESTINATION_RULES, choose_destinations, match_tokens
from bigain_core.tokens.selection import SELECTION_MODES
from tests.core.calls import MIDDLE
from tests.core.loops import cell_members, four_signs, slow_choice, slow_matching, slow_scores

sides = st.integers(1, 7)


@st.composite
def protected_cases(draw):
    """Tokens of four signs, whose cosines are exact, of which at least one of a cell is free."""
    height, width, cell = draw(sides), draw(sides), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    grid = TokenGrid(height, width)
    in_cells = grid.cells(cell).tokens * cell**2
    count = draw(st.integers(0, max(0, in_cells - 1)))
    metric = four_signs(2, grid.tokens, generator)
    protected = torch.rand(2, grid.tokens, generator=generator).argsort(1)[:, :count]
    rule = draw(st.sampled_from(DESTINATION_RULES))
    scores = torch.randn(2, grid.tokens, generator=generator)
    numbers = torch.randint(2**32, (grid.cells(cell).tokens,), generator=generator)
    destinations = choose_destinations(scores, grid, cell, rule, numbers, protected)
    return metric, destinations, protected


@given(case=protected_cases(), ratio=st.floats(0, 1))
def test_protected_tokens_are_neither_source_nor_destination(case, ratio):
    metric, destinations, protected = case
    plan = match_tokens(metric, destinations, ratio, protected)
    count, taken = metric.shape[1], destinations.shape[1] + protected.shape[1]
    merged = min(int(count * ratio), max(0, count - taken)) if destinations.shape[1] else 0
    assert plan.query_tokens == count - merged
    for sample, targets in enumerate(plan.target.tolist()):
        tokens, chosen, closed = (x[sample].tolist() for x in (metric, destinations, protected))
        expected = slow_matching(tokens, chosen, merged, closed)
        assert len(expected) == merged
        assert all(target in expected.get(n, {n}) for n, target in enumerate(targets))


def test_a_source_goes_to_its_next_best_destination_if_its_best_is_protected():
    metric = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [1.0, 2.0], [-1.0, 0.0]]])
    destinations = torch.tensor([[0, 2]])
    free, closed = (
        match_tokens(metric, destinations, 0.25, torch.tensor([tokens])) for tokens in ([3], [0])
    )
    assert free.target.tolist() == [[0, 0, 2, 3]]
    assert closed.target.tolist() == [[0, 2, 2, 3]]


@pytest.mark.parametrize("rule", DESTINATION_RULES)
@pytest.mark.parametrize("mode", SELECTION_MODES)
@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5)])
def test_tokens_protected_by_score_keep_to_themselves(randn, height, width, mode, rule):
    metric, count = randn(3, height * width, 8), height * width
    method = TokenMerging(0.6, rule, protection=Protection(0.3, mode))
    plan = method.plan(metric, TokenGrid(height, width), MIDDLE, 0)
    protected_count = int(count * 0.3)
    free = count - protected_count - (height // 2) * (width // 2)
    assert plan.query_tokens == count - min(int(count * 0.6), free)
    for sample in range(3):
        scores = slow_scores(metric[sample], height, width)
        protected = set(slow_choice(scores, protected_count, mode))
        for token, target in enumerate(plan.target[sample].tolist()):
            assert token == target or not protected & {token, target}


def test_the_smoothest_token_that_is_not_protected_takes_the_others(randn):
    metric = randn(1, 48, 8)
    protection = Protection(0.25, "low")
    all_merged, plain, plan = (
        method.plan(metric, TokenGrid(6, 8), MIDDLE, 0)
        for method in (
            TokenMerging(1.0, protection=protection),
            TokenMerging(1.0),
            TokenMerging(0.5, protection=protection),
        )
    )
    assert torch.equal(all_merged.target, plain.target)
    scores = slow_scores(metric[0], 6, 8)
    protected, destinations = set(slow_choice(scores, 12, "low")), set()
    for cell in cell_members(6, 8):
        destinations |= set(sorted(set(cell) - protected, key=scores.__getitem__)[:1])
    joined = {target for n, target in enumerate(plan.target[0].tolist()) if n != target}
    assert joined <= destinations


@pytest.mark.parametrize(
    ("ratio", "share", "left"),
    [(0.7, 0.3, 2252), (0.3, 0.3, 2868), (0.5, 0.9, 3072), (0.7, 0.9, 2253), (0.75, 0.0, 1024)],
)
def test_ratio_and_share_settle_how_many_tokens_are_left(randn, ratio, share, left):
    """No more are protected than the ratio leaves over, and no more merge than are free."""
    for seed in range(2):
        method = TokenMerging(ratio, protection=Protection(share))
        plan = method.plan(randn(1, 4096, 4, seed=seed), TokenGrid(64, 64), MIDDLE, 0)
        assert plan.query_tokens == left


@pytest.mark.parametrize("rule", DESTINATION_RULES)
@pytest.mark.parametrize(("side", "share"), [(4, 1.0), (5, 0.64), (3, 0.5), (2, 1.0)])
def test_where_no_destination_may_be_left_nothing_merges(randn, rule, side, share):
    """A 5 x 5 grid has 16 tokens in cells: if they are all protected, none takes the others."""
    method = TokenMerging(0.05, rule, protection=Protection(share))
    x = randn(1, side**2, 4)
    plan = method.plan(x, TokenGrid(side, side), MIDDLE, 0)
    assert plan.queries(x) is x and plan.restore(x) is x


@pytest.mark.parametrize("rule", DESTINATION_RULES)
def test_as_long_as_a_destination_is_left_tokens_merge(randn, rule):
    """15 protected tokens of a 5 x 5 grid leave at least one of the 16 in cells."""
    for seed in range(10):
        method = TokenMerging(0.08, rule, seed=seed, protection=Protection(0.6))
        plan = method.plan(randn(1, 25, 8, seed=seed), TokenGrid(5, 5), MIDDLE, 0)
        assert plan.query_tokens == 23
