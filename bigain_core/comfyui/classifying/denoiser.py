"""A denoiser for the classifier, made of the host's sampling machinery.

A call of the network holds the prompts of one trial, also when few are left: patches read one noise
level per call, and where the next trial falls depends on the errors of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import comfy.sample
import comfy.samplers
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import Trial, TrialPlan
from ...listener import Listener
from .noise_levels import HostLevels, host_levels
from .prompts import Prompts, check_prompts

# The host makes them fewer where memory is short; on the CPU it sees all RAM as free, and there
# larger batches are slower (benchmarks.throughput).
PROMPTS_PER_CALL, PROMPTS_PER_CALL_ON_CPU = 32, 8
PREPARED_PROMPTS = 128  # of some models they lie on the device
TIMESTEP_CACHES = (  # they answer from earlier timesteps, so scores would silently be wrong
    ("outer_sample", "easycache"),
    ("calc_cond_batch", "easycache"),
    ("diffusion_model", "easycache"),
    ("outer_sample", "lazycache"),
    ("predict_noise", "lazycache"),
)

Found = TypeVar("Found")


def with_denoiser(
    model: ModelPatcher,
    latents: Tensor,
    prompts: Prompts,
    plan: TrialPlan,
    listener: Listener,
    work: Callable[[HostDenoiser, Tensor], Found],
) -> Found:
    """What `work` gives for a denoiser and latents as the network sees them, on its device.

    latents (B, C, ...) as a VAE gives them; `plan` says which noise levels may come;
    `listener` hears of evaluations.

    Raises ValueError for a model that cannot be scored, a latent that does not fit it, or prompts
    that act on a part of the image or of the timesteps only.
    """
    check_prompts(prompts)
    levels = host_levels(model)
    check_latents(model, latents)
    guider = _Guider(uncached(model))

    def denoising(guider, options: dict, x: Tensor) -> Found:
        return work(HostDenoiser(guider, options, levels, prompts, listener), x)

    timesteps = sorted(set(plan.timesteps), reverse=True)
    sigmas = torch.cat([levels.sigmas[timesteps], torch.zeros(1)])  # every level once, then zero
    return while_sampling(guider, latents, prompts.conditionings, sigmas, denoising)


def while_sampling(
    guider: comfy.samplers.CFGGuider,
    latents: Tensor,
    conditionings: Sequence[list],
    sigmas: Tensor,
    work: Callable[[comfy.samplers.CFGGuider, dict, Tensor], Found],
) -> Found:
    """What `work` gives in a run of the host that loads the guider's model and does nothing else.

    It gets the guider, in which conditioning k has the name `_name(k)`, the options of the model
    and the latents as the network sees them. `sigmas` are the schedule that the host announces.
    """
    latents = comfy.sample.fix_empty_latent_channels(guider.model_patcher, latents.float())
    guider.inner_set_conds({_name(k): c for k, c in enumerate(conditionings)})
    sampler = CallbackSampler(work)
    guider.sample(torch.zeros_like(latents), latents, sampler, sigmas, disable_pbar=True)
    return sampler.found


def uncached(model: ModelPatcher) -> ModelPatcher:
    """A clone without what would answer from earlier timesteps."""
    model = model.clone()
    for kind, key in TIMESTEP_CACHES:
        model.remove_wrappers_with_key(kind, key)
    return model


def _name(prompt: int) -> str:
    return f"prompt_{prompt}"  # "positive" and "negative" mean something to some models


class _Guider(comfy.samplers.CFGGuider):
    """Leaves conditionings to the denoiser, which prepares those of one call at a time.

    The host would compare each with every other one, and keep what it makes of them.
    """

    def inner_sample(self, *args, **kwargs):
        given, self.conds = self.conds, {}
        self.pending = given
        try:
            return super().inner_sample(*args, **kwargs)
        finally:
            self.conds = given  # the host looks here for what is to be cleaned up


class CallbackSampler(comfy.samplers.Sampler):
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


class HostDenoiser:
    """Clean latents by the host's batching of conditions."""

    def __init__(
        self, guider: _Guider, options: dict, levels: HostLevels, prompts: Prompts,
        listener: Listener,
    ):  # fmt: skip
        self.guider, self.options = guider, options
        self.prompts, self.listener = prompts, listener
        self.sigmas, self.schedule = levels.sigmas, levels.schedule
        self._image: Tensor | None = None
        self._prepared: dict[int, list] = {}

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        if latent is not self._image:
            self._image, self._prepared = latent, {}
        model = self.guider.inner_model
        latent = latent[None]
        sigma = self.sigmas[trial.timestep].to(latent.device)[None]
        noisy = model.model_sampling.noise_scaling(sigma, trial.noise[None].clone(), latent)
        clean = {}
        on_cpu = latent.device.type == "cpu"
        for chunk in self._chunks(prompts, PROMPTS_PER_CALL_ON_CPU if on_cpu else PROMPTS_PER_CALL):
            throw_exception_if_processing_interrupted()
            conds = self._conditions(latent, chunk)
            predicted = comfy.samplers.calc_cond_batch(model, conds, noisy, sigma, self.options)
            clean.update(zip(chunk, predicted, strict=True))
            self.listener.on_calls(len(chunk))
        return torch.cat([clean[k] for k in prompts])

    def _chunks(self, prompts: Sequence[int], size: int) -> list[list[int]]:
        """Only prompts of one length in a call: the host repeats the tokens of shorter ones.

        Where text and image share their attention, that would change their errors.
        """
        lengths: dict[tuple[int, ...], list[int]] = {}
        for k in prompts:
            tokens = self.prompts.conditionings[k][0][0]
            lengths.setdefault(tuple(tokens.shape), []).append(k)
        return [
            same[start : start + size]
            for same in lengths.values()
            for start in range(0, len(same), size)
        ]

    def _conditions(self, latent: Tensor, prompts: list[int]) -> list[list[dict]]:
        """What the host makes of conditionings; kept from trial to trial while they are few."""
        missing = {k: _name(k) for k in prompts if k not in self._prepared}
        if len(self._prepared) + len(missing) > PREPARED_PROMPTS:
            self._prepared, missing = {}, {k: _name(k) for k in prompts}
        if missing:
            given = {name: self.guider.pending[name] for name in missing.values()}
            made = comfy.samplers.process_conds(
                self.guider.inner_model, torch.zeros_like(latent), given, latent.device, latent
            )
            self._prepared |= {k: made[name] for k, name in missing.items()}
        return [self._prepared[k] for k in prompts]


def check_latents(model: ModelPatcher, latents: Tensor) -> None:
    form = model.get_model_object("latent_format")
    wanted, dims = form.latent_channels, form.latent_dimensions
    if latents.is_nested or latents.ndim not in (4, dims + 2) or latents.shape[1] != wanted:
        sides = "frames, height, width" if dims == 3 else "height, width"
        shape = "several streams" if latents.is_nested else tuple(latents.shape)
        raise ValueError(
            f"BiGain: expected a latent of shape (batch, {wanted}, {sides}) for "
            f"{type(model.model).__name__}, got {shape}. Encode the image with the VAE that "
            "belongs to this model."
        )
