"""Ranking prompts with the models of the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.sampler_helpers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import (
    Classification,
    Denoiser,
    Ranking,
    Screening,
    Snapshot,
    SpreadGrid,
    Staged,
    TrialPlan,
    classify,
)
from ..patching.attach import compression_state
from .denoiser import HostDenoiser, with_denoiser
from .identity import identity
from .prompts import Prompts, check_prompts

FEW_STEPS = {"FluxSchnell", "HunyuanVideo15_SR_Distilled", "PiD"}  # the host's names


@dataclass(frozen=True, eq=False)
class Screener:
    """A cheaper model that rules prompts out: the best `keep` after `trials` trials go on."""

    model: ModelPatcher
    trials: int = 5
    keep: int = 8


def encode_images(vae, images: Tensor) -> Tensor:
    """Latents (B, C, ...) of images (B, H, W, C), one by one: a video VAE reads a batch as film."""
    return torch.cat([vae.encode(image[None, ..., :3]) for image in images])


def most_calls(plan: TrialPlan, prompts: int, screener: Screener | None) -> int:
    """Network evaluations for one image at most, those of the screening model included."""
    calls = plan.calls(prompts)
    if screener is not None and screener.keep < prompts:
        calls = screener.trials * prompts + min(calls, plan.elimination_steps[-1] * screener.keep)
    return min(calls, max(plan.budget.calls or calls, prompts))


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
    on_trial: Callable[[Snapshot], object] | None = None,
) -> Classification:
    """Rank prompts for latents (B, C, ...) as a VAE gives them; `on_calls` hears of evaluations.

    The error is that of what the network predicts: noise, velocity, flow or the clean latent.

    mask: a noise mask in the host's format, (B, H, W) or (B, 1, H, W) in any size; the error is
    taken where it is not 0.
    screener: sees all prompts first. It runs to its end before the deciding model is loaded, as two
    models with the same weights cannot be loaded side by side.
    previous: an earlier result of the same model, images and prompts to go on from.
    on_trial: is told how an image stands after each trial.

    Raises ValueError as `with_denoiser` does, and for a previous result of something else.
    """
    check_prompts(prompts)
    if previous is not None and len(previous.rankings) != len(latents):
        raise ValueError(
            f"BiGain: expected a previous result of the same {len(latents)} images, got one of "
            f"{len(previous.rankings)}. Leave it out to start again."
        )
    run = _Run(prompts, plan, on_calls, mask, on_trial)
    if screener is None or screener.keep >= len(prompts.labels):
        return run.sample(model, latents, previous=previous)[0]
    _check_same_latents(model, screener.model)
    return run.screened(model, latents, screener, previous)


@dataclass(frozen=True, eq=False)
class _Run:
    """What both models of a classification are asked."""

    prompts: Prompts
    plan: TrialPlan
    on_calls: Callable[[int], None]
    mask: Tensor | None
    on_trial: Callable[[Snapshot], object] | None = None

    def sample(
        self,
        model: ModelPatcher,
        latents: Tensor,
        screening: Screening | None = None,
        previous: Classification | None = None,
    ) -> tuple[Classification, Denoiser]:
        prompts, plan, name = self.prompts, self.plan, identity(model, self.prompts)

        def work(denoiser: HostDenoiser, x: Tensor) -> tuple[Classification, Denoiser]:
            masks = [None] * len(x)
            if self.mask is not None:
                # Not the sampler's denoise_mask: some models take what it leaves out for clean.
                mask = comfy.sampler_helpers.prepare_mask(self.mask.float(), x.shape, x.device)
                masks = mask.split(1)
            rankings = []
            for image, (latent, mask) in enumerate(zip(x.split(1), masks, strict=True)):
                denoiser.started = None
                begun = previous and replace(previous, rankings=(previous.rankings[image],))
                result = classify(
                    denoiser, latent, prompts.labels, plan, image, classes=prompts.classes,
                    masks=mask, model=name, screening=screening, previous=begun,
                    clock=denoiser.seconds, on_trial=self.on_trial,
                )  # fmt: skip
                rankings += result.rankings
            return replace(result, rankings=tuple(rankings)), denoiser

        return with_denoiser(model, latents, prompts, plan, self.on_calls, work)

    def screened(
        self, model: ModelPatcher, latents: Tensor, screener: Screener, previous
    ) -> Classification:
        plan, labels, start = self.plan, self.prompts.labels, time.monotonic()
        budget = replace(plan.budget, seconds=None)
        quick = replace(
            plan, trials=(screener.trials,), keep=(1,), sampler=SpreadGrid(), rule=Staged(),
            budget=budget,
        )  # fmt: skip
        found = _screenings(previous, quick)
        cheap, denoiser = replace(self, plan=quick).sample(screener.model, latents, previous=found)
        taken = (time.monotonic() - start) / len(latents)
        if plan.budget.seconds is not None:
            left = max(plan.budget.seconds - taken, 1e-9)
            budget = replace(plan.budget, seconds=left)
        screening = Screening(
            denoiser, screener.trials, screener.keep, _cost(screener.model, model),
            cheap.rankings[0].model,
        )  # fmt: skip
        empty = _empty(len(labels), identity(model, self.prompts))
        known = previous or Classification(labels, (empty,) * len(latents), plan)
        pairs = zip(known.rankings, cheap.rankings, strict=True)
        rankings = (replace(old, screening=new, digest=new.digest) for old, new in pairs)
        known = replace(known, rankings=tuple(rankings))
        run = replace(self, plan=replace(plan, budget=budget))
        return replace(run.sample(model, latents, screening, known)[0], plan=plan)


def _screenings(previous: Classification | None, quick: TrialPlan) -> Classification | None:
    """What the screening model found in an earlier run, if there was one for every image."""
    if previous is None or not all(ranking.screening for ranking in previous.rankings):
        return None
    rankings = tuple(replace(r.screening, digest=r.digest) for r in previous.rankings)
    return Classification(previous.labels, rankings, replace(quick, **_measures(previous.plan)))


def _measures(plan: TrialPlan) -> dict:
    return {"seed": plan.seed, "loss": plan.loss, "weighting": plan.weighting}


def _empty(prompts: int, model: str) -> Ranking:
    nothing = torch.zeros(prompts, 0)
    return Ranking(nothing, torch.zeros(prompts), torch.zeros(0), model=model)


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
