"""Whether a prompt fits an image at all: what the error without a prompt tells, and what not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import accuracy, drawings
from benchmarks.data import Images
from benchmarks.dit_runner import SMALL_DIT, DiTRunner, load_dit
from benchmarks.training import SEEDS_APART
from bigain_core.classification import ErrorSource, SpreadGrid, TrialPlan
from bigain_core.classification.evidence.baseline import evidence_bits
from bigain_core.classification.results.fit import (
    FITS,
    OFFSET,
    SLOPE,
    TRIALS,
    WRONG,
    ahead_of_others,
    fit_trials,
    leads,
    probability,
)
from bigain_core.models.checkpoint import BUNDLED_MODEL, read_checkpoint

MODELS = {  # which images each is asked about
    "the bundled model": (BUNDLED_MODEL, ("drawings",)),
    "the small DiT": (SMALL_DIT, ("digits", "shapes")),
}
CHOSEN = 4  # wrong prompts
PLAN = TrialPlan((TRIALS,), (1,), sampler=SpreadGrid())
EVEN = "lead over no prompt, in standard errors for even trials"
MARGIN, CHANCE = "margin to the runner-up", "drawn at random"
EDGES = (0.0, 0.1, 0.3, 0.7, 0.9, 1.01)

Markdown = Callable[[Sequence[str], object], None]


def held_out(kind: str, count: int, cache: Path) -> tuple[Images, range]:
    """`count` images of a kind that were never trained on, and the classes to choose wrong from."""
    if kind != "drawings":
        return accuracy.held_out(kind, count)
    pairs, rasters = drawings.held_out().nonzero()[:count, 0], drawings.read_drawings(cache)
    pixels = [
        rasters.images(pair[None], torch.Generator().manual_seed(SEEDS_APART * (1 + number)))
        for number, pair in enumerate(pairs)
    ]
    return Images(torch.cat(pixels), drawings.names_of(pairs)), range(len(drawings.CLASS_NAMES))


@dataclass(frozen=True)
class Subject:
    """Images of a kind and a model that is asked about them; errors are kept in `folder`."""

    model: Path
    kind: str
    count: int
    folder: Path
    cache: Path

    @cached_property
    def runner(self) -> DiTRunner:
        return DiTRunner(load_dit(read_checkpoint(self.model)))

    @cached_property
    def held_out(self) -> tuple[Images, range]:
        return held_out(self.kind, self.count, self.cache)

    def source(self, number: int, asked: Sequence[int]) -> ErrorSource:
        pixels = self.held_out[0].pixels[number]
        return ErrorSource(self.runner.denoiser(asked), pixels, list(map(str, asked)), PLAN, number)

    def errors(self) -> Tensor:
        """(N, 1 + CHOSEN + 1, T): of the class, of four drawn wrong ones, of no prompt.

        Written image by image; a run that was stopped goes on.
        """
        path = self.folder / f"fits-{self.kind}-{TRIALS}.pt"
        images, classes = self.held_out
        found = torch.load(path, weights_only=True) if path.exists() else []
        for number in tqdm(range(len(found), self.count), desc=self.kind, mininterval=30):
            label, draw = int(images.labels[number]), torch.Generator().manual_seed(number)
            order = torch.randperm(len(classes), generator=draw).tolist()
            wrong = [classes[k] for k in order if classes[k] != label][:CHOSEN]
            asked = [label, *wrong, self.runner.model.config.num_classes]
            source = self.source(number, asked)
            rows = [source.errors(spec, range(len(asked))) for spec in fit_trials()]
            found.append(torch.stack(rows, 1))
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(found, path)
        return torch.stack(found[: self.count])


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
    """Leads (N, 5) of every prompt over no prompt, and whether it names the image."""
    found = leads(errors[:, -1:] - errors[:, :-1])
    return found, (torch.arange(found.shape[1]) == 0).expand_as(found)


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


def report(folder: Path, cache: Path, counts: dict[str, int], markdown: Markdown) -> None:
    for name, (path, kinds) in MODELS.items():
        subjects = [Subject(path, kind, counts[kind], folder, cache) for kind in kinds]
        print(f"\n{name}: {' and '.join(f'{counts[kind]} {kind}' for kind in kinds)}")
        errors = torch.cat([subject.errors() for subject in subjects]).double()
        labels = torch.cat([subject.held_out[0].labels for subject in subjects])
        nats = subjects[0].source(0, [0]).nats(fit_trials())
        _report(errors, labels, nats, markdown)


def _report(errors: Tensor, labels: Tensor, nats: Tensor, markdown: Markdown) -> None:
    """Of one model; every other name is learned from."""
    scores, fits = cases(errors, nats)
    images, learned = len(errors), (labels % 2 == 0).repeat(2)
    print(f"{images} images, {CHOSEN + 1} prompts with the class or {CHOSEN} without it.\n")
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
    print(f"\nlead of a wrong prompt: {alone[~named].median():.2f} in the median")
    lead = scores["lead over no prompt, in standard errors"]
    among = torch.cat([ahead_of_others(row) for row in alone])
    for what, ahead, right in (
        ("the best prompt", lead - WRONG, fits),
        ("each by itself", alone.flatten() - WRONG, named.flatten()),
        ("each among the others", among, named.flatten()),
    ):
        offset, slope = calibrated(ahead, right)
        area = area_under_curve(ahead, right)
        print(f"\n{what}: area under the curve {area:.3f}, curve {offset:.2f} {slope:+.2f} ahead")
        chance = probability(ahead)
        miss = (chance - right.double()).square().mean()
        print(
            f"under {OFFSET} {SLOPE:+} ahead: Brier score {miss:.3f}; below {FITS} "
            f"{_of(chance < FITS, right)} that fit, above {_of(chance >= FITS, ~right)} others\n"
        )
        head = ["mean probability", f"cases, {what}", "that fit"]
        markdown(head, _reliability(chance, right))


def _of(found: Tensor, among: Tensor) -> str:
    return f"{int(found[among].sum())} of {int(among.sum())}"


def _reliability(chance: Tensor, fits: Tensor):
    for low, high in pairwise(EDGES):
        inside = (chance >= low) & (chance < high)
        if inside.any():
            share = fits[inside].double().mean().item()
            yield [f"{chance[inside].mean():.3f}", int(inside.sum()), f"{share:.3f}"]
