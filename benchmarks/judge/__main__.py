"""Reproduce what docs/classification.md says of a diffusion model as a judge.

    python -m benchmarks.judge [fits] [epochs] [best_of_n]
        [--drawings N] [--digits N] [--shapes N] [--runs N] [--images N] [--choices N]

fits: whether a prompt fits an image at all. epochs: the best epoch of a model that is trained too
long. best_of_n: the best of several seeds without finishing all. What was computed is kept in
build/judge; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.classifier import markdown
from benchmarks.drawings import CACHE
from benchmarks.judge import best_of_n, epochs, fits

PARTS = ("epochs", "fits", "best_of_n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--drawings", type=int, default=125)
    parser.add_argument("--cache", type=Path, default=CACHE, help="archives of the drawings")
    parser.add_argument("--digits", type=int, default=40)
    parser.add_argument("--shapes", type=int, default=40)
    parser.add_argument("--runs", type=int, default=50, help="trainings")
    parser.add_argument("--images", type=int, default=64, help="held out of each training")
    parser.add_argument("--choices", type=int, default=100, help="runs of several seeds")
    parser.add_argument("--folder", type=Path, default=Path("build", "judge"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if "epochs" in args.parts:
        epochs.report(args.runs, args.images, markdown)
    if "fits" in args.parts:
        counts = {kind: getattr(args, kind) for kind in ("drawings", "digits", "shapes")}
        fits.report(args.folder, args.cache, counts, markdown)
    if "best_of_n" in args.parts:
        best_of_n.report(args.folder, args.choices, markdown)


if __name__ == "__main__":
    main()
