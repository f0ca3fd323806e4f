"""How the small models are trained: stages, batches and resuming.

A batch depends on the seed and the number of its step alone, so a run that was interrupted goes on
as if it had not been.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.data import CLASS_NAMES, training_batch
from benchmarks.noise_schedules import alphas_cumprod
from bigain_core.classification.trials.noise import TIMESTEPS

NO_PROMPT = len(CLASS_NAMES)  # the label of a prompt that was dropped
PROMPT_DROPOUT = 0.1
WARMUP = 200
SEEDS_APART = 2**20  # more than steps; torch keeps the low 32 bits of a seed


@dataclass(frozen=True)
class Stage:
    """A part of training with its own warm-up and decay of the learning rate.

    Timesteps are drawn as uniform ** crowding, so above 1 they crowd at low noise, where textures
    are visible. The loss at signal level a is weighted by min(1 / a, weight_limit): a limit of 1
    weights nothing, a larger one brings out shapes and digits, which are decided at high noise.
    """

    steps: int
    peak_rate: float
    contrast: tuple[float, float]
    digit_share: float
    crowding: int
    weight_limit: float


@dataclass(frozen=True)
class Recipe:
    """What is trained, on which noise schedule and in which stages.

    A network takes x (B, 3, 32, 32), timesteps (B,) and labels (B,) up to NO_PROMPT, and predicts
    noise. `export` writes the averaged network.
    """

    fresh_network: Callable[[], nn.Module]
    schedule: str
    stages: tuple[Stage, ...]
    export: Callable[[nn.Module, Path], None]
    save_every: int = 250

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage that a step belongs to and the step's number within it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(step)

    def learning_rate(self, step: int) -> float:
        stage, step = self.stage_at(step)
        warm, left = (step + 1) / WARMUP, (stage.steps - step) / (stage.steps - WARMUP)
        return stage.peak_rate * min(warm, left)

    def optimisers(self, network: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """By the names that they have in the state."""
        parameters = network.parameters()
        adam = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01)
        return {"optimiser": adam}

    def loss(self, network: nn.Module, args: argparse.Namespace, step: int) -> Tensor:
        signal = alphas_cumprod(self.schedule)
        return batch_loss(network, self.stage_at(step)[0], signal, args, step)

    def saved(self, average: nn.Module, args: argparse.Namespace, step: int) -> None:
        """What is done whenever the state was saved."""
        self.export(average, args.out)


def initialise(network: nn.Module) -> None:
    """Linear layers and convolutions as usual for transformers: Xavier, biases at zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def draw_timesteps(count: int, crowding: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,), stratified over the batch."""
    uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    ordered = (uniform**crowding * TIMESTEPS).long()
    return ordered[torch.randperm(count, generator=generator)]


def batch_loss(
    network: nn.Module, stage: Stage, signal: Tensor, args: argparse.Namespace, step: int
) -> Tensor:
    generator = torch.Generator().manual_seed(args.seed * SEEDS_APART + step)
    images = training_batch(args.batch, stage.digit_share, stage.contrast, generator)
    timesteps = draw_timesteps(args.batch, stage.crowding, generator)
    noise = torch.randn(images.pixels.shape, generator=generator)
    dropped = torch.rand(args.batch, generator=generator) < PROMPT_DROPOUT
    labels = images.labels.masked_fill(dropped, NO_PROMPT)
    level = signal[timesteps]
    sides = level[:, None, None, None]
    noisy = sides.sqrt() * images.pixels + (1 - sides).sqrt() * noise
    inputs = (t.to(args.device) for t in (noisy, timesteps, labels))
    with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
        predicted = network(*inputs)
    errors = (predicted.float() - noise.to(args.device)).square().mean((1, 2, 3))
    return (errors * (1 / level).clamp(max=stage.weight_limit).to(args.device)).mean()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    decay = min(0.999, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def train(recipe: Recipe, args: argparse.Namespace) -> None:
    """Train, or go on from the state of an interrupted run."""
    torch.manual_seed(args.seed)
    network = recipe.fresh_network().to(args.device)
    average = copy.deepcopy(network)
    optimisers = recipe.optimisers(network)
    parts = {"model": network, "average": average, **optimisers}
    start, recent = 0, None
    if args.state.exists():
        saved = torch.load(args.state, weights_only=True)
        start = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, unit="step")
    for step in bar:
        loss = recipe.loss(network, args, step)
        network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimiser in optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate(step)
            optimiser.step()
        update_average(average, network, step)
        recent = loss.item() if recent is None else 0.98 * recent + 0.02 * loss.item()
        bar.set_postfix(loss=f"{recent:.4f}")
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            args.state.parent.mkdir(parents=True, exist_ok=True)
            partial = args.state.with_suffix(".partial")
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({"step": step + 1, **state}, partial)
            partial.replace(args.state)
            recipe.saved(average, args, step + 1)


def argument_parser(description: str, out: Path, state: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=out, help="where the model is written")
    parser.add_argument("--state", type=Path, default=state, help="training state to resume from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="train in bfloat16 autocast: 1.8x faster where the CPU has it",
    )
    return parser
