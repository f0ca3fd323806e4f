"""Whether a prompt fits an image at all: what the error without a prompt tells, and what not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.accuracy import held_out
from benchmarks.data import CLASS_NAMES
from benchmarks.dit_runner import DiTRunner, load_dit
from bigain_core.classification import ErrorSource, SpreadGrid, TrialPlan, TrialSpec
from bigain_core.classification.evidence.baseline import evidence_bits
from bigain_core.classification.trials.timesteps import spread_timesteps
from bigain_core.models.checkpoint import BUNDLED_MODEL, read_checkpoint

TRIALS, WRONG = 6, 4
EMPTY = len(CLASS_NAMES)  # the class of no prompt
SURE = "standard errors"
EDGES = (0.0, 0.1, 0.3, 0.7, 0.9, 1.01)

Markdown = Callable[[Sequence[str], object], None]


def measured(folder: Path, kind: str, count: int) -> Tensor:
    """(N, 1 + WRONG + 1, T) errors: of the class, of four drawn wrong ones, of no prompt.

    Kept in a file, image by image; a run that was stopped goes on.
    """
    path = folder / f"fits-{kind}.pt"
    images, classes = held_out(kind, count)
    plan = TrialPlan((TRIALS,), (1,), sampler=SpreadGrid())
    found = torch.load(path, weights_only=True) if path.exists() else []
    runner = DiTRunner(load_dit(read_checkpoint(BUNDLED_MODEL)))
    for number in tqdm(range(len(found), count), desc=kind, mininterval=30):
        label, draw = int(images.labels[number]), torch.Generator().manual_seed(number)
        order = torch.randperm(len(classes), generator=draw).tolist()
        wrong = [classes[k] for k in order if classes[k] != label][:WRONG]
        asked = [label, *wrong, EMPTY]
        denoiser = runner.denoiser(asked)
        source = ErrorSource(denoiser, images.pixels[number], [str(k) for k in asked], plan, number)
        rows = [source.errors(spec, range(len(asked))) for spec in specs()]
        found.append(torch.stack(rows, 1))
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
    return torch.stack(found[:count])


def specs() -> list[TrialSpec]:
    return [TrialSpec(*spread) for spread in spread_timesteps()[:TRIALS]]


def nats() -> Tensor:
    """(T,) nats that an error of 1 stands for."""
    images, _ = held_out("digits", 1)
    runner = DiTRunner(load_dit(read_checkpoint(BUNDLED_MODEL)))
    plan = TrialPlan((TRIALS,), (1,), sampler=SpreadGrid())
    return ErrorSource(runner.denoiser([0]), images.pixels[0], ["0"], plan).nats(specs())


def cases(errors: Tensor, weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores (2N,) of the best prompt where the class is among the prompts and where it is not.

    evidence: bits for it against no prompt. against the others: bits against their mean error.
    standard errors: its lead over no prompt in those. margin: its lead over the runner-up.
    """
    scores: dict[str, list[float]] = {}
    for prompts in (errors[:, :-1], errors[:, 1:-1]):
        for rows, empty in zip(prompts, errors[:, -1], strict=True):
            order = rows.mean(1).argsort().tolist()
            best, others = rows[order[0]], rows[order[1:]]
            lead = empty - best
            found = {
                "evidence": evidence_bits(lead, weights, specs(), SpreadGrid()),
                "against the others": evidence_bits(
                    others.mean(0) - best, weights, specs(), SpreadGrid()
                ),
                "standard errors": (lead.mean() / (lead.std() / len(lead) ** 0.5)).item(),
                "margin": (others[0] - best).mean().item(),
            }
            for name, score in found.items():
                scores.setdefault(name, []).append(score)
    fits = torch.arange(2 * len(errors)) < len(errors)
    return {name: torch.tensor(column).double() for name, column in scores.items()}, fits


def area_under_curve(scores: Tensor, fits: Tensor) -> float:
    """Probability that a case that fits has the larger score; ties count half."""
    pairs = scores[fits][:, None] - scores[~fits][None]
    return ((pairs > 0).double() + (pairs == 0).double() / 2).mean().item()


def calibrated(scores: Tensor, fits: Tensor, steps: int = 50) -> tuple[float, float]:
    """Offset and slope of the logistic curve of fitting over the score, by Newton's method.

    With the targets of Platt (1999), so that they stay finite where scores part all cases.
    """
    right, wrong = fits.sum().double(), (~fits).sum().double()
    targets = torch.where(fits, (right + 1) / (right + 2), 1 / (wrong + 2))
    rows = torch.stack([torch.ones_like(scores), scores], 1)
    weights = torch.zeros(2, dtype=torch.float64)
    for _ in range(steps):
        chance = (rows @ weights).sigmoid()
        slope = rows.T @ (chance - targets)
        curve = rows.T @ (rows * (chance * (1 - chance))[:, None])
        weights = weights - torch.linalg.solve(curve + 1e-9 * torch.eye(2), slope)
    return weights[0].item(), weights[1].item()


def report(folder: Path, counts: dict[str, int], markdown: Markdown) -> None:
    errors = torch.cat([measured(folder, kind, count) for kind, count in counts.items()])
    scores, fits = cases(errors, nats())
    images = len(errors)
    print(f"\n{images} images, {WRONG + 1} prompts with the class or {WRONG} without it.\n")
    learned = torch.arange(images).repeat(2) % 2 == 0
    rows, found = [], {}
    for name, column in scores.items():
        scale = column[learned].std()
        offset, slope = calibrated(column[learned] / scale, fits[learned])
        chance = (offset + slope * column[~learned] / scale).sigmoid()
        found[name] = offset, (slope / scale).item(), chance
        miss = (chance - fits[~learned].double()).square().mean().item()
        rows.append([name, f"{area_under_curve(column, fits):.3f}", f"{miss:.3f}"])
    markdown(["score", "area under the curve", "Brier score, other half"], rows)
    offset, slope, chance = found[SURE]
    print(f"fits = 1 / (1 + exp(-({offset:.3g} + {slope:.3g} {SURE}))), learned on one half:\n")
    lines = _reliability(chance, fits[~learned])
    markdown(["mean probability", "cases of the other half", "that fit"], lines)


def _reliability(chance: Tensor, fits: Tensor):
    for low, high in pairwise(EDGES):
        inside = (chance >= low) & (chance < high)
        if inside.any():
            share = fits[inside].double().mean().item()
            yield [f"{chance[inside].mean():.3f}", int(inside.sum()), f"{share:.3f}"]
