"""The paired diffusion classifier: trials, looks, and who is dropped (paper, Algorithm 1)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from .designs import Draw, Progress, SpreadGrid
from .levels import NoiseLevel, NoiseSchedule
from .losses import mean_error
from .noise import trial_noise
from .plan import Budget, TrialPlan
from .ranking import Classification, Ranking
from .rules import Look, Staged
from .weighting import error_weight, nats_weight


@dataclass(frozen=True, eq=False)
class Trial:
    """One noise level and one noise (C, ...), the same for all prompts."""

    level: NoiseLevel
    noise: Tensor

    @property
    def timestep(self) -> int:
        return self.level.timestep

    def noised(self, latent: Tensor) -> Tensor:
        """The latent with this noise: signal * latent + noise * eps."""
        return self.level.signal * latent + self.level.noise * self.noise


class Denoiser(Protocol):
    """A model behind a list of prompts."""

    schedule: NoiseSchedule

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        """Clean latents (P, C, ...) that the model predicts from `trial.noised(latent)`."""
        ...


@dataclass(frozen=True)
class Screening:
    """A cheaper model that rules prompts out before the deciding one begins.

    It sees all prompts in `trials` trials of the spread-out grid, and the `keep` best go on. The
    deciding model starts afresh with those: errors of two models are never mixed in one mean.
    `cost` is what one evaluation costs in units of the deciding model's.
    """

    denoiser: Denoiser
    trials: int = 5
    keep: int = 8
    cost: float = 1.0

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
    masks: Tensor | None = None,
    screening: Screening | None = None,
    previous: Classification | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Classification:
    """Rank `prompts` (labels) for each latent of (B, C, ...) by how well they denoise it.

    In every trial all prompts that are left see the same timestep and noise. The noise depends on
    (plan.seed, image number, trial) alone; images are numbered from `first_image`, so a long set
    may be split into batches without changing a result.

    masks: (B, ...), broadcast to the latents, weigh their elements.
    previous: a result for the same images and prompts. Its trials are taken over where this plan
    has the same ones; what comes out is what a run from the start would give.

    Raises ValueError for no prompts, empty or duplicate labels, a plan that does not fit, a model
    that answers with something else than numbers, or a previous result of something else.
    """
    check_labels(prompts)
    _check_masks(masks, latents)
    _check_previous(previous, latents, prompts, plan)
    rankings = []
    for number, latent in enumerate(latents):
        mask = None if masks is None else masks[number]
        known = previous.rankings[number] if previous else None
        digest = _digest(latent, mask)
        if known and known.digest != digest:
            raise ValueError(
                "BiGain: expected a previous result of the same images and masks, got one of "
                f"another (image {number}). Leave the previous result out to start again."
            )
        source = _Source(denoiser, latent, mask, prompts, plan, first_image + number)
        rankings.append(_rank(source, screening, known, digest, clock))
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


@dataclass(frozen=True, eq=False)
class _Source:
    """Where errors of one image come from."""

    denoiser: Denoiser
    latent: Tensor
    mask: Tensor | None
    labels: Sequence[str]
    plan: TrialPlan
    image: int

    def trial(self, draw: Draw) -> Trial:
        noise = trial_noise(tuple(self.latent.shape), self.plan.seed, self.image, draw.noise)
        level = self.denoiser.schedule.level(draw.timestep)
        return Trial(level, draw.sign * noise.to(self.latent.device))

    def errors(self, draw: Draw, prompts: list[int]) -> Tensor:
        """Errors (len(prompts),) of one trial."""
        trial = self.trial(draw)
        clean = self.denoiser(self.latent, trial, prompts)
        weight = error_weight(self.plan.weighting, self.denoiser.schedule, trial.level)
        residuals = weight**0.5 * (clean.float() - self.latent.float())
        errors = mean_error(residuals, self.plan.loss, self.mask)
        broken = [
            k for k, fine in zip(prompts, errors.isfinite().tolist(), strict=True) if not fine
        ]
        if broken:
            raise ValueError(
                "BiGain: expected numbers from the model, got NaN or infinity for the prompt "
                f"{self.labels[broken[0]]!r} at timestep {draw.timestep}. Half precision may "
                "overflow: try fp32 or bf16."
            )
        return errors

    def nats(self, draws: Sequence[Draw]) -> Tensor:
        """(T,) nats that an error of 1 stands for; NaN where errors are not squared."""
        if self.plan.loss != "l2":
            return torch.full((len(draws),), torch.nan, dtype=torch.float64)
        schedule, elements = self.denoiser.schedule, self.latent.numel()
        if self.mask is not None:
            elements = self.mask.float().expand(self.latent.shape).sum().item()
        levels = [schedule.level(draw.timestep) for draw in draws]
        factors = [
            elements
            * nats_weight(schedule, level)
            / (error_weight(self.plan.weighting, schedule, level) or torch.nan)
            for level in levels
        ]
        return torch.tensor(factors, dtype=torch.float64)


@dataclass
class _Trials:
    """The trials of one image so far; errors of another run are taken over where it had them."""

    source: _Source
    known: Ranking | None
    draws: list[Draw] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)

    def __post_init__(self):
        draws = self.known.draws if self.known else ()
        self._finished = {draw: column for column, draw in enumerate(draws)}

    def run(self, draw: Draw, prompts: list[int]) -> None:
        column = torch.full((len(self.source.labels),), torch.nan, dtype=torch.float64)
        if draw in self._finished:
            column[prompts] = self.known.errors[prompts, self._finished[draw]].double()
        missing = [k for k in prompts if column[k].isnan()]
        if missing:
            column[missing] = self.source.errors(draw, missing)
        self.draws.append(draw)
        self.columns.append(column)

    def of(self, prompts: list[int]) -> Tensor:
        """(len(prompts), n)."""
        if not self.columns:
            return torch.zeros(len(prompts), 0, dtype=torch.float64)
        return torch.stack(self.columns, 1)[prompts]


def _rank(
    source: _Source,
    screening: Screening | None,
    known: Ranking | None,
    digest: str,
    clock: Callable[[], float],
) -> Ranking:
    count, plan = len(source.labels), source.plan
    alive, screened, cost = list(range(count)), None, 1.0
    start = clock()
    if screening is not None and screening.keep < count:
        quick = replace(
            plan, trials=(screening.trials,), keep=(1,), design=SpreadGrid(), rule=Staged()
        )
        cheap = replace(source, denoiser=screening.denoiser, plan=quick)
        screened = _rank(cheap, None, known.screening if known else None, "", clock)
        alive, cost = sorted(screened.ranked()[: screening.keep]), screening.cost
    spent = cost * screened.calls if screened else 0.0
    survived = torch.zeros(count, dtype=torch.long)
    trials, tied = _Trials(source, known), ()
    for look, keep in zip(plan.looks, plan.kept(count), strict=True):
        over = False
        while len(trials.draws) < look and not over:
            progress = Progress(plan.seed, source.image, tuple(trials.draws), trials.of(alive))
            trials.run(plan.design.draw(plan.trials, progress), alive)
            spent += len(alive)
            over = _is_over(plan.budget, spent + len(alive), clock() - start)
        if len(trials.draws) < look:
            break
        view = Look(trials.of(alive), tuple(trials.draws), plan.design, count)
        if plan.rule.ties(view):
            tied = tuple(alive)
            break
        kept = plan.rule.keeps(view)
        best_first = view.scores[kept].argsort(stable=True)[:keep].tolist()
        alive = sorted(alive[kept[row]] for row in best_first)
        survived[alive] += 1
        decided = len(alive) == 1 and not plan.rule.goes_on_alone
        if decided or _is_over(plan.budget, spent + len(alive), clock() - start):
            break
    return Ranking(
        errors=torch.stack(trials.columns, 1),
        stage=survived,
        timesteps=torch.tensor([draw.timestep for draw in trials.draws]),
        draws=tuple(trials.draws),
        design=plan.design,
        nats=source.nats(trials.draws),
        planned=plan.looks[-1],
        tied=tied,
        digest=digest,
        screening=screened,
        cost=cost,
    )


def _is_over(budget: Budget, next_spent: float, seconds: float) -> bool:
    """Whether another trial would go beyond the budget."""
    return (budget.calls is not None and next_spent > budget.calls) or (
        budget.seconds is not None and seconds >= budget.seconds
    )


def _digest(latent: Tensor, mask: Tensor | None) -> str:
    """Tells images apart."""
    digest = hashlib.sha256(latent.float().cpu().contiguous().numpy().tobytes())
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
