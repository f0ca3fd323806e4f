"""Tables of docs/classification.md: `python -m benchmarks.classifier`.

oracle    stopping rules and trial designs where the best network is known (minutes)
certified how often the certified rule drops the best prompt (minutes)
rankings  average precision of the rankings of a run that drops prompts (minutes)
bundled   the bundled model on held-out images; hours, goes on where it was stopped
effect    what compression does to the certainty of decisions, by frequency (minutes)

Without a name everything runs. Images of `bundled` are kept in --out, one line each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.classifier_bundled import effect, run_bundled
from benchmarks.mirrored_pairs import MirroredPairs
from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from benchmarks.oracle import GaussianWorld, OracleDenoiser
from bigain_core.classification import (
    PLANS,
    AdaptiveTimes,
    Classification,
    SpreadGrid,
    TrialPlan,
    UniformTimes,
    average_precision,
    classify,
    wilson_interval,
)

SCHEDULE = variance_preserving(alphas_cumprod("scaled-linear"))
PAPER = "paper [5, 20]"
RULES = ("sequential", "balanced")
# prompts: shifts of the classes and images of each; an easier and a harder world
WORLDS = {
    4: ((0.6, 0.5), 2000),
    10: ((0.85, 0.7), 1000),
    37: ((1.0, 0.85), 300),
    100: ((1.05, 0.9), 200),
}
SEED = 20_000  # no world or image of a lower seed is used here; those below served for tuning
SAMPLERS = {
    "spread grid": SpreadGrid(),
    "uniform": UniformTimes(),
    "adaptive": AdaptiveTimes(),
    "mirrored noise": MirroredPairs(),
}
EQUAL_TRIALS = (8, 12, 16, 24)


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
    print()


def names(count: int) -> list[str]:
    return [f"class {k}" for k in range(count)]


def world_of(classes: int, shift: float, number: int, count: int):
    """A world, `count` of its images and their classes, from seeds of its own."""
    world = GaussianWorld.random(classes, SEED + 100 * classes + number, shift)
    images, labels = world.images(count, SEED + 100 * classes + 50 + number)
    return world, images, labels


def right(found: Classification, labels: Tensor) -> Tensor:
    return (torch.tensor(found.best) == labels).double()


def paper_plan(classes: int) -> TrialPlan:
    """The paper's lists; for four prompts the half of them, as keeping 5 would drop none."""
    return replace(PLANS[PAPER], keep=(2, 1)) if classes == 4 else PLANS[PAPER]


def stopping_rows():
    for classes, (shifts, count) in WORLDS.items():
        for number, shift in enumerate(shifts):
            world, images, labels = world_of(classes, shift, number, count)
            denoiser, best = OracleDenoiser(world, SCHEDULE), world.log_likelihoods(images)
            paper = classify(denoiser, images, names(classes), paper_plan(classes))
            exact = right(paper, labels)
            bayes = (best.argmax(1) == labels).double().mean().item()
            first = [f"{classes}, {count} images", f"{bayes:.3f}", f"{exact.mean():.3f}"]
            first.append(f"{paper.calls / count:.1f}")
            for rule in RULES:
                found = classify(denoiser, images, names(classes), PLANS[rule])
                gain = right(found, labels) - exact
                error = gain.std().item() / count**0.5
                wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
                first += [
                    f"{right(found, labels).mean():.3f}",
                    f"{found.calls / count:.1f} ({found.calls / paper.calls:.2f}x)",
                    f"{gain.mean():+.3f} +- {error:.3f}, {wins}:{losses}",
                ]
            yield first


def oracle() -> None:
    print(
        "\n`sequential` has the trials of the paper and another stopping rule, `balanced` other "
        "trials as well.\n"
    )
    head = ["prompts", "Bayes", "paper", "calls"]
    for rule in RULES:
        head += [rule, "calls", "difference, wins:losses"]
    markdown(head, stopping_rows())
    print("Accuracy with equally many trials of all 37 prompts, nobody dropped.\n")
    head = ["design", *(f"{count} trials" for count in EQUAL_TRIALS)]
    markdown(head, equal_trials_rows())


def equal_trials_rows():
    count = 300
    world, images, labels = world_of(37, 0.8, 7, count)
    for name, sampler in SAMPLERS.items():
        plan = TrialPlan((EQUAL_TRIALS[-1],), (1,), sampler=sampler)
        found = classify(OracleDenoiser(world, SCHEDULE), images, names(37), plan)
        cells = []
        for trials in EQUAL_TRIALS:
            best = [
                sampler.score(r.table.errors[:, :trials], r.table.specs[:trials]).argmin()
                for r in found.rankings
            ]
            cells.append(f"{(torch.stack(best) == labels).double().mean():.3f}")
        yield [name, *cells]


def certified() -> None:
    """The best is the prompt with the least error in expectation, which the oracle knows."""
    rows = []
    for shift in (0.05, 0.6, 1.0):
        world, images, _ = world_of(4, shift, 8, 1000)
        found = classify(OracleDenoiser(world, SCHEDULE), images, names(4), PLANS["certified"])
        best = expected_errors(world, images).argmin(1)
        left = [ranking.stage == ranking.stage.max() for ranking in found.rankings]
        wrong = sum(not alive[k] for alive, k in zip(left, best.tolist(), strict=True))
        decided = sum(int(alive.sum()) == 1 for alive in left)
        low, high = wilson_interval(wrong, 1000)
        interval = f"{low:.4f} to {high:.4f}"
        rows.append(
            [f"{shift}", f"{wrong} of 1000", interval, decided, f"{found.calls / 1000:.0f}"]
        )
    print("\nCertified rule, delta 0.05, four prompts, at most 200 trials.\n")
    head = ["shift of classes", "best dropped", "95 % interval", "images decided", "calls"]
    markdown(head, rows)


def expected_errors(world: GaussianWorld, images: Tensor) -> Tensor:
    """(B, K) what infinitely many trials would give, less what all classes share."""
    signal = (SCHEDULE.signal**2)[:, None]
    factor = (signal * (1 - signal) / (signal * world.variances + 1 - signal) ** 2).mean(0)
    return ((images.double()[:, None] - world.means).square() * factor).mean(-1)


def rankings() -> None:
    kinds = ("paired", "stage", "paper_code", "raw")
    rows = []
    for several in (1, 3, 5):
        count, classes = 200, 80
        world = GaussianWorld.random(classes, SEED + 1, 1.2)
        generator = torch.Generator().manual_seed(SEED + 2)
        wanted = [torch.randperm(classes, generator=generator)[:several] for _ in range(count)]
        noise = torch.randn(count, 512, generator=generator, dtype=torch.float64)
        means = torch.stack([world.means[rows].sum(0) for rows in wanted])
        images = (means + world.variances.sqrt() * noise).float()
        denoiser = OracleDenoiser(world, SCHEDULE)
        full = classify(denoiser, images, names(classes), TrialPlan((20,), (1,)))
        staged = classify(denoiser, images, names(classes), TrialPlan(), previous=full)
        row = [several, f"{mean_precision(full, 'raw', wanted):.3f}"]
        rows.append(row + [f"{mean_precision(staged, kind, wanted):.3f}" for kind in kinds])
    print("\nMean average precision among 80 prompts; the paper's plan unless all 20 trials.\n")
    markdown(["labels per image", "all trials of all", *kinds], rows)


def mean_precision(found: Classification, kind: str, wanted: Sequence[Tensor]) -> float:
    pairs = zip(found.rankings, wanted, strict=True)
    total = sum(average_precision(ranking.ranked(kind), rows.tolist()) for ranking, rows in pairs)
    return total / len(wanted)


TABLES = {"oracle": oracle, "certified": certified, "rankings": rankings}


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    choices = [*TABLES, "bundled", "effect"]
    parser.add_argument("parts", nargs="*", help=", ".join(choices))
    parser.add_argument("--shapes", type=int, default=300, help="images of bundled")
    parser.add_argument("--digits", type=int, default=220, help="images of bundled")
    parser.add_argument("--out", type=Path, default=Path("build/classifier"), metavar="FOLDER")
    args = parser.parse_args()
    unknown = sorted({*args.parts} - {*choices})
    if unknown:
        parser.error(f"expected some of {', '.join(choices)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    for part in args.parts or choices:
        if part in TABLES:
            TABLES[part]()
        elif part == "bundled":
            run_bundled(args.out, {"shapes": args.shapes, "digits": args.digits}, markdown)
        else:
            effect(markdown)


if __name__ == "__main__":
    main()
