"""SiTo: which tokens are dropped and whose output they copy."""

import numpy as np
import pytest
import torch
from hypothesis import given

from bigain_core.methods import SimilarityPruning
from bigain_core.methods.base import random_bits, standard_normal
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import choose_destinations, prune_tokens
from tests.core.calls import MIDDLE
from tests.core.loops import matching_cases, slow_lowest


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


@given(case=matching_cases())
def test_with_many_exact_ties_pruning_equals_a_loop(case):
    metric, destinations, ratio = case
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


def sito(metric, height, width, *, progress=MIDDLE, layer_number=0, **settings):
    return SimilarityPruning(**settings).plan(
        metric, TokenGrid(height, width), progress, layer_number
    )


@pytest.mark.parametrize(
    ("similarity", "noise"), [(1, 0.0), (1, 0.1), (1, 2.0), (-1, 0.0), (0, 1.0), (2.5, 0.7)]
)
@pytest.mark.parametrize(
    ("height", "width", "cell", "ratio"),
    [(6, 6, 2, 0.7), (4, 9, 2, 0.7), (7, 5, 2, 0.7), (16, 16, 2, 0.7), (8, 8, 2, 1), (9, 9, 3, 1)],
)
def test_sito_scores_by_the_whole_cosine_matrix_and_noise(
    randn, height, width, cell, similarity, noise, ratio
):
    metric = randn(2, height * width, 8)
    weights = {"similarity": similarity, "noise": noise}
    plan = sito(metric, height, width, ratio=ratio, cell=cell, seed=4, layer_number=3, **weights)
    bits = random_bits(2 * height * width, 4, MIDDLE, 3, metric.device)
    xi = standard_normal(bits).double().numpy()
    alike = [cosines(x) for x in metric]
    scores = [similarity * a.sum(1) + noise * xi for a in alike]
    chosen = [slow_lowest(-score, height, width, cell) for score in scores]
    check_against_the_loop(plan, alike, chosen, ratio)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"layer_number": 1}, {"progress": DenoisingProgress(0.501)}]
)
def test_noise_differs_by_seed_layer_and_timestep_and_is_the_only_difference(randn, other):
    metric = randn(1, 144, 8)
    noisy, otherwise = (sito(metric, 12, 12, noise=1.0, **change) for change in ({}, other))
    assert not torch.equal(noisy.kept, otherwise.kept)
    plain, same = (sito(metric, 12, 12, noise=0.0, **change) for change in ({}, other))
    assert torch.equal(plain.target, same.target)
