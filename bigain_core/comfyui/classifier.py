"""Scoring prompts with the host's own sampling machinery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.samplers
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import EPS, V_PREDICTION, X0, ModelSamplingDiscrete
from torch import Tensor

from ..classification import (
    Classification,
    NoiseSchedule,
    Trial,
    TrialPlan,
    check_labels,
    classify,
)
from ..classification.noise import TIMESTEPS

PROMPTS_PER_CHUNK = 32  # bounds memory on the CPU, where the host sees all RAM as free
TIMESTEP_CACHES = (  # they answer from earlier timesteps, so scores would silently be wrong
    ("outer_sample", "easycache"),
    ("calc_cond_batch", "easycache"),
    ("diffusion_model", "easycache"),
    ("outer_sample", "lazycache"),
    ("predict_noise", "lazycache"),
)


@dataclass(frozen=True)
class Prompts:
    """Labels to rank, with one conditioning (in the host's format) each."""

    labels: tuple[str, ...]
    conditionings: tuple[list, ...]


def encode_prompts(clip, labels: Sequence[str], template: str) -> Prompts:
    """Each label in place of {} in the template, read as plain text: "(" is no prompt weight.

    Raises ValueError for empty or duplicate labels, a template without {} or no CLIP.
    """
    check_labels(labels)
    if clip is None:
        raise ValueError(
            "BiGain: expected a CLIP to encode the prompts, got none. The checkpoint may have no "
            "text encoder; load one and connect it. A DiT takes its prompts from BiGain DiT Labels."
        )
    if "{}" not in template:
        raise ValueError(
            f"BiGain: expected a template with {{}} where the label goes, got {template!r}. "
            "For example: a photo of a {}"
        )
    texts = [template.replace("{}", label) for label in labels]
    tokens = (clip.tokenize(text, disable_weights=True) for text in texts)
    return Prompts(tuple(labels), tuple(map(clip.encode_from_tokens_scheduled, tokens)))


def classify_latents(
    model: ModelPatcher,
    latents: Tensor,
    prompts: Prompts,
    plan: TrialPlan,
    on_calls: Callable[[int], None],
) -> Classification:
    """Rank prompts for latents (B, C, ...) as a VAE gives them; `on_calls` hears of evaluations.

    The error is that of the predicted noise, for noise- and velocity-prediction models alike.

    Raises ValueError for another kind of model, a latent that does not fit it, or prompts that act
    on a part of the image or of the timesteps only.
    """
    _check_sampling(model)
    _check_latents(model, latents)
    _check_conditionings(prompts)
    model = model.clone()
    for kind, key in TIMESTEP_CACHES:
        model.remove_wrappers_with_key(kind, key)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({_name(k): c for k, c in enumerate(prompts.conditionings)})
    sampler = _Scorer(prompts.labels, plan, on_calls)
    latents = latents.float()
    sigmas = _all_sigmas(model, plan)
    guider.sample(torch.zeros_like(latents), latents, sampler, sigmas, disable_pbar=True)
    return sampler.result


def _name(prompt: int) -> str:
    return f"prompt_{prompt}"  # "positive" and "negative" mean something to some models


def _all_sigmas(model: ModelPatcher, plan: TrialPlan) -> Tensor:
    """The schedule that the host announces to patches: every noise level once, then zero."""
    sampling = model.get_model_object("model_sampling")
    timesteps = torch.tensor(sorted(plan.timesteps, reverse=True))
    return torch.cat([sampling.sigma(timesteps).float().cpu(), torch.zeros(1)])


class _Scorer(comfy.samplers.Sampler):
    """A sampler that scores the latent instead of changing it."""

    def __init__(self, labels: Sequence[str], plan: TrialPlan, on_calls: Callable[[int], None]):
        self.labels, self.plan, self.on_calls = labels, plan, on_calls
        self.result: Classification | None = None

    def max_denoise(self, model_wrap, sigmas):
        return False

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise,
        latent_image=None, denoise_mask=None, disable_pbar=False,
    ):  # fmt: skip
        denoiser = _HostDenoiser(model_wrap, extra_args["model_options"], self.on_calls)
        self.result = classify(denoiser, latent_image, self.labels, self.plan)
        return latent_image


class _HostDenoiser:
    """Clean latents by the host's batching of conditions."""

    def __init__(self, guider, options: dict, on_calls: Callable[[int], None]):
        self.guider, self.options, self.on_calls = guider, options, on_calls
        sampling = guider.inner_model.model_sampling
        predicts = "v" if isinstance(sampling, V_PREDICTION) else "eps"
        self.schedule = NoiseSchedule.exploding(
            sampling.sigma(torch.arange(TIMESTEPS)).cpu(), predicts
        )

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        guider = self.guider
        sampling = guider.inner_model.model_sampling
        latent = latent[None]
        sigma = torch.tensor([trial.level.noise], device=latent.device)
        noisy = sampling.noise_scaling(sigma, trial.noise[None].clone(), latent)
        clean = []
        for start in range(0, len(prompts), PROMPTS_PER_CHUNK):
            throw_exception_if_processing_interrupted()
            chunk = prompts[start : start + PROMPTS_PER_CHUNK]
            conds = [guider.conds[_name(k)] for k in chunk]
            clean += comfy.samplers.calc_cond_batch(
                guider.inner_model, conds, noisy, sigma, self.options
            )
            self.on_calls(len(chunk))
        return torch.cat(clean)


def _check_sampling(model: ModelPatcher) -> None:
    sampling = model.get_model_object("model_sampling")
    discrete = isinstance(sampling, ModelSamplingDiscrete) and isinstance(sampling, EPS)
    if not discrete or isinstance(sampling, X0):
        kinds = [kind.__name__ for kind in type(sampling).__mro__[1:3]]
        raise ValueError(
            "BiGain: expected a model that predicts noise or velocity on 1000 timesteps (Stable "
            f"Diffusion 1.x, 2.x, XL, DiT), got {type(model.model).__name__} with {kinds} "
            "sampling, which the classifier does not cover yet."
        )


def _check_latents(model: ModelPatcher, latents: Tensor) -> None:
    wanted = model.get_model_object("latent_format").latent_channels
    if latents.ndim < 4 or latents.shape[1] != wanted:
        raise ValueError(
            f"BiGain: expected a latent of shape (batch, {wanted}, height, width) for "
            f"{type(model.model).__name__}, got {tuple(latents.shape)}. Encode the image with the "
            "VAE that belongs to this model."
        )


def _check_conditionings(prompts: Prompts) -> None:
    check_labels(prompts.labels)
    partial = {"area", "mask", "hooks", "start_percent", "end_percent", "clip_start_percent"}
    for label, conditioning in zip(prompts.labels, prompts.conditionings, strict=True):
        limits = sorted({key for _, extra in conditioning for key in partial & extra.keys()})
        if limits or len(conditioning) != 1:
            raise ValueError(
                "BiGain: expected prompts that act on the whole image at every timestep, got "
                f"{label!r} in {len(conditioning)} parts limited by {limits or 'scheduling'}. Use "
                "a plain CLIP."
            )
