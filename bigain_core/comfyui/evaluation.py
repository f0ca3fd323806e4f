"""A labelled set through a model of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..classification import Denoiser, TrialPlan, classify
from ..classification.evaluation import Job, UnreadableImageError, record, unreadable_record
from ..classification.labelled_sets import LabelledImage
from ..classification.result_files import ResultFile
from .classifier import encode_images
from .identity import identity
from .pictures import read_picture
from .prompts import Prompts
from .scoring import with_denoiser

ENCODED_AT_ONCE = 16  # images, so that VAE and model need not take turns for each


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
