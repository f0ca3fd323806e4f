"""Train the bundled model: `python -m benchmarks.train_demo --bf16`, two hours or a little more.

Interrupt it whenever you like: the same command resumes from the last saved step and draws the same
batches as an uninterrupted run.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.data import (
    CLASS_NAMES,
    SHAPE_CLASSES,
    SHAPES,
    SIZE,
    TEXTURES,
    training_batch,
)
from bigain_core.classification.noise import TIMESTEPS, alphas_cumprod
from bigain_core.models.dit import DiT, DiTConfig

CONFIG = DiTConfig(
    input_size=SIZE,
    patch_size=2,
    in_channels=3,
    hidden_size=128,
    depth=6,
    num_heads=2,
    num_classes=len(CLASS_NAMES),
    learn_sigma=False,
)
BUNDLED = Path(__file__).parent.parent / "bigain_core" / "models" / "shapes_and_digits.safetensors"
LABEL_DROPOUT = 0.1


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


STAGES = (
    Stage(7000, 1.5e-3, (0.08, 0.20), digit_share=0.25, crowding=2, weight_limit=1.0),
    Stage(4800, 1.2e-3, (0.04, 0.12), digit_share=0.7, crowding=1, weight_limit=50.0),
    Stage(1200, 8e-4, (0.04, 0.12), digit_share=0.8, crowding=1, weight_limit=50.0),
)
WARMUP = 200


def stage_at(step: int) -> tuple[Stage, int]:
    """The stage that a step belongs to and the step's number within it."""
    for stage in STAGES:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise IndexError(step)


class ComposedLabels(nn.Module):
    """Label table whose shape-and-texture rows are sums of a shape row and a texture row.

    The network learns each factor from all classes that have it; the saved table is ordinary.
    """

    def __init__(self, width: int):
        super().__init__()
        factors = torch.zeros(len(CLASS_NAMES) + 1, len(SHAPES) + len(TEXTURES) + 11)
        for label in range(SHAPE_CLASSES):
            factors[label, label // len(TEXTURES)] = 1
            factors[label, len(SHAPES) + label % len(TEXTURES)] = 1
        factors[SHAPE_CLASSES:, -11:] = torch.eye(11)  # ten digits and the null class
        self.register_buffer("factors", factors)
        self.rows = nn.Parameter(torch.randn(factors.shape[1], width) * 0.02)

    def table(self) -> Tensor:
        return self.factors @ self.rows

    def forward(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        return self.table()[labels].to(dtype)


def sine_positions(side: int, width: int) -> Tensor:
    """Two-dimensional sine-cosine position table (1, side * side, width)."""
    frequencies = 1 / 10000 ** (torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies  # (side, width / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows = waves[:, None].expand(side, side, -1)
    return torch.cat([rows.transpose(0, 1), rows], dim=-1).flatten(0, 1)[None]


def fresh_model() -> DiT:
    """A DiT initialised as published: modulation and output at zero, so blocks are the identity."""
    model = DiT(CONFIG)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            nn.init.zeros_(module.bias)
    for layer in [model.t_embedder.mlp[0], model.t_embedder.mlp[2]]:
        nn.init.normal_(layer.weight, std=0.02)
    gates = [block.adaLN_modulation[1] for block in model.blocks]
    for layer in [*gates, model.final_layer.adaLN_modulation[1], model.final_layer.linear]:
        nn.init.zeros_(layer.weight)
    model.y_embedder = ComposedLabels(CONFIG.hidden_size)
    model.pos_embed.data = sine_positions(SIZE // CONFIG.patch_size, CONFIG.hidden_size)
    return model


def draw_timesteps(count: int, crowding: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,), stratified over the batch."""
    uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    ordered = (uniform**crowding * TIMESTEPS).long()
    return ordered[torch.randperm(count, generator=generator)]


def batch_loss(model: DiT, signal: Tensor, args: argparse.Namespace, step: int) -> Tensor:
    stage, _ = stage_at(step)
    generator = torch.Generator().manual_seed(args.seed * 2**32 + step)
    images = training_batch(args.batch, stage.digit_share, stage.contrast, generator)
    timesteps = draw_timesteps(args.batch, stage.crowding, generator)
    noise = torch.randn(images.pixels.shape, generator=generator)
    dropped = torch.rand(args.batch, generator=generator) < LABEL_DROPOUT
    labels = images.labels.masked_fill(dropped, CONFIG.num_classes)
    level = signal[timesteps]
    sides = level[:, None, None, None]
    noisy = sides.sqrt() * images.pixels + (1 - sides).sqrt() * noise
    inputs = (t.to(args.device) for t in (noisy, timesteps, labels))
    with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
        predicted = model(*inputs)
    errors = (predicted.float() - noise.to(args.device)).square().mean((1, 2, 3))
    return (errors * (1 / level).clamp(max=stage.weight_limit).to(args.device)).mean()


def learning_rate(step: int) -> float:
    stage, step = stage_at(step)
    warm, left = (step + 1) / WARMUP, (stage.steps - step) / (stage.steps - WARMUP)
    return stage.peak_rate * min(warm, left)


@torch.no_grad()
def update_average(average: DiT, model: DiT, step: int) -> None:
    decay = min(0.999, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def export(average: DiT, path: Path) -> None:
    """Write the averaged weights in the published key layout, fp16, class names in the metadata."""
    state = {k: v for k, v in average.state_dict().items() if not k.startswith("y_embedder")}
    state["y_embedder.embedding_table.weight"] = average.y_embedder.table()
    state = {key: value.detach().cpu().half().contiguous() for key, value in state.items()}
    save_file(state, path, metadata={"class_names": "\n".join(CLASS_NAMES)})


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    model = fresh_model().to(args.device)
    average = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    signal = alphas_cumprod("linear")
    start, steps = 0, sum(stage.steps for stage in STAGES)
    if args.state.exists():
        saved = torch.load(args.state, weights_only=True)
        start = saved["step"]
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
    bar = tqdm(range(start, steps), initial=start, total=steps, unit="step")
    recent = None
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step)
        loss = batch_loss(model, signal, args, step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        update_average(average, model, step)
        recent = loss.item() if recent is None else 0.98 * recent + 0.02 * loss.item()
        bar.set_postfix(loss=f"{recent:.4f}")
        if (step + 1) % 250 == 0 or step + 1 == steps:
            args.state.parent.mkdir(parents=True, exist_ok=True)
            partial = args.state.with_suffix(".partial")
            torch.save(
                {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                },
                partial,
            )
            partial.replace(args.state)
            export(average, args.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLED, help="where the model is written")
    parser.add_argument(
        "--state",
        type=Path,
        default=Path("build/train_demo.pt"),
        help="training state to resume from",
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="train in bfloat16 autocast: 1.8x faster where the processor has it",
    )
    train(parser.parse_args())


if __name__ == "__main__":
    main()
