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
from benchmarks.dit_runner import SMALL_DIT, DiTRunner, load_dit
from bigain_core.classification import ErrorSource, SpreadGrid, TrialPlan
from bigain_core.classification.evidence.baseline import evidence_bits
from bigain_core.classification.results.fit import (
    FITS,
    OFFSET,
    SLOPE,
    TRIALS,
    fit_trials,
    leads,
)
from bigain_core.models.checkpoint import read_checkpoint

WRONG = 4
EMPTY = len(CLASS_NAMES)  # the class of no prompt
EVEN = "lead over no prompt, in standard errors for even trials"
MARGIN, CHANCE = "margin to the runner-up", "drawn at random"
EDGES = (0.0, 0.1, 0.3, 0.7, 0.9, 1.01)

Markdown = Callable[[Sequence[str], object], None]


def measured(folder: Path, kind: str, count: int) -> Tensor:
    """(N, 1 + WRONG + 1, T) errors: of the class, of four drawn wrong ones, of no prompt.

    Kept in a file, image by image; a run that was stopped goes on.
    """
    path = folder / f"fits-{kind}-{TRIALS}.pt"
    images, classes = held_out(kind, count)
    plan = TrialPlan((TRIALS,), (1,), sampler=SpreadGrid())
    found = torch.load(path, weights_only=True) if path.exists() else []
    runner = DiTRunner(load_dit(read_checkpoint(SMALL_DIT)))
    for number in tqdm(range(len(found), count), desc=kind, mininterval=30):
        label, draw = int(images.labels[number]), torch.Generator().manual_seed(number)
        order = torch.randperm(len(classes), generator=draw).tolist()
        wrong = [classes[k] for k in order if classes[k] != label][:WRONG]
        asked = [label, *wrong, EMPTY]
        denoiser = runner.denoiser(asked)
        source = ErrorSource(denoiser, images.pixels[number], [str(k) for k in asked], plan, number)
        rows = [source.errors(spec, range(len(asked))) for spec in fit_trials()]
        found.append(torch.stack(rows, 1))
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
    return torch.stack(found[:count])


def nats() -> Tensor:
    """(T,) nats that an error of 1 stands for."""
    images, _ = held_out("digits", 1)
    runner = DiTRunner(load_dit(read_checkpoint(SMALL_DIT)))
    plan = TrialPlan((TRIALS,), (1,), sampler=SpreadGrid())
    return ErrorSource(runner.denoiser([0]), images.pixels[0], ["0"], plan).nats(fit_trials())


def cases(errors: Tensor, weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores (2N,) of the best prompt where the class is among the prompts and where it is not."""
    scores: dict[str, list[float]] = {}
    for prompts in (errors[:, :-1], errors[:, 1:-1]):
        for rows, empty in zip(prompts, errors[:, -1], strict=True):
            order = rows.mean(1).argsort().tolist()
            best, others = rows[order[0]], rows[order[1:]]
            gains = {
                "no prompt": empty - best,
                "the mean of the other prompts": others.mean(0) - best,
                "the runner-up": others[0] - best,
            }
            for name, gain in gains.items():
                found = {
                    f"lead over {name}, in standard errors": leads(gain).item(),
                    f"bits against {name}": evidence_bits(
                        gain, weights, fit_trials()[: len(gain)], SpreadGrid()
                    ),
                }
                for kind, score in found.items():
                    scores.setdefault(kind, []).append(score)
            scores.setdefault(MARGIN, []).append(gains["the runner-up"].mean().item())
            even, specs = SpreadGrid(), fit_trials()[: len(best)]
            lead = even.score(empty - best, specs) / even.variance(empty - best, specs).sqrt()
            scores.setdefault(EVEN, []).append(lead.item())
    fits = torch.arange(2 * len(errors)) < len(errors)
    return {name: torch.tensor(column).double() for name, column in scores.items()}, fits


def tags(errors: Tensor) -> tuple[Tensor, Tensor]:
    """Leads (5N,) of every prompt by itself over no prompt, and whether it names the image."""
    found = leads(errors[:, -1:] - errors[:, :-1])
    return found.flatten(), (torch.arange(found.shape[1]) == 0).repeat(len(errors))


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
    errors = torch.cat([measured(folder, kind, count) for kind, count in counts.items()]).double()
    scores, fits = cases(errors, nats())
    images = len(errors)
    print(f"\n{images} images, {WRONG + 1} prompts with the class or {WRONG} without it.\n")
    learned = torch.arange(images).repeat(2) % 2 == 0
    scores[CHANCE] = torch.rand(2 * images, generator=torch.Generator().manual_seed(0)).double()
    rows = []
    for name, column in sorted(scores.items(), key=lambda item: -area_under_curve(item[1], fits)):
        scale = column[learned].std()
        offset, slope = calibrated(column[learned] / scale, fits[learned])
        chance = (offset + slope * column[~learned] / scale).sigmoid()
        miss = (chance - fits[~learned].double()).square().mean().item()
        rows.append([name, f"{area_under_curve(column, fits):.3f}", f"{miss:.3f}"])
    markdown(["score of the best prompt", "area under the curve", "Brier score, other half"], rows)
    alone, named = tags(errors)
    lead = scores["lead over no prompt, in standard errors"]
    for what, score, right in (("the best prompt", lead, fits), ("each by itself", alone, named)):
        offset, slope = calibrated(score, right)
        area = area_under_curve(score, right)
        print(f"\n{what}: area under the curve {area:.3f}, curve {offset:.2f} {slope:+.2f} z")
        chance = (OFFSET + SLOPE * score).sigmoid()
        missed = (chance[right] < FITS).double().mean()
        wrong = (chance[~right] >= FITS).double().mean()
        print(
            f"under {OFFSET} {SLOPE:+} z {missed:.3f} of those that fit are below {FITS}, "
            f"{wrong:.3f} of the others above\n"
        )
        head = ["mean probability", f"cases, {what}", "that fit"]
        markdown(head, _reliability(chance, right))


def _reliability(chance: Tensor, fits: Tensor):
    for low, high in pairwise(EDGES):
        inside = (chance >= low) & (chance < high)
        if inside.any():
            share = fits[inside].double().mean().item()
            yield [f"{chance[inside].mean():.3f}", int(inside.sum()), f"{share:.3f}"]
