"""Images of a ranking, of a benchmark and of compared models."""

from __future__ import annotations

from math import isfinite

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...classification import Classification, Ranking
from ...classification.datasets.held_out_comparison import ModelComparison
from ...measure.benchmark import OFF, Benchmark
from .fonts import SIZE, font_with

WIDTH, ROW, EDGE = 768, 30, 16
NAMES = 240  # pixels for labels
NUMBERS = 120  # and for what is written behind a bar
MAX_ROWS = 20
PAPER, INK, FAINT = (250, 250, 250), (30, 30, 30), (150, 150, 150)
BEST, ALIVE, DROPPED = (34, 139, 84), (70, 110, 180), (185, 195, 210)
SLOWER = (196, 96, 60)
DOT = 5  # pixels from the middle of a dot to its edge


def bar_chart(result: Classification) -> Tensor:
    """(B, H, W, 3): how far every label is behind the best, with standard errors, best first.

    Shows the leading ones and says how many more there are. Pale bars are of labels that were
    dropped before the end and rest on fewer trials. Labels for which no font is found are named by
    their rank in the table.
    """
    drawn = [_draw(ranking, result.labels) for ranking in result.rankings]
    return torch.stack([_pixels(image) for image in drawn])


def benchmark_chart(found: Benchmark) -> Tensor:
    """(1, H, W, 3): the time of every setting between its quartiles, "off" first.

    A vertical line stands where the time would end if it went with operations.
    """
    image, draw, font = _paper(len(found.measured) + 1)
    left = EDGE + NAMES
    spreads = {name: measured.times.spread for name, measured in found.measured.items()}
    scale = (WIDTH - left - EDGE - NUMBERS) / max(spread.high for spread in spreads.values())
    draw.text((left, EDGE), f"milliseconds per call on {found.device}", FAINT, font)
    for row, (name, spread) in enumerate(spreads.items()):
        middle = EDGE + ROW * (row + 1) + ROW // 2
        end = left + spread.median * scale
        gain = found.gain(name).median
        colour = DROPPED if name == OFF else BEST if gain > 1 else SLOWER
        draw.text((EDGE, middle), shortened(name, draw, font, NAMES - EDGE), INK, font, anchor="lm")
        draw.rectangle((left, middle - ROW // 3, end, middle + ROW // 3), colour)
        draw.line((left + spread.low * scale, middle, left + spread.high * scale, middle), INK, 2)
        beyond = left + spread.high * scale
        if ceiling := found.ceiling(name):
            promised = left + spreads[OFF].median / ceiling * scale
            draw.line((promised, middle - ROW // 2 + 2, promised, middle + ROW // 2 - 2), INK, 2)
            beyond = max(beyond, promised)
        milliseconds = 1000 * spread.median
        digits = ".0f" if milliseconds >= 1000 else ".4g"
        numbers = f"{milliseconds:{digits}}  {gain:.2f}x"
        draw.text((beyond + EDGE // 2, middle), numbers, INK, font, anchor="lm")
    return _pixels(image)[None]


def comparison_chart(found: ModelComparison) -> Tensor:
    """(1, H, W, 3): by how much the error of every model is above the best one's, in their order.

    Dots with 95 % intervals, joined by a line, so that epochs show where training went too far.
    Pale ones were dropped and had fewer images.
    """
    image, draw, font = _paper(len(found.names) + 1)
    left, right = EDGE + NAMES, WIDTH - EDGE - NUMBERS
    ends = [end for _, low, high in found.behind for end in (low, high) if isfinite(end)]
    least, most = min([0.0, *ends]), max([0.0, *ends])
    scale = (right - left) / (most - least) if most > least else 0.0
    title = f"error above the best one's, 95 % intervals; {int(found.images[found.best])} images"
    draw.text((EDGE, EDGE), title, FAINT, font)
    middles = [EDGE + ROW * (row + 1) + ROW // 2 for row in range(len(found.names))]
    places = [left + (mean - least) * scale for mean, _, _ in found.behind]
    zero = left - least * scale
    draw.line((zero, middles[0] - ROW // 2, zero, middles[-1] + ROW // 2), FAINT, 1)
    draw.line(list(zip(places, middles, strict=True)), DROPPED, 2)
    for model, (middle, place) in enumerate(zip(middles, places, strict=True)):
        mean, low, high = found.behind[model]
        colour = BEST if model == found.best else ALIVE if model in found.alive else DROPPED
        own = font_with(found.names[model])
        name = f"model {model + 1}"
        if own:
            name = shortened(found.names[model], draw, own, NAMES - EDGE)
        draw.text((EDGE, middle), name, BEST if model == found.best else INK, own or font, "lm")
        beyond = place
        if isfinite(high):
            beyond = left + (high - least) * scale
            draw.line((left + (low - least) * scale, middle, beyond, middle), colour, 3)
        draw.ellipse((place - DOT, middle - DOT, place + DOT, middle + DOT), colour)
        words = "best" if model == found.best else f"{mean:+.3g}"
        draw.text((beyond + EDGE // 2, middle), words, INK, font, anchor="lm")
    return _pixels(image)[None]


def _paper(rows: int) -> tuple[Image.Image, ImageDraw.ImageDraw, ImageFont.FreeTypeFont]:
    image = Image.new("RGB", (WIDTH, 2 * EDGE + ROW * rows), PAPER)
    return image, ImageDraw.Draw(image), ImageFont.load_default(SIZE)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()) / 255


def _draw(ranking: Ranking, labels: tuple[str, ...]) -> Image.Image:
    order = ranking.order[:MAX_ROWS]
    leads = ranking.leads(order[0], order[1:])
    left_out = len(ranking.order) - len(order)
    errors = [lead.standard_error if isfinite(lead.standard_error) else 0.0 for lead in leads]
    longest = max(
        [abs(lead.margin) + error for lead, error in zip(leads, errors, strict=True)], default=0
    )
    scale = (WIDTH - NAMES - 2 * EDGE) / longest if longest > 0 else 0.0
    image, draw, font = _paper(len(order) + 1 + (left_out > 0))
    zero = EDGE + NAMES
    title = f"error behind the best; confidence {ranking.confidence:.1%}"
    draw.text((zero, EDGE), title, FAINT, font)
    for row, prompt in enumerate(order):
        middle = EDGE + ROW * (row + 1) + ROW // 2
        own = font_with(labels[prompt])
        name = shortened(labels[prompt], draw, own, NAMES - EDGE) if own else f"rank {row + 1}"
        draw.text((EDGE, middle), name, BEST if row == 0 else INK, own or font, anchor="lm")
        if row == 0:
            draw.line((zero, middle - ROW // 3, zero, middle + ROW // 3), BEST, 4)
            continue
        lead, error = leads[row - 1], errors[row - 1]
        whole = ranking.table.trials[prompt] == ranking.table.trials.max()
        end = zero + max(lead.margin, 0) * scale
        box = (zero, middle - ROW // 3, end, middle + ROW // 3)
        draw.rectangle(box, ALIVE if whole else DROPPED)
        draw.line((max(end - error * scale, zero), middle, end + error * scale, middle), INK, 2)
    if left_out:
        last = image.height - EDGE - ROW // 2
        draw.text((EDGE, last), f"and {left_out} more", FAINT, font, anchor="lm")
    return image


def shortened(text: str, draw: ImageDraw.ImageDraw, font, width: int) -> str:
    """Cut so that it takes at most so many pixels."""
    short = text
    while draw.textlength(short, font) > width:
        short = short.removesuffix("...")[:-1] + "..."
    return short
