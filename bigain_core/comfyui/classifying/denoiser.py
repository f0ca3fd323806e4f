"""A denoiser for the classifier, made of the host's sampling machinery.

A call of the network holds the prompts of one trial, also when few are left: patches read one noise
level per call, and where the next trial falls depends on the errors of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import comfy.sample
import comfy.samplers
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import NoiseSchedule, Trial, TrialPlan
from ...listener import Listener
from ..dit_model import DiTModel
from ..interruption import interruptible
from ..patching.adapter import patch_name
from .noise_levels import host_levels
from .prompts import Prompts, check_prompts
from .same_layers import same_layers

# On each device. The host makes them fewer where memory is short; on the CPU it sees all RAM as
# free, and there larger batches are slower (benchmarks.throughput) and cannot be interrupted within
# a layer.
PROMPTS_PER_CALL, PROMPTS_PER_CALL_ON_CPU = 32, 8
PLACES_PER_CALL_ON_CPU = 8 * 32 * 32  # of latents
LARGEST = 4  # times the side that a DiT was made for
PREPARED_PROMPTS = 128  # of some models they lie on the device
TIMESTEP_CACHES = (  # the host's answer from earlier timesteps: scores would silently be wrong
    ("outer_sample", "easycache"),
    ("calc_cond_batch", "easycache"),
    ("diffusion_model", "easycache"),
    ("outer_sample", "lazycache"),
    ("predict_noise", "lazycache"),
)
NEVER_SILENT = {"MiniMaxH3"}  # the host's names of models

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
    _check_size(model, latents)
    guider = _Guider(uncached(model))

    def denoising(guider, options: dict, x: Tensor) -> Found:
        with same_layers(guider.inner_model.diffusion_model, options) as check:
            return work(HostDenoiser(guider, options, levels, prompts, listener, check), x)

    timesteps = sorted(set(plan.timesteps), reverse=True)
    sigmas = torch.cat([levels[0][timesteps], torch.zeros(1)])  # every level once, then zero
    return while_sampling(guider, latents, prompts.encoded, sigmas, denoising)


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
    guider.sample(latents * 0, latents, sampler, sigmas, disable_pbar=True, seed=0)
    return sampler.found


def uncached(model: ModelPatcher) -> ModelPatcher:
    """A clone without what would answer from earlier timesteps.

    The host's own caches are taken off. Raises ValueError for those of packs that are known by
    their names; of others the classifier sees what they do (`same_layers`).
    """
    model = model.clone()
    for kind, key in TIMESTEP_CACHES:
        model.remove_wrappers_with_key(kind, key)
    if found := [name for name in _patching(model) if "cache" in name.lower()]:
        raise ValueError(
            "BiGain: expected a model with no cache between evaluations, got "
            f"{found[0]}, which would answer for one prompt with what it kept of another. "
            "Remove or bypass that node in front of this one."
        )
    return model


def _patching(model: ModelPatcher) -> Iterator[str]:
    """The names of all that patches a model's calls."""
    wrappers = (some for by_key in model.wrappers.values() for some in by_key.values())
    function = model.model_options.get("model_function_wrapper")
    return map(patch_name, (*chain(*wrappers), function, *model.object_patches.values()))


def _all_positive(options: dict) -> dict:
    """Options under which every prompt of a call is a positive one (0).

    The host numbers them through, and patches take 1 for the negative prompt and know no other.
    """
    wrapper = options.get("model_function_wrapper")

    def call(apply_model: Callable, args: dict) -> Tensor:
        positive = [0] * len(args["cond_or_uncond"])
        told = {**args["c"]["transformer_options"], "cond_or_uncond": positive}
        c = {**args["c"], "transformer_options": told}
        if wrapper is None:
            return apply_model(args["input"], args["timestep"], **c)
        return wrapper(apply_model, {**args, "c": c, "cond_or_uncond": positive})

    return {**options, "model_function_wrapper": call}


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


def _prompts_per_call(latent: Tensor) -> int:
    if latent.device.type != "cpu":
        return PROMPTS_PER_CALL
    fitting = PLACES_PER_CALL_ON_CPU // latent[0, 0].numel()
    return min(max(fitting, 1), PROMPTS_PER_CALL_ON_CPU)


class CallbackSampler(comfy.samplers.Sampler):
    """A sampler that leaves the latent as it is."""

    def __init__(self, work: Callable):
        self.work = work

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise,
        latent_image=None, denoise_mask=None, disable_pbar=False,
    ):  # fmt: skip
        network = model_wrap.inner_model.diffusion_model
        with torch.no_grad(), interruptible(network, latent_image.device):
            self.found = self.work(model_wrap, extra_args["model_options"], latent_image)
        return latent_image


class HostDenoiser:
    """Clean latents by the host's batching of conditions."""

    def __init__(
        self, guider: _Guider, options: dict, levels: tuple[Tensor, NoiseSchedule],
        prompts: Prompts, listener: Listener, check: Callable[[], None] | None,
    ):  # fmt: skip
        self.guider, self.options = guider, _all_positive(options)
        self.prompts, self.listener, self.check = prompts, listener, check
        self.sigmas, self.schedule = levels
        self._followed = False
        self._image: Tensor | None = None
        self._prepared: dict[int, list] = {}

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        if latent is not self._image:
            self._image, self._prepared = latent, {}
        model = self.guider.inner_model
        latent = latent[None]
        sigma = self.sigmas[trial.level.timestep].to(latent.device)[None]
        noisy = model.model_sampling.noise_scaling(sigma, trial.noise[None].clone(), latent)
        clean = {}
        size = _prompts_per_call(latent)
        size *= len(self.options.get("multigpu_clones", ())) or 1  # the host deals prompts out

        def predict(chunk: list[int]) -> list[Tensor]:
            throw_exception_if_processing_interrupted()
            conds = self._conditions(latent, chunk)
            return comfy.samplers.calc_cond_batch(model, conds, noisy, sigma, self.options)

        for chunk in self._chunks(prompts, size):
            predicted = predict(chunk)
            if self.check:
                self.check()
            elif len(chunk) > 1 and not self._followed:
                _check_followed(predicted, predict(chunk[1:] + chunk[:1]))
                self._followed = True
            clean.update(zip(chunk, predicted, strict=True))
            self.listener.on_calls(len(chunk))
        return torch.cat([clean[k] for k in prompts])

    def _chunks(self, prompts: Sequence[int], size: int) -> list[list[int]]:
        """Only prompts of one length in a call: the host repeats the tokens of shorter ones.

        Where text and image share their attention, that would change their errors.
        """
        lengths: dict[tuple[int, ...], list[int]] = {}
        for k in prompts:
            tokens = self.prompts.encoded[k][0][0]
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
                self.guider.inner_model, torch.zeros_like(latent), given, latent.device, latent,
                latent_shapes=[latent.shape],  # models of several streams look for it
            )  # fmt: skip
            self._prepared |= {k: made[name] for k, name in missing.items()}
        return [self._prepared[k] for k in prompts]


def _check_followed(predicted: list[Tensor], turned: list[Tensor]) -> None:
    """Of a network whose layers are not watched: clean latents of prompts and of the same prompts
    each one place further. What a node has kept of the first ones stays in its place.
    """
    first, second = torch.cat(predicted), torch.cat(turned)
    stayed, moved = ((second - other).square().mean() for other in (first, first.roll(-1, 0)))
    if 2 * stayed < moved:
        raise ValueError(
            "BiGain: expected predictions that follow their prompts, got nearly the same ones for "
            "other prompts in their places. A node in front of this one keeps results between "
            "evaluations, as caches do, and would answer for one prompt with those of another. "
            "Remove or bypass it."
        )


def _check_size(model: ModelPatcher, latents: Tensor) -> None:
    """A layer over far more tokens than a DiT was made for could not even be interrupted."""
    if not isinstance(model.model, DiTModel):
        return
    side, (height, width) = model.model.diffusion_model.config.input_size, latents.shape[-2:]
    if height * width > (LARGEST * side) ** 2:
        raise ValueError(
            f"BiGain: expected a latent of about {side} x {side}, which this DiT was made for, got "
            f"{width} x {height}. Connect the image and the VAE instead, to have it fitted, or "
            "resize the image."
        )


def check_latents(model: ModelPatcher, latents: Tensor) -> None:
    kind = type(model.model).__name__
    if kind in NEVER_SILENT and not latents.is_nested:
        raise ValueError(
            f"BiGain: expected a model that can be called without sound, got {kind}, whose network "
            "takes video and sound together only. BiGain Benchmark takes its empty latent of both; "
            "to rank prompts or images use another model, such as LTX-2."
        )
    form = model.get_model_object("latent_format")
    wanted, dims = form.latent_channels, form.latent_dimensions
    fits = not latents.is_nested and latents.ndim in (4, dims + 2) and latents.shape[1] == wanted
    if not fits or not latents.numel():
        sides = "frames, height, width" if dims == 3 else "height, width"
        shape = "several streams" if latents.is_nested else tuple(latents.shape)
        advice = "Encode the image with the VAE that belongs to this model."
        if fits:
            advice = "There is no image in it, or one that is too small for the VAE."
        raise ValueError(
            f"BiGain: expected a latent of shape (batch, {wanted}, {sides}) for "
            f"{kind}, got {shape}. {advice}"
        )
    if not latents.isfinite().all():
        raise ValueError(
            "BiGain: expected a latent of numbers, got NaN or infinity in it. The image has them, "
            "or the VAE overflows in half precision: try it in fp32 or bf16."
        )
