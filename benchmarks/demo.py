"""Generate and rank without and with BiGain (Auto): `python -m benchmarks.demo`.

Writes images side by side, the ranking of prompts for images as a table and a chart, and times
beside the floating point operations, all of it also as one page, demo.html. With a host, one call
of a network of Stable Diffusion's size is timed as well. Without arguments the bundled model
draws things by their names and recognises drawings that it has never seen; --checkpoint, --image
and --prompts together do it with your own model.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.demo_backend import Backend
from benchmarks.demo_builtin import BuiltinBackend
from benchmarks.demo_report import (
    flops_table,
    ranking_table,
    summary,
    times_table,
    whole_section,
    write,
)
from benchmarks.demo_run import Job, Question, run, timed_whole_call
from bigain_core.classification import check_labels
from bigain_core.models.checkpoint import BUNDLED_MODEL, SAMPLES, class_indices, read_checkpoint

Images = Mapping[Path, Image.Image]

SAMPLE_FILES = sorted(SAMPLES.glob("*.png"))

GENERATED = (
    "hamburger",
    "strawberry",
    "sunflower",
    "penguin",
    "bee",
    "fox",
    "car",
    "pumpkin",
)
EVERY = 6  # of the sample images, one in so many is ranked


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "demo", description=__doc__, formatter_class=layout, allow_abbrev=False
    )
    parser.add_argument("--host", type=Path, metavar="PATH", help="ComfyUI folder to run in")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="Stable Diffusion model")
    parser.add_argument(
        "--image", type=Path, nargs="+", metavar="FILE", help="images to rank the prompts for"
    )
    parser.add_argument(
        "--prompts",
        nargs="+",
        metavar="TEXT",
        help="what to generate and to rank; class names of the bundled model without --checkpoint",
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1, help="how often sampling is timed")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), metavar="FOLDER")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that do not go together."""
    if args.checkpoint and not args.host:
        raise ValueError(
            "expected --host PATH_TO_COMFYUI with --checkpoint, got no host. Your own model runs "
            "in ComfyUI only; give its folder, or leave --checkpoint out for the bundled model."
        )
    if args.checkpoint and not (args.image and args.prompts):
        raise ValueError(
            "expected --image and --prompts with --checkpoint, got "
            f"{'no --prompts' if args.image else 'no --image'}. Name the images to rank and the "
            'texts to choose from, for example --image cat.png --prompts "a cat" "a dog".'
        )
    if args.checkpoint and not args.checkpoint.is_file():
        raise ValueError(f"expected a model file with --checkpoint, got {args.checkpoint}.")
    for name in ("steps", "rounds"):
        if getattr(args, name) < 1:
            raise ValueError(f"expected --{name} of at least 1, got {getattr(args, name)}.")
    if args.seed < 0:
        raise ValueError(f"expected --seed of at least 0, got {args.seed}.")


def open_backend(args: argparse.Namespace) -> Backend:
    if args.host is None:
        return BuiltinBackend(BUNDLED_MODEL)
    from benchmarks.demo_host import HostBackend

    return HostBackend(args.host, args.checkpoint or BUNDLED_MODEL)


def read_image(path: Path) -> Image.Image:
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except OSError as error:
        raise ValueError(f"expected an image file, got {path} ({error}).") from error


def squares(images: Sequence[Image.Image], size: int) -> Tensor:
    """Centre squares scaled to (B, size, size, 3) in [0, 1]."""
    fitted = [ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS) for image in images]
    return torch.from_numpy(np.stack(fitted)).float() / 255


def question(images: Images, prompts: Sequence[str], size: int) -> Question:
    """Images; one in a file called like a prompt, "a cat.png" or "a-cat.png", has its name."""
    spoken = {prompt.replace(" ", "-"): prompt for prompt in prompts}
    names = tuple(spoken.get(path.stem.replace(" ", "-"), path.name) for path in images)
    return Question(squares(list(images.values()), size), names, tuple(prompts))


def bundled_prompts(args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names of the bundled model: those to generate and those to rank among.

    The sample images are ranked among their own names, which is quicker than among all.
    """
    checkpoint = read_checkpoint(BUNDLED_MODEL)
    names = checkpoint.class_names
    if args.prompts is None:
        return GENERATED, names if args.image else tuple(path.stem for path in SAMPLE_FILES)
    chosen = tuple(names[k] for k in class_indices(args.prompts, checkpoint.config, names))
    return chosen, chosen


def prepare(args: argparse.Namespace) -> tuple[Backend, Job]:
    """The loaded model and what to do with it; raises ValueError for what the user can solve."""
    check(args)
    generated = ranked = args.prompts
    if args.checkpoint is None:
        generated, ranked = bundled_prompts(args)
    check_labels(ranked)
    images = {path: read_image(path) for path in args.image or SAMPLE_FILES[::EVERY]}
    backend = open_backend(args)
    asked = question(images, ranked, backend.image_size)
    return backend, Job(tuple(generated), asked, args.steps, args.seed, args.rounds)


def main(arguments: Sequence[str]) -> int:
    args = parse(arguments)
    try:
        backend, job = prepare(args)
    except ValueError as error:
        print(f"demo: {str(error).removeprefix('BiGain: ')}", file=sys.stderr)
        return 2
    with torch.inference_mode():  # as ComfyUI runs its nodes
        outcomes = run(backend, job)
        whole = timed_whole_call() if args.host else None
    command = shlex.join(["python", "dev.py", "demo", *arguments])
    text = summary(backend, job, outcomes, whole, command)
    paths = write(args.out, text, job, outcomes)
    for title, shown in (
        ("Speed at a size that people use", whole_section(whole)),
        ("Times (speed-up: off / setting)", times_table(outcomes)),
        ("GFLOP of one network call", flops_table(outcomes)),
        ("Ranking", ranking_table(job, outcomes)),
    ):
        print(f"\n{title}\n\n{shown}")
    print("\nWritten:", *paths, sep="\n  ")
    if sys.stdout.isatty():  # nobody looks where the output goes into a file
        webbrowser.open(paths[-1].resolve().as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
