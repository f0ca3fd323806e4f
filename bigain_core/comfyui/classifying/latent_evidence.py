"""Evidence maps and the ranking of images with a model of the host."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import (
    Denoiser,
    ErrorSource,
    Lead,
    Ranking,
    SpreadGrid,
    TrialPlan,
    classify,
    evidence_map,
)
from ...classification.evidence.evidence_images import evidence_plane
from ...classification.evidence.image_ranking import ImageRanking, rank_images
from ...listener import SILENT, Listener
from .denoiser import with_denoiser
from .identity import settings
from .prompts import Prompts


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for `better` over `worse` at each place of a latent: `plane` (H, W)."""

    better: str
    worse: str
    lead: Lead
    plane: Tensor

    def __str__(self) -> str:
        return (
            f"{self.better} over {self.worse}: margin {self.plane.sum().item():.6g}, standard "
            f"error {self.lead.standard_error:.3g}, over {self.lead.trials} trials"
        )


def find_evidence(
    model: ModelPatcher,
    latents: Tensor,
    prompts: Prompts,
    plan: TrialPlan,
    better: str,
    worse: str,
    listener: Listener = SILENT,
) -> list[Evidence]:
    """Evidence in each of the latents (B, C, ...) for `better` over `worse`.

    An empty name stands for the best prompt that is left. With both names the other prompts are
    not looked at.

    Raises ValueError for a name that is no prompt, equal names and less than two prompts.
    """
    prompts = _of_interest(prompts, better, worse)
    labels, name = prompts.labels, settings(model, prompts)

    def work(denoiser: Denoiser, latents: Tensor) -> list[Evidence]:
        result = classify(
            denoiser, latents, labels, plan, classes=prompts.classes, model=name, listener=listener
        )
        found = []
        for number, (latent, ranking) in enumerate(zip(latents, result.rankings, strict=True)):
            first, second = _pair(ranking, prompts, better, worse)
            source = ErrorSource(denoiser, latent, labels, plan, number)
            plane = evidence_plane(evidence_map(source, ranking, first, second))
            lead = ranking.lead(first, second)
            found.append(Evidence(labels[first], labels[second], lead, plane))
        return found

    return with_denoiser(model, latents, prompts, plan, listener, work)


def max_calls(plan: TrialPlan, prompts: Prompts, better: str, worse: str) -> int:
    """Network evaluations for one image at most; the trials of the pair run twice."""
    return (
        plan.calls(len(_of_interest(prompts, better, worse).labels))
        + 2 * plan.elimination_steps[-1]
    )


def _of_interest(prompts: Prompts, better: str, worse: str) -> Prompts:
    named = [name for name in (better, worse) if name]
    missing = [name for name in named if name not in prompts.labels]
    if missing:
        raise ValueError(
            f"BiGain: expected one of the prompts, such as {prompts.labels[0]!r}, got "
            f"{missing[0]!r}. Leave it empty for the best one."
        )
    if len(set(prompts.labels)) < 2 or (named and better == worse):
        raise ValueError(
            "BiGain: expected two different prompts to compare, got "
            f"{better or prompts.labels[0]!r} twice or alone. Name another one."
        )
    if len(named) < 2:
        return prompts
    chosen = [prompts.labels.index(name) for name in named]
    pick = (prompts.labels, prompts.conditionings, prompts.classes)
    return Prompts(*(tuple(values[k] for k in chosen) for values in pick))


def _pair(ranking: Ranking, prompts: Prompts, better: str, worse: str) -> tuple[int, int]:
    """Where no name is given, the best prompt; another class than that of the other one's."""
    order, labels, classes = ranking.order, prompts.labels, prompts.classes
    fixed = labels.index(better or worse) if better or worse else order[0]
    others = [k for k in order if classes[k] != classes[fixed]] or [k for k in order if k != fixed]
    if better and worse:
        return fixed, labels.index(worse)
    return (others[0], fixed) if worse else (fixed, others[0])


def rank_for_prompt(
    model: ModelPatcher,
    latents: Tensor,
    prompt: list,
    empty: list,
    trials: int,
    seed: int,
    listener: Listener = SILENT,
) -> ImageRanking:
    """Rank latents (N, C, ...) by how much a conditioning lowers their error against an empty one.

    Raises ValueError as `classify_latents` does.
    """
    plan = TrialPlan((trials,), seed=seed, sampler=SpreadGrid())
    pair = Prompts(("prompt", "empty prompt"), (prompt, empty))

    def work(denoiser: Denoiser, latents: Tensor) -> ImageRanking:
        return rank_images(denoiser, latents, plan, settings(model, pair))

    return with_denoiser(model, latents, pair, plan, listener, work)
