"""The paired diffusion classifier: trials, and who is dropped when (paper, Algorithm 1)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..listener import SILENT, Listener
from .differences import differences
from .elimination.elimination_rules import EliminationStep
from .elimination.trial_plan import TrialPlan
from .errors import Denoiser, ErrorSource
from .results.ranking import Classification, Provenance, Ranking
from .results.snapshot import Snapshot
from .results.trial_table import TrialTable
from .trials.prompt_classes import class_numbers, first_of_each_first
from .trials.samplers import Progress, TrialSpec


@dataclass(frozen=True)
class Screening:
    """What a cheaper model found for all prompts of the same images, under `plan.screening()`.

    The `keep` best go on, the best of all classes before the second best of any. The deciding model
    starts afresh with those: errors of two models are never mixed in one mean. `cost` is what one
    evaluation of the cheaper model costs in units of the deciding one's, and `seconds` what an
    image took; both count towards the budget.
    """

    result: Classification
    keep: int = 8
    cost: float = 1.0
    seconds: float = 0.0

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
    model: Mapping | None = None,
    screening: Screening | None = None,
    previous: Classification | None = None,
    clock: Callable[[], float] = time.monotonic,
    listener: Listener = SILENT,
) -> Classification:
    """Rank `prompts` (labels) for each latent of (B, C, ...) by how well they denoise it.

    In every trial all prompts that are left see the same timestep and noise. The noise depends on
    (plan.seed, image number, trial) alone; images are numbered from `first_image`, so a long set
    may be split into batches without changing a result.

    classes: what each prompt stands for, where several stand for the same. Trials end as soon as
    all prompts that are left are of one class.
    masks: (B, ...), broadcast to the latents, weigh their elements.
    model: settings that tell models apart, its name as "model" among them; those of a previous
    result must be the same.
    screening: which prompts go on; one that keeps them all is ignored.
    previous: a result for the same images and prompts. Its trials are taken over where this plan
    has the same ones; what comes out is what a run from the start would give.
    clock: in seconds; an image's time starts with its first evaluation.
    listener: hears of each trial.

    Raises ValueError for no prompts, empty or duplicate labels, a plan that does not fit, a model
    that answers with something else than numbers, or a previous result of something else.
    """
    check_labels(prompts)
    classes = prompts if classes is None else classes
    if len(classes) != len(prompts):
        raise ValueError(
            f"BiGain: expected a class for each of {len(prompts)} prompts, got {len(classes)}."
        )
    _check_masks(masks, latents)
    _check_previous(previous, latents, prompts, plan)
    if screening is not None and screening.keep >= len(prompts):
        screening = None
    rankings = []
    for number, latent in enumerate(latents):
        mask = None if masks is None else masks[number]
        named = model or {}
        source = ErrorSource(denoiser, latent, prompts, plan, first_image + number, mask, named)
        provenance = Provenance(_digest(source), named)
        if screening is not None:
            screened = screening.result.rankings[number]
            provenance = Provenance(provenance.digest, named, screened, screening.cost)
        known = previous.rankings[number] if previous else None
        _check_provenance(known, provenance, source.image)
        trials = _Trials(source, known.table if known else None, clock)
        rankings.append(_rank(trials, class_numbers(classes), provenance, screening, listener))
    return Classification(
        tuple(prompts), tuple(rankings), plan, screening.result if screening else None
    )


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

    def __init__(self, source: ErrorSource, known: TrialTable | None, clock: Callable[[], float]):
        self.source, self.known, self.clock = source, known, clock
        self.specs: list[TrialSpec] = []
        self._started: float | None = None
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
            self._started = self.clock() if self._started is None else self._started
            column[missing] = self.source.errors(spec, missing)
        self.specs.append(spec)

    @property
    def table(self) -> TrialTable:
        errors = self._errors[:, : len(self.specs)]
        return TrialTable(errors, tuple(self.specs), self.source.plan.sampler)

    @property
    def seconds(self) -> float:
        """Time since the first evaluation."""
        return 0.0 if self._started is None else self.clock() - self._started


def _rank(
    trials: _Trials,
    classes: Sequence[int],
    provenance: Provenance,
    screening: Screening | None,
    listener: Listener,
) -> Ranking:
    plan, image, count = trials.source.plan, trials.source.image, len(classes)
    alive, spent = list(range(count)), 0.0
    if screening is not None:
        best = first_of_each_first(provenance.screening.ranked(), classes)[: screening.keep]
        alive, spent = sorted(best), screening.cost * provenance.screening.calls
    earlier = screening.seconds if screening else 0.0
    stage = torch.zeros(count, dtype=torch.long)
    for step, keep in zip(plan.elimination_steps, plan.kept(count), strict=True):
        over, present = False, [classes[k] for k in alive]
        while len(trials.specs) < step and not over:
            table = trials.table
            progress = Progress(plan.seed, image, table.specs, table.errors[alive], present)
            trials.run(plan.sampler.draw(plan.trials, progress), alive)
            spent += len(alive)
            listener.on_trial(Snapshot(image, tuple(alive), trials.table, plan))
            over = plan.budget.is_over(spent + len(alive), earlier + trials.seconds)
        if len(trials.specs) < step:
            break
        table = trials.table
        view = EliminationStep(table.errors[alive], table.specs, plan.sampler, count, present)
        alive = [alive[row] for row in plan.rule.keeps(view, keep)]
        stage[alive] += 1
        decided = len({classes[k] for k in alive}) == 1 and not plan.rule.goes_on_alone
        if decided or plan.budget.is_over(spent + len(alive), earlier + trials.seconds):
            break
    nats = trials.source.nats(trials.specs)
    table = replace(trials.table, errors=trials.table.errors.clone(), nats=nats)
    return Ranking(table, stage, plan.elimination_steps[-1], provenance)


def _digest(source: ErrorSource) -> str:
    """Tells images apart."""
    digest = hashlib.sha256(str(source.image).encode())
    for tensor in (source.latent, source.mask):
        if tensor is not None:
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
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
    if len(previous.rankings) != len(latents):
        raise ValueError(
            f"BiGain: expected a previous result of the same {len(latents)} images, got one of "
            f"{len(previous.rankings)}. Leave it out to start again."
        )
    taken = [
        {"prompts": list(labels), "seed": p.seed, "loss": p.loss, "weighting": p.weighting}
        for labels, p in ((previous.labels, previous.plan), (prompts, plan))
    ]
    _check_same(*taken)


def _check_same(found: Mapping, wanted: Mapping) -> None:
    if differing := differences(found, wanted):
        raise ValueError(
            f"BiGain: expected a previous result of the same {' and '.join(differing)}, got "
            f"{'; '.join(differing.values())}. Leave the previous result out to start again."
        )


def _check_provenance(known: Ranking | None, wanted: Provenance, image: int) -> None:
    if known is None:
        return
    if known.provenance.digest != wanted.digest:
        raise ValueError(
            "BiGain: expected a previous result of the same images and masks, got one of "
            f"another (image {image}). Leave the previous result out to start again."
        )
    _check_same(known.provenance.model, wanted.model)
