"""The adaptive classifier against a plain loop over stages, timesteps and prompts."""

import pytest
import torch
from torch.nn import functional

from bigain_core.classification import (
    NoiseSchedule,
    TrialPlan,
    alphas_cumprod,
    check_labels,
    classify,
    trial_noise,
)
from bigain_core.classification.trials.losses import LOSSES, mean_error

LOSS_OF_CONSTANT = {
    "l2": lambda r: r * r,
    "l1": abs,
    "huber": lambda r: r * r / 2 if abs(r) <= 1 else abs(r) - 0.5,
}
STAGES = {
    (5, 20): [
        [125, 325, 525, 725, 925],
        [t for t in range(25, 1000, 50) if t not in (125, 325, 525, 725, 925)],
    ],
    (5, 20, 100): [
        [105, 305, 505, 705, 905],
        list(range(25, 1000, 50)),
        [
            t
            for t in range(5, 1000, 10)
            if t not in (105, 305, 505, 705, 905) and t not in range(25, 1000, 50)
        ],
    ],
}


class Recorder:
    """A denoiser whose noise is off by the constant table[k][t] for prompt k at timestep t."""

    schedule = NoiseSchedule.variance_preserving(alphas_cumprod("scaled-linear"))

    def __init__(self, prompts, decimals=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        table = 2 * torch.rand(prompts, 1000, generator=generator)
        table = table if decimals is None else table.round(decimals=decimals)
        self.table = table.tolist()
        self.calls, self.noises = [], []

    def __call__(self, latent, trial, prompts):
        timestep, level = trial.timestep, trial.level
        self.calls.append((timestep, list(prompts)))
        self.noises.append(trial.noise.clone())
        off = torch.tensor([self.table[k][timestep] for k in prompts], dtype=torch.float64)
        off = off.view(-1, *[1] * latent.ndim).expand(-1, *latent.shape)
        return latent - level.noise / level.signal * off


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
    denoiser = Recorder(prompts)
    plan = TrialPlan(trials, keep, loss)
    labels = [f"label {k}" for k in range(prompts)]
    found = classify(denoiser, torch.zeros(1, 2, 3, 3), labels, plan)
    published = {2: (5, 1), 3: (50, 10, 1)}[len(trials)]
    counts = keep or [min(count, prompts) for count in published]
    calls, errors, order = slow_classification(denoiser.table, STAGES[trials], counts, loss)

    assert denoiser.calls == calls
    ranking = found.rankings[0]
    timesteps = sum(STAGES[trials], [])
    assert ranking.timesteps.tolist() == timesteps
    expected = [[errors[k].get(t, torch.nan) for t in timesteps] for k in errors]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(ranking.errors, expected, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert ranking.order == order
    assert found.best == order[:1]
    assert found.calls == plan.calls(prompts) == sum(len(alive) for _, alive in calls)


def test_equal_errors_keep_the_first_prompts():
    """Residuals of 0, 1 or 2 have exact squares, and prompts in pairs have the same ones."""
    denoiser = Recorder(6, decimals=0)
    denoiser.table = [denoiser.table[k // 2] for k in range(6)]
    found = classify(denoiser, torch.zeros(1, 1, 2, 2), list("abcdef"), TrialPlan((5, 20), (3, 1)))
    calls, _, order = slow_classification(denoiser.table, STAGES[5, 20], (3, 1), "l2")
    assert denoiser.calls == calls
    assert found.rankings[0].order == order
    assert found.best[0] % 2 == 0


def test_a_prompt_that_is_out_never_returns():
    """Prompt 2 is worst in the first stage and would be by far the best in the second."""
    denoiser = Recorder(3)
    first = set(STAGES[5, 20][0])
    for k, (early, late) in enumerate([(1.0, 1.0), (1.1, 1.1), (1.2, 0.0)]):
        denoiser.table[k] = [early if t in first else late for t in range(1000)]
    found = classify(denoiser, torch.zeros(1, 1, 2, 2), list("abc"), TrialPlan((5, 20), (2, 1)))
    assert found.rankings[0].order == [0, 1, 2]


def test_all_prompts_of_a_trial_see_the_noise_of_that_trial():
    denoiser = Recorder(4)
    plan = TrialPlan((5, 20), seed=9)
    classify(denoiser, torch.zeros(2, 4, 3, 3), list("abcd"), plan, first_image=10)
    assert len(denoiser.noises) == 2 * 20
    for number, noise in enumerate(denoiser.noises):
        image, trial = divmod(number, 20)
        assert torch.equal(noise, trial_noise((4, 3, 3), 9, 10 + image, trial))


@pytest.mark.parametrize("split", [[4], [1, 3], [2, 1, 1]])
def test_noise_does_not_depend_on_the_batch_split(split):
    whole, parts = Recorder(3), Recorder(3)
    latents, first = torch.zeros(4, 2, 2, 2), 0
    classify(whole, latents, list("abc"), TrialPlan((2, 4), (2, 1)))
    for size in split:
        batch = latents[first : first + size]
        classify(parts, batch, list("abc"), TrialPlan((2, 4), (2, 1)), first)
        first += size
    assert whole.calls == parts.calls
    assert all(map(torch.equal, whole.noises, parts.noises))


def test_no_graph_is_kept_for_a_trainable_model():
    """One that is would hold the activations of every call."""
    weight = torch.nn.Parameter(torch.ones(()))

    class Trainable(Recorder):
        def __call__(self, latent, trial, prompts):
            return weight * super().__call__(latent, trial, prompts)

    found = classify(Trainable(2), torch.zeros(1, 1, 4, 4), ["a", "b"], TrialPlan((2,)))
    ranking = found.rankings[0]
    assert not ranking.errors.requires_grad


def test_classification_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    classify(Recorder(2), torch.zeros(1, 1, 2, 2), ["a", "b"], TrialPlan((2,)))
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
    denoiser = Recorder(3)
    with pytest.raises(ValueError, match=message):
        classify(denoiser, torch.zeros(1, 1, 2, 2), labels, TrialPlan())
    assert not denoiser.calls


def test_a_list_that_keeps_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="at most the 2 prompts that are present, got 3"):
        classify(Recorder(2), torch.zeros(1, 1, 2, 2), ["a", "b"], TrialPlan((5, 20), (3, 1)))
