"""How close compressed models stay to the plain one: `python -m benchmarks.fidelity`.

Both small models and the bundled one, all methods: error of the prediction by noise level, error
and rank correlation of what tells prompts apart, agreement of decisions, generated images from the
same noise, and photographs on larger grids and in single layers, beside operations. By default this
is made for an hour of two cores, and what costs most is measured of the most important methods
alone; what is left is printed first. Results are kept image by image in --out: what was stopped
goes on when the command is given again. The report covers the images that every method has.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fidelity.drawing import chart
from benchmarks.fidelity.page import Fidelity, whole
from benchmarks.fidelity.photos import PHOTOS
from benchmarks.fidelity.settings import METHODS, SEEDS
from benchmarks.fidelity.work import MODELS, Work, measure_all


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    images: int
    samples: int
    seeds: int
    photos: int
    tokens: int


HOUR = Size(12, 24, len(SEEDS), 8, 4096)
QUICK = Size(6, 8, 1, 2, 1024)
FULL = Size(48, 64, len(SEEDS), len(PHOTOS), 16384)


def main(given: list[str] | None = None) -> None:
    described, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser("benchmarks.fidelity", description=described, epilog=rest)
    add = parser.add_argument
    add("--host", default=os.environ.get("COMFYUI_PATH"), type=Path, help="folder of ComfyUI")
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    size = parser.add_mutually_exclusive_group()
    for name, preset, why in (
        ("--quick", QUICK, "a few images and one seed, to see that it runs"),
        ("--full", FULL, "every method everywhere, of more images: about ten hours of one core"),
    ):
        size.add_argument(
            name, dest="size", action="store_const", const=preset, default=HOUR, help=why
        )
    for name, why in (
        ("images", "images whose noise is predicted"),
        ("samples", "images that are generated"),
        ("seeds", "of methods that draw"),
        ("photos", "photographs whose noise is predicted"),
        ("tokens", "of the largest grid of photographs"),
    ):
        add(f"--{name}", type=int, help=f"{why}; {getattr(HOUR, name)} by default")
    add("--methods", nargs="+", choices=METHODS, default=(), metavar="NAME", help="these alone")
    add("--workers", type=int, default=os.cpu_count(), help="processes")
    add("--out", type=Path, default=Path("build/fidelity"))
    add("--report", action="store_true", help="measure nothing")
    args = parser.parse_args(given)
    if args.host is None and not args.report:
        parser.error("--host PATH is needed, or COMFYUI_PATH")
    sizes = {
        name: preset if getattr(args, name) is None else getattr(args, name)
        for name, preset in vars(args.size).items()
    }
    works = [
        Work(model, args.host, args.out, **sizes, names=args.methods, full=args.size is FULL)
        for model in args.models
    ]
    if not args.report:
        measure_all(works, args.workers)
    found = {work.model: Fidelity.read(work.folder, work.grids, work.layers) for work in works}
    for work in works:
        if drawn := chart(found[work.model]):
            drawn.save(work.folder / "curves.png", optimize=True)
    text = whole(found)
    (args.out / "report.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
