"""SiTo: which tokens are dropped and whose output they copy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.methods import SimilarityPruning
from bigain_core.methods.base import seeded_generator
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import choose_destinations, prune_tokens

MIDDLE = DenoisingProgress(0.5)


def cosines(tokens):
    """The full N x N matrix, in double precision."""
    tokens = tokens.double().numpy()
    lengths = np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-12)
    return tokens / lengths @ (tokens / lengths).T


def slow_pruning(alike, destinations, ratio):
    """(kept tokens, {dropped: kept tokens that are most alike}); equals drop in raster order."""
    count = len(alike)
    sources = [n for n in range(count) if n not in destinations]
    best = {n: max((alike[n][d] for d in destinations), default=0) for n in sources}
    ranked = sorted(sources, key=lambda n: (-best[n], n))
    dropped = ranked[: int(count * ratio)] if destinations else []
    kept = [n for n in range(count) if n not in dropped]
    return kept, {n: [k for k in kept if alike[n][k] == max(alike[n][kept])] for n in dropped}


def check_against_the_loop(plan, alike, destinations, ratio):
    for sample, chosen in enumerate(destinations):
        kept, copies = slow_pruning(alike[sample], chosen, ratio)
        assert plan.kept[sample].tolist() == kept
        for token, target in enumerate(plan.target[sample].tolist()):
            assert target in copies.get(token, [token])


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    cell=st.integers(1, 3),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 9999),
)
def test_with_many_exact_ties_pruning_equals_a_loop(height, width, cell, ratio, seed):
    """Tokens of four signs have length 2 and cosines in quarters, so fp32 is exact."""
    generator = torch.Generator().manual_seed(seed)
    metric = torch.randint(2, (2, height * width, 4), generator=generator) * 2.0 - 1
    grid = TokenGrid(height, width)
    destinations = choose_destinations(metric[..., 0], grid, cell, "random", generator)
    plan = prune_tokens(metric, destinations, ratio)
    check_against_the_loop(plan, [cosines(x) for x in metric], destinations.tolist(), ratio)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.7, 1.0])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (8, 6)])
def test_general_tokens_are_pruned_as_in_the_loop(randn, height, width, ratio):
    metric = randn(3, height * width, 8)
    destinations = choose_destinations(metric[..., 0], TokenGrid(height, width))
    plan = prune_tokens(metric, destinations, ratio)
    check_against_the_loop(plan, [cosines(x) for x in metric], destinations.tolist(), ratio)


def test_a_dropped_token_may_copy_a_source_that_was_kept():
    """Token 1 is dropped for destination 0, but token 2, which is no destination, is more alike."""
    metric = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.1, 1.0]]])
    plan = prune_tokens(metric, torch.tensor([[0, 3]]), 0.25)
    assert plan.target.tolist() == [[0, 1, 3, 3]]
    metric = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [1.0, 1.0], [-1.0, 0.0]]])
    plan = prune_tokens(metric, torch.tensor([[0, 3]]), 0.25)
    assert plan.target.tolist() == [[0, 2, 2, 3]]


def test_what_is_kept_is_unchanged_and_what_is_dropped_copies(randn):
    x = randn(2, 35, 8)
    plan = prune_tokens(x, choose_destinations(x[..., 0], TokenGrid(5, 7)), 0.5)
    kept = x.gather(1, plan.kept[..., None].expand(-1, -1, 8))
    assert torch.equal(plan.queries(x), kept) and torch.equal(plan.context(x), kept)
    assert torch.equal(plan.restore(kept), x.gather(1, plan.target[..., None].expand_as(x)))


def slow_destinations(score, height, width, cell=2):
    """The token of the highest score of each whole cell."""
    chosen = []
    for top in range(0, height - cell + 1, cell):
        for left in range(0, width - cell + 1, cell):
            members = [(top + y) * width + left + x for y in range(cell) for x in range(cell)]
            chosen.append(max(members, key=lambda n: score[n]))
    return chosen


def sito(metric, height, width, *, progress=MIDDLE, layer_number=0, **settings):
    return SimilarityPruning(**settings).plan(
        metric, TokenGrid(height, width), progress, layer_number
    )


@pytest.mark.parametrize("noise", [0.0, 0.1, 2.0])
@pytest.mark.parametrize(("height", "width"), [(6, 6), (4, 9), (7, 5), (16, 16)])
def test_sito_scores_by_the_whole_cosine_matrix_and_noise(randn, height, width, noise):
    metric = randn(2, height * width, 8)
    plan = sito(metric, height, width, noise=noise, seed=4, layer_number=3)
    xi = torch.randn(height * width, generator=seeded_generator(4, MIDDLE, 3)).double().numpy()
    alike = [cosines(x) for x in metric]
    chosen = [slow_destinations(a.sum(1) + noise * xi, height, width) for a in alike]
    check_against_the_loop(plan, alike, chosen, 0.7)


@pytest.mark.parametrize(("similarity", "noise"), [(-1.0, 0.0), (0.0, 1.0), (2.5, 0.7)])
def test_similarity_and_noise_are_weights_of_the_score(randn, similarity, noise):
    metric = randn(1, 64, 8)
    plan = sito(metric, 8, 8, ratio=1.0, similarity=similarity, noise=noise)
    xi = torch.randn(64, generator=seeded_generator(0, MIDDLE, 0)).double().numpy()
    score = similarity * cosines(metric[0]).sum(1) + noise * xi
    assert plan.kept[0].tolist() == sorted(slow_destinations(score, 8, 8))


def test_sito_prunes_in_cells_of_the_given_size(randn):
    metric = randn(1, 81, 8)
    plan = sito(metric, 9, 9, ratio=1.0, noise=0.0, cell=3)
    chosen = slow_destinations(cosines(metric[0]).sum(1), 9, 9, cell=3)
    assert plan.kept[0].tolist() == sorted(chosen)


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_sito_draws_the_same_noise_for_any_batch(randn, batch):
    metric = randn(1, 144, 8)
    alone = sito(metric, 12, 12)
    together = sito(metric.repeat(batch, 1, 1), 12, 12)
    assert torch.equal(together.target, alone.target.expand(batch, -1))


def test_sito_repeats_for_the_same_seed_layer_and_timestep(randn):
    metric = randn(1, 144, 8)
    assert torch.equal(sito(metric, 12, 12, seed=5).target, sito(metric, 12, 12, seed=5).target)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"layer_number": 1}, {"progress": DenoisingProgress(0.501)}]
)
def test_noise_differs_by_seed_layer_and_timestep_and_is_the_only_difference(randn, other):
    metric = randn(1, 144, 8)
    noisy, otherwise = (sito(metric, 12, 12, noise=1.0, **change) for change in ({}, other))
    assert not torch.equal(noisy.kept, otherwise.kept)
    plain, same = (sito(metric, 12, 12, noise=0.0, **change) for change in ({}, other))
    assert torch.equal(plain.target, same.target)


def test_sito_leaves_the_global_random_state_alone(randn):
    metric = randn(1, 64, 8)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    sito(metric, 8, 8)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2] == numpy_state[2]


@pytest.mark.parametrize(("ratio", "left"), [(0.7, 1229), (0.5, 2048), (0.9, 1024)])
def test_ratio_is_the_share_of_all_tokens_that_sito_drops(randn, ratio, left):
    plan = sito(randn(1, 4096, 4), 64, 64, ratio=ratio)
    assert plan.query_tokens == plan.context_tokens == left


@pytest.mark.parametrize(("height", "width"), [(1, 9), (1, 1), (9, 1)])
def test_without_a_cell_sito_drops_nothing(randn, height, width):
    x = randn(2, height * width, 4)
    plan = sito(x, height, width)
    assert plan.queries(x) is x and plan.restore(x) is x
