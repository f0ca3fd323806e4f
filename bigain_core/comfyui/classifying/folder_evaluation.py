"""A labelled set through a model of the host."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import Denoiser, TrialPlan, classify
from ...classification.datasets.evaluation import record, unreadable_record
from ...classification.datasets.image_folder import LabelledSet, UnreadableImageError
from ...classification.datasets.result_files import ResultFile
from ...listener import Listener
from ..image_files import read_image
from .denoiser import with_denoiser
from .identity import settings
from .latent_classifier import encode_images
from .prompts import Prompts

ENCODED_AT_ONCE = 16  # images, so that VAE and model need not take turns for each


def evaluate(
    model: ModelPatcher,
    vae,
    prompts: Prompts,
    images: LabelledSet,
    plan: TrialPlan,
    size: int,
    results: ResultFile,
    listener: Listener,
    through: Callable[[Denoiser], Denoiser] | None = None,
) -> None:
    """Classify the images, cut to squares of `size` pixels, and add them to the results one by one.

    The noise of an image depends on its file alone: neither its name nor the other images change
    its result. `through` puts another denoiser in front of the model's.
    """

    name = settings(model, prompts)

    def work(denoiser: Denoiser, latents: Tensor) -> None:
        denoiser = through(denoiser) if through else denoiser
        for image, latent in zip(encoded, latents, strict=True):
            content = images.content(image)
            found = classify(
                denoiser, latent[None], prompts.labels, plan, int(content, 16),
                classes=prompts.classes, model=name,
            )  # fmt: skip
            results.add(record(image, content, found.rankings[0], prompts.classes))
            listener.on_image()

    for start in range(0, len(images.images), ENCODED_AT_ONCE):
        encoded, latents = [], []
        for image in images.images[start : start + ENCODED_AT_ONCE]:
            try:
                images.content(image)
                pixels = read_image(images.path(image), size)
            except UnreadableImageError as error:
                found = unreadable_record(image, error)
                if results.records.get(image.file) != found:
                    results.add(found)
                listener.on_image()
                continue
            encoded.append(image)
            latents.append(encode_images(vae, pixels))
        if encoded:
            with_denoiser(model, torch.cat(latents), prompts, plan, listener, work)
