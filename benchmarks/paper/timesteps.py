"""How much one trial at each timestep tells: `python -m benchmarks.paper.timesteps --host COMFYUI`.

Pictures that are in no other set are ranked among their ten rivals with a single trial. By this the
timesteps of `work.SMALL_PLAN` were chosen, with the plain DiT and before any row was measured. The
last line is that plan.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data import CLASS_NAMES, SHAPE_CLASSES, held_out_shapes
from benchmarks.demo_report import table
from benchmarks.paper.data import factors, rivals
from benchmarks.paper.experiments import FixedTimes
from benchmarks.paper.models import LOADERS, SMALL, Files, Model
from benchmarks.paper.work import SMALL_PLAN, enter
from bigain_core.classification import TrialPlan

TIMES = (10, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 700)
APART = 3  # seed of pictures


def choices(model: Model, plan: TrialPlan, each: int) -> Iterator[tuple[str, str]]:
    """(true class, choice) of `each` pictures of every class of shapes."""
    from bigain_core.comfyui.classifier import classify_latents
    from bigain_core.comfyui.prompts import Prompts

    drawn = held_out_shapes(each * SHAPE_CLASSES, APART)
    for number, label in enumerate(CLASS_NAMES[:SHAPE_CLASSES]):
        names = rivals(label)
        prompts = Prompts(names, tuple(model.loaded.encode(names)))
        latents = drawn.pixels[drawn.labels == number]
        found = classify_latents(model.loaded.patcher, latents, prompts, plan, lambda calls: None)
        yield from ((label, names[best]) for best in found.best)


def row(model: Model, plan: TrialPlan, each: int) -> list[str]:
    """Shares of right shapes and right textures."""
    pairs = [(factors(a), factors(b)) for a, b in choices(model, plan, each)]
    return [f"{sum(a[k] == b[k] for a, b in pairs) / len(pairs):.2f}" for k in (0, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    parser.add_argument("--models", nargs="+", choices=SMALL, default=list(SMALL))
    parser.add_argument("--each", type=int, default=2, help="pictures of each class")
    parser.add_argument("--times", type=int, nargs="+", default=TIMES)
    args = parser.parse_args()
    enter(args.host)
    for name in args.models:
        model = LOADERS[name](Files())
        plans = ((t, TrialPlan((1,), (1,), design=FixedTimes(times=(t,)))) for t in args.times)
        lines = [[str(t), *row(model, plan, args.each)] for t, plan in plans]
        lines.append(["the plan", *row(model, SMALL_PLAN, args.each)])
        print(f"\n{name}\n\n{table(['timestep', 'shape', 'texture'], lines)}", flush=True)


if __name__ == "__main__":
    main()
