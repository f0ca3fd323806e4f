"""Drawings of 48 things that a person names, as the artists of open emoji sets saw them.

The sets are development data from the npm registry and are not in the repository;
`docs/bundled_model.md` says whose they are. A third of all pairs of a name and an artist is held
out: the noto sets (two, by the same foundry), Twemoji or the Fluent sets (one design, flat and
shaded), by the place of the name in the list.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SIZE = 64
RASTER = 96  # more than a drawing has in an image, so that none is enlarged

# The name that is asked for, and what Unicode's short names call the character.
NAMES = {
    "pizza": "pizza",
    "hamburger": "hamburger",
    "doughnut": "doughnut",
    "birthday cake": "birthday-cake",
    "ice cream": "soft-ice-cream",
    "apple": "red-apple",
    "banana": "banana",
    "strawberry": "strawberry",
    "grapes": "grapes",
    "watermelon": "watermelon",
    "cherries": "cherries",
    "mushroom": "mushroom",
    "cactus": "cactus",
    "fir tree": "evergreen-tree",
    "palm tree": "palm-tree",
    "sunflower": "sunflower",
    "tulip": "tulip",
    "rose": "rose",
    "cat": "cat-face",
    "dog": "dog-face",
    "panda": "panda",
    "frog": "frog",
    "pig": "pig-face",
    "fox": "fox",
    "penguin": "penguin",
    "octopus": "octopus",
    "fish": "tropical-fish",
    "turtle": "turtle",
    "bee": "honeybee",
    "ladybird": "lady-beetle",
    "butterfly": "butterfly",
    "whale": "spouting-whale",
    "rocket": "rocket",
    "car": "automobile",
    "sailing boat": "sailboat",
    "balloon": "balloon",
    "gift": "wrapped-gift",
    "ghost": "ghost",
    "pumpkin": "jack-o-lantern",
    "snowman": "snowman-without-snow",
    "star": "star",
    "heart": "red-heart",
    "moon": "crescent-moon",
    "rainbow": "rainbow",
    "light bulb": "light-bulb",
    "guitar": "guitar",
    "house": "house",
    "football": "soccer-ball",
}

CLASS_NAMES = tuple(NAMES)
ARCHIVES = {
    "noto": "@iconify-json/noto@1.2.9",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
}
STYLES = tuple(ARCHIVES)
ARTISTS = (("noto", "noto-v1"), ("twemoji",), ("fluent-flat", "fluent"))
FRAME = (0.72, 0.95)  # share of the side that a drawing takes
TURN = 0.2  # radians
WHITE = 0.5  # share of white backgrounds; the others are pale
PALE = 0.4
CACHE = Path("build/drawings")


@dataclass(frozen=True)
class Drawings:
    """Rasters (48, 5, 4, RASTER, RASTER), red, green and blue multiplied by the alpha behind them.

    A pair is a name and a style: (P,) numbers name * len(STYLES) + style.
    """

    rasters: Tensor

    def images(self, pairs: Tensor, generator: torch.Generator, size: int = SIZE) -> Tensor:
        """Pairs (B,) -> images (B, 3, size, size) in [-1, 1], moved, turned, on some background."""
        count = len(pairs)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator)

        share, angle = uniform(*FRAME), uniform(-TURN, TURN)
        x, y = (uniform(-1, 1) * (1 - share) for _ in range(2))
        cos, sin = angle.cos() / share, angle.sin() / share
        rows = [cos, sin, -cos * x - sin * y, -sin, cos, sin * x - cos * y]
        grid = functional.affine_grid(
            torch.stack(rows, 1).unflatten(1, (2, 3)), [count, 4, size, size], align_corners=False
        )
        chosen = functional.avg_pool2d(self.rasters.flatten(0, 1)[pairs] / 255, SIZE // size)
        placed = functional.grid_sample(chosen, grid, align_corners=False)
        white = uniform(0, 1) < WHITE
        depth = torch.where(white, 0, PALE)[:, None] * torch.rand(count, 3, generator=generator)
        colour = (1 - depth)[:, :, None, None]
        return (placed[:, :3] + (1 - placed[:, 3:]) * colour).clamp(0, 1) * 2 - 1


def held_out() -> Tensor:
    """Which pairs are never trained on: (48 * 5,) booleans."""
    names = range(len(CLASS_NAMES))
    return torch.tensor([style in ARTISTS[k % len(ARTISTS)] for k in names for style in STYLES])


def names_of(pairs: Tensor) -> Tensor:
    """Pairs (B,) -> places in CLASS_NAMES (B,)."""
    return pairs // len(STYLES)


def read_drawings(cache: Path = CACHE) -> Drawings:
    """Rasters of all pairs; archives that are not in the cache are fetched by npm."""
    cache.mkdir(parents=True, exist_ok=True)
    rasters = [torch.stack([_raster(svg) for svg in _vectors(cache, style)]) for style in STYLES]
    return Drawings(torch.stack(rasters, 1))


def _vectors(cache: Path, style: str) -> Iterator[str]:
    """The SVG of every name."""
    archive = cache / f"{style}.tgz"
    if not archive.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", cache, ARCHIVES[style]]
        packed = subprocess.run(command, check=True, capture_output=True, text=True)
        (cache / packed.stdout.split()[-1]).rename(archive)
    with tarfile.open(archive) as files:
        icons = json.load(files.extractfile("package/icons.json"))
    for slug in NAMES.values():
        icon = icons["icons"][slug]
        width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
        side = max(width, height)
        yield (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{(width - side) / 2} {(height - side) / 2} {side} {side}">'
            f"{icon['body']}</svg>"
        )


def _raster(svg: str) -> Tensor:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=RASTER, height=RASTER, skip_system_fonts=True)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(png)).convert("RGBA")))
    pixels = pixels.movedim(-1, 0).float()  # (4, RASTER, RASTER)
    pixels[:3] *= pixels[3:] / 255
    return pixels.round().byte()
