"""Images for the page: accuracy against operations, samples of each row, token maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from benchmarks.demo_drawing import FAINT, GRID, INK, PAPER, SMALL, TEXT, sample_grid
from benchmarks.paper.data import Data
from benchmarks.paper.generation import generated, image_file, read_pixels
from benchmarks.paper.models import Model
from benchmarks.paper.report import Finished, Hits, right, shape, texture
from benchmarks.paper.tables import (
    BLOCKS,
    CACHED,
    IE_KVD,
    L_GTM,
    OFF,
    OTHER_RATIOS,
    ROWS,
    SITO,
    TODO,
    TOME,
    alpha_row,
)
from bigain_core.classification import wilson_interval
from bigain_core.classification.datasets.evaluation import Summary

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 320, 56, 40, 34
LEGEND, LINE = 200, 22
DOT = 4
RATIOS = sorted((*OTHER_RATIOS, 0.7))
SERIES = {  # rows that belong to one line, and its colour
    "off": ((OFF,), INK),
    "ToMe": (tuple(f"ToMe {ratio:g}" for ratio in RATIOS), "#cf222e"),
    "L-GTM": (tuple(f"L-GTM {ratio:g}" for ratio in RATIOS), "#1a7f37"),
    "cached assignment": ((CACHED,), "#4ac26b"),
    "adaptive block merge": ((BLOCKS,), "#8250df"),
    "SiTo": ((SITO,), "#9a6700"),
    "ToDo": (tuple(alpha_row(factor, 1.0) for factor in (2, 4)), "#bf3989"),
    "IE-KVD": (tuple(alpha_row(factor, 0.9) for factor in (2, 4)), "#0969da"),
    "average": (tuple(alpha_row(factor, 0.0) for factor in (2, 4)), "#8c959f"),
}
PANELS: dict[str, Callable[[Summary], Hits]] = {
    "accuracy": right, "shape alone": shape, "texture alone": texture,
}  # fmt: skip
SHOWN = (OFF, TOME, L_GTM, BLOCKS, SITO, TODO, IE_KVD)
MAPPED = (TOME, L_GTM, "L-GTM 0.7, published destination rule", BLOCKS, SITO, IE_KVD)
MAP_TIMESTEP, MAPPED_SAMPLES = 300, 3
SAMPLES = 8


@dataclass(frozen=True)
class Point:
    """GFLOP of a network call, and a share with its interval."""

    gflop: float
    share: float
    low: float
    high: float


def points(found: Finished, rows: Sequence[str], measure: Callable[[Summary], Hits]) -> list[Point]:
    """Of the rows that are whole: images come class by class, so a part says little."""
    result = []
    for row in rows:
        summary, cost = found.summary(row), found.costs.get(row)
        hits = measure(summary) if summary and summary.is_complete else {}
        if hits and cost:
            count = sum(hits.values())
            low, high = wilson_interval(count, len(hits))
            result.append(Point(cost.flops / 1e9, count / len(hits), low, high))
    return result


def curves(found: Finished) -> Image.Image | None:
    """A panel for each measure; None where no row is whole yet."""
    panels = {
        title: {name: points(found, rows, measure) for name, (rows, _) in SERIES.items()}
        for title, measure in PANELS.items()
    }
    known = [p for series in panels.values() for line in series.values() for p in line]
    if not known:
        return None
    sheet = Image.new("RGB", (len(panels) * WIDTH + LEGEND, HEIGHT), PAPER)
    draw, colours = ImageDraw.Draw(sheet), {name: colour for name, (_, colour) in SERIES.items()}
    for number, (title, series) in enumerate(panels.items()):
        Panel.around(known, number * WIDTH).draw(draw, title, series, colours)
    draw_legend(draw, len(panels) * WIDTH, colours)
    return sheet


def draw_legend(draw: ImageDraw.ImageDraw, x: int, colours: Mapping[str, str]) -> None:
    """Lines by name and colour, from `x` pixels on."""
    x += 12
    for number, (name, colour) in enumerate(colours.items()):
        y = TOP + LINE * number
        draw.ellipse((x, y - DOT, x + 2 * DOT, y + DOT), colour)
        draw.text((x + 4 * DOT, y), name, INK, SMALL, anchor="lm")


@dataclass(frozen=True)
class Panel:
    """Axes from `x` pixels on: GFLOP to the right, shares upwards with a line every `step`."""

    x: int
    least: float
    most: float
    bottom: float
    top: float
    step: float = 0.1

    @classmethod
    def around(cls, known: Sequence[Point], x: int, step: float = 0.1) -> Panel:
        flops = [point.gflop for point in known]
        room = max((max(flops) - min(flops)) * 0.06, 1e-6)
        bottom = floor(min(point.low for point in known) / step) * step
        top = ceil(max(point.high for point in known) / step) * step
        top = max(top, bottom + step)
        return cls(x, min(flops) - room, max(flops) + room, bottom, top, step)

    def place(self, gflop: float, share: float) -> tuple[float, float]:
        across = (gflop - self.least) / (self.most - self.least)
        upwards = (share - self.bottom) / (self.top - self.bottom)
        return (
            self.x + LEFT + across * (WIDTH - LEFT - 12),
            HEIGHT - BOTTOM - upwards * (HEIGHT - BOTTOM - TOP),
        )

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        title: str,
        series: Mapping[str, list[Point]],
        colours: Mapping[str, str],
    ) -> None:
        draw.text((self.x + LEFT, 8), title, INK, TEXT)
        for line in range(round(self.bottom / self.step), round(self.top / self.step) + 1):
            left, y = self.place(self.least, line * self.step)
            draw.line((left, y, self.x + WIDTH - 12, y), GRID)
            draw.text((left - 6, y), f"{line * self.step:.3g}", FAINT, SMALL, anchor="rm")
        for gflop in (self.least, self.most):
            x, y = self.place(gflop, self.bottom)
            draw.text((x, y + 6), f"{gflop:.3g}", FAINT, SMALL, anchor="ma")
        middle, y = self.place((self.least + self.most) / 2, self.bottom)
        draw.text((middle, y + 6), "GFLOP of a call", FAINT, SMALL, anchor="ma")
        for name, line in series.items():
            colour = colours[name]
            draw.line([self.place(p.gflop, p.share) for p in line], colour, 2)
            for point in line:
                x, y = self.place(point.gflop, point.share)
                low, high = (self.place(point.gflop, end)[1] for end in (point.low, point.high))
                draw.line((x, low, x, high), colour)
                draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), colour)


def samples(found: Finished) -> Image.Image | None:
    """The first images of the rows that were generated, side by side."""
    rows = {row: generated(found.generation, row) for row in SHOWN}
    rows = {row: numbers for row, numbers in rows.items() if numbers}
    if not rows:
        return None
    shared = sorted(set.intersection(*rows.values()))
    step = max(len(found.data.labels) // SAMPLES, 1)
    numbers = [number for number in shared if number % step == 0][:SAMPLES]
    samples = {
        row: torch.stack([_shown(image_file(found.generation, row, n)) for n in numbers])
        for row in rows
    }
    return sample_grid(samples, [found.data.asked[number] for number in numbers])


def _shown(path: Path) -> torch.Tensor:
    """(H, W, 3) in [0, 1]."""
    return read_pixels(path).movedim(0, -1) / 2 + 0.5


def token_maps(model: Model, data: Data) -> Image.Image:
    """Who merges with whom in the first compressed layer, on images of the set."""
    from bigain_core.comfyui.classifying.latent_classifier import encode_images
    from bigain_core.comfyui.image_files import read_image
    from bigain_core.comfyui.model_token_map import map_tokens
    from bigain_core.compression.token_map import token_images

    chosen = data.images.chosen(MAPPED_SAMPLES)
    size = model.loaded.image_size
    pixels = torch.cat([read_image(data.images.path(image), size) for image in chosen])
    latents = encode_images(model.loaded.vae, pixels)
    null, maps = model.loaded.encode([""])[0], {}
    for row in MAPPED:
        found = map_tokens(model.compressed(ROWS[row]), latents, null, -1, MAP_TIMESTEP, 0)
        maps[row] = token_images(found, pixels)[0]
    enlarged = next(iter(maps.values())).shape[1] // pixels.shape[1]
    plain = pixels.repeat_interleave(enlarged, 1).repeat_interleave(enlarged, 2)
    return sample_grid({"image": plain, **maps}, [" ".join(image.labels) for image in chosen])
