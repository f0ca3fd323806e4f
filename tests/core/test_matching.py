"""Bipartite matching against a loop over all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bigain_core.tokens import matching
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import choose_destinations, match_tokens, prune_tokens, rank_blocks
from tests.core.loops import four_signs, matching_cases, slow_matching


def check_against_the_loop(metric, destinations, ratio):
    plan = match_tokens(metric, destinations, ratio)
    for sample in range(len(metric)):
        merged = int(metric.shape[1] * ratio)
        expected = slow_matching(metric[sample].tolist(), destinations[sample].tolist(), merged)
        assert plan.query_tokens == plan.context_tokens == metric.shape[1] - len(expected)
        for token, target in enumerate(plan.target[sample].tolist()):
            assert target in expected.get(token, {token})


@given(case=matching_cases())
def test_with_many_exact_ties_the_first_sources_merge(case):
    metric, destinations, ratio = case
    if destinations.shape[1]:
        check_against_the_loop(metric, destinations, ratio)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.7, 0.75])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (8, 6)])
def test_general_tokens_merge_as_in_the_loop(randn, height, width, ratio):
    metric = randn(3, height * width, 8)
    destinations = choose_destinations(metric[..., 0], TokenGrid(height, width))
    check_against_the_loop(metric, destinations, ratio)


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


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.7])
def test_without_destinations_or_sources_nothing_merges(randn, ratio):
    x = randn(2, 9, 4)
    none = match_tokens(x, torch.empty(2, 0, dtype=torch.long), ratio)
    everyone = match_tokens(x, torch.arange(9).expand(2, -1), ratio)
    for plan in (none, everyone):
        assert plan.queries(x) is x and plan.restore(x) is x


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio):
    for attempt in (
        lambda: match_tokens(torch.zeros(1, 4, 2), torch.tensor([[0]]), ratio),
        lambda: rank_blocks(torch.zeros(1, 4), TokenGrid(2, 2), 2, ratio, "max"),
    ):
        with pytest.raises(ValueError, match=f"a merge ratio between 0 .* and 1 .*got {ratio}"):
            attempt()


# Cosines are computed in tiles: how large they are must not show.

TILES = [(1, 1), (2, 3), (7, 5), (1000, 2), (3, 1000)]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@given(height=st.integers(2, 9), width=st.integers(2, 9), ratio=st.floats(0, 1), data=st.data())
@settings(max_examples=10)
def test_tiles_do_not_show(tile, dtype, height, width, ratio, data):
    count = height * width
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    metric = four_signs(3, count, generator).to(dtype)
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
    generator = torch.Generator().manual_seed(seed)
    metric = four_signs(3, 60, generator)
    listed = torch.rand(3, 60, generator=generator).argsort(1)
    best, chosen = matching._most_alike(metric, listed, 23)
    found = matching._search(metric, listed, 23, tile, torch.matmul)
    assert torch.equal(found[0], best) and torch.equal(found[1], chosen)


def test_tokens_that_need_a_gradient_merge_alike(randn):
    metric = randn(2, 24, 8)
    for work in (match_tokens, prune_tokens):
        plain, trained = (
            work(x, torch.arange(0, 24, 4).expand(2, -1), 0.5)
            for x in (metric, metric.clone().requires_grad_())
        )
        assert torch.equal(trained.target, plain.target)


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
