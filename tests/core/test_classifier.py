"""The adaptive classifier against a plain loop over stages, timesteps and prompts."""

import pytest
import torch
from torch.nn import functional

from bigain_core.classification import (
    TrialPlan,
    check_labels,
    classify,
    trial_noise,
    trial_timesteps,
)
from bigain_core.classification.trials.losses import LOSSES, mean_error
from tests.core.classifying import Tabled

LOSS_OF_CONSTANT = {
    "l2": lambda r: r * r,
    "l1": abs,
    "huber": lambda r: r * r / 2 if abs(r) <= 1 else abs(r) - 0.5,
}


def recorder(prompts, decimals=None):
    """Noise that is off by random numbers between 0 and 2."""
    table = 2 * torch.rand(prompts, 1000, generator=torch.Generator().manual_seed(0))
    return Tabled(table if decimals is None else table.round(decimals=decimals))


def slow_classification(table, stages, keep, loss):
    """(calls, errors {prompt: {timestep: error}}, prompts best first) for one image."""
    errors = {k: {} for k in range(len(table))}
    alive, calls, eliminated = list(errors), [], []
    for timesteps, count in zip(stages, keep, strict=True):
        for timestep in timesteps:
            calls.append((timestep, alive))
            for k in alive:
                errors[k][timestep] = LOSS_OF_CONSTANT[loss](table[k][timestep])
        mean = {k: sum(errors[k].values()) / len(errors[k]) for k in alive}
        ranked = sorted(alive, key=lambda k: (mean[k], k))
        eliminated = ranked[count:] + eliminated
        alive = sorted(ranked[:count])
    return calls, errors, alive + eliminated


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("trials", "prompts", "keep"),
    [
        ((5, 20), 12, None),
        ((5, 20), 12, (12, 1)),
        ((5, 20), 3, None),
        ((5, 20), 1, None),
        ((5, 20, 100), 60, None),
        ((5, 20, 100), 9, (4, 2, 1)),
    ],
)
def test_every_call_error_and_rank_equals_the_slow_loop(trials, prompts, keep, loss):
    denoiser = recorder(prompts)
    plan = TrialPlan(trials, keep, loss)
    labels = [f"label {k}" for k in range(prompts)]
    found = classify(denoiser, torch.zeros(1, 2, 3, 3), labels, plan)
    published = {2: (5, 1), 3: (50, 10, 1)}[len(trials)]
    counts = keep or [min(count, prompts) for count in published]
    calls, errors, order = slow_classification(
        denoiser.table.tolist(), trial_timesteps(trials), counts, loss
    )

    assert denoiser.calls == calls
    ranking = found.rankings[0]
    timesteps = sum(trial_timesteps(trials), [])
    assert [spec.timestep for spec in ranking.table.specs] == timesteps
    expected = [[errors[k].get(t, torch.nan) for t in timesteps] for k in errors]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(ranking.table.errors, expected, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert ranking.order == order
    assert found.best == order[:1]
    assert found.calls == plan.calls(prompts) == sum(len(alive) for _, alive in calls)


def test_equal_errors_keep_the_first_prompts():
    """Residuals of 0, 1 or 2 have exact squares, and prompts in pairs have the same ones."""
    denoiser = recorder(6, decimals=0)
    denoiser.table = denoiser.table[[0, 0, 1, 1, 2, 2]]
    found = classify(denoiser, torch.zeros(1, 1, 2, 2), list("abcdef"), TrialPlan((5, 20), (3, 1)))
    calls, _, order = slow_classification(
        denoiser.table.tolist(), trial_timesteps((5, 20)), (3, 1), "l2"
    )
    assert denoiser.calls == calls
    assert found.rankings[0].order == order
    assert found.best[0] % 2 == 0


def test_all_prompts_of_a_trial_see_the_noise_of_that_trial():
    denoiser = recorder(4)
    plan = TrialPlan((5, 20), seed=9)
    classify(denoiser, torch.zeros(2, 4, 3, 3), list("abcd"), plan, first_image=10)
    assert len(denoiser.noises) == 2 * 20
    for number, noise in enumerate(denoiser.noises):
        image, trial = divmod(number, 20)
        assert torch.equal(noise, trial_noise((4, 3, 3), 9, 10 + image, trial))


def test_no_graph_is_kept_for_a_trainable_model():
    """One that is would hold the activations of every call."""
    weight = torch.nn.Parameter(torch.ones(()))

    class Trainable(Tabled):
        def __call__(self, latent, trial, prompts):
            return weight * super().__call__(latent, trial, prompts)

    found = classify(
        Trainable(recorder(2).table), torch.zeros(1, 1, 4, 4), ["a", "b"], TrialPlan((2,))
    )
    assert not found.rankings[0].table.errors.requires_grad


def test_classification_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    classify(recorder(2), torch.zeros(1, 1, 2, 2), ["a", "b"], TrialPlan((2,)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        ("l2", functional.mse_loss),
        ("l1", functional.l1_loss),
        ("huber", functional.smooth_l1_loss),  # equals the Huber loss at delta 1
    ],
)
def test_losses_equal_those_of_torch(randn, loss, reference):
    predicted, noise = 2 * randn(3, 4, 5, 5), randn(4, 5, 5, seed=1)
    errors = mean_error(predicted - noise, loss)
    expected = torch.stack([reference(row, noise) for row in predicted]).double()
    torch.testing.assert_close(errors, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_residuals_are_not_averaged_in_half(randn, loss):
    residuals = (300 * randn(2, 4, 8, 8)).half()  # squares overflow fp16
    errors = mean_error(residuals, loss)
    assert errors.dtype == torch.float64 and torch.isfinite(errors).all()
    assert torch.equal(errors, mean_error(residuals.float(), loss))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "expected at least one prompt, got none"),
        (["cat", "", "dog"], "got an empty one on line 2 of 3"),
        (["cat", "dog", "  "], "got an empty one on line 3 of 3"),
        (["cat", "dog", "cat"], "expected different labels, got 'cat' more than once"),
    ],
)
def test_unusable_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"BiGain: .*{message}"):
        check_labels(labels)
    denoiser = recorder(3)
    with pytest.raises(ValueError, match=message):
        classify(denoiser, torch.zeros(1, 1, 2, 2), labels, TrialPlan())
    assert not denoiser.calls
