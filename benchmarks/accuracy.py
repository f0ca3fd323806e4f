"""Held-out accuracy of the bundled model: `python -m benchmarks.accuracy`.

Classifies shape-and-texture images among their 30 names and handwritten digits among theirs, with
the paper's adaptive plan, without compression and with both operators. Every method sees the same
images, trials and noise. Prints a Markdown table with 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.data import (
    CLASS_NAMES,
    SHAPE_CLASSES,
    TEXTURES,
    Images,
    held_out_digits,
    held_out_shapes,
)
from benchmarks.dit_runner import SMALL_DIT, DiTRunner, load_dit
from benchmarks.methods import BUNDLED_PLACEMENT, OFF, methods
from bigain_core.classification import TrialPlan, classify, wilson_interval
from bigain_core.models.checkpoint import read_checkpoint
from bigain_core.placement import Placement

IMAGES_PER_JOB = 4
PLACED = methods(BUNDLED_PLACEMENT)
EVERYWHERE = {f"{name}, every block": c for name, c in methods(Placement()).items() if name != OFF}
METHODS = PLACED | EVERYWHERE


def held_out(kind: str, count: int) -> tuple[Images, range]:
    """`count` held-out images of a kind and the classes they are ranked among."""
    if kind == "shapes":
        return held_out_shapes(count), range(SHAPE_CLASSES)
    digits = held_out_digits()
    images = Images(digits.pixels[:count], digits.labels[:count])
    return images, range(SHAPE_CLASSES, len(CLASS_NAMES))


def predict(job: tuple[Path, str, str, int, int]) -> tuple[str, str, int, Tensor]:
    """Predicted classes of the images from `first` on; noise depends on the image number alone."""
    path, method, kind, count, first = job
    torch.set_num_threads(1)
    images, classes = held_out(kind, count)
    runner = DiTRunner(load_dit(read_checkpoint(path)), METHODS[method])
    pixels = images.pixels[first : first + IMAGES_PER_JOB]
    names = [CLASS_NAMES[k] for k in classes]
    found = classify(runner.denoiser(classes), pixels, names, TrialPlan(), first)
    return method, kind, first, torch.tensor([classes[k] for k in found.best])


def rows(
    predictions: dict[tuple[str, str], Tensor], counts: dict[str, int]
) -> Iterator[tuple[str, str, int, int]]:
    """(method, measure, hits, count) for each line of the table."""
    for (method, kind), predicted in predictions.items():
        labels = held_out(kind, counts[kind])[0].labels
        measures = {kind: predicted == labels}
        if kind == "shapes":
            size = len(TEXTURES)
            measures["... shape alone"] = predicted // size == labels // size
            measures["... texture alone"] = predicted % size == labels % size
        for measure, right in measures.items():
            yield method, measure, int(right.sum()), len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=SMALL_DIT)
    parser.add_argument("--shapes", type=int, default=150, help="images; 5 per class by default")
    parser.add_argument("--digits", type=int, default=449, help="images; 449 are held out")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    counts = {"shapes": args.shapes, "digits": args.digits}
    predictions = {
        (method, kind): torch.full((count,), -1)
        for method in args.methods
        for kind, count in counts.items()
        if count
    }
    jobs = [
        (args.model, method, kind, counts[kind], first)
        for method, kind in predictions
        for first in range(0, counts[kind], IMAGES_PER_JOB)
    ]
    with ProcessPoolExecutor(args.workers) as pool:
        done = tqdm(pool.map(predict, jobs), total=len(jobs), unit="job")
        for method, kind, first, predicted in done:
            predictions[method, kind][first : first + len(predicted)] = predicted
    print("| method | images | correct | accuracy | 95 % interval |\n|---|---|---|---|---|")
    for method, measure, hits, count in rows(predictions, counts):
        low, high = wilson_interval(hits, count)
        print(
            f"| {method} | {measure} | {hits} of {count} | {hits / count:.3f} "
            f"| {low:.3f} to {high:.3f} |"
        )


if __name__ == "__main__":
    main()
