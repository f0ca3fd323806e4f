"""Models compared on held-out images: who is best, by how much, and who is dropped when."""

import math

import pytest
import torch
from scipy.stats import t as student
from scipy.stats import ttest_rel

from benchmarks.judge.epochs import EPOCHS, TRIALS, Normal, Training
from bigain_core.classification import ErrorSource, TrialPlan, classify
from bigain_core.classification.datasets.held_out_comparison import (
    FIRST_ROUND,
    LARGEST_ROUND,
    compare,
    errors_under,
    rounds,
    shuffled,
)
from bigain_core.classification.elimination.student_t import student_quantile
from bigain_core.classification.trials.samplers import Blocks
from tests.core.labelled import csv_rows, plain


@pytest.fixture(scope="module")
def training():
    return Training()


def test_an_epoch_is_best_long_before_the_last(training):
    true = training.true_errors
    assert 3 < true.argmin() < EPOCHS - 4
    assert true[0] > 1.5 * true.min() and true[-1] > 1.3 * true.min()


def test_the_planted_best_epoch_is_found_with_its_interval(training):
    true = training.true_errors
    best, found = int(true.argmin()), training.compared(96)
    assert best in found.alive and abs(found.best - best) <= 1
    assert len(found.alive) <= 8
    assert 0 not in found.alive and EPOCHS - 1 not in found.alive
    assert found.behind[EPOCHS - 1][1] > 0
    whole = training.compared(96, delta=None)
    for (mean, low, high), expected in zip(whole.behind, true - true[whole.best], strict=True):
        assert low <= expected.item() <= high and low <= mean <= high
    assert found.images.sum() < 0.8 * EPOCHS * 96


def test_the_best_epoch_is_dropped_no_more_often_than_allowed_and_intervals_cover():
    """Drawn tables of errors: models whose true means are known, on images of different ease."""
    runs, lost, covered = 400, 0, 0
    truth = torch.tensor([0.00, 0.01, 0.02, 0.05, 0.2]).double()
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        ease, own = (torch.randn(n, 64, generator=generator) for n in (1, 5))
        errors = 1 + 0.5 * ease + 0.1 * own + truth[:, None]
        lost += 0 not in table_of(errors).alive
        whole = table_of(errors, delta=None)
        mean, low, high = whole.behind[4]
        covered += low <= (truth[4] - truth[whole.best]).item() <= high
    assert lost / runs <= 0.05
    assert covered / runs > 0.9


def table_of(errors, **options):
    errors = torch.as_tensor(errors).double()
    names = [f"m{k}" for k in range(len(errors))]
    return compare(names, errors.shape[1], lambda m, a, b: errors[m, a:b], **options)


def test_differences_are_those_of_the_paired_t_test(randn):
    errors = 1 + 0.3 * randn(1, 40) + 0.05 * randn(3, 40, seed=1)
    found = table_of(errors, delta=None)
    for model in set(range(3)) - {found.best}:
        expected = ttest_rel(errors[model].double(), errors[found.best].double())
        interval = expected.confidence_interval(0.95)
        mean, low, high = found.behind[model]
        assert mean == pytest.approx((errors[model] - errors[found.best]).double().mean().item())
        assert (low, high) == (pytest.approx(interval.low), pytest.approx(interval.high))


@pytest.mark.parametrize("dof", [1, 2, 7, 30, 150])
def test_quantiles_are_those_of_scipy(dof):
    for probability in (0.5, 0.6, 0.975, 0.9995):
        expected = student.ppf(probability, dof)
        assert student_quantile(probability, dof) == pytest.approx(expected, abs=1e-8, rel=1e-8)


def test_quantiles_of_many_degrees_are_never_too_small():
    assert student.ppf(0.975, 5000) < student_quantile(0.975, 5000) < 1.98


def test_rounds_double_and_end_with_the_last_image():
    assert rounds(5) == [5]
    assert rounds(100) == [8, 16, 32, 64, 100]
    ends = rounds(5000)
    assert ends[0] == FIRST_ROUND and ends[-1] == 5000
    assert max(b - a for a, b in zip(ends, ends[1:], strict=False)) == LARGEST_ROUND


def test_equal_models_stay_to_the_end_and_a_clearly_worse_one_goes_at_once(randn):
    shared, own = randn(1, 64), 0.1 * randn(3, 64, seed=1)
    errors = shared + own + torch.tensor([[0.0], [0.0], [1.0]])
    found = table_of(errors)
    assert found.alive == (0, 1)
    assert found.images.tolist() == [64, 64, 8]
    assert found.order[-1] == 2
    rows = csv_rows(found.table())
    assert [row["worse"] for row in rows] == ["no", "no", "yes"]
    whole = errors[found.best].double().mean().item()
    assert float(rows[-1]["mean_error"]) == pytest.approx(
        whole + float(rows[-1]["behind_best"]), abs=1e-3
    )
    assert f"as good, as far as these images tell: {rows[1]['model']}" in str(found)
    assert "29% of the evaluations saved" in str(found)


def test_without_dropping_every_model_has_every_image(randn):
    errors = torch.cat([randn(1, 20), randn(1, 20, seed=1) + 50])
    assert table_of(errors, delta=None).images.tolist() == [20, 20]
    assert table_of(errors).images.tolist() == [8, 8]


def test_unreadable_images_count_for_nobody(randn):
    errors = 1 + 0.1 * randn(2, 20)
    gaps = errors.clone()
    gaps[:, [0, 3, 12]] = math.nan
    found = table_of(gaps, delta=None)
    kept = [n for n in range(20) if n not in (0, 3, 12)]
    assert found.behind == table_of(errors[:, kept], delta=None).behind
    with pytest.raises(ValueError, match="expected images that can be read"):
        table_of(torch.full((2, 3), math.nan))


def test_one_image_decides_nothing():
    found = table_of([[1.0], [2.0]])
    assert found.alive == (0, 1) and found.behind[1] == (1.0, -math.inf, math.inf)


def test_new_images_do_not_change_the_order_of_the_others():
    few, many = (shuffled(plain(count).images) for count in (20, 30))
    order = [image.file for image in many]
    assert [file for file in order if int(file.split(".")[0]) < 20] == [i.file for i in few]
    assert order != sorted(order)


def test_errors_are_those_of_the_classifier_for_one_prompt(training):
    """The same noise and timesteps, whatever the model."""
    denoiser, latent = Normal(training.means), training.held_out(1, 9)[0]
    plan = TrialPlan((TRIALS,), (1,), sampler=Blocks(TRIALS), seed=5)
    expected = classify(denoiser, latent[None], ["a"], plan, 77).rankings[0].table.errors
    source = ErrorSource(denoiser, latent, ["a"], plan, 77)
    assert errors_under(source, 0) == expected[0].tolist()
