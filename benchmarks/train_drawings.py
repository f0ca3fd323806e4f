"""Train the model of drawings: `python -m benchmarks.train_drawings --bf16`.

It takes minutes on a GPU and hours on two cores. Interrupt it whenever you like: the same command
resumes from the last saved step and draws the same batches as an uninterrupted run. Images grow
from 16 to 64 pixels on the way. Beside the weights a file of lines says how large the error was on
held-out drawings.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Muon

from benchmarks.dit_runner import PlainDiT, scaled_dot_product_attention
from benchmarks.drawings import (
    CACHE,
    CLASS_NAMES,
    SIZE,
    STYLES,
    Drawings,
    held_out,
    names_of,
    read_drawings,
    trained,
)
from benchmarks.noise_schedules import alphas_cumprod
from benchmarks.train_small_dit import CONFIG as SMALL
from benchmarks.train_small_dit import fresh_dit, save_dit
from benchmarks.training import SEEDS_APART, argument_parser, train
from bigain_core.classification.trials.noise import TIMESTEPS
from bigain_core.models.dit import DiT

CONFIG = replace(SMALL, input_size=SIZE, num_classes=len(CLASS_NAMES))
WEIGHTS = Path("build/drawings.safetensors")

STYLE_DROPOUT, PROMPT_DROPOUT = 0.5, 0.1
ANY_STYLE = len(STYLES)
NO_PROMPT = len(CLASS_NAMES) * (len(STYLES) + 1)  # the label of a prompt that was dropped
WARMUP, DECAY = 100, 3000
EVEN = 0.1  # share of the timesteps that is drawn evenly
WATCHED = 160  # images whose error is written down


@dataclass(frozen=True)
class Stage:
    """A part of training at one size of images.

    Timesteps crowd where the logarithm of signal over noise power is near `centre`: a larger image
    shows the same through more noise. Of every image the network sees a share of squares, `seen`.
    """

    steps: int
    size: int
    batch: int
    centre: float
    seen: float = 1.0


STAGES = (
    Stage(1250, 16, 128, 1.0),
    Stage(2750, 32, 128, 0.5, seen=0.5),
    Stage(2750, 64, 128, 0.0, seen=0.5),
    Stage(400, 64, 128, 0.0),
)
SPREAD = 2.5
SQUARE = 8  # pixels on a side


class ComposedLabels(nn.Module):
    """Label table of names and styles: the row of a pair is the sum of theirs.

    Label name * (styles + 1) + style; the last style is any, with no row of its own, so the rows of
    names alone are an ordinary table.
    """

    def __init__(self, width: int):
        super().__init__()
        self.names = nn.Parameter(torch.randn(len(CLASS_NAMES) + 1, width) * 0.02)
        self.styles = nn.Parameter(torch.randn(len(STYLES), width) * 0.02)

    def table(self) -> Tensor:
        return self.names

    def forward(self, labels: Tensor) -> Tensor:
        styles = torch.cat([self.styles, torch.zeros_like(self.styles[:1])])
        styles = torch.cat([styles.repeat(len(CLASS_NAMES), 1), styles[-1:]])
        return self.names[labels // (len(STYLES) + 1)] + styles[labels]


def draw_timesteps(count: int, centre: float, signal: Tensor, generator: torch.Generator) -> Tensor:
    """Timesteps (count,), stratified over the batch."""
    ratio = (signal / (1 - signal)).double().log()
    bell = (-((ratio - centre) ** 2) / (2 * SPREAD**2)).exp() * torch.gradient(ratio)[0].abs()
    weights = (1 - EVEN) * bell / bell.sum() + EVEN / TIMESTEPS
    uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    ordered = torch.searchsorted(weights.cumsum(0).float(), uniform).clamp(max=TIMESTEPS - 1)
    return ordered[torch.randperm(count, generator=generator)]


def attention_by_products(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """What torch's fused attention gives, (B, N, C), with a gradient that takes half the time."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    weights = torch.bmm(q * q.shape[-1] ** -0.5, k.mT).softmax(-1)
    return torch.bmm(weights, v).unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def squares(image: Tensor, chosen: Tensor, side: int) -> Tensor:
    """Squares (K,) of image (B, C, H, W), counted along rows, as an image two of them high."""
    tiles = image.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)[:, :, chosen]
    return tiles.unflatten(2, (2, -1)).transpose(3, 4).flatten(4, 5).flatten(2, 3)


@contextmanager
def placed(network: DiT, chosen: Tensor, size: int) -> Iterator[None]:
    """Give the tokens of chosen squares the positions that they have in an image of `size`."""
    whole, patch = network.positions, network.config.patch_size

    def positions(height: int, width: int, like: Tensor) -> Tensor:
        table = whole(size // patch, size // patch, like).mT.unflatten(2, (size // patch, -1))
        return squares(table, chosen, SQUARE // patch).flatten(2).mT

    network.positions = positions
    try:
        yield
    finally:
        del network.positions


@dataclass(frozen=True)
class Batch:
    """What a network is called with and what it is to give, of squares `chosen` of the images."""

    noisy: Tensor
    wanted: Tensor
    timesteps: Tensor
    labels: Tensor
    size: int
    chosen: Tensor | None


def noised(pixels, timesteps, labels, generator, seen=1.0) -> Batch:
    """Images (B, 3, S, S) with noise, and the velocity sqrt(a) * noise - sqrt(1 - a) * pixels.

    Below 1, `seen` is the share of squares that the network is shown, the same of all images.
    """
    noise = torch.randn(pixels.shape, generator=generator)
    level = alphas_cumprod("linear")[timesteps][:, None, None, None]
    kept, added = level.sqrt(), (1 - level).sqrt()
    noisy, wanted = kept * pixels + added * noise, kept * noise - added * pixels
    size, chosen = pixels.shape[-1], None
    if seen < 1:
        order = torch.randperm((size // SQUARE) ** 2, generator=generator)
        chosen = order[: round(len(order) * seen)].sort().values
        noisy, wanted = squares(noisy, chosen, SQUARE), squares(wanted, chosen, SQUARE)
    return Batch(noisy, wanted, timesteps, labels, size, chosen)


def velocity_errors(network: nn.Module, batch: Batch, args: argparse.Namespace) -> Tensor:
    """Mean squared errors (B,)."""
    device = torch.device(args.device)
    # Torch's fused attention has a slow gradient on CPUs.
    attention = attention_by_products if device.type == "cpu" else scaled_dot_product_attention
    part = nullcontext()
    if batch.chosen is not None:
        part = placed(network, batch.chosen.to(device), batch.size)
    inputs = (t.to(device) for t in (batch.noisy, batch.timesteps, batch.labels))
    with part, torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
        predicted = network(*inputs, attention)
    return (predicted.float() - batch.wanted.to(device)).square().mean((1, 2, 3))


class Ahead:
    """Batches of consecutive steps, which threads draw a little ahead of their use."""

    def __init__(self, draw: Callable[[int], Batch], steps: int):
        self.draw, self.steps = draw, steps
        self.threads = os.cpu_count() or 1
        self.pool = ThreadPoolExecutor(self.threads)
        self.drawn: dict[int, Future[Batch]] = {}

    def __getitem__(self, step: int) -> Batch:
        for later in range(step, min(step + 2 * self.threads, self.steps)):
            if later not in self.drawn:
                self.drawn[later] = self.pool.submit(self.draw, later)
        return self.drawn.pop(step).result()


@dataclass(frozen=True)
class DrawingRecipe:
    """Stages of one network that predicts velocity; see `benchmarks.training.Recipe`."""

    drawings: Drawings
    args: argparse.Namespace
    stages: tuple[Stage, ...] = STAGES
    peak_rate: float = 5e-3
    save_every: int = 200

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @cached_property
    def batches(self) -> Ahead:
        return Ahead(self.batch, self.steps)

    def fresh_network(self) -> PlainDiT:
        return fresh_dit(CONFIG, ComposedLabels)

    def stage_at(self, step: int) -> Stage:
        ends = accumulate(stage.steps for stage in self.stages)
        return next(s for s, end in zip(self.stages, ends, strict=True) if step < end)

    def learning_rate(self, step: int) -> float:
        return self.peak_rate * min(1, (step + 1) / WARMUP, (self.steps - step) / DECAY)

    def optimisers(self, network: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Muon for the matrices inside blocks that act on tokens, AdamW for the rest."""
        inner = [
            layer.weight
            for block in network.blocks
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        ]
        chosen = {id(weight) for weight in inner}
        rest = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
        return {
            "muon": Muon(inner, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            "adam": torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.01),
        }

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(self.args.seed * SEEDS_APART + step)
        stage = self.stage_at(step)
        known = trained().nonzero()[:, 0]
        pairs = known[torch.randint(len(known), (stage.batch,), generator=generator)]
        pixels = self.drawings.images(pairs, generator, stage.size, varied=True)
        signal = alphas_cumprod("linear")
        timesteps = draw_timesteps(stage.batch, stage.centre, signal, generator)
        any_style = torch.rand(stage.batch, generator=generator) < STYLE_DROPOUT
        dropped = torch.rand(stage.batch, generator=generator) < PROMPT_DROPOUT
        styles = (pairs % len(STYLES)).masked_fill(any_style, ANY_STYLE)
        labels = names_of(pairs) * (len(STYLES) + 1) + styles
        labels = labels.masked_fill(dropped, NO_PROMPT)
        return noised(pixels, timesteps, labels, generator, stage.seen)

    def loss(self, network: nn.Module, args: argparse.Namespace, step: int) -> Tensor:
        return velocity_errors(network, self.batches[step], args).mean()

    @torch.no_grad()
    def error(self, network: nn.Module, pairs: Tensor, size: int) -> float:
        """Mean squared error of fixed images of pairs (P,), asked for by name, evenly noised."""
        generator = torch.Generator().manual_seed(SEEDS_APART - 1)
        pairs = pairs[torch.arange(WATCHED) % len(pairs)]
        pixels = self.drawings.images(pairs, generator, size)
        timesteps = torch.arange(WATCHED) * 997 % TIMESTEPS
        labels = names_of(pairs) * (len(STYLES) + 1) + ANY_STYLE
        batch = noised(pixels, timesteps, labels, generator)
        return velocity_errors(network, batch, self.args).mean().item()

    def saved(self, average: DiT, args: argparse.Namespace, step: int) -> None:
        """Write the averaged network, and a line of its errors."""
        save_dit(average, args.out, class_names="\n".join(CLASS_NAMES), predicts="v")
        size = self.stage_at(step - 1).size
        kinds = {"trained": trained(), "held_out": held_out()}
        errors = {
            kind: self.error(average, chosen.nonzero()[:, 0], size)
            for kind, chosen in kinds.items()
        }
        with args.out.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "size": size, **errors}) + "\n")


def main() -> None:
    parser = argument_parser(__doc__, WEIGHTS, Path("build/train_drawings.pt"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="archives of the drawings")
    args = parser.parse_args()
    train(DrawingRecipe(read_drawings(args.cache), args), args)


if __name__ == "__main__":
    main()
