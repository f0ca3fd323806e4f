"""A labelled set through a model of the host."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Protocol

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..classification import Denoiser, TrialPlan, classify
from ..classification.evaluation import Job, UnreadableImageError, record, unreadable_record
from ..classification.labelled_sets import LabelledImage
from ..classification.result_files import ResultFile
from .attach import attached_to
from .classifier import Prompts, encode_images
from .pictures import read_picture
from .scoring import with_denoiser

ENCODED_AT_ONCE = 16  # images, so that VAE and model need not take turns for each
SAMPLED_WEIGHTS = 64
SAMPLED_ELEMENTS = 16


def settings(model: ModelPatcher, prompts: Prompts) -> dict:
    """What tells models and encoded prompts apart, on every machine alike."""
    attached = attached_to(model)
    rules = attached.compression.rules if attached else ()
    return {
        "model": f"{type(model.model).__name__} {weights_digest(model)}",
        "compression": [repr(rule) for rule in rules],
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
    some = flat[:: max(len(flat) // SAMPLED_ELEMENTS, 1)]
    return some.float().cpu().numpy().tobytes()


def projection(prompts: Prompts) -> float:
    """One number that another text or template changes, and another device hardly does."""
    total = 0.0
    for number, conditioning in enumerate(prompts.conditionings):
        for tokens, extra in conditioning:
            tensors = (tokens, *(extra[key] for key in sorted(extra)))
            total += np.cos(number) * sum(_along(t) for t in tensors if isinstance(t, Tensor))
    return float(total / sqrt(len(prompts.conditionings)))


def _along(tensor: Tensor) -> float:
    values = tensor.detach().double().cpu().flatten()
    waves = torch.cos(torch.arange(len(values), dtype=torch.float64))
    return (values @ waves).item() / sqrt(max(len(values), 1))


class Listener(Protocol):
    """Hears of the progress."""

    def on_calls(self, calls: int) -> None: ...

    def on_image(self) -> None: ...


def evaluate(
    model: ModelPatcher,
    vae,
    prompts: Prompts,
    waiting: Sequence[LabelledImage],
    job: Job,
    plan: TrialPlan,
    size: int,
    results: ResultFile,
    listener: Listener,
) -> None:
    """Classify the images that wait and add them to the results, one by one.

    The noise of an image depends on its number in the set alone.
    """

    def work(denoiser: Denoiser, latents: Tensor) -> None:
        for image, latent in zip(images, latents, strict=True):
            found = classify(denoiser, latent[None], prompts.labels, plan, image.number)
            results.add(record(image, found.rankings[0], prompts.classes))
            listener.on_image()

    for start in range(0, len(waiting), ENCODED_AT_ONCE):
        images, latents = [], []
        for image in waiting[start : start + ENCODED_AT_ONCE]:
            try:
                pixels = read_picture(job.images.path(image), size)
            except UnreadableImageError as error:
                if image.number not in results.records:
                    results.add(unreadable_record(image, error))
                listener.on_image()
                continue
            images.append(image)
            latents.append(encode_images(vae, pixels))
        if images:
            with_denoiser(model, torch.cat(latents), prompts, plan, listener.on_calls, work)
