"""Images of a folder through a model of the host: classified, or tagged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import Denoiser, ErrorSource, SpreadGrid, TrialPlan, classify
from ...classification.datasets.evaluation import record, unreadable_record
from ...classification.datasets.image_folder import (
    LabelledImage,
    LabelledSet,
    UnreadableImageError,
)
from ...classification.datasets.result_files import ResultFile
from ...classification.datasets.tagging import Tagging
from ...classification.evidence.baseline import probabilities_of_fit
from ...classification.results.fit import TRIALS
from ...listener import Listener
from ..image_files import read_image
from .denoiser import with_denoiser
from .identity import settings
from .latent_classifier import beside_no_prompt, encode_images
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

    def judge(image: LabelledImage, denoiser: Denoiser, latent: Tensor) -> dict:
        denoiser = through(denoiser) if through else denoiser
        content = images.content(image)
        found = classify(
            denoiser, latent[None], prompts.labels, plan, int(content, 16),
            classes=prompts.classes, model=name,
        )  # fmt: skip
        if not image.labels:
            found = beside_no_prompt(
                found, denoiser, latent[None], prompts, first_image=int(content, 16)
            )
        return record(image, content, found.rankings[0], prompts.classes)

    each_image(model, vae, prompts, images, plan, size, results, listener, judge)


def tag(
    model: ModelPatcher,
    vae,
    prompts: Prompts,
    tagging: Tagging,
    size: int,
    results: ResultFile,
    listener: Listener,
) -> None:
    """Judge every tag for each image that has no result, and write all captions.

    Takes TRIALS network evaluations of each prompt and of no prompt, whose noise depends on the
    file of an image alone. Of several prompts for one tag the best counts.

    Raises ValueError for prompts whose model without a prompt is not known.
    """
    if prompts.empty is None:
        raise ValueError(
            "BiGain: expected prompts of which it is known what no prompt is, got others. Make "
            "them with BiGain Prompts or BiGain DiT Labels."
        )
    plan, records = TrialPlan((TRIALS,), (1,), sampler=SpreadGrid()), results.records

    def judge(image: LabelledImage, denoiser: Denoiser, latent: Tensor) -> dict:
        content = tagging.images.content(image)
        source = ErrorSource(denoiser, latent, prompts.labels, plan, int(content, 16))
        fits = probabilities_of_fit(source, prompts.classes)
        return tagging.written(image, fits, records.get(image.file, {}))

    clashes, pending = tagging.clashes(records), tagging.pending(records)
    waiting = {image.file for image in pending}
    for image in tagging.chosen:
        if image.file in clashes:
            reason = f"its caption would be that of {clashes[image.file]}; rename one of them"
            _add(results, unreadable_record(image, UnreadableImageError(reason)))
        elif image.file not in waiting:
            _add(results, _readable(tagging.rewritten, image, records[image.file]))
    new = tuple(image for image in pending if image.file not in clashes)
    images = replace(tagging.images, images=new)
    each_image(model, vae, prompts, images, plan, size, results, listener, judge)


def each_image(
    model: ModelPatcher,
    vae,
    prompts: Prompts,
    images: LabelledSet,
    plan: TrialPlan,
    size: int,
    results: ResultFile,
    listener: Listener,
    judge: Callable[[LabelledImage, Denoiser, Tensor], dict],
) -> None:
    """Add the record that `judge` makes of each image, or of why it cannot be read."""

    def work(denoiser: Denoiser, latents: Tensor) -> None:
        for image, latent in zip(encoded, latents, strict=True):
            _add(results, _readable(judge, image, denoiser, latent))
            listener.on_image()

    for start in range(0, len(images.images), ENCODED_AT_ONCE):
        encoded, latents = [], []
        for image in images.images[start : start + ENCODED_AT_ONCE]:
            try:
                images.content(image)
                pixels = read_image(images.path(image), size)
            except UnreadableImageError as error:
                _add(results, unreadable_record(image, error))
                listener.on_image()
                continue
            encoded.append(image)
            latents.append(encode_images(vae, pixels))
        if encoded:
            with_denoiser(model, torch.cat(latents), prompts, plan, listener, work)


def _readable(make: Callable[..., dict], image: LabelledImage, *given) -> dict:
    """The record that is made of an image, or one of why it cannot be read."""
    try:
        return make(image, *given)
    except UnreadableImageError as error:
        return unreadable_record(image, error)


def _add(results: ResultFile, found: dict) -> None:
    """Unless it is there already."""
    if results.records.get(found["file"]) != found:
        results.add(found)
