"""The paired diffusion classifier: trials, looks, and who is dropped (paper, Algorithm 1)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .datasets.labels import class_numbers
from .elimination.elimination_rules import EliminationStep, Staged
from .elimination.snapshot import Snapshot
from .elimination.trial_plan import Budget, TrialPlan
from .errors import Denoiser, ErrorSource
from .results.ranking import Classification, Ranking
from .trials.samplers import Progress, SpreadGrid, TrialSpec, first_of_each_first


@dataclass(frozen=True)
class Screening:
    """A cheaper model that rules prompts out before the deciding one begins.

    It sees all prompts in `trials` trials of the spread-out grid, and the `keep` best go on, the
    best of all classes before the second best of any. The deciding model starts afresh with those:
    errors of two models are never mixed in one mean. `cost` is what one evaluation costs in units
    of the deciding model's, `model` its name.
    """

    denoiser: Denoiser
    trials: int = 5
    keep: int = 8
    cost: float = 1.0
    model: str = ""

    def __post_init__(self):
        if self.keep < 1:
            raise ValueError(f"BiGain: expected screening to keep a prompt, got {self.keep}.")


@torch.no_grad()
def classify(
    denoiser: Denoiser,
    latents: Tensor,
    prompts: Sequence[str],
    plan: TrialPlan,
    first_image: int = 0,
    *,
    classes: Sequence[str] | None = None,
    masks: Tensor | None = None,
    model: str = "",
    screening: Screening | None = None,
    previous: Classification | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_trial: Callable[[Snapshot], object] | None = None,
) -> Classification:
    """Rank `prompts` (labels) for each latent of (B, C, ...) by how well they denoise it.

    In every trial all prompts that are left see the same timestep and noise. The noise depends on
    (plan.seed, image number, trial) alone; images are numbered from `first_image`, so a long set
    may be split into batches without changing a result.

    classes: what each prompt stands for, where several stand for the same. Trials end as soon as
    all prompts that are left are of one class.
    masks: (B, ...), broadcast to the latents, weigh their elements.
    model: tells models apart; a previous result must come from the same one.
    previous: a result for the same images and prompts. Its trials are taken over where this plan
    has the same ones; what comes out is what a run from the start would give.
    on_trial: is told how an image stands after each trial.

    Raises ValueError for no prompts, empty or duplicate labels, a plan that does not fit, a model
    that answers with something else than numbers, or a previous result of something else.
    """
    check_labels(prompts)
    classes = prompts if classes is None else classes
    if len(classes) != len(prompts):
        raise ValueError(
            f"BiGain: expected a class for each of {len(prompts)} prompts, got {len(classes)}."
        )
    numbers = class_numbers(classes)
    _check_masks(masks, latents)
    _check_previous(previous, latents, prompts, plan)
    rankings = []
    for number, latent in enumerate(latents):
        mask = None if masks is None else masks[number]
        known = previous.rankings[number] if previous else None
        digest = _digest(latent, mask, first_image + number)
        if known and known.digest != digest:
            raise ValueError(
                "BiGain: expected a previous result of the same images and masks, got one of "
                f"another (image {number}). Leave the previous result out to start again."
            )
        source = ErrorSource(denoiser, latent, prompts, plan, first_image + number, mask, model)
        rankings.append(_rank(source, numbers, screening, known, digest, clock, on_trial))
    return Classification(tuple(prompts), tuple(rankings), plan)


def check_labels(labels: Sequence[str]) -> None:
    """Raise ValueError unless there is at least one label and all are different and not empty."""
    if not labels:
        raise ValueError(
            "BiGain: expected at least one prompt, got none. Write one label per line."
        )
    empty = [number for number, label in enumerate(labels, 1) if not label.strip()]
    if empty:
        raise ValueError(
            f"BiGain: expected a label on every line, got an empty one on line {empty[0]} of "
            f"{len(labels)}. Remove the line or fill it in."
        )
    seen: set[str] = set()
    repeated = sorted({label for label in labels if label in seen or seen.add(label)})
    if repeated:
        raise ValueError(
            f"BiGain: expected different labels, got {repeated[0]!r} more than once. Equal prompts "
            "cannot be told apart; remove one or make it more specific."
        )


class _Trials:
    """The trials of one image so far; errors of another run are taken over where it had them."""

    def __init__(self, source: ErrorSource, known: Ranking | None):
        if known and known.model != source.model:
            raise ValueError(
                "BiGain: expected a previous result of the same model, got one of "
                f"{known.model or 'an unnamed one'} for {source.model or 'an unnamed one'}. "
                "Weights, LoRAs, compression, sampling and encoded prompts must be the same; leave "
                "the previous result out to start again."
            )
        self.source, self.known = source, known
        self.specs: list[TrialSpec] = []
        shape = len(source.labels), source.plan.elimination_steps[-1]
        self._errors = torch.full(shape, torch.nan, dtype=torch.float64)
        self._finished = {spec: n for n, spec in enumerate(known.specs)} if known else {}

    def run(self, spec: TrialSpec, prompts: list[int]) -> None:
        column = self._errors[:, len(self.specs)]
        if spec in self._finished:
            column[prompts] = self.known.errors[prompts, self._finished[spec]].double()
        unknown = column[prompts].isnan().tolist()
        missing = [k for k, lacks in zip(prompts, unknown, strict=True) if lacks]
        if missing:
            column[missing] = self.source.errors(spec, missing)
        self.specs.append(spec)

    @property
    def errors(self) -> Tensor:
        """(P, n)."""
        return self._errors[:, : len(self.specs)]


def _rank(
    source: ErrorSource,
    classes: Sequence[int],
    screening: Screening | None,
    known: Ranking | None,
    digest: str,
    clock: Callable[[], float],
    on_trial: Callable[[Snapshot], object] | None,
) -> Ranking:
    count, plan = len(source.labels), source.plan
    alive, screened, cost = list(range(count)), None, 1.0
    start = clock()
    if screening is not None and screening.keep < count:
        quick = replace(
            plan, trials=(screening.trials,), keep=(1,), sampler=SpreadGrid(), rule=Staged()
        )
        cheap = replace(source, denoiser=screening.denoiser, plan=quick, model=screening.model)
        screened = _rank(
            cheap, classes, None, known.screening if known else None, "", clock, on_trial
        )
        best = first_of_each_first(screened.ranked(), classes)[: screening.keep]
        alive, cost = sorted(best), screening.cost
    spent = cost * screened.calls if screened else 0.0
    survived = torch.zeros(count, dtype=torch.long)
    trials, tied = _Trials(source, known), ()
    for step, keep in zip(plan.elimination_steps, plan.kept(count), strict=True):
        over, present = False, [classes[k] for k in alive]
        while len(trials.specs) < step and not over:
            progress = Progress(
                plan.seed, source.image, tuple(trials.specs), trials.errors[alive], present
            )
            trials.run(plan.sampler.draw(plan.trials, progress), alive)
            spent += len(alive)
            if on_trial:
                specs = tuple(trials.specs)
                on_trial(Snapshot(source.image, tuple(alive), trials.errors, specs, plan))
            over = _is_over(plan.budget, spent + len(alive), clock() - start)
        if len(trials.specs) < step:
            break
        view = EliminationStep(
            trials.errors[alive], tuple(trials.specs), plan.sampler, count, present
        )
        if plan.rule.ties(view):
            tied = tuple(alive)
            break
        alive = [alive[row] for row in plan.rule.keeps(view, keep)]
        survived[alive] += 1
        one_left = len({classes[k] for k in alive}) == 1
        decided = one_left and not plan.rule.goes_on_alone
        if decided or _is_over(plan.budget, spent + len(alive), clock() - start):
            break
    return Ranking(
        errors=trials.errors.clone(),
        stage=survived,
        timesteps=torch.tensor([spec.timestep for spec in trials.specs]),
        specs=tuple(trials.specs),
        sampler=plan.sampler,
        nats=source.nats(trials.specs),
        planned=plan.elimination_steps[-1],
        tied=tied,
        digest=digest,
        model=source.model,
        screening=screened,
        cost=cost,
    )


def _is_over(budget: Budget, next_spent: float, seconds: float) -> bool:
    """Whether another trial would go beyond the budget."""
    return (budget.calls is not None and next_spent > budget.calls) or (
        budget.seconds is not None and seconds >= budget.seconds
    )


def _digest(latent: Tensor, mask: Tensor | None, image: int) -> str:
    """Tells images apart."""
    digest = hashlib.sha256(str(image).encode())
    digest.update(latent.float().cpu().contiguous().numpy().tobytes())
    if mask is not None:
        digest.update(mask.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_masks(masks: Tensor | None, latents: Tensor) -> None:
    if masks is None:
        return
    if len(masks) != len(latents):
        raise ValueError(
            f"BiGain: expected a mask for each of {len(latents)} latents, got {len(masks)}."
        )
    if (masks < 0).any() or not (masks.flatten(1).sum(1) > 0).all():
        raise ValueError(
            "BiGain: expected masks of at least 0 that leave something to look at, got "
            "one that is negative or empty."
        )


def _check_previous(
    previous: Classification | None, latents: Tensor, prompts: Sequence[str], plan: TrialPlan
) -> None:
    if previous is None:
        return
    taken = [(p.seed, p.loss, p.weighting) for p in (previous.plan, plan)]
    same = previous.labels == tuple(prompts) and len(previous.rankings) == len(latents)
    if taken[0] != taken[1] or not same:
        raise ValueError(
            "BiGain: expected a previous result with the same images, prompts, seed, loss and "
            f"weighting, got seed, loss, weighting {taken[0]} for {taken[1]}, "
            f"{len(previous.labels)} prompts for {len(prompts)}. Leave it out to start again."
        )
