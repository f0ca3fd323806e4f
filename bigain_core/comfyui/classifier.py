"""Scoring prompts with the host's own sampling machinery."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.supported_models
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from torch import Tensor

from ..classification import (
    Classification,
    Ranking,
    Screening,
    SpreadGrid,
    Staged,
    Trial,
    TrialPlan,
    check_labels,
    classify,
)
from .attach import attached_to
from .sampling import HostLevels, host_levels

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
    """Labels to rank, with one conditioning (in the host's format) each.

    `classes` are what the labels stand for, where several stand for the same; otherwise the labels
    themselves.
    """

    labels: tuple[str, ...]
    conditionings: tuple[list, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.classes:
            object.__setattr__(self, "classes", self.labels)


@dataclass(frozen=True, eq=False)
class Screener:
    """A cheaper model that rules prompts out: the best `keep` after `trials` trials go on."""

    model: ModelPatcher
    trials: int = 5
    keep: int = 8


def encode_prompts(
    clip, labels: Sequence[str], template: str, classes: Sequence[str] = ()
) -> Prompts:
    """Each label in place of {} in the template, read as plain text: "(" is no prompt weight.

    classes: what the labels stand for, where several stand for the same.

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
    bar, encoded = ProgressBar(len(labels)), []
    for label in labels:
        tokens = clip.tokenize(template.replace("{}", label), disable_weights=True)
        encoded.append(clip.encode_from_tokens_scheduled(tokens))
        bar.update(1)
    return Prompts(tuple(labels), tuple(encoded), tuple(classes))


def encode_images(vae, images: Tensor) -> Tensor:
    """Latents (B, C, ...) of images (B, H, W, C), one by one: a video VAE reads a batch as film."""
    return torch.cat([vae.encode(image[None, ..., :3]) for image in images])


def most_calls(plan: TrialPlan, prompts: int, screener: Screener | None) -> int:
    """Network evaluations for one image at most, those of the screening model included."""
    calls = plan.calls(prompts)
    if screener is not None and screener.keep < prompts:
        calls = screener.trials * prompts + min(calls, plan.looks[-1] * screener.keep)
    return min(calls, max(plan.budget.calls or calls, prompts))


def warnings_about(model: ModelPatcher) -> list[str]:
    """What makes a model worse at recognising than its pictures suggest, where the host knows."""
    if isinstance(model.model.model_config, comfy.supported_models.FluxSchnell):
        return ["This model is distilled to few steps; its errors tell prompts apart less well."]
    network = model.get_model_object("diffusion_model")
    if getattr(getattr(network, "params", None), "guidance_embed", False):
        return [
            "This model is distilled from guided pictures; its errors tell prompts apart less "
            "well. They depend on the guidance in the prompts (FluxGuidance); 1 is the fairest."
        ]
    return []


def classify_latents(
    model: ModelPatcher,
    latents: Tensor,
    prompts: Prompts,
    plan: TrialPlan,
    on_calls: Callable[[int], None],
    *,
    mask: Tensor | None = None,
    screener: Screener | None = None,
    previous: Classification | None = None,
) -> Classification:
    """Rank prompts for latents (B, C, ...) as a VAE gives them; `on_calls` hears of evaluations.

    The error is that of what the network predicts: noise, velocity, flow or the clean latent.

    mask: a noise mask in the host's format, (B, H, W) or (B, 1, H, W) in any size; the error is
    taken where it is not 0.
    screener: sees all prompts first. It runs to its end before the deciding model is loaded, as two
    models with the same weights cannot be loaded side by side.
    previous: an earlier result of the same model, images and prompts to go on from.

    Raises ValueError for a model that cannot be scored, a latent that does not fit it, or prompts
    that act on a part of the image or of the timesteps only.
    """
    check_labels(prompts.labels)
    _check_conditionings(prompts)
    if previous is not None and len(previous.rankings) != len(latents):
        raise ValueError(
            f"BiGain: expected a previous result of the same {len(latents)} images, got one of "
            f"{len(previous.rankings)}. Leave it out to start again."
        )
    run = _Run(prompts, plan, on_calls, mask)
    if screener is None or screener.keep >= len(prompts.labels):
        return run.sample(model, latents, previous=previous).result
    _check_same_latents(model, screener.model)
    return run.screened(model, latents, screener, previous)


@dataclass(frozen=True, eq=False)
class _Run:
    """What both models of a classification are asked."""

    prompts: Prompts
    plan: TrialPlan
    on_calls: Callable[[int], None]
    mask: Tensor | None

    def sample(
        self,
        model: ModelPatcher,
        latents: Tensor,
        screening: Screening | None = None,
        previous: Classification | None = None,
    ) -> _Scorer:
        levels = host_levels(model)
        _check_latents(model, latents)
        model = model.clone()
        for kind, key in TIMESTEP_CACHES:
            model.remove_wrappers_with_key(kind, key)
        latents = comfy.sample.fix_empty_latent_channels(model, latents.float())
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({_name(k): c for k, c in enumerate(self.prompts.conditionings)})
        sampler = _Scorer(self, levels, screening, previous)
        sigmas = _announced(levels, self.plan)
        guider.sample(torch.zeros_like(latents), latents, sampler, sigmas, disable_pbar=True)
        return sampler

    def screened(
        self, model: ModelPatcher, latents: Tensor, screener: Screener, previous
    ) -> Classification:
        plan, labels, start = self.plan, self.prompts.labels, time.monotonic()
        budget = replace(plan.budget, seconds=None)
        quick = replace(
            plan, trials=(screener.trials,), keep=(1,), design=SpreadGrid(), rule=Staged(),
            budget=budget,
        )  # fmt: skip
        found = _screenings(previous, quick)
        cheap = replace(self, plan=quick).sample(screener.model, latents, previous=found)
        taken = (time.monotonic() - start) / len(latents)
        if plan.budget.seconds is not None:
            left = max(plan.budget.seconds - taken, 1e-9)
            budget = replace(plan.budget, seconds=left)
        screening = Screening(
            cheap.denoiser, screener.trials, screener.keep, _cost(screener.model, model)
        )
        known = previous or Classification(labels, (_empty(len(labels)),) * len(latents), plan)
        pairs = zip(known.rankings, cheap.result.rankings, strict=True)
        rankings = (replace(old, screening=new, digest=new.digest) for old, new in pairs)
        known = replace(known, rankings=tuple(rankings))
        deciding = replace(self, plan=replace(plan, budget=budget)).sample(
            model, latents, screening, known
        )
        return replace(deciding.result, plan=plan)


def _screenings(previous: Classification | None, quick: TrialPlan) -> Classification | None:
    """What the screening model found in an earlier run, if there was one for every image."""
    if previous is None or not all(ranking.screening for ranking in previous.rankings):
        return None
    rankings = tuple(replace(r.screening, digest=r.digest) for r in previous.rankings)
    return Classification(previous.labels, rankings, replace(quick, **_measures(previous.plan)))


def _measures(plan: TrialPlan) -> dict:
    return {"seed": plan.seed, "loss": plan.loss, "weighting": plan.weighting}


def _empty(prompts: int) -> Ranking:
    return Ranking(torch.zeros(prompts, 0), torch.zeros(prompts), torch.zeros(0))


def _cost(screening: ModelPatcher, deciding: ModelPatcher) -> float:
    """Operations of a call of the compressed model in units of the plain one; 1 where unknown."""
    attached = attached_to(screening)
    log = attached.log if attached else None
    if log is None or not log.network_flops or attached_to(deciding):
        return 1.0
    return 1 - log.flops_saved / log.network_flops


def _name(prompt: int) -> str:
    return f"prompt_{prompt}"  # "positive" and "negative" mean something to some models


def _announced(levels: HostLevels, plan: TrialPlan) -> Tensor:
    """The schedule that the host announces to patches: every noise level once, then zero."""
    timesteps = sorted(set(plan.timesteps), reverse=True)
    return torch.cat([levels.sigmas[timesteps], torch.zeros(1)])


class _Scorer(comfy.samplers.Sampler):
    """A sampler that scores the latent instead of changing it."""

    def __init__(
        self, run: _Run, levels: HostLevels, screening: Screening | None,
        previous: Classification | None,
    ):  # fmt: skip
        self.run, self.levels = run, levels
        self.screening, self.previous = screening, previous
        self.denoiser: _HostDenoiser | None = None
        self.result: Classification | None = None

    def max_denoise(self, model_wrap, sigmas):
        return False

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise,
        latent_image=None, denoise_mask=None, disable_pbar=False,
    ):  # fmt: skip
        run, x = self.run, latent_image
        masks = None
        if run.mask is not None:
            # Not the sampler's denoise_mask: some models take what it leaves out for clean.
            masks = comfy.sampler_helpers.prepare_mask(run.mask.float(), x.shape, x.device)
        options = extra_args["model_options"]
        denoiser = self.denoiser = _HostDenoiser(model_wrap, options, self.levels, run)
        rankings = []
        for image in range(len(x)):
            denoiser.started = None
            begun = self.previous and replace(
                self.previous, rankings=self.previous.rankings[image : image + 1]
            )
            result = classify(
                denoiser, x[image : image + 1], run.prompts.labels, run.plan, image,
                masks=None if masks is None else masks[image : image + 1],
                screening=self.screening, previous=begun, clock=denoiser.seconds,
            )  # fmt: skip
            rankings += result.rankings
        self.result = replace(result, rankings=tuple(rankings))
        return latent_image


class _HostDenoiser:
    """Clean latents by the host's batching of conditions."""

    def __init__(self, guider, options: dict, levels: HostLevels, run: _Run):
        self.guider, self.options, self.run = guider, options, run
        self.sigmas, self.schedule = levels.sigmas, levels.schedule
        self.started: float | None = None

    def seconds(self) -> float:
        """Time since the first evaluation for an image; trials that are taken over take none."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        guider = self.guider
        if self.started is None:
            self.started = time.monotonic()
        sampling = guider.inner_model.model_sampling
        latent = latent[None]
        sigma = self.sigmas[trial.timestep].to(latent.device)[None]
        noisy = sampling.noise_scaling(sigma, trial.noise[None].clone(), latent)
        clean = {}
        for chunk in self._chunks(prompts):
            throw_exception_if_processing_interrupted()
            conds = [guider.conds[_name(k)] for k in chunk]
            predicted = comfy.samplers.calc_cond_batch(
                guider.inner_model, conds, noisy, sigma, self.options
            )
            clean.update(zip(chunk, predicted, strict=True))
            self.run.on_calls(len(chunk))
        return torch.cat([clean[k] for k in prompts])

    def _chunks(self, prompts: Sequence[int]) -> list[list[int]]:
        """Only prompts of one length in a call: the host repeats the tokens of shorter ones.

        Where text and image share their attention, that would change their errors.
        """
        lengths: dict[tuple[int, ...], list[int]] = {}
        for k in prompts:
            tokens = self.run.prompts.conditionings[k][0][0]
            lengths.setdefault(tuple(tokens.shape), []).append(k)
        size = PROMPTS_PER_CHUNK
        return [
            same[start : start + size]
            for same in lengths.values()
            for start in range(0, len(same), size)
        ]


def _check_latents(model: ModelPatcher, latents: Tensor) -> None:
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


def _check_same_latents(model: ModelPatcher, screening: ModelPatcher) -> None:
    forms = [type(m.get_model_object("latent_format")).__name__ for m in (model, screening)]
    if forms[0] != forms[1]:
        raise ValueError(
            "BiGain: expected a screening model that reads the latents of the deciding one, got "
            f"{forms[1]} latents for {forms[0]}. Use the same model, compressed, or one of its "
            "family."
        )


def _check_conditionings(prompts: Prompts) -> None:
    partial = {"area", "mask", "hooks", "start_percent", "end_percent", "clip_start_percent"}
    for label, conditioning in zip(prompts.labels, prompts.conditionings, strict=True):
        limits = sorted({key for _, extra in conditioning for key in partial & extra.keys()})
        if limits or len(conditioning) != 1:
            raise ValueError(
                "BiGain: expected prompts that act on the whole image at every timestep, got "
                f"{label!r} in {len(conditioning)} parts limited by {limits or 'scheduling'}. Use "
                "a plain CLIP."
            )
