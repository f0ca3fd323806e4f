"""Draw docs/icon.png and docs/banner.png, which the registry shows.

    python -m benchmarks.registry_images

An image cut into tokens as merging leaves them: large where it is smooth, small along its edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parent.parent / "docs"
ICON = (360, 360)  # width, height; the registry takes squares up to 400
BANNER = (1260, 540)  # 21:9
LARGEST = 60  # pixels along the side of a token
SMALLEST = 15
GAP = 1  # pixels left free around a token
EDGE = 0.15  # of the range of a colour within a cell, which is then split

GROUND = (0.05, 0.07, 0.13)
SKY = np.array([[0.12, 0.17, 0.38], [0.96, 0.48, 0.38]])  # top, bottom
SUN = (1.0, 0.86, 0.52)
HILLS = ((0.31, 0.33, 0.51), (0.15, 0.20, 0.34), (0.05, 0.08, 0.17))  # from far to near
WORD = (245, 247, 255)


def scene(width: int, height: int) -> np.ndarray:
    """Sunset over hills: (H, W, 3), colours from 0 to 1."""
    y, x = np.mgrid[:height, :width] + 0.5
    x, y = (x - width) / height, y / height  # the right border is 0
    drawing = SKY[0] + (SKY[1] - SKY[0]) * y[..., None]
    drawing[np.hypot(x + 0.42, y - 0.46) < 0.24] = SUN
    for number, colour in enumerate(HILLS):
        top = 0.62 + 0.13 * number + 0.09 * np.sin((4.1 - number) * x + 1.9 * number)
        drawing[y > top] = colour
    return drawing


def tokens(drawing: np.ndarray, left: int, top: int, side: int) -> Iterator[tuple[int, int, int]]:
    """Left, top and side of the tokens of a cell."""
    cell = drawing[top : top + side, left : left + side]
    if side == SMALLEST or np.ptp(cell, axis=(0, 1)).max() < EDGE:
        yield left, top, side
    else:
        half = side // 2
        for x in (left, left + half):
            for y in (top, top + half):
                yield from tokens(drawing, x, y, half)


def mosaic(width: int, height: int) -> Image.Image:
    drawing = scene(width, height)
    drawn = np.broadcast_to(GROUND, drawing.shape).copy()
    for x in range(0, width, LARGEST):
        for y in range(0, height, LARGEST):
            for left, top, side in tokens(drawing, x, y, LARGEST):
                rows, columns = slice(top, top + side), slice(left, left + side)
                inner = drawn[rows, columns][GAP:-GAP, GAP:-GAP]
                inner[:] = drawing[rows, columns].mean(axis=(0, 1))
    return Image.fromarray((drawn * 255).round().astype(np.uint8))


def icon() -> Image.Image:
    return mosaic(*ICON)


def banner() -> Image.Image:
    image = mosaic(*BANNER)
    font = ImageFont.load_default(190)
    ImageDraw.Draw(image).text((80, 60), "BiGain", WORD, font)
    return image


DRAWN = {"icon.png": icon, "banner.png": banner}


def main() -> None:
    for name, draw in DRAWN.items():
        draw().save(DOCS / name, optimize=True)


if __name__ == "__main__":
    main()
