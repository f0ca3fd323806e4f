"""Reading a DiT checkpoint and the names of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .dit import PREDICTIONS, DiT, DiTConfig

BUNDLED_MODEL = Path(__file__).parent / "drawings.safetensors"
SAMPLES = Path(__file__).parent / "samples"  # images that it has never seen, named by their class


@dataclass(frozen=True)
class Checkpoint:
    """Weights in the published key layout, the shape they imply and the class names, if known."""

    state: Mapping[str, Tensor]
    config: DiTConfig
    class_names: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read safetensors, or a pickled file restricted to tensors; nothing in the file is executed.

    Training runs save their weights under "ema" or "model", which is unwrapped. Class names are the
    lines of "class_names" in the safetensors metadata, where "predicts" is "v" for a network that
    gives velocity; otherwise it gives noise. Keys, shapes, dtypes and finiteness are
    checked before a network is built.

    Raises ValueError when the file cannot be read, is not a class-conditional DiT or lacks a part
    of one, holds weights that are no finite floating-point numbers, names another number of
    classes, or predicts something else.
    """
    try:
        state, metadata = _read_file(path)
    except Exception as error:  # readers raise nearly anything on broken files
        reason = " ".join(str(error).split(". ")[0].split())
        raise ValueError(
            f"BiGain: expected a DiT checkpoint in safetensors or PyTorch format, got {path.name}, "
            f"which cannot be read ({type(error).__name__}: {reason}). Download it again, or save "
            "it as safetensors."
        ) from error
    config = DiTConfig.from_state_dict(state)
    _check_weights(path.name, state, config)
    predicts = metadata.get("predicts", config.predicts)
    if predicts not in PREDICTIONS:
        raise ValueError(
            f"BiGain: expected a DiT that predicts one of {', '.join(PREDICTIONS)}, got "
            f"{predicts!r} in the metadata of {path.name}. Load another file."
        )
    names = tuple(metadata.get("class_names", "").splitlines())
    if names and len(names) != config.num_classes:
        raise ValueError(
            f"BiGain: expected {config.num_classes} class names in the metadata of {path.name}, "
            f"one per class, got {len(names)}. Save the file again with one name per line."
        )
    return Checkpoint(state, replace(config, predicts=predicts), names)


def _read_file(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """(weights, metadata)"""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise TypeError(f"a {type(state).__name__} instead of weights by name")
    wrapped = (state[key] for key in ("ema", "model") if isinstance(state.get(key), Mapping))
    return next(wrapped, state), {}


def _check_weights(file: str, state: Mapping[str, Tensor], config: DiTConfig) -> None:
    """Raise ValueError unless the weights are those of such a network."""
    expected = DiT(config, device="meta").state_dict()
    wrong = [f"{key!r} is missing" for key in expected if key not in state]
    wrong += [f"{key!r} belongs to another kind of network" for key in state if key not in expected]
    for key in (key for key in expected if key in state):
        wanted, found = tuple(expected[key].shape), tuple(state[key].shape)
        if wanted != found:
            wrong.append(f"{key!r} has shape {found} instead of {wanted}")
        elif not state[key].is_floating_point():
            wrong.append(f"{key!r} holds {state[key].dtype} instead of floating-point numbers")
        elif not state[key].float().isfinite().all():
            wrong.append(f"{key!r} holds NaN or infinity")
    if wrong:
        rest = f" and {len(wrong) - 1} more faults" if len(wrong) > 1 else ""
        raise ValueError(
            f"BiGain: expected all finite weights of a DiT of {config.depth} blocks and width "
            f"{config.hidden_size} in {file}, got a file in which {wrong[0]}{rest}. Download or "
            "save it again."
        )


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
