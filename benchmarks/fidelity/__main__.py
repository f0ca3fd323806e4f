"""How close compressed models stay to the plain one: `python -m benchmarks.fidelity`.

Both small models and the bundled one, all methods: error of the prediction by noise level, error
and rank correlation of what tells prompts apart, agreement of decisions, generated images from the
same noise, and photographs on larger grids and in single layers, beside operations. Results are
kept image by image in --out: what was stopped goes on when the command is given again. The report
covers the images that every method has.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.fidelity.drawing import chart
from benchmarks.fidelity.page import Fidelity, whole
from benchmarks.fidelity.photos import PHOTOS
from benchmarks.fidelity.settings import METHODS, SEEDS
from benchmarks.fidelity.work import MODELS, Work, measure_all

IMAGES, SAMPLES, LARGEST_PHOTOS = 48, 64, 4096
QUICK_IMAGES, QUICK_SAMPLES, QUICK_PHOTOS = 6, 8, 2


def main(given: list[str] | None = None) -> None:
    described, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser("benchmarks.fidelity", description=described, epilog=rest)
    add = parser.add_argument
    add("--host", default=os.environ.get("COMFYUI_PATH"), type=Path, help="folder of ComfyUI")
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--images", type=int, default=IMAGES, help="images whose noise is predicted")
    add("--samples", type=int, default=SAMPLES, help="images that are generated")
    add("--photos", type=int, default=len(PHOTOS), help="photographs whose noise is predicted")
    add(
        "--tokens", type=int, default=LARGEST_PHOTOS,
        help="of the largest grid of photographs; 16384 takes hours",
    )  # fmt: skip
    add("--methods", nargs="+", choices=METHODS, default=(), metavar="NAME", help="these alone")
    add("--quick", action="store_true", help="a few images and one seed, to see that it runs")
    add("--workers", type=int, default=os.cpu_count(), help="processes; one for each model at most")
    add("--out", type=Path, default=Path("build/fidelity"))
    add("--report", action="store_true", help="measure nothing")
    args = parser.parse_args(given)
    if args.host is None and not args.report:
        parser.error("--host PATH is needed, or COMFYUI_PATH")
    sizes = (args.images, args.samples, len(SEEDS), args.photos)
    if args.quick:
        sizes = QUICK_IMAGES, QUICK_SAMPLES, 1, QUICK_PHOTOS
    works = [
        Work(model, args.host, args.out, *sizes, args.tokens, args.methods) for model in args.models
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
