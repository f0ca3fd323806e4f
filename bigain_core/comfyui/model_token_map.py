"""What a compression decides in one network call of a model of the host."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from weakref import WeakKeyDictionary

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..classification import Denoiser, Trial, TrialPlan, UniformTimes, trial_noise
from ..compression.decisions import Decision
from ..compression.report import summary
from ..compression.token_map import TokenMap, token_map
from ..listener import SILENT
from ..tokens.plans import Plan
from .classifying.denoiser import with_denoiser
from .classifying.prompts import Prompts
from .patching.attach import compression_state, observed
from .patching.compiled import outside_graph

FIRST = -1  # of the layers that are compressed


def map_tokens(
    model: ModelPatcher, latents: Tensor, prompt: list, layer: int, timestep: int, seed: int
) -> list[TokenMap]:
    """One map for each of the latents (B, C, ...), as a VAE gives them, with noise of `timestep`.

    `prompt` is a conditioning; `layer` is a number as in the report, or FIRST.

    Raises ValueError for a model without compression, or a layer that is not compressed then.
    """
    if compression_state(model) is None:
        raise ValueError(
            "BiGain: expected a model that is compressed, got one that is not. Put a BiGain node "
            "in front of this one."
        )
    decisions: list[Decision] = []
    plans: WeakKeyDictionary[Plan, Plan] = WeakKeyDictionary()  # some layers share theirs

    def keep(decision: Decision) -> None:
        with outside_graph():
            plan = plans.setdefault(decision.plan, deepcopy(decision.plan))
            decisions.append(replace(decision, metric=decision.metric.clone(), plan=plan))

    model = observed(model, keep)

    def work(denoiser: Denoiser, latents: Tensor) -> list[TokenMap]:
        maps = []
        for number, latent in enumerate(latents):
            noise = trial_noise(tuple(latent.shape), seed, number, 0).to(latent.device)
            decisions.clear()
            denoiser(latent, Trial(denoiser.schedule.level(timestep), noise), [0])
            found = _at_layer(decisions, layer, timestep, summary(compression_state(model).log))
            deciding = next(one for one in decisions if one.plan is found.plan)
            maps.append(token_map(found, deciding))
        return maps

    one = Prompts(("prompt",), (prompt,))
    plan = TrialPlan((1,), sampler=UniformTimes())  # any timestep may come
    return with_denoiser(model, latents, one, plan, SILENT, work)


def _at_layer(decisions: list[Decision], layer: int, timestep: int, log: str) -> Decision:
    found = (one for one in decisions if layer in (FIRST, one.layer_id.number))
    if decision := next(found, None):
        return decision
    present = sorted({one.layer_id.number for one in decisions})
    raise ValueError(
        f"BiGain: expected a layer that is compressed at timestep {timestep}, got "
        f"{'any' if layer == FIRST else layer} of {present or 'none'}. Choose one of these, or "
        f"another timestep. {log}"
    )
