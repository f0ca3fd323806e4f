"""Running a transformer without a host: noise, images, classification and the log."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.dit_runner import DiTRunner
from bigain_core.classification import ErrorSource, Trial, TrialPlan, TrialSpec, classify
from bigain_core.compression.rules import Compression, Rule
from bigain_core.compression.run_log import RunLog
from bigain_core.methods import KVDownsampling, TokenMerging
from bigain_core.placement import Placement
from bigain_core.schedules import ActiveRange
from tests.core.classifying import Calls, same

MERGING, POOLING = Rule(TokenMerging(0.5)), Rule(KVDownsampling())


@pytest.fixture(scope="module")
def model(make_dit):
    return make_dit()


def signal_level(timestep):
    """Product of 1 - beta over the linear schedule of DiT."""
    betas = [1e-4 + (2e-2 - 1e-4) * t / 999 for t in range(timestep + 1)]
    return math.prod(1 - beta for beta in betas)


def slow_ddim(model, label, timesteps, guidance, seed):
    """One image, one network evaluation at a time."""
    config = model.config

    def predict(x, timestep, label):
        return model(x[None], torch.tensor([timestep]), torch.tensor([label]))[0]

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(config.in_channels, 8, 8, generator=generator)
    for now, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        free = predict(x, now, config.num_classes)
        noise = free + guidance * (predict(x, now, label) - free)
        level = signal_level(now)
        clean = (x - math.sqrt(1 - level) * noise) / math.sqrt(level)
        level = 1 if after is None else signal_level(after)
        x = math.sqrt(level) * clean + math.sqrt(1 - level) * noise
    return x


def test_noise_is_that_of_the_model(model, randn):
    x, labels = randn(3, 4, 8, 8), torch.tensor([0, 3, 5])
    noise = DiTRunner(model).predict_noise(x, 700, labels)
    assert torch.equal(noise, model(x, torch.tensor([700] * 3), labels))


def test_noise_follows_from_a_predicted_velocity(make_dit, randn):
    """v = sqrt(a) noise - sqrt(1 - a) clean and x = sqrt(a) clean + sqrt(1 - a) noise."""
    network, x, labels = make_dit(predicts="v"), randn(2, 4, 8, 8), torch.tensor([0, 3])
    for timestep in (5, 700):
        signal = math.sqrt(signal_level(timestep))
        spread = math.sqrt(1 - signal_level(timestep))
        noise = DiTRunner(network).predict_noise(x, timestep, labels)
        clean = (x - spread * noise) / signal
        velocity = network(x, torch.full((2,), timestep), labels)
        torch.testing.assert_close(signal * noise - spread * clean, velocity, atol=1e-4, rtol=1e-4)


def test_rules_act_in_their_range_alone(model, randn):
    x, labels = randn(1, 4, 8, 8), torch.tensor([0])
    early = Compression((Rule(KVDownsampling(), active=ActiveRange(0.0, 0.5)),))
    plain, compressed = DiTRunner(model), DiTRunner(model, early)
    for timestep, equal in ((999, False), (500, False), (499, True), (0, True)):
        pair = [runner.predict_noise(x, timestep, labels) for runner in (plain, compressed)]
        assert torch.equal(*pair) is equal


@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.0])
@pytest.mark.parametrize(("steps", "timesteps"), [(1, [999]), (3, [999, 666, 333])])
def test_images_equal_a_slow_ddim_loop(model, steps, timesteps, guidance):
    images = DiTRunner(model).sample([1, 4], steps, guidance, seed=5)
    for k, label in enumerate([1, 4]):
        expected = slow_ddim(model, label, timesteps, guidance, seed=5 + k)
        scale = expected.abs().max().item()
        torch.testing.assert_close(images[k], expected, atol=1e-4 * scale, rtol=1e-4)


@pytest.mark.parametrize("rules", [(), (MERGING,), (POOLING,)])
def test_an_image_does_not_depend_on_the_batch(model, rules):
    runner = DiTRunner(model, Compression(rules))
    together = runner.sample([1, 4, 2], 4, 2.0, seed=0)
    again = runner.sample([1, 4, 2], 4, 2.0, seed=0)
    assert torch.equal(together, again)
    for k, label in enumerate([1, 4, 2]):
        alone = runner.sample([label], 4, 2.0, seed=k)[0]
        scale = alone.abs().max().item()
        torch.testing.assert_close(together[k], alone, atol=1e-4 * scale, rtol=1e-4)


def test_sampling_reports_steps_and_leaves_the_global_random_state_alone(model):
    state, steps = torch.get_rng_state(), []
    DiTRunner(model).sample([0], 3, 1.0, seed=0, on_step=steps.append)
    assert steps == [1, 2, 3]
    assert torch.equal(torch.get_rng_state(), state)


def test_errors_of_a_model_that_predicts_velocity_are_those_of_velocity(make_dit, randn):
    network, latent = make_dit(predicts="v"), randn(4, 8, 8)
    source = ErrorSource(DiTRunner(network).denoiser([3]), latent, ("c",), TrialPlan())
    spec = TrialSpec(325, 0)
    noise, level = source.trial(spec).noise, signal_level(325)
    noisy = math.sqrt(level) * latent + math.sqrt(1 - level) * noise
    velocity = math.sqrt(level) * noise - math.sqrt(1 - level) * latent
    predicted = network(noisy[None], torch.tensor([325]), torch.tensor([3]))[0]
    expected = (predicted - velocity).square().mean().item()
    assert source.errors(spec, [0]).item() == pytest.approx(expected, rel=1e-4)


def test_clean_latents_are_what_the_predicted_noise_leaves(model, randn):
    latent, noise, calls = randn(4, 8, 8), randn(4, 8, 8, seed=1), Calls()
    denoiser = DiTRunner(model).denoiser([4, 0, 2], calls)
    clean = denoiser(latent, Trial(denoiser.schedule.level(325), noise), [0, 2])
    level = signal_level(325)
    noisy = math.sqrt(level) * latent + math.sqrt(1 - level) * noise
    for row, label in zip(clean, [4, 2], strict=True):
        predicted = model(noisy[None], torch.tensor([325]), torch.tensor([label]))[0]
        left = (noisy - math.sqrt(1 - level) * predicted) / math.sqrt(level)
        torch.testing.assert_close(row, left, atol=1e-5, rtol=1e-5)
    assert calls.counts == [2]


@pytest.mark.parametrize("rules", [(), (MERGING,), (POOLING,)])
def test_classification_does_not_depend_on_the_batch_split(model, randn, rules):
    latents, labels, calls = randn(3, 4, 8, 8), ["a", "b", "c"], Calls()
    runner = DiTRunner(model, Compression(rules))
    denoiser, plan = runner.denoiser([0, 1, 2], calls), TrialPlan((2, 4), (2, 1))
    whole = classify(denoiser, latents, labels, plan)
    assert sum(calls.counts) == whole.calls == 3 * (2 * 3 + 2 * 2)
    for k in range(3):
        alone = classify(denoiser, latents[k : k + 1], labels, plan, first_image=k)
        same(alone, replace(whole, rankings=whole.rankings[k : k + 1]))


def test_the_log_tells_compressed_layers_from_the_others(model, randn):
    rule = Rule(TokenMerging(0.5), Placement(layers=(0, 2)))
    runner = DiTRunner(model, Compression((rule,)))
    for timestep in (900, 100):
        runner.predict_noise(randn(2, 4, 8, 8), timestep, torch.tensor([0, 1]))
    records = {layer_id.number: record for layer_id, record in runner.log.layers.items()}
    assert {n: (r.calls, r.compressed) for n, r in records.items()} == {
        0: (2, 2),
        1: (2, 0),
        2: (2, 2),
    }
    runner.log.clear()
    assert runner.log == RunLog()
