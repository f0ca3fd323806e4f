"""Bipartite matching against a loop over all pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bigain_core.tokens import matching
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import choose_destinations, match_tokens, prune_tokens


def cosine(a, b):
    def length(vector):
        return max(math.sqrt(sum(value * value for value in vector)), 1e-12)

    return sum(p * q for p, q in zip(a, b, strict=True)) / (length(a) * length(b))


def slow_matching(tokens, destinations, ratio):
    """{source: its best destinations} for the sources that merge; equal sources in raster order."""
    best = {}
    for source in range(len(tokens)):
        if source not in destinations:
            alike = {d: cosine(tokens[source], tokens[d]) for d in destinations}
            top = max(alike.values())
            best[source] = (top, {d for d in destinations if alike[d] == top})
    ranked = sorted(best, key=lambda source: (-best[source][0], source))
    return {source: best[source][1] for source in ranked[: int(len(tokens) * ratio)]}


def check_against_the_loop(metric, destinations, ratio):
    plan = match_tokens(metric, destinations, ratio)
    for sample in range(len(metric)):
        expected = slow_matching(metric[sample].tolist(), destinations[sample].tolist(), ratio)
        for token, target in enumerate(plan.target[sample].tolist()):
            assert target in expected.get(token, {token})
    return plan


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    cell=st.integers(1, 3),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 9999),
)
def test_with_many_exact_ties_the_first_sources_merge(height, width, cell, ratio, seed):
    """Tokens of four signs have length 2 and cosines in quarters, so fp32 is exact."""
    generator = torch.Generator().manual_seed(seed)
    metric = torch.randint(2, (2, height * width, 4), generator=generator) * 2.0 - 1
    grid = TokenGrid(height, width)
    destinations = choose_destinations(metric[..., 0], grid, cell, "random", generator)
    if destinations.shape[1]:
        check_against_the_loop(metric, destinations, ratio)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.7, 0.75])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (8, 6)])
def test_general_tokens_merge_as_in_the_loop(randn, height, width, ratio):
    metric = randn(3, height * width, 8)
    destinations = choose_destinations(metric[..., 0], TokenGrid(height, width))
    check_against_the_loop(metric, destinations, ratio)


@pytest.mark.parametrize(
    ("side", "ratio", "merged"),
    [(64, 0.5, 2048), (64, 0.7, 2867), (32, 0.7, 716), (64, 0.75, 3072), (64, 0.9, 3072)],
)
def test_ratio_is_the_share_of_all_tokens_up_to_all_sources(randn, side, ratio, merged):
    count = side * side
    destinations = choose_destinations(torch.zeros(1, count), TokenGrid(side, side), 2, "top-left")
    plan = match_tokens(randn(1, count, 4), destinations, ratio)
    assert plan.query_tokens == plan.context_tokens == count - merged
    assert (plan.target != torch.arange(count)).sum() == merged


@pytest.mark.parametrize("ratio", [0.4, 1.0])
def test_destinations_and_unmerged_sources_keep_themselves(randn, ratio):
    metric = randn(2, 35, 6)
    destinations = choose_destinations(metric[..., 0], TokenGrid(5, 7))
    plan = match_tokens(metric, destinations, ratio)
    for target, chosen in zip(plan.target.tolist(), destinations.tolist(), strict=True):
        assert all(target[token] == token for token in chosen)
        assert all(target[token] in {token, *chosen} for token in range(35))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 500.0])
def test_similarity_ignores_the_length_of_tokens(randn, scale):
    metric = randn(1, 16, 8)
    lengths = torch.linspace(1, 3, 16)[None, :, None] * scale
    destinations = torch.tensor([[0, 5, 10, 15]])
    plan, scaled = (match_tokens(x, destinations, 0.5) for x in (metric, metric * lengths))
    assert torch.equal(plan.target, scaled.target)


def test_zero_tokens_are_alike_nothing():
    metric = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [2.0, 0.0], [-1.0, 0.0]]])
    plan = match_tokens(metric, torch.tensor([[0]]), 0.5)
    assert plan.target.tolist() == [[0, 0, 0, 3]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_fp32(randn, dtype):
    metric = randn(2, 400, 16).to(dtype)  # enough tokens for cosines that collide in half precision
    destinations = choose_destinations(metric[..., 0].float(), TokenGrid(20, 20))
    plan = match_tokens(metric, destinations, 0.5)
    assert torch.equal(plan.target, match_tokens(metric.float(), destinations, 0.5).target)


def test_a_sample_of_a_batch_is_matched_as_if_alone(randn):
    metric = randn(4, 48, 16)
    destinations = choose_destinations(metric[..., 0], TokenGrid(6, 8))
    together = match_tokens(metric, destinations, 0.6)
    for k in range(4):
        alone = match_tokens(metric[k : k + 1], destinations[k : k + 1], 0.6)
        assert torch.equal(together.target[k], alone.target[0])
        assert torch.equal(together.kept[k], alone.kept[0])


def test_two_runs_agree_bitwise(randn):
    metric = randn(2, 1024, 32)
    destinations = choose_destinations(metric[..., 0], TokenGrid(32, 32))
    first, second = (match_tokens(metric, destinations, 0.7) for _ in range(2))
    assert torch.equal(first.target, second.target)
    x = randn(2, 1024, 32, seed=1)
    assert torch.equal(first.merge(x), second.merge(x))


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.7])
def test_without_destinations_or_sources_nothing_merges(randn, ratio):
    x = randn(2, 9, 4)
    none = match_tokens(x, torch.empty(2, 0, dtype=torch.long), ratio)
    everyone = match_tokens(x, torch.arange(9).expand(2, -1), ratio)
    for plan in (none, everyone):
        assert plan.queries(x) is x and plan.restore(x) is x


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(ValueError, match=f"a merge ratio between 0 .* and 1 .*got {ratio}"):
        match_tokens(torch.zeros(1, 4, 2), torch.tensor([[0]]), ratio)


# Cosines are computed in tiles: how large they are must not show.

TILES = [(1, 1), (2, 3), (7, 5), (1000, 2), (3, 1000)]


def four_signs(batch, count, seed):
    """Tokens of four signs have length 2 and cosines in quarters: many ties, and fp32 is exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (batch, count, 4), generator=generator) * 2.0 - 1


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@given(height=st.integers(2, 9), width=st.integers(2, 9), ratio=st.floats(0, 1), data=st.data())
@settings(max_examples=10)
def test_tiles_do_not_show(tile, dtype, height, width, ratio, data):
    count = height * width
    metric = four_signs(3, count, data.draw(st.integers(0, 999))).to(dtype)
    chosen = choose_destinations(metric[..., 0].float(), TokenGrid(height, width))
    closed = torch.arange(1, count, 5).expand(3, -1)  # the first destination may be closed, not all
    works = [
        lambda: match_tokens(metric, chosen, ratio),
        lambda: match_tokens(metric, chosen, ratio, closed),
        lambda: prune_tokens(metric, chosen, ratio),
    ]
    whole = [work().target for work in works]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_CPU_TILE", tile)
        patch.setattr(matching, "_FEW", 0)
        for work, target in zip(works, whole, strict=True):
            assert torch.equal(work().target, target)


@pytest.mark.parametrize("tile", [(1000, 1000), *TILES])
@pytest.mark.parametrize("seed", range(5))
def test_a_batch_at_once_finds_what_image_after_image_finds(monkeypatch, tile, seed):
    """The ways of other devices and of a CPU."""
    monkeypatch.setattr(matching, "_FEW", 0)
    metric = four_signs(3, 60, seed)
    order = torch.rand(3, 60, generator=torch.Generator().manual_seed(seed)).argsort(1)
    tokens, candidates = order[:, :37], order[:, 37:]
    best, chosen = matching._most_alike(metric, tokens, candidates)
    found = matching._search(metric, tokens, candidates, tile, torch.matmul)
    assert torch.equal(found[0], best) and torch.equal(found[1], chosen)


def test_the_first_of_equal_destinations_takes_a_source(monkeypatch):
    monkeypatch.setattr(matching, "_FEW", 0)
    metric = torch.ones(1, 12, 3)
    for tile in ((12, 12), (2, 2), (1, 3)):
        monkeypatch.setattr(matching, "_CPU_TILE", tile)
        plan = match_tokens(metric, torch.tensor([[7, 2, 9, 4, 11]]), 1.0)
        assert plan.kept.tolist() == [[2, 4, 7, 9, 11]]
        assert set(plan.target[0].tolist()) == {2, 4, 7, 9, 11}
        assert (plan.target == 7).sum() == 8


class LargestResult(TorchDispatchMode):
    """Notes the most elements that any operation gave back."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("method", [match_tokens, prune_tokens])
def test_the_cosines_are_never_in_memory_all_together(method, device):
    side = 160
    metric = torch.randn(1, side * side, 2).to(device)
    chosen = choose_destinations(metric[..., 0], TokenGrid(side, side))
    with LargestResult() as largest:
        method(metric, chosen, 0.7)
    rows, columns = matching._CPU_TILE if device == "cpu" else matching._TILE
    assert largest.elements == rows * columns < 0.75 * 0.25 * side**4


def test_shapes_without_values_beyond_one_tile(monkeypatch):
    monkeypatch.setattr(matching, "_TILE", (7, 5))
    metric = torch.empty(2, 99, 4, dtype=torch.float16, device="meta")
    destinations = choose_destinations(metric[..., 0], TokenGrid(9, 11))
    for plan in (match_tokens(metric, destinations, 0.7), prune_tokens(metric, destinations, 0.7)):
        assert plan.target.shape == (2, 99) and plan.kept.shape == (2, 99 - 69)
