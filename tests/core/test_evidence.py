"""Where and at which frequencies a lead comes from, and what operators do to frequencies."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from benchmarks.frequency_bands import (
    band_differences,
    cosine_transform,
    frequency_response,
    radial_bands,
    sum_by_band,
)
from benchmarks.noise_schedules import alphas_cumprod, noised, variance_preserving
from bigain_core.classification import (
    PLANS,
    AdaptiveTimes,
    ErrorSource,
    SpreadGrid,
    TrialPlan,
    classify,
    evidence_map,
)
from bigain_core.methods import TokenMerging
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import IdentityPlan, PoolPlan
from tests.core.classifying import classify_screened

LABELS = ["a", "b", "c", "d"]


class Blurry:
    """Each prompt answers with its own mixture of the noisy latent and its neighbours."""

    schedule = variance_preserving(alphas_cumprod("linear"))

    def __call__(self, latent, trial, prompts):
        noisy = noised(latent, trial)
        shares = [0.2, 0.5, 0.8, 0.9]
        return torch.stack([latent + shares[k] * (noisy.roll(k, -1) - latent) for k in prompts])


LATENT = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(1, 8, 12, generator=torch.Generator().manual_seed(1))


def ranked(denoiser, plan, mask=None):
    """Where the errors of a ranking come from, and the ranking."""
    masks = None if mask is None else mask[None]
    found = classify(denoiser, LATENT[None], LABELS, plan, masks=masks)
    return ErrorSource(denoiser, LATENT, LABELS, plan, mask=mask), found.rankings[0]


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("loss", ["l2", "l1", "huber"])
@pytest.mark.parametrize("sampler", [SpreadGrid(), AdaptiveTimes()])
def test_the_map_adds_up_to_the_margin(sampler, loss, mask):
    plan = TrialPlan((5, 9), (3, 1), loss, weighting="x0", sampler=sampler)
    source, ranking = ranked(Blurry(), plan, mask)
    for better, worse in ((0, 1), (0, 3), (2, 1)):
        found = evidence_map(source, ranking, better, worse)
        assert found.shape == LATENT.shape
        margin = ranking.lead(better, worse).margin
        assert found.sum().item() == pytest.approx(margin, rel=1e-5)


def test_the_map_lies_where_prompts_differ():
    class Spot(Blurry):
        def __call__(self, latent, trial, prompts):
            clean = latent.expand(len(prompts), *latent.shape).clone()
            for row, k in enumerate(prompts):
                clean[row, :, 2, 3] += 0.1 * k
            return clean

    source, ranking = ranked(Spot(), TrialPlan((5,)))
    found = evidence_map(source, ranking, 0, 1)
    inside = found[:, 2, 3].sum().item()
    assert inside == pytest.approx(ranking.margin, rel=1e-5) and inside > 0
    found[:, 2, 3] = 0
    assert found.abs().max() == 0


@pytest.mark.parametrize("bands", [1, 5])
def test_bands_add_up_to_the_difference_of_each_trial(bands):
    source, ranking = ranked(Blurry(), TrialPlan((5, 20), (4, 1)))
    rows = band_differences(source, ranking, 0, 2, bands)
    assert rows.shape == (20, bands)
    expected = ranking.table.errors[2] - ranking.table.errors[0]
    torch.testing.assert_close(rows.sum(1), expected, rtol=1e-5, atol=1e-9)


def test_bands_are_where_the_difference_lies():
    wave = torch.cos(math.pi * 6 * (torch.arange(8) + 0.5) / 8)[:, None].expand(8, 12)

    class Waves(Blurry):
        def __call__(self, latent, trial, prompts):
            return torch.stack([latent + k * wave for k in prompts])

    source, ranking = ranked(Waves(), TrialPlan((5,)))
    rows = band_differences(source, ranking, 0, 1, bands=4)
    ring = int(6 / 8 / math.sqrt(2) * 4)
    others = [band for band in range(4) if band != ring]
    assert rows[:, ring].min() > 1e-4
    assert (rows[:, others].abs() < 1e-5 * rows[:, [ring]]).all()


def test_bands_need_squared_errors_of_samples():
    for loss, mask, given in (("l1", None, "l1 without a mask"), ("l2", MASK, "l2 with a mask")):
        source, ranking = ranked(Blurry(), TrialPlan((5,), loss=loss), mask)
        with pytest.raises(ValueError, match=f"loss {given}"):
            band_differences(source, ranking, 0, 1, 3)


def test_what_screening_ruled_out_has_no_map():
    plan = PLANS["balanced"]
    found = classify_screened(Blurry(), Blurry(), LATENT[None], LABELS, plan, keep=2)
    ranking = found.rankings[0]
    out = ranking.order[-1]
    with pytest.raises(ValueError, match="one that the screening ruled out"):
        evidence_map(ErrorSource(Blurry(), LATENT, LABELS, plan), ranking, ranking.best, out)


def test_the_transform_is_that_of_scipy():
    expected = dctn(LATENT.double().numpy(), axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(cosine_transform(LATENT).numpy(), expected, atol=1e-12)


def test_rings_cover_all_frequencies_from_coarse_to_fine():
    rings = radial_bands(8, 12, 4)
    assert rings.shape == (8, 12) and rings[0, 0] == 0 and rings[7, 11] == 3
    assert rings.unique().tolist() == [0, 1, 2, 3]
    values = torch.rand(8, 12)
    sums = sum_by_band(values, 4)
    expected = [values[rings == ring].sum().item() for ring in range(4)]
    assert sums.tolist() == pytest.approx(expected)


GRID = TokenGrid(8, 8)


def test_doing_nothing_keeps_every_frequency():
    plan = IdentityPlan(64)
    response = frequency_response(lambda x: plan.restore(plan.queries(x)), GRID)
    torch.testing.assert_close(response.gain, torch.ones(8, 8, dtype=torch.float64))
    torch.testing.assert_close(response.kept, torch.ones(8, 8, dtype=torch.float64))


def test_averaging_pairs_attenuates_by_the_cosine():
    """Means of 2 x 2 windows multiply a cosine by cos(pi k / 2 H) cos(pi l / 2 W)."""
    plan = PoolPlan(GRID, 2, 0.0)
    response = frequency_response(plan.context, GRID)
    line = torch.cos(math.pi * torch.arange(8, dtype=torch.float64) / 16)
    assert response.kept is None
    torch.testing.assert_close(response.gain[:4, :4], (line[:, None] * line)[:4, :4])
    nearest = frequency_response(PoolPlan(GRID, 2, 1.0).context, GRID)
    assert nearest.gain[6, 6] > 3 * response.gain[6, 6]


def test_a_filter_is_measured_as_what_it_is():
    """An operator that scales each cosine by its own number."""
    gains = torch.rand(8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def operator(tokens):
        samples = tokens[0].T.unflatten(1, (8, 8)).numpy()
        filtered = dctn(samples, axes=(1, 2), norm="ortho") * gains.numpy()
        back = idctn(filtered, axes=(1, 2), norm="ortho")
        return torch.from_numpy(back).flatten(1).T[None]

    response = frequency_response(operator, GRID)
    torch.testing.assert_close(response.gain, gains)
    torch.testing.assert_close(response.kept, gains)


def test_merging_is_a_projection_that_keeps_its_share_of_all_frequencies():
    """Group means: what is kept of a cosine is its gain squared, and the trace is the tokens."""
    metric = torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(3))
    plan = TokenMerging(0.7).plan(metric, GRID, DenoisingProgress(1 - 500 / 999), 0)
    response = frequency_response(lambda x: plan.restore(plan.queries(x)), GRID)
    torch.testing.assert_close(response.kept, response.gain**2)
    assert response.kept.sum().item() == pytest.approx(plan.query_tokens)
    assert response.kept[0, 0].item() == pytest.approx(1)
