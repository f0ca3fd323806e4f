"""How much the word for a texture matters: `python -m benchmarks.paper.words --host COMFYUI`.

Textured images that are in no other set are shown with two prompts: the right one, and that of
the same shape without a texture. Printed is the mean squared error of the noise predicted under
each, and what the right word saves, with its standard error over images.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data import CLASS_NAMES, SHAPE_CLASSES, TEXTURES, held_out_shapes
from benchmarks.demo_report import table
from benchmarks.paper.data import SHAPE_PLAN, factors
from benchmarks.paper.models import LOADERS, SMALL, Files, Model
from benchmarks.paper.tables import IE_KVD, L_GTM, OFF, ROWS, TODO, TOME, Row, alpha_row
from benchmarks.paper.timesteps import APART
from benchmarks.paper.work import enter

SHOWN = (
    OFF, TOME, L_GTM, TODO, IE_KVD, alpha_row(2, 0.0),
    "keys of low frequency", "keys of high frequency",
)  # fmt: skip
PLAN = replace(SHAPE_PLAN, keep=(2, 1))  # both prompts to the end


def errors(model: Model, row: Row, each: int) -> Iterator[Tensor]:
    """(images, 2) of every textured class: under the right prompt and without a texture."""
    from bigain_core.comfyui.classifying.latent_classifier import classify_latents
    from bigain_core.comfyui.classifying.prompts import Prompts

    drawn, patcher = held_out_shapes(each * SHAPE_CLASSES, APART), model.compressed(row)
    for number, label in enumerate(CLASS_NAMES[:SHAPE_CLASSES]):
        shape, texture = factors(label)
        if texture == TEXTURES[0]:
            continue
        names = (label, f"{TEXTURES[0]} {shape}")
        prompts = Prompts(names, tuple(model.loaded.encode(names)))
        latents = drawn.pixels[drawn.labels == number]
        found = classify_latents(patcher, latents, prompts, PLAN)
        yield torch.stack([ranking.table.mean_errors for ranking in found.rankings])


def thousandths(found: Tensor) -> list[str]:
    """Cells of a line, for errors (images, 2)."""
    found = 1000 * found.double()
    saved = found[:, 1] - found[:, 0]
    spread = saved.std() / len(saved) ** 0.5
    right, plain = found.mean(0).tolist()
    return [f"{right:.2f}", f"{plain:.2f}", f"{saved.mean():.3f} +- {spread:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    parser.add_argument("--models", nargs="+", choices=SMALL, default=list(SMALL))
    parser.add_argument("--each", type=int, default=4, help="images of each class")
    args = parser.parse_args()
    enter(args.host)
    for name in args.models:
        model = LOADERS[name](Files())
        lines = [
            [row, *thousandths(torch.cat(list(errors(model, ROWS[row], args.each))))]
            for row in SHOWN
        ]
        head = ["row", "right prompt", "without texture", "saved by the word"]
        print(f"\n{name}, thousandths\n\n{table(head, lines)}", flush=True)


if __name__ == "__main__":
    main()
