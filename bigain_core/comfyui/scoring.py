"""A denoiser for other uses than ranking the prompts of one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..classification import Denoiser, TrialPlan
from .classifier import (
    TIMESTEP_CACHES,
    Prompts,
    _all_sigmas,
    _check_conditionings,
    _check_latents,
    _check_sampling,
    _HostDenoiser,
    _name,
)

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
    """
    _check_sampling(model)
    _check_latents(model, latents)
    _check_conditionings(prompts)
    model = model.clone()
    for kind, key in TIMESTEP_CACHES:
        model.remove_wrappers_with_key(kind, key)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({_name(k): c for k, c in enumerate(prompts.conditionings)})
    sampler = _Worker(lambda *inside: work(_HostDenoiser(*inside[:2], on_calls), inside[2]))
    latents = latents.float()
    sigmas = _all_sigmas(model, plan)
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
