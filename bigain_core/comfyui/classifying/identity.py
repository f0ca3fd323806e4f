"""What tells models and encoded prompts apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
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


def identity(model: ModelPatcher, prompts: Prompts) -> str:
    """A short name: other weights, LoRAs, compression, sampling or prompts have another one."""
    digest = hashlib.sha256(repr(settings(model, prompts)).encode())
    return f"{type(model.model).__name__} {digest.hexdigest()[:16]}"


def settings(model: ModelPatcher, prompts: Prompts) -> dict:
    """What tells models and encoded prompts apart, on every machine alike."""
    state, levels = compression_state(model), host_levels(model)
    rules = state.compression.rules if state else ()
    return {
        "model": f"{type(model.model).__name__} {weights_digest(model)}",
        "compression": [repr(rule) for rule in rules],
        "noise levels": f"{levels.schedule.predicts} {levels.sigmas.double().log().mean():.6g}",
        "encoded prompts": projection(prompts),
    }


def weights_digest(model: ModelPatcher) -> str:
    """Of some elements of some weights as the file had them, and of all that is patched in."""
    weights = model.get_key_patches("diffusion_model.")
    step = max(len(weights) // SAMPLED_WEIGHTS, 1)
    digest = hashlib.sha256(str(len(weights)).encode())
    for number, key in enumerate(sorted(weights)):
        if number % step == 0 or len(weights[key]) > 1:
            digest.update(key.encode())
            for value in _leaves(weights[key]):
                digest.update(_sample(value) if isinstance(value, Tensor) else repr(value).encode())
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
    for number, conditioning in enumerate(prompts.conditionings):
        for tokens, extra in conditioning:
            values = (tokens, *(extra[key] for key in sorted(extra)))
            found = (_project(torch.as_tensor(v)) for v in values if isinstance(v, Tensor | float))
            total += np.cos(number) * sum(found)
    return float(total / sqrt(len(prompts.conditionings)))


def _project(tensor: Tensor) -> float:
    values = tensor.detach().double().cpu().flatten()
    return (values @ _cosines(len(values))).item() / sqrt(max(len(values), 1))


@lru_cache(maxsize=8)
def _cosines(count: int) -> Tensor:
    return torch.cos(torch.arange(count, dtype=torch.float64))
