"""Measure the tables of the paper's supplement: `python -m benchmarks.paper TABLE ...`.

    python -m benchmarks.paper all --host COMFYUI
    python -m benchmarks.paper 3 7 --models small-dit --rows off L-GTM --images 60
    torchrun --nproc-per-node 8 -m benchmarks.paper 3 --models sd2 --checkpoint FILE \\
        --data pets --root DIR
    python -m benchmarks.paper 3 --models sd2 --data pets --root DIR --inception FILE --report

Every row of a table sees the same images, trials and noise. Results are kept image by image
in --out: what was stopped goes on when the command is given again, also with another number of
processes. Processes share the images, those of torchrun or accelerate as well as those of
--workers. The report covers what is there and says what is missing; after torchrun it is asked for
with --report.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from benchmarks.paper.data import SETS
from benchmarks.paper.models import LOADERS, SMALL, Files
from benchmarks.paper.report import whole
from benchmarks.paper.tables import TABLES, chosen
from benchmarks.paper.work import OWN, Wanted, Work, launched, measure_all, measure_launched

ALL = "all"


def arguments(given: list[str] | None) -> argparse.Namespace:
    described, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        "benchmarks.paper", description=described, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("tables", nargs="+", choices=[*TABLES, ALL], metavar="TABLE", help=f"{[*TABLES, ALL]}")
    add("--host", default=os.environ.get("COMFYUI_PATH"), type=Path, help="folder of ComfyUI")
    add("--models", nargs="+", choices=LOADERS, default=list(SMALL))
    add("--checkpoint", type=Path, help="of a published model")
    add("--vae", type=Path, help="autoencoder of dit-xl-2")
    add("--size", type=int, default=512, help="side of the images of sd2")
    add("--data", choices=[OWN, *SETS], default=OWN, help="own: those of the small models")
    add("--root", type=Path, help="folder of the data set, as it is distributed")
    add("--subset", type=Path, help="text file that names the images to take")
    add("--images", type=int, default=0, help="recognise so many, evenly spread; 0 for all")
    add("--samples", type=int, default=0, help="generate so many; 0 for 320 or one for each image")
    add("--rows", nargs="+", default=(), metavar="PART", help="rows with these parts in their name")
    add("--inception", type=Path, help="weights of the network of FID, for torch-fidelity")
    workers = 1 if torch.accelerator.is_available() else os.cpu_count()
    add("--workers", type=int, default=workers, help="processes; one per core, or one with a GPU")
    add("--bf16", action="store_true", help="matrix products in bfloat16, on a CPU with it")
    add("--out", type=Path, default=Path("build/paper"))
    add("--report", action="store_true", help="measure nothing")
    args = parser.parse_args(given)
    small = {name in SMALL for name in args.models}
    if small != {args.data == OWN}:
        parser.error(f"--data {OWN} is for {' and '.join(SMALL)}; other models need a data set")
    if args.data != OWN and args.root is None:
        parser.error(f"--data {args.data} needs --root DIR")
    if "dit-xl-2" in args.models and not args.data.startswith("imagenet"):
        parser.error("dit-xl-2 knows the classes of ImageNet alone")
    if args.host is None and not args.report:
        parser.error("--host PATH is needed, or COMFYUI_PATH")
    return args


def main(given: list[str] | None = None) -> None:
    args = arguments(given)
    tables = chosen(TABLES if ALL in args.tables else args.tables, args.rows)
    wanted = Wanted(
        tables, args.out, args.data, args.root, Files(args.checkpoint, args.vae, args.size),
        args.images, args.samples, args.subset, args.inception, args.bf16,
    )  # fmt: skip
    works = [Work(name, wanted) for name in args.models]
    if share := launched():
        measure_launched(works, args.host, share)
        return
    if not args.report:
        measure_all(works, args.host, args.workers)
    found = [work.finished(work.data()) for work in works]
    for work, finished in zip(works, found, strict=True):
        work.draw(finished)
    text = whole(tables, found)
    (args.out / "report.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
