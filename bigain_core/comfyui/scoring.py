"""A denoiser for other uses than ranking the prompts of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..classification import Denoiser, TrialPlan, check_labels
from .classifier import (
    TIMESTEP_CACHES,
    Prompts,
    _announced,
    _check_conditionings,
    _check_latents,
    _HostDenoiser,
    _name,
    _Run,
)
from .sampling import host_levels

Found = TypeVar("Found")


def with_denoiser(
    model: ModelPatcher,
    latents: Tensor,
    prompts: Prompts,
    plan: TrialPlan,
    on_calls: Callable[[int], None],
    work: Callable[[Denoiser, Tensor], Found],
) -> Found:
    """What `work` gives for a denoiser and latents as the network sees them, on its device.

    latents (B, C, ...) as a VAE gives them; `plan` says which noise levels may come.

    Raises ValueError as `classify_latents` does.
    """
    check_labels(prompts.labels)
    _check_conditionings(prompts)
    levels = host_levels(model)
    _check_latents(model, latents)
    run = _Run(prompts, plan, on_calls, None)

    def denoising(guider, options: dict, x: Tensor) -> Found:
        return work(_HostDenoiser(guider, options, levels, run), x)

    sigmas = _announced(levels, plan)
    return while_sampling(model, latents, prompts.conditionings, sigmas, denoising)


def while_sampling(
    model: ModelPatcher,
    latents: Tensor,
    conditionings: Sequence[list],
    sigmas: Tensor,
    work: Callable[[comfy.samplers.CFGGuider, dict, Tensor], Found],
) -> Found:
    """What `work` gives in a run of the host that loads the model and does nothing else.

    It gets the guider, in which conditioning k has the name `_name(k)`, the options of the model
    and the latents as the network sees them. `sigmas` are the schedule that the host announces.
    """
    model = model.clone()
    for kind, key in TIMESTEP_CACHES:
        model.remove_wrappers_with_key(kind, key)
    latents = comfy.sample.fix_empty_latent_channels(model, latents.float())
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({_name(k): c for k, c in enumerate(conditionings)})
    sampler = _Worker(work)
    guider.sample(torch.zeros_like(latents), latents, sampler, sigmas, disable_pbar=True)
    return sampler.found


class _Worker(comfy.samplers.Sampler):
    """A sampler that leaves the latent as it is."""

    def __init__(self, work: Callable):
        self.work = work

    def max_denoise(self, model_wrap, sigmas):
        return False

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise,
        latent_image=None, denoise_mask=None, disable_pbar=False,
    ):  # fmt: skip
        with torch.no_grad():
            self.found = self.work(model_wrap, extra_args["model_options"], latent_image)
        return latent_image
