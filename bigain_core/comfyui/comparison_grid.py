"""Images of several models as one grid, a captioned row for each."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..measure.comparison import Comparison
from .classifying.chart import FAINT, INK, PAPER, shortened
from .classifying.fonts import font_with

COLUMNS = 8  # of more images, such as the frames of a video, so many are shown, evenly spread
LEAST_SIDE = 192  # pixels; smaller images are enlarged without mixing pixels
LEAST_WIDTH = 640  # so that numbers fit beside each other
FONT_SHARE = 36  # of the width, a font's size, so that it is read when the grid fits a screen


def comparison_grid(found: Comparison) -> Tensor:
    """(1, H, W, 3): above each row the model's name and its numbers."""
    rows = [_row(one.images) for one in found.generated]
    width = max(LEAST_WIDTH, *(row.width for row in rows))
    size = max(15, width // FONT_SHARE)
    line, edge = round(1.4 * size), size // 2
    heights = [2 * line + row.height + 2 * edge for row in rows]
    sheet = Image.new("RGB", (width + 2 * edge, sum(heights)), PAPER)
    draw, top = ImageDraw.Draw(sheet), edge
    for row, height, (name, numbers) in zip(rows, heights, found.captions(), strict=True):
        font = font_with(name, size)
        text = name if font else name.encode("ascii", "replace").decode()
        font = font or font_with("", size)
        draw.text((edge, top), shortened(text, draw, font, width), INK, font)
        draw.text((edge, top + line), numbers, FAINT, font_with("", size))
        sheet.paste(row, (edge, top + 2 * line))
        top += height
    return torch.from_numpy(np.asarray(sheet).copy())[None] / 255


def _row(images: Tensor) -> Image.Image:
    """Images (B, H, W, 3) in [0, 1] beside each other."""
    shown = np.linspace(0, len(images) - 1, min(len(images), COLUMNS)).round().astype(int)
    pixels = (images[shown].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    row = Image.fromarray(np.concatenate(list(pixels), axis=1))
    times = -(-LEAST_SIDE // min(images.shape[1:3]))
    return row.resize((row.width * times, row.height * times), Image.Resampling.NEAREST)
