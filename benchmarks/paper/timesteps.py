"""How much one trial at each timestep tells: `python -m benchmarks.paper.timesteps --host COMFYUI`.

Images that are in no other set are ranked among ten names with a single trial. By this the
timesteps of `data.SHAPE_PLAN` and `data.DIGIT_PLAN` were chosen, with the plain models alone. The
last line is these plans.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data import CLASS_NAMES, SHAPE_CLASSES, held_out_digits, held_out_shapes
from benchmarks.demo_report import table
from benchmarks.paper.data import factors, small_contest
from benchmarks.paper.experiments import FixedTimes
from benchmarks.paper.models import LOADERS, SMALL, Files, Model
from benchmarks.paper.work import enter
from bigain_core.classification import TrialPlan

TIMES = (10, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800)
APART = 3  # seed of images


def choices(model: Model, plan: TrialPlan | None, each: int) -> Iterator[tuple[str, str]]:
    """(true class, choice) of `each` images of every class; None for the plan of its contest.

    Scans of digits are the last of their class, of which the set to be recognised takes the first.
    """
    from bigain_core.comfyui.classifying.latent_classifier import classify_latents
    from bigain_core.comfyui.classifying.prompts import Prompts

    drawn = held_out_shapes(each * SHAPE_CLASSES, APART), held_out_digits(APART)
    for number, label in enumerate(CLASS_NAMES):
        contest = small_contest(label)
        prompts = Prompts(contest.labels, tuple(model.loaded.encode(contest.labels)))
        images = drawn[number >= SHAPE_CLASSES]
        latents = images.pixels[images.labels == number][-each:]
        found = classify_latents(model.loaded.patcher, latents, prompts, plan or contest.plan)
        yield from ((label, contest.labels[best]) for best in found.best)


def row(model: Model, plan: TrialPlan | None, each: int) -> list[str]:
    """Shares of right shapes, right textures and right digits."""
    pairs = [(factors(a), factors(b)) for a, b in choices(model, plan, each)]
    shapes, digits = ([p for p in pairs if bool(p[0][1]) == kind] for kind in (True, False))
    shares = [sum(a[k] == b[k] for a, b in shapes) / len(shapes) for k in (0, 1)]
    shares.append(sum(a == b for a, b in digits) / len(digits))
    return [f"{share:.2f}" for share in shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    parser.add_argument("--models", nargs="+", choices=SMALL, default=list(SMALL))
    parser.add_argument("--each", type=int, default=2, help="images of each class")
    parser.add_argument("--times", type=int, nargs="+", default=TIMES)
    args = parser.parse_args()
    enter(args.host)
    head = ["timestep", "shape", "texture", "digits"]
    for name in args.models:
        model = LOADERS[name](Files())
        plans = ((t, TrialPlan((1,), (1,), sampler=FixedTimes(times=(t,)))) for t in args.times)
        lines = [[str(t), *row(model, plan, args.each)] for t, plan in plans]
        lines.append(["the plan", *row(model, None, args.each)])
        print(f"\n{name}\n\n{table(head, lines)}", flush=True)


if __name__ == "__main__":
    main()
