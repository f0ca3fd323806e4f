"""Reading a DiT checkpoint and the names of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .dit import DiT, DiTConfig

BUNDLED_MODEL = Path(__file__).parent / "shapes_and_digits.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Weights in the published key layout, the shape they imply and the class names, if known."""

    state: Mapping[str, Tensor]
    config: DiTConfig
    class_names: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read safetensors, or a pickled file restricted to tensors; nothing in the file is executed.

    Training runs save their weights under "ema" or "model", which is unwrapped. Class names are the
    lines of "class_names" in the safetensors metadata.

    Raises ValueError when the file is not a class-conditional DiT or the names do not fit it.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
    else:
        metadata = {}
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("ema", "model"):
            if isinstance(state.get(key), Mapping):
                state = state[key]
    config = DiTConfig.from_state_dict(state)
    names = tuple(metadata.get("class_names", "").splitlines())
    if names and len(names) != config.num_classes:
        raise ValueError(
            f"BiGain: expected {config.num_classes} class names in the metadata of {path.name}, "
            f"one per class, got {len(names)}. Save the file again with one name per line."
        )
    return Checkpoint(state, config, names)


def load_dit(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> DiT:
    """The model as a plain torch module in evaluation mode, on the CPU."""
    model = DiT(checkpoint.config, dtype=dtype)
    model.load_state_dict(checkpoint.state)
    return model.eval()


def class_indices(labels: Sequence[str], config: DiTConfig, names: Sequence[str]) -> list[int]:
    """Classes by number or by name.

    Raises ValueError for a number outside the model or a name it does not have.
    """
    return [_class_index(label.strip(), config.num_classes, names) for label in labels]


def _class_index(label: str, count: int, names: Sequence[str]) -> int:
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < count:
        return int(label)
    known = f"or a name such as {', '.join(names[:3])}" if names else "(this file carries no names)"
    raise ValueError(
        f"BiGain: expected a class number from 0 to {count - 1} {known}, got {label!r}."
    )
