"""How a judge is measured: curves, calibration and bits, against other libraries and formulas."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.judge.fits import area_under_curve, calibrated, cases
from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from benchmarks.oracle import GaussianWorld, OracleDenoiser
from bigain_core.classification import Blocks, ErrorSource, TrialPlan
from bigain_core.classification.evidence.baseline import evidence_bits
from bigain_core.classification.trials.samplers import Progress


def test_the_area_under_the_curve_is_that_of_scikit_learn(randn):
    scores = (randn(60) * 4).round().double()  # with ties
    fits = randn(60, seed=1) + scores / 4 > 0
    assert area_under_curve(scores, fits) == pytest.approx(roc_auc_score(fits, scores))


def test_calibration_is_logistic_regression(randn):
    """With targets of 0 and 1 softened as by Platt, which many cases hardly change."""
    scores = randn(4000).double()
    fits = torch.rand(4000, generator=torch.Generator().manual_seed(2)) < (2 * scores - 1).sigmoid()
    expected = LogisticRegression(C=1e9).fit(scores[:, None], fits)
    offset, slope = calibrated(scores, fits)
    assert offset == pytest.approx(expected.intercept_[0], abs=0.02)
    assert slope == pytest.approx(expected.coef_[0, 0], abs=0.02)
    assert all(map(math.isfinite, calibrated(torch.tensor([-1.0, 1]).double(), scores[:2] > 9)))


def test_cases_are_those_with_and_without_the_class():
    errors = torch.tensor([[[1.0, 1.2], [2.0, 2.2], [3.0, 3.0], [2.5, 2.9]]]).double()
    scores, fits = cases(errors, torch.tensor([10.0, 10.0]).double())
    assert fits.tolist() == [True, False]
    assert scores["margin"].tolist() == pytest.approx([1.0, 0.9])
    bits = [10 * 1.6 / math.log(2), 10 * 0.6 / math.log(2)]
    assert scores["evidence"].tolist() == pytest.approx(bits)
    against = [10 * 1.45 / math.log(2), 10 * 0.9 / math.log(2)]
    assert scores["against the others"].tolist() == pytest.approx(against)


def test_evidence_is_the_likelihood_ratio_of_a_world_that_is_known():
    """The empty prompt is a class of its own there; trials enough for three percent."""
    world = GaussianWorld.random(2, 5, 1.5, size=64)
    images, _ = world.images(1, 3)
    schedule = variance_preserving(alphas_cumprod("scaled-linear"))
    plan = TrialPlan((1000,), (1,), sampler=Blocks(1000))
    source = ErrorSource(OracleDenoiser(world, schedule), images[0], ("a", "b"), plan)
    specs = [plan.sampler.draw(plan.trials, Progress(0, 0, (None,) * n, None, [0]))
             for n in range(1000)]  # fmt: skip
    errors = torch.stack([source.errors(spec, [0, 1]) for spec in specs], 1)
    found = evidence_bits(errors[1] - errors[0], source.nats(specs), specs, plan.sampler)
    likelihoods = world.log_likelihoods(images)[0]
    expected = (likelihoods[0] - likelihoods[1]).item() / math.log(2)
    assert abs(expected) > 3 and found == pytest.approx(expected, rel=0.05)
