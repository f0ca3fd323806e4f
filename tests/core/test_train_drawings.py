"""Training of the model of drawings: what it sees, what it is to give, what a killed run does."""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from benchmarks import train_drawings
from benchmarks.drawings import CLASS_NAMES, RASTER, STYLES, Drawings, trained
from benchmarks.noise_schedules import alphas_cumprod
from benchmarks.train_drawings import (
    ANY_STYLE,
    CONFIG,
    EVEN,
    NO_PROMPT,
    PROMPT_DROPOUT,
    SPREAD,
    STYLE_DROPOUT,
    ComposedLabels,
    DrawingRecipe,
    Stage,
    attention_by_products,
    draw_timesteps,
    noised,
    placed,
    squares,
    velocity_errors,
)
from benchmarks.training import train
from bigain_core.models.checkpoint import read_checkpoint

PAIRS = len(CLASS_NAMES) * len(STYLES)
SMALL = replace(CONFIG, hidden_size=64, depth=1, num_heads=1)
STAGES = (Stage(4, 16, 3, 1.0), Stage(3, 32, 2, 0.0))


class Numbered(Drawings):
    """Gives images that tell their pair: every pixel is its share of all."""

    def __init__(self):
        super().__init__(torch.zeros(0))
        object.__setattr__(self, "asked", [])

    def images(self, pairs, generator, size=64, varied=False):
        self.asked.append((pairs, size))
        return (pairs / PAIRS)[:, None, None, None].expand(-1, 3, size, size)


class Listening(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls = []

    def forward(self, x, timesteps, labels, attention):
        self.calls.append((x, timesteps, labels))
        return x * self.weight


def arguments(folder=None):
    out = folder and folder / "out.safetensors"
    state = folder and folder / "state.pt"
    return argparse.Namespace(out=out, state=state, seed=3, device="cpu", bf16=False)


@pytest.fixture(scope="module")
def steps_of_a_run():
    """The pairs and labels that are drawn in 400 steps of 8."""
    drawings = Numbered()
    recipe = DrawingRecipe(drawings, arguments(), (Stage(400, 16, 8, 0.0),))
    labels = torch.cat([recipe.batch(step).labels for step in range(400)])
    return torch.cat([pairs for pairs, _ in drawings.asked]), labels


def test_pairs_that_are_held_out_are_never_drawn(steps_of_a_run):
    pairs, _ = steps_of_a_run
    assert set(pairs.tolist()) == set(trained().nonzero()[:, 0].tolist())


def test_prompts_are_names_some_with_style_and_some_dropped(steps_of_a_run):
    pairs, labels = steps_of_a_run
    kept = labels != NO_PROMPT
    assert (~kept).float().mean().item() == pytest.approx(PROMPT_DROPOUT, abs=0.02)
    names, styles = labels[kept] // (len(STYLES) + 1), labels[kept] % (len(STYLES) + 1)
    assert torch.equal(names, pairs[kept] // len(STYLES))
    styled = styles != ANY_STYLE
    assert styled.float().mean().item() == pytest.approx(1 - STYLE_DROPOUT, abs=0.03)
    assert torch.equal(styles[styled], pairs[kept][styled] % len(STYLES))


def test_a_label_is_the_row_of_its_name_and_that_of_its_style():
    labels, rows = ComposedLabels(8), len(STYLES) + 1
    for name in (0, 7, len(CLASS_NAMES) - 1):
        for style in range(len(STYLES)):
            found = labels(torch.tensor([name * rows + style, name * rows + ANY_STYLE]))
            assert torch.equal(found[0], labels.names[name] + labels.styles[style])
            assert torch.equal(found[1], labels.table()[name])
    assert torch.equal(labels(torch.tensor([NO_PROMPT]))[0], labels.table()[-1])


def test_timesteps_crowd_around_a_signal_to_noise_ratio():
    signal = alphas_cumprod("linear").double()
    drawn = draw_timesteps(20000, 0.5, signal.float(), torch.Generator().manual_seed(0))
    ratio = (signal / (1 - signal)).log()
    for low, high in ((-30.0, -4.0), (-4.0, -1.0), (-1.0, 2.0), (2.0, 6.0), (6.0, 30.0)):
        inside = (ratio >= low) & (ratio < high)
        bell = torch.distributions.Normal(0.5, SPREAD)
        ends = [bell.cdf(torch.tensor(x).clamp(ratio.min(), ratio.max())) for x in (low, high)]
        whole = bell.cdf(ratio.max()) - bell.cdf(ratio.min())
        wanted = (1 - EVEN) * (ends[1] - ends[0]) / whole + EVEN * inside.double().mean()
        assert inside[drawn].double().mean().item() == pytest.approx(wanted.item(), abs=0.01)
    assert drawn.tolist() != sorted(drawn.tolist())


def test_attention_by_products_is_that_of_torch_with_its_gradient(randn):
    inputs = [randn(2, 10, 24, seed=seed).requires_grad_() for seed in range(3)]
    found = attention_by_products(*inputs, heads=3)
    split = (t.unflatten(-1, (3, 8)).transpose(1, 2) for t in inputs)
    expected = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, expected)
    weight = randn(2, 10, 24, seed=9)
    ours, theirs = (torch.autograd.grad((x * weight).sum(), inputs) for x in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_error_is_that_of_the_velocity(randn):
    """The derivative of cos(phi) clean + sin(phi) noise by phi."""
    pixels, timesteps = randn(3, 3, 8, 8), torch.tensor([3, 400, 990])
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(5))
    phi = alphas_cumprod("linear").double()[timesteps].sqrt().acos()[:, None, None, None]

    def at(angle):
        return angle.cos() * pixels + angle.sin() * noise

    step = 1e-4
    velocity = (at(phi + step) - at(phi - step)) / (2 * step)

    def network(x, timesteps, labels, attention):
        torch.testing.assert_close(x.double(), at(phi), atol=1e-5, rtol=1e-5)
        return velocity + torch.tensor([0.0, 0.5, 2.0])[:, None, None, None]

    generator = torch.Generator().manual_seed(5)
    batch = noised(pixels, timesteps, timesteps, generator)
    found = velocity_errors(network, batch, arguments())
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 4.0]), atol=1e-3, rtol=1e-3)


def test_squares_are_shown_at_their_places(randn):
    image, table = randn(2, 3, 16, 16), randn(1, 64, 4, seed=1)
    network = nn.Module()
    network.config, network.positions = replace(SMALL, patch_size=2), lambda h, w, like: table
    shown = squares(image, torch.tensor([1, 2]), 8)
    assert torch.equal(shown, torch.cat([image[:, :, :8, 8:], image[:, :, 8:, :8]], 2))
    rows = table.unflatten(1, (8, 8))
    expected = torch.cat([rows[:, :4, 4:].flatten(1, 2), rows[:, 4:, :4].flatten(1, 2)], 1)
    with placed(network, torch.tensor([1, 2]), 16):
        assert torch.equal(network.positions(8, 4, table), expected)


def test_a_network_without_attention_errs_on_squares_as_on_the_whole(randn):
    """Squares of its errors are errors of its squares, where a token is a pixel's own business."""

    class Pointwise(nn.Module):
        config = SMALL

        def positions(self, height, width, like):
            return like

        def forward(self, x, timesteps, labels, attention):
            return 2 * x

    pixels, timesteps = randn(4, 3, 32, 32), torch.full((4,), 400)
    seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
    whole, half = (
        velocity_errors(
            Pointwise(), noised(pixels, timesteps, timesteps, generator, seen), arguments()
        )
        for generator, seen in zip(seeded, (1.0, 0.5), strict=True)
    )
    torch.testing.assert_close(half, whole, rtol=0.2, atol=0)
    assert not torch.equal(half, whole)


def test_images_grow_and_the_rate_rises_stays_and_falls(monkeypatch):
    monkeypatch.setattr(train_drawings, "WARMUP", 2)
    monkeypatch.setattr(train_drawings, "DECAY", 3)
    drawings, network = Numbered(), Listening()
    recipe = DrawingRecipe(drawings, arguments(), STAGES, peak_rate=1.0)
    for step in range(recipe.steps):
        recipe.loss(network, recipe.args, step)
    asked = sorted((len(pairs), size) for pairs, size in drawings.asked)
    assert asked == 3 * [(2, 32)] + 4 * [(3, 16)]
    assert {x.shape[2:] for x, _, _ in network.calls} == {(16, 16), (32, 32)}
    rates = [recipe.learning_rate(step) for step in range(recipe.steps)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_a_run_that_was_killed_ends_as_one_that_was_not(monkeypatch, tmp_path):
    monkeypatch.setattr(train_drawings, "CONFIG", SMALL)
    monkeypatch.setattr(train_drawings, "WATCHED", 2)
    rasters = torch.randint(256, (48, len(STYLES), 4, RASTER, RASTER), dtype=torch.uint8)
    drawings = Drawings(rasters)

    class Dies(DrawingRecipe):
        def loss(self, network, args, step):
            if step == 5:
                raise KeyboardInterrupt
            return super().loss(network, args, step)

    files = {}
    for kind, recipes in (("whole", [DrawingRecipe]), ("broken", [Dies, DrawingRecipe])):
        args = arguments(tmp_path / kind)
        args.state.parent.mkdir()
        for recipe in recipes:
            try:
                train(recipe(drawings, args, STAGES, save_every=3), args)
            except KeyboardInterrupt:
                assert kind == "broken"
        files[kind] = args.out
    expected, found = (load_file(files[kind]) for kind in ("whole", "broken"))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    lines = [json.loads(line) for line in files["whole"].with_suffix(".jsonl").open()]
    assert [(line["step"], line["size"]) for line in lines] == [(3, 16), (6, 32), (7, 32)]
    checkpoint = read_checkpoint(files["whole"])
    assert checkpoint.class_names == CLASS_NAMES
    assert checkpoint.config == replace(SMALL, predicts="v")


def test_learning_lowers_the_error(monkeypatch):
    monkeypatch.setattr(train_drawings, "CONFIG", SMALL)
    monkeypatch.setattr(train_drawings, "WARMUP", 5)
    torch.manual_seed(0)
    drawings = Drawings(torch.full((48, len(STYLES), 4, RASTER, RASTER), 255, dtype=torch.uint8))
    recipe = DrawingRecipe(drawings, arguments(), (Stage(30, 16, 8, 0.0),))
    network, pairs = recipe.fresh_network(), torch.arange(PAIRS)
    before = recipe.error(network, pairs, 16)
    optimisers = recipe.optimisers(network).values()
    for step in range(30):
        network.zero_grad()
        recipe.loss(network, recipe.args, step).backward()
        for optimiser in optimisers:
            optimiser.step()
    assert recipe.error(network, pairs, 16) < 0.8 * before
