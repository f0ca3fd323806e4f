"""Ranking prompts with the models of the host."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import comfy.sampler_helpers
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import (
    Classification,
    Denoiser,
    ErrorSource,
    Screening,
    TrialPlan,
    classify,
)
from ...classification.evidence.baseline import MAX_CALLS, lead_over_no_prompt
from ...listener import SILENT, Listener
from ..dit_model import native_side
from ..image_files import middle_squares
from ..patching.attach import compression_state
from .denoiser import with_denoiser
from .identity import settings
from .prompts import Prompts, check_prompts

FEW_STEPS = {"FluxSchnell", "HunyuanVideo15_SR_Distilled", "PiD"}  # the host's names


@dataclass(frozen=True, eq=False)
class Screener:
    """A cheaper model that rules prompts out: the best `keep` after `trials` trials go on."""

    model: ModelPatcher
    trials: int = 5
    keep: int = 8


def encode_images(vae, images: Tensor) -> Tensor:
    """Latents (B, C, ...) of images (B, H, W, C), one by one: a video VAE reads a batch as film.

    Channels beyond the third are left out. Raises ValueError for what is no batch of images.
    """
    check_images(vae, images)
    latents = []
    for image in images:
        throw_exception_if_processing_interrupted()
        latents.append(vae.encode(image[None, ..., :3]))
    return torch.cat(latents)


def check_images(vae, images: Tensor) -> None:
    if vae is None:
        raise ValueError(
            "BiGain: expected a VAE to encode the image, got none. The checkpoint may have none; "
            "load one and connect it."
        )
    if images.ndim != 4 or images.shape[-1] < 3 or not images.numel():
        raise ValueError(
            f"BiGain: expected images of shape (batch, height, width, 3), got "
            f"{tuple(images.shape)}. Connect at least one image of three channels (RGB); the node "
            "in front of this one may have passed on none, or a mask."
        )


def encode_fitted(model: ModelPatcher, vae, images: Tensor) -> tuple[Tensor, Tensor, str]:
    """Latents as of `encode_images`, the images (B, H, W, 3) that they show, and what was done.

    Where the size that a model was made for is known, images of another one are cut to squares and
    resized to it; otherwise they stay, and nothing is said. Raises ValueError as `encode_images`.
    """
    check_images(vae, images)
    side, (height, width) = native_side(model), images.shape[1:3]
    images = images[..., :3]
    if side is None or height == width == side:
        return encode_images(vae, images), images, ""
    latents = encode_images(vae, middle_squares(images, side))
    done = f"{width} x {height} pixels were fitted to {side} x {side}, which this model is made for"
    return latents, middle_squares(images, min(height, width)), f"{done}."


def ranked_latents(latent: dict) -> tuple[Tensor, Tensor | None, list[str]]:
    """Of a latent of the host: what is ranked, its noise mask or None, and what is left out.

    Of a video with sound that is the video.
    """
    streams, mask = latent["samples"], latent.get("noise_mask")
    if not streams.is_nested:
        return streams, mask, []
    mask = mask.unbind()[0] if mask is not None and mask.is_nested else mask
    return streams.unbind()[0], mask, ["Prompts are ranked for the video; its sound is left out."]


def max_calls(plan: TrialPlan, prompts: Prompts, screener: Screener | None = None) -> int:
    """Network evaluations for one image at most, those of the screening model included."""
    count = len(prompts.labels)
    calls = plan.calls(count)
    if screener is not None and screener.keep < count:
        calls = screener.trials * count + min(calls, plan.elimination_steps[-1] * screener.keep)
    if prompts.empty is not None:
        calls += MAX_CALLS
    return min(calls, max(plan.budget.calls or calls, count))


def warnings_about(model: ModelPatcher) -> list[str]:
    """What makes a model worse at recognising than its images suggest, where it leaves a trace.

    Distillation is seen in the kind of network, in inputs that only distilled ones have (guidance,
    the time where a step ends) and in noise levels that only they are used with.
    """
    kinds = {kind.__name__ for kind in type(model.model.model_config).__mro__}
    options = getattr(model.get_model_object("diffusion_model"), "params", None)
    few_levels = hasattr(model.get_model_object("model_sampling"), "original_timesteps")
    if kinds & FEW_STEPS or few_levels or getattr(options, "meanflow", False):
        return ["This model is distilled to few steps; its errors tell prompts apart less well."]
    if getattr(options, "guidance_embed", False):
        return [
            "This model is distilled from guided images; its errors tell prompts apart less "
            "well. They depend on the guidance in the prompts (FluxGuidance); 1 is the fairest."
        ]
    return []


def classify_latents(
    model: ModelPatcher,
    latents: Tensor,
    prompts: Prompts,
    plan: TrialPlan,
    listener: Listener = SILENT,
    *,
    mask: Tensor | None = None,
    screener: Screener | None = None,
    previous: Classification | None = None,
) -> Classification:
    """Rank prompts for latents (B, C, ...) as a VAE gives them.

    The error is that of what the network predicts: noise, velocity, flow or the clean latent.

    mask: a noise mask in the host's format, (B, H, W) or (B, 1, H, W) in any size; the error is
    taken where it is not 0.
    screener: sees all prompts first. It runs to its end before the deciding model is loaded, as two
    models with the same weights cannot be loaded side by side.
    previous: an earlier result of the same model, images and prompts to go on from.

    Raises ValueError as `with_denoiser` does, and for a previous result of something else.
    """

    def run(model: ModelPatcher, plan: TrialPlan, **options) -> Classification:
        name = settings(model, prompts)

        def work(denoiser: Denoiser, x: Tensor) -> Classification:
            masks = None
            if mask is not None:
                # Not the sampler's denoise_mask: some models take what it leaves out for clean.
                masks = comfy.sampler_helpers.prepare_mask(mask.float(), x.shape, x.device)
            found = classify(
                denoiser, x, prompts.labels, plan, classes=prompts.classes, masks=masks,
                model=name, listener=listener, **options,
            )  # fmt: skip
            return beside_no_prompt(found, denoiser, x, prompts, masks)

        return with_denoiser(model, latents, prompts, plan, listener, work)

    check_prompts(prompts)
    screening = None
    if screener is not None and screener.keep < len(prompts.labels):
        _check_same_latents(model, screener.model)
        start, quick = time.monotonic(), plan.screening(screener.trials)
        found = run(screener.model, quick, previous=previous and previous.screening)
        seconds = (time.monotonic() - start) / len(latents)
        screening = Screening(found, screener.keep, _cost(screener.model, model), seconds)
    return run(model, plan, screening=screening, previous=previous)


def beside_no_prompt(
    found: Classification,
    denoiser: Denoiser,
    x: Tensor,
    prompts: Prompts,
    masks: Tensor | None = None,
    first_image: int = 0,
) -> Classification:
    """The same where each best prompt is compared with none, if it is known how that is encoded."""
    if prompts.empty is None:
        return found
    labels, rankings = (*prompts.labels, "(no prompt)"), []
    for number, ranking in enumerate(found.rankings):
        mask = None if masks is None else masks[number]
        source = ErrorSource(denoiser, x[number], labels, found.plan, first_image + number, mask)
        lead = lead_over_no_prompt(source, ranking, len(prompts.labels))
        rankings.append(replace(ranking, over_no_prompt=lead))
    return replace(found, rankings=tuple(rankings))


def _cost(screening: ModelPatcher, deciding: ModelPatcher) -> float:
    """Operations of a call of the compressed model in units of the plain one; 1 where unknown."""
    state = compression_state(screening)
    log = state.log if state else None
    if log is None or not log.network_flops or compression_state(deciding):
        return 1.0
    return 1 - log.flops_saved / log.network_flops


def _check_same_latents(model: ModelPatcher, screening: ModelPatcher) -> None:
    forms = [type(m.get_model_object("latent_format")).__name__ for m in (model, screening)]
    if forms[0] != forms[1]:
        raise ValueError(
            "BiGain: expected a screening model that reads the latents of the deciding one, got "
            f"{forms[1]} latents for {forms[0]}. Use the same model, compressed, or one of its "
            "family."
        )
