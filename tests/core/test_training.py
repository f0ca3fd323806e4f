"""Training of the small models: which batches, and what an interruption changes."""

import argparse

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks import training
from benchmarks.noise_schedules import alphas_cumprod
from benchmarks.training import (
    NO_PROMPT,
    PROMPT_DROPOUT,
    Recipe,
    Stage,
    batch_loss,
    draw_timesteps,
    initialise,
)

FIRST = Stage(5, 1e-2, (0.1, 0.2), digit_share=0.25, crowding=2, weight_limit=1.0)
SECOND = Stage(4, 1e-3, (0.1, 0.2), digit_share=0.5, crowding=1, weight_limit=50.0)


class Toy(nn.Module):
    """A convolution that a label shifts; it notes what it is called with."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.labels = nn.Embedding(NO_PROMPT + 1, 3)
        self.calls = []

    def forward(self, x, timesteps, labels):
        self.calls.append((x, timesteps, labels))
        return self.layer(x) + self.labels(labels)[:, :, None, None]


class Off(nn.Module):
    """Off by 1 in every pixel: it computes the noise from what it is told of the image."""

    def __init__(self, signal, clean):
        super().__init__()
        self.signal, self.clean = signal, clean

    def forward(self, x, timesteps, labels):
        level = self.signal[timesteps][:, None, None, None]
        return (x - level.sqrt() * self.clean) / (1 - level).sqrt() + 1


def export(network, path):
    save_file(network.state_dict(), path)


def arguments(folder, batch=4):
    return argparse.Namespace(
        out=folder / "out.safetensors",
        state=folder / "kept" / "state.pt",
        batch=batch,
        seed=3,
        device="cpu",
        bf16=False,
    )


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(training, "WARMUP", 2)


def test_a_run_that_was_killed_ends_as_one_that_was_not(quick, tmp_path):
    def dies_at(step):
        network = Toy()

        def die(*args):
            if len(network.calls) == step:
                raise KeyboardInterrupt

        network.register_forward_pre_hook(die)
        return network

    whole, broken = arguments(tmp_path / "whole"), arguments(tmp_path / "broken")
    for args in (whole, broken):
        args.state.parent.mkdir(parents=True)
    training.train(Recipe(Toy, "linear", (FIRST, SECOND), export, 3), whole)
    for step in (2, 5, 4):  # before the first save, in the second stage, and once more
        with pytest.raises(KeyboardInterrupt):
            recipe = Recipe(lambda step=step: dies_at(step), "linear", (FIRST, SECOND), export, 3)
            training.train(recipe, broken)
    training.train(Recipe(Toy, "linear", (FIRST, SECOND), export, 3), broken)
    expected, found = load_file(whole.out), load_file(broken.out)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    fresh = Toy().state_dict()
    assert not any(torch.equal(found[key], fresh[key]) for key in expected)


def test_training_lowers_the_loss(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "WARMUP", 10)
    recipe = Recipe(Toy, "linear", (Stage(200, 1e-2, (0.1, 0.2), 0.25, 2, 1.0),), export)
    args, signal = arguments(tmp_path), alphas_cumprod("linear")
    training.train(recipe, args)
    torch.manual_seed(args.seed)
    before, after = Toy(), Toy()
    after.load_state_dict(load_file(args.out))
    with torch.no_grad():
        old, new = (
            batch_loss(network, FIRST, signal, arguments(tmp_path, 64), 10**6).item()
            for network in (before, after)
        )
    assert new < 0.7 * old


def test_the_loss_is_that_of_the_noise_with_its_weight(monkeypatch, tmp_path):
    """A network that is wrong by 1 everywhere has a loss of the mean weight."""
    signal = alphas_cumprod("scaled-linear")
    args, seen = arguments(tmp_path, 64), Toy()
    batch_loss(seen, FIRST, signal, args, 7)
    drawn = torch.Generator().manual_seed(args.seed * training.SEEDS_APART + 7)
    images = training.training_batch(64, FIRST.digit_share, FIRST.contrast, drawn)
    network = Off(signal, images.pixels)
    weight = (1 / signal[seen.calls[0][1]]).clamp(max=10)
    for limit, expected in ((1.0, 1.0), (10.0, weight.mean().item())):
        stage = Stage(5, 1e-2, FIRST.contrast, FIRST.digit_share, FIRST.crowding, limit)
        assert batch_loss(network, stage, signal, args, 7).item() == pytest.approx(expected, 1e-3)


def test_a_tenth_of_the_prompts_is_dropped(tmp_path):
    network, args = Toy(), arguments(tmp_path, 2000)
    batch_loss(network, FIRST, alphas_cumprod("linear"), args, 0)
    labels = network.calls[0][2]
    assert (labels == NO_PROMPT).float().mean().item() == pytest.approx(PROMPT_DROPOUT, abs=0.02)


def test_steps_and_seeds_draw_their_own_batches(tmp_path):
    network, args = Toy(), arguments(tmp_path)
    for step, args.seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        batch_loss(network, FIRST, alphas_cumprod("linear"), args, step)
    first, again, later, other = (x for x, _, _ in network.calls)
    assert torch.equal(first, again)
    assert not torch.equal(first, later) and not torch.equal(first, other)


def test_stages_follow_each_other_each_with_its_own_rate(quick):
    recipe = Recipe(Toy, "linear", (FIRST, SECOND), export, 3)
    assert recipe.steps == 9
    assert [recipe.stage_at(step) for step in (0, 4, 5, 8)] == [
        (FIRST, 0), (FIRST, 4), (SECOND, 0), (SECOND, 3),
    ]  # fmt: skip
    with pytest.raises(IndexError):
        recipe.stage_at(9)
    rates = [recipe.learning_rate(step) for step in range(9)]
    assert rates[:5] == pytest.approx([0.5e-2, 1e-2, 1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    assert rates[5:] == pytest.approx([0.5e-3, 1e-3, 1e-3, 0.5e-3])


def test_timesteps_are_spread_over_the_batch_and_crowd_at_low_noise():
    even = draw_timesteps(10, 1, torch.Generator().manual_seed(0))
    assert sorted((even // 100).tolist()) == list(range(10))
    assert even.tolist() != sorted(even.tolist())
    crowded = draw_timesteps(1000, 2, torch.Generator().manual_seed(0))
    assert crowded.min() >= 0 and crowded.max() < 1000
    assert (crowded < 250).sum() == pytest.approx(500, abs=1)


def test_layers_start_with_bounded_weights_and_no_bias():
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(6, 5, bias=False))
    initialise(network)
    assert not network[0].bias.any()
    for layer, ends in ((network[0], 4 * 9 + 8), (network[1], 6 + 5)):
        bound = (6 / ends) ** 0.5
        assert 0.7 * bound < layer.weight.abs().max() <= bound
