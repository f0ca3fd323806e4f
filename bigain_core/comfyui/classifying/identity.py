"""What tells models and encoded prompts apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import sqrt

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..patching.attach import compression_state
from .noise_levels import host_levels
from .prompts import Prompts

SAMPLED_WEIGHTS = 64
SAMPLED_ELEMENTS = 16


def settings(model: ModelPatcher, prompts: Prompts) -> dict:
    """What tells models and encoded prompts apart, on every machine alike."""
    state, (sigmas, schedule) = compression_state(model), host_levels(model)
    rules = state.compression.rules if state else ()
    weights, patches = weights_digests(model)
    return {
        "model": type(model.model).__name__,
        "weights": weights,
        "LoRAs": patches,
        "compression": [repr(rule) for rule in rules],
        "noise levels": f"{schedule.predicts} {sigmas.double().log().mean():.6g}",
        "encoded prompts": projection(prompts),
    }


def weights_digests(model: ModelPatcher) -> tuple[str, str]:
    """Of some elements of some weights as the file had them, and of all that is patched in."""
    found = {k: (w[0], w[1:]) for k, w in model.get_key_patches("diffusion_model.").items()}
    step = max(len(found) // SAMPLED_WEIGHTS, 1)
    sampled = {key: found[key][0] for key in sorted(found)[::step]}
    return _digest(sampled), _digest({key: found[key][1] for key in sorted(found) if found[key][1]})


def _digest(values: dict) -> str:
    digest = hashlib.sha256()
    for key, value in values.items():
        digest.update(key.encode())
        for leaf in _leaves(value):
            digest.update(_sample(leaf) if isinstance(leaf, Tensor) else repr(leaf).encode())
    return digest.hexdigest()[:16]


def _leaves(value) -> Iterator[Tensor | float]:
    """Tensors and numbers in a weight and its patches."""
    if isinstance(value, Tensor | int | float):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif hasattr(value, "weights"):  # a LoRA
        yield from _leaves(value.weights)


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().flatten()
    sampled = flat[:: max(len(flat) // SAMPLED_ELEMENTS, 1)]
    return sampled.float().cpu().numpy().tobytes()


def projection(prompts: Prompts) -> float:
    """One number that another text, template or guidance changes, and another device hardly."""
    total = 0.0
    cosines: dict[int, Tensor] = {}  # for this call: those of long texts take megabytes
    for number, conditioning in enumerate(prompts.conditionings):
        for tokens, extra in conditioning:
            values = (tokens, *(extra[key] for key in sorted(extra)))
            for value in values:
                if isinstance(value, Tensor | float):
                    flat = torch.as_tensor(value).detach().cpu().double().flatten()
                    total += np.cos(number) * _project(flat, cosines)
    return float(total / sqrt(len(prompts.conditionings)))


def _project(values: Tensor, cosines: dict[int, Tensor]) -> float:
    count = len(values)
    if count not in cosines:
        cosines[count] = torch.arange(count, dtype=torch.float64).cos_()
    return (values @ cosines[count]).item() / sqrt(max(count, 1))
