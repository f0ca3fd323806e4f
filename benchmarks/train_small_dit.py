"""Train the small DiT: `python -m benchmarks.train_small_dit --bf16`, two hours or a little more.

Interrupt it whenever you like: the same command resumes from the last saved step and draws the same
batches as an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.data import CLASS_NAMES, SHAPE_CLASSES, SHAPES, SIZE, TEXTURES
from benchmarks.dit_runner import SMALL_DIT, PlainDiT
from benchmarks.training import Recipe, Stage, argument_parser, initialise, train
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
STAGES = (
    Stage(7000, 1.5e-3, (0.08, 0.20), digit_share=0.25, crowding=2, weight_limit=1.0),
    Stage(4800, 1.2e-3, (0.04, 0.12), digit_share=0.7, crowding=1, weight_limit=50.0),
    Stage(1200, 8e-4, (0.04, 0.12), digit_share=0.8, crowding=1, weight_limit=50.0),
)


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


def fresh_dit(config: DiTConfig, labels: Callable[[int], nn.Module]) -> PlainDiT:
    """A DiT initialised as published: modulation and output at zero, so blocks are the identity.

    `labels` makes the module that stands in for the label table, by its width.
    """
    model = PlainDiT(config)
    initialise(model)
    for layer in [model.t_embedder.mlp[0], model.t_embedder.mlp[2]]:
        nn.init.normal_(layer.weight, std=0.02)
    gates = [block.adaLN_modulation[1] for block in model.blocks]
    for layer in [*gates, model.final_layer.adaLN_modulation[1], model.final_layer.linear]:
        nn.init.zeros_(layer.weight)
    model.y_embedder = labels(config.hidden_size)
    model.pos_embed.data = sine_positions(
        config.input_size // config.patch_size, config.hidden_size
    )
    return model


def save_dit(model: DiT, path: Path, **metadata: str) -> None:
    """Write weights in the published key layout, fp16."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("y_embedder")}
    state["y_embedder.embedding_table.weight"] = model.y_embedder.table()
    state = {key: value.detach().cpu().half().contiguous() for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=metadata)


def fresh_model() -> PlainDiT:
    return fresh_dit(CONFIG, ComposedLabels)


def export(average: DiT, path: Path) -> None:
    """Write the averaged network, with the class names in the metadata."""
    save_dit(average, path, class_names="\n".join(CLASS_NAMES))


RECIPE = Recipe(fresh_model, "linear", STAGES, export)


def main() -> None:
    parser = argument_parser(__doc__, SMALL_DIT, Path("build/train_small_dit.pt"))
    parser.add_argument("--batch", type=int, default=64)
    train(RECIPE, parser.parse_args())


if __name__ == "__main__":
    main()
