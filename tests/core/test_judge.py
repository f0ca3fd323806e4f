"""How a judge is measured: curves, calibration and bits, against other libraries and formulas."""

import math
import statistics

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks import drawings
from benchmarks.judge.fits import Subject, area_under_curve, calibrated, cases, tags
from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from benchmarks.oracle import GaussianWorld, OracleDenoiser
from bigain_core.classification import Blocks, ErrorSource, TrialPlan
from bigain_core.classification.evidence.baseline import evidence_bits, probabilities_of_fit
from bigain_core.classification.results.fit import (
    OFFSET,
    SLOPE,
    TRIALS,
    WRONG,
    ahead_of_others,
    fit_trials,
    probability,
    probability_of_fit,
)
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
    assert scores["margin to the runner-up"].tolist() == pytest.approx([1.0, 0.9])
    bits = [10 * 1.6 / math.log(2), 10 * 0.6 / math.log(2)]
    assert scores["bits against no prompt"].tolist() == pytest.approx(bits)
    against = [10 * 1.45 / math.log(2), 10 * 0.9 / math.log(2)]
    assert scores["bits against the mean of the other prompts"].tolist() == pytest.approx(against)
    lead = [stats.ttest_1samp(gains, 0).statistic for gains in ([1.5, 1.7], [0.5, 0.7])]
    found = scores["lead over no prompt, in standard errors"]
    assert found.tolist() == pytest.approx(lead)


def test_tags_are_judged_by_themselves():
    errors = torch.tensor([[[1.0, 1.2], [2.0, 2.4], [2.5, 2.9]]] * 2).double()
    found, fits = tags(errors)
    assert fits.tolist() == [[True, False]] * 2
    lead = [stats.ttest_1samp(gains, 0).statistic for gains in ([1.5, 1.7], [0.5, 0.5001])]
    assert found[0, :1].tolist() == pytest.approx(lead[:1])


def test_a_probability_is_the_curve_of_the_lead(randn):
    gains = randn(5, TRIALS).double() + 0.3
    z = stats.ttest_1samp(gains.numpy(), 0, axis=1).statistic
    expected = 1 / (1 + np.exp(-(OFFSET + SLOPE * (z - WRONG))))
    assert probability_of_fit(gains).numpy() == pytest.approx(expected)
    assert probability_of_fit(torch.zeros(TRIALS)).item() == pytest.approx(
        1 / (1 + np.exp(-OFFSET + SLOPE * WRONG))
    )


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_among_others_a_prompt_counts_from_what_they_have(randn, count):
    leads = randn(count).double() * 3 - 1
    expected = []
    for place, lead in enumerate(leads.tolist()):
        others = [other for n, other in enumerate(leads.tolist()) if n != place]
        ahead = lead - statistics.median_low([*others, WRONG])
        expected.append(1 / (1 + math.exp(-(OFFSET + SLOPE * ahead))))
    assert probability(ahead_of_others(leads)).tolist() == pytest.approx(expected)


def test_a_tag_is_judged_by_the_best_of_its_prompts(randn):
    """As if its other prompts were not there, however many it has."""
    errors = {spec: 1 + randn(6, seed=n).double() / 50 for n, spec in enumerate(fit_trials())}

    class Source:
        def __init__(self, rows):
            self.rows = rows

        def errors(self, spec, prompts):
            return errors[spec][self.rows][list(prompts)]

    found = probabilities_of_fit(Source([0, 1, 2, 3, 4, 5]), ("cat", "cat", "dog", "cat", "fox"))
    one = [probabilities_of_fit(Source([k, 2, 4, 5]), ("cat", "dog", "fox")) for k in (0, 1, 3)]
    assert list(found) == ["cat", "dog", "fox"]
    assert found == pytest.approx(max(one, key=lambda chances: chances["cat"]))


def test_errors_are_kept_and_gone_on_with(make_dit, monkeypatch, tmp_path):
    """Of held-out drawings, each with its name, four others and none."""
    names = len(drawings.CLASS_NAMES)
    dit = make_dit(hidden_size=64, depth=1, num_heads=1, in_channels=3, num_classes=names)
    save_file(dit.state_dict(), tmp_path / "model.safetensors")
    plain = torch.randint(256, (names, 5, 4, 1, 1), generator=torch.Generator().manual_seed(0))
    rasters = plain.byte().expand(-1, -1, -1, drawings.RASTER, drawings.RASTER)
    monkeypatch.setattr(drawings, "read_drawings", lambda cache: drawings.Drawings(rasters))
    asked = []

    def subject(count):
        return Subject(tmp_path / "model.safetensors", "drawings", count, tmp_path, tmp_path)

    monkeypatch.setattr(
        Subject, "source", lambda self, number, classes: asked.append(classes) or Flat(number)
    )
    first, both = subject(1).errors(), subject(2).errors()
    assert both.shape == (2, 6, TRIALS) and torch.equal(both[:1], first)
    assert both[1, 0].unique().tolist() == [1.0]
    labels = drawings.held_out().nonzero()[:2, 0] // len(drawings.STYLES)
    assert [classes[0] for classes in asked] == labels.tolist()
    for classes in asked:
        assert len(set(classes)) == 6 and classes[-1] == names


class Flat:
    """Errors that are the number of the image."""

    def __init__(self, number):
        self.number = number

    def errors(self, spec, prompts):
        return torch.full((len(prompts),), float(self.number))


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
