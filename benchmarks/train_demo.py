"""Train the bundled model: `python -m benchmarks.train_demo` (two hours on two cores at most).

Interrupt it whenever you like: the same command resumes from the last saved step and draws the same
batches as an uninterrupted run.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from benchmarks.data import CLASS_NAMES, SHAPE_CLASSES, SHAPES, SIZE, TEXTURES, training_batch
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


class ComposedLabels(nn.Module):
    """Label table whose shape-and-texture rows are sums of a shape row and a texture row.

    The network learns each factor from all classes that have it; the saved table is an ordinary one.
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
    """A DiT initialised as published: modulation and output start at zero, so blocks start as identity."""
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


def draw_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Stratified timesteps, denser at low noise, where the texture is still visible."""
    uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (uniform**2 * TIMESTEPS).long()


def batch_loss(model: DiT, signal: Tensor, args, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(args.seed * 2**32 + step)
    images = training_batch(args.batch, generator)
    timesteps = draw_timesteps(args.batch, generator)[
        torch.randperm(args.batch, generator=generator)
    ]
    noise = torch.randn(images.pixels.shape, generator=generator)
    dropped = torch.rand(args.batch, generator=generator) < LABEL_DROPOUT
    labels = images.labels.masked_fill(dropped, CONFIG.num_classes)
    level = signal[timesteps][:, None, None, None]
    noisy = level.sqrt() * images.pixels + (1 - level).sqrt() * noise
    inputs = (t.to(args.device) for t in (noisy, timesteps, labels))
    with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
        predicted = model(*inputs)
    return functional.mse_loss(predicted.float(), noise.to(args.device))


def learning_rate(step: int, steps: int, peak: float = 1.5e-3, warmup: int = 200) -> float:
    return peak * min((step + 1) / warmup, (steps - step) / (steps - warmup))


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
    start = 0
    if args.state.exists():
        saved = torch.load(args.state, weights_only=True)
        start = saved["step"]
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
    bar = tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step")
    recent = None
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, args.steps)
        loss = batch_loss(model, signal, args, step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        update_average(average, model, step)
        recent = loss.item() if recent is None else 0.98 * recent + 0.02 * loss.item()
        bar.set_postfix(loss=f"{recent:.4f}")
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
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
    parser.add_argument("--steps", type=int, default=6000)
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
