"""Protected tokens take no part in merging."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.methods import Protection, TokenMerging
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import DESTINATION_RULES, choose_destinations, match_tokens
from bigain_core.tokens.plans import IdentityPlan
from bigain_core.tokens.selection import SELECTION_MODES

MIDDLE = DenoisingProgress(0.5)
sides = st.integers(1, 7)


def cosine(a, b):
    lengths = (max(math.sqrt(sum(value * value for value in vector)), 1e-12) for vector in (a, b))
    return sum(p * q for p, q in zip(a, b, strict=True)) / math.prod(lengths)


def slow_matching(tokens, destinations, protected, merged):
    """{source: its best destinations}; equal sources in raster order."""
    free = [d for d in destinations if d not in protected]
    best = {}
    for source in set(range(len(tokens))) - set(destinations) - set(protected):
        alike = {d: cosine(tokens[source], tokens[d]) for d in free}
        top = max(alike.values(), default=0)
        best[source] = (top, {d for d in free if alike[d] == top})
    ranked = sorted(best, key=lambda source: (-best[source][0], source))
    return {source: best[source][1] for source in ranked[:merged]}


@st.composite
def protected_cases(draw):
    """Tokens of four signs, whose cosines are exact, of which at least one of a cell is free."""
    height, width, cell = draw(sides), draw(sides), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    grid = TokenGrid(height, width)
    in_cells = grid.cells(cell).tokens * cell**2
    count = draw(st.integers(0, max(0, in_cells - 1)))
    metric = torch.randint(2, (2, grid.tokens, 4), generator=generator) * 2.0 - 1
    protected = torch.rand(2, grid.tokens, generator=generator).argsort(1)[:, :count]
    rule = draw(st.sampled_from(DESTINATION_RULES))
    scores = torch.randn(2, grid.tokens, generator=generator)
    destinations = choose_destinations(scores, grid, cell, rule, generator, protected)
    return metric, destinations, protected


@given(case=protected_cases(), ratio=st.floats(0, 1))
def test_protected_tokens_are_neither_source_nor_destination(case, ratio):
    metric, destinations, protected = case
    plan = match_tokens(metric, destinations, ratio, protected)
    count, taken = metric.shape[1], destinations.shape[1] + protected.shape[1]
    merged = min(int(count * ratio), max(0, count - taken)) if destinations.shape[1] else 0
    assert plan.query_tokens == count - merged
    for sample, targets in enumerate(plan.target.tolist()):
        expected = slow_matching(
            metric[sample].tolist(),
            destinations[sample].tolist(),
            protected[sample].tolist(),
            merged,
        )
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


def test_no_protected_token_is_as_without_protection(randn):
    metric = randn(2, 35, 8)
    destinations = choose_destinations(metric[..., 0], TokenGrid(5, 7))
    none = torch.empty(2, 0, dtype=torch.long)
    plan, plain = (match_tokens(metric, destinations, 0.5, p) for p in (none, None))
    assert torch.equal(plan.target, plain.target)


def slow_scores(metric, height, width):
    """Mean absolute Laplacian with zeros outside, token after token."""
    image = metric.double().numpy().reshape(height, width, -1)
    scores = []
    for y in range(height):
        for x in range(width):
            near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [image[p] for p in near if 0 <= p[0] < height and 0 <= p[1] < width]
            scores.append(np.abs(sum(inside) - 4 * image[y, x]).mean())
    return scores


def slow_protection(scores, count, mode):
    ascending = sorted(range(len(scores)), key=lambda n: scores[n])
    if mode == "uniform":
        return {ascending[i * (len(scores) - 1) // (count - 1)] for i in range(count)}
    first = {"low": 0, "high": len(scores) - count, "medium": (len(scores) - count) // 2}[mode]
    return set(ascending[first : first + count])


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
        protected = slow_protection(scores, protected_count, mode)
        for token, target in enumerate(plan.target[sample].tolist()):
            assert token == target or not protected & {token, target}


def test_the_smoothest_token_that_is_not_protected_takes_the_others(randn):
    metric = randn(1, 48, 8)
    plan = TokenMerging(1.0, protection=Protection(0.25, "low")).plan(
        metric, TokenGrid(6, 8), MIDDLE, 0
    )
    assert torch.equal(
        plan.target, TokenMerging(1.0).plan(metric, TokenGrid(6, 8), MIDDLE, 0).target
    )
    plan = TokenMerging(0.5, protection=Protection(0.25, "low")).plan(
        metric, TokenGrid(6, 8), MIDDLE, 0
    )
    scores = slow_scores(metric[0], 6, 8)
    protected = slow_protection(scores, 12, "low")
    destinations = set()
    for top in range(0, 6, 2):
        for left in range(0, 8, 2):
            cell = [(top + y) * 8 + left + x for y in (0, 1) for x in (0, 1)]
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
    plan = method.plan(randn(1, side**2, 4), TokenGrid(side, side), MIDDLE, 0)
    assert plan == IdentityPlan(side**2)


@pytest.mark.parametrize("rule", DESTINATION_RULES)
def test_as_long_as_a_destination_is_left_tokens_merge(randn, rule):
    """15 protected tokens of a 5 x 5 grid leave at least one of the 16 in cells."""
    for seed in range(10):
        method = TokenMerging(0.08, rule, seed=seed, protection=Protection(0.6))
        plan = method.plan(randn(1, 25, 8, seed=seed), TokenGrid(5, 5), MIDDLE, 0)
        assert plan.query_tokens == 23


@pytest.mark.parametrize("rule", DESTINATION_RULES)
@pytest.mark.parametrize("seed", range(10))
def test_the_two_free_tokens_of_a_cell_merge_with_each_other(randn, rule, seed):
    metric = randn(1, 4, 8, seed=seed)
    method = TokenMerging(0.25, rule, seed=seed, protection=Protection(0.5, "high"))
    target = method.plan(metric, TokenGrid(2, 2), MIDDLE, 0).target[0].tolist()
    scores = slow_scores(metric[0], 2, 2)
    pair = {n for token, n in enumerate(target) if token != n}
    pair |= {token for token, n in enumerate(target) if token != n}
    assert pair == slow_protection(scores, 2, "low")


def test_protection_off_is_the_default(randn):
    metric, grid = randn(2, 48, 8), TokenGrid(6, 8)
    plain = TokenMerging(0.6).plan(metric, grid, MIDDLE, 0)
    off = TokenMerging(0.6, protection=Protection(0.0, "low")).plan(metric, grid, MIDDLE, 0)
    assert torch.equal(off.target, plain.target)
