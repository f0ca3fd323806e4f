"""A labelled set through a model of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import Denoiser, TrialPlan, classify
from ...classification.datasets.evaluation import (
    Job,
    record,
    unreadable_record,
)
from ...classification.datasets.image_folder import LabelledImage, UnreadableImageError
from ...classification.datasets.result_files import ResultFile
from ..image_files import read_image
from .denoiser import with_denoiser
from .identity import identity
from .latent_classifier import encode_images
from .prompts import Prompts

ENCODED_AT_ONCE = 16  # images, so that VAE and model need not take turns for each


class Listener(Protocol):
    """Hears of the progress."""

    def on_calls(self, calls: int) -> None: ...

    def on_image(self) -> None: ...


def evaluate(
    model: ModelPatcher,
    vae,
    prompts: Prompts,
    pending: Sequence[LabelledImage],
    job: Job,
    plan: TrialPlan,
    size: int,
    results: ResultFile,
    listener: Listener,
    through: Callable[[Denoiser], Denoiser] | None = None,
) -> None:
    """Classify the images that wait and add them to the results, one by one.

    The noise of an image depends on its number in the set alone. `through` puts another denoiser in
    front of the model's.
    """

    name = identity(model, prompts)

    def work(denoiser: Denoiser, latents: Tensor) -> None:
        denoiser = through(denoiser) if through else denoiser
        for image, latent in zip(images, latents, strict=True):
            found = classify(
                denoiser, latent[None], prompts.labels, plan, image.number,
                classes=prompts.classes, model=name,
            )  # fmt: skip
            results.add(record(image, found.rankings[0], prompts.classes))
            listener.on_image()

    for start in range(0, len(pending), ENCODED_AT_ONCE):
        images, latents = [], []
        for image in pending[start : start + ENCODED_AT_ONCE]:
            try:
                pixels = read_image(job.images.path(image), size)
            except UnreadableImageError as error:
                if image.number not in results.records:
                    results.add(unreadable_record(image, error))
                listener.on_image()
                continue
            images.append(image)
            latents.append(encode_images(vae, pixels))
        if images:
            with_denoiser(model, torch.cat(latents), prompts, plan, listener.on_calls, work)
