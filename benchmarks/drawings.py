"""Drawings of 48 things that a person names, as the artists of open emoji sets saw them.

The sets are development data from the npm registry and are not in the repository;
`docs/bundled_model.md` says whose they are. Every name has two of the six makers whose drawings of
it are held out, by its place in the list; the noto sets are by one foundry, and the Fluent sets are
one design, flat and shaded.
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
    "emojitwo": "@iconify-json/emojione@1.2.3",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "streamline": "@iconify-json/streamline-emojis@1.2.4",
}
STYLES = tuple(ARCHIVES)
HELD_OUT = (
    ("noto", "noto-v1", "streamline"),
    ("twemoji", "emojitwo"),
    ("fluent-flat", "fluent", "fxemoji"),
)
# What a set calls a name otherwise; None: it has no such drawing.
OTHERWISE: dict[str, dict[str, str | None]] = {
    "emojitwo": {"panda": "panda-face", "frog": "frog-face"},
    "fxemoji": {
        "pizza": "sliceofpizza",
        "birthday cake": "birthdaycake",
        "ice cream": "softicecream",
        "apple": "redapple",
        "fir tree": "evergreen",
        "palm tree": "palmtree",
        "cat": "cat",
        "dog": "dog",
        "panda": "pandaface",
        "pig": "pig",
        "fox": None,
        "fish": "tropicalfish",
        "ladybird": "ladybeetle",
        "butterfly": None,
        "whale": "spurtingwhale",
        "gift": "present",
        "pumpkin": "jackolantern",
        "snowman": "snowmanwithoutsnow",
        "heart": "redheart",
        "moon": "crescentmoon",
        "light bulb": "lightbulb",
        "house": "housebuilding",
        "football": "soccerball",
    },
    "streamline": {
        "pizza": "pizza-1",
        "hamburger": "hamburger-1",
        "doughnut": "doughnut-1",
        "birthday cake": "birthday-cake-1",
        "ice cream": "soft-ice-cream-1",
        "banana": None,
        "strawberry": "strawberry-1",
        "watermelon": "watermelon-1",
        "cactus": "cactus-1",
        "fir tree": None,
        "sunflower": "sunflower-1",
        "panda": "panda-face",
        "frog": "frog-face",
        "fox": "fox-face-1",
        "penguin": "penguin-1",
        "butterfly": None,
        "gift": "wrapped-gift-1",
        "snowman": "snowman",
        "star": None,
        "heart": "heart-suit",
        "light bulb": None,
        "house": "house-with-garden",
        "football": None,
    },
}
FRAME = (0.72, 0.95)  # share of the side that a drawing takes
TURN = 0.2  # radians
WHITE = 0.5  # share of white backgrounds; the others are pale
PALE = 0.4
STRETCH, SATURATION, TINT = 0.1, (0.75, 1.2), 0.1
CACHE = Path("build/drawings")


@dataclass(frozen=True)
class Drawings:
    """Rasters (48, 8, 4, RASTER, RASTER), red, green and blue multiplied by the alpha behind them.

    A pair is a name and a style: (P,) numbers name * len(STYLES) + style. A drawing that a set does
    not have is empty.
    """

    rasters: Tensor

    def images(
        self,
        pairs: Tensor,
        generator: torch.Generator,
        size: int = SIZE,
        varied: bool = False,
    ) -> Tensor:
        """Pairs (B,) -> images (B, 3, size, size) in [-1, 1], moved, turned, on some background.

        Varied ones are also mirrored half of the time, stretched and tinted.
        """
        count = len(pairs)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=generator)

        share, angle = uniform(*FRAME), uniform(-TURN, TURN)
        x, y = (uniform(-1, 1) * (1 - share) for _ in range(2))
        white = uniform(0, 1) < WHITE
        depth = torch.where(white, 0, PALE)[:, None] * torch.rand(count, 3, generator=generator)
        chosen = functional.avg_pool2d(self.rasters.flatten(0, 1)[pairs] / 255, SIZE // size)
        across, down = 1 / share, 1 / share
        if varied:
            mirror, stretch = uniform(0, 1).round() * 2 - 1, uniform(-STRETCH, STRETCH).exp()
            across, down = across * mirror / stretch.clamp(max=1), down * stretch.clamp(min=1)
            chosen = tinted(chosen, uniform(*SATURATION), uniform(-TINT, TINT, 3).exp())
        a, b = angle.cos() * across, angle.sin() * across
        c, d = -angle.sin() * down, angle.cos() * down
        rows = [a, b, -a * x - b * y, c, d, -c * x - d * y]
        grid = functional.affine_grid(
            torch.stack(rows, 1).unflatten(1, (2, 3)), [count, 4, size, size], align_corners=False
        )
        placed = functional.grid_sample(chosen, grid, align_corners=False)
        colour = (1 - depth)[:, :, None, None]
        return (placed[:, :3] + (1 - placed[:, 3:]) * colour).clamp(0, 1) * 2 - 1


def tinted(images: Tensor, saturation: Tensor, tint: Tensor) -> Tensor:
    """Images (B, 4, H, W), colours multiplied by alpha, with another saturation (B,) and tint."""
    colours, alpha = images[:, :3], images[:, 3:]
    grey = colours.mean(1, keepdim=True)
    colours = grey + (colours - grey) * saturation[:, None, None, None]
    colours = (colours * tint[:, :, None, None]).clamp(min=0)
    return torch.cat([torch.minimum(colours, alpha), alpha], 1)


def trained() -> Tensor:
    """Which pairs are trained on: (48 * 8,) booleans."""
    return _exist() & ~_held_out()


def held_out() -> Tensor:
    """Which pairs are never trained on, a third of those that exist: (48 * 8,) booleans."""
    return _exist() & _held_out()


def _exist() -> Tensor:
    return torch.tensor([_slug(name, style) is not None for name in NAMES for style in STYLES])


def _held_out() -> Tensor:
    names = range(len(CLASS_NAMES))
    return torch.tensor([style in HELD_OUT[k % len(HELD_OUT)] for k in names for style in STYLES])


def _slug(name: str, style: str) -> str | None:
    return OTHERWISE.get(style, {}).get(name, NAMES[name])


def names_of(pairs: Tensor) -> Tensor:
    """Pairs (B,) -> places in CLASS_NAMES (B,)."""
    return pairs // len(STYLES)


def read_drawings(cache: Path = CACHE) -> Drawings:
    """Rasters of all pairs; archives that are not in the cache are fetched by npm."""
    cache.mkdir(parents=True, exist_ok=True)
    rasters = [torch.stack([_raster(svg) for svg in _vectors(cache, style)]) for style in STYLES]
    return Drawings(torch.stack(rasters, 1))


def _vectors(cache: Path, style: str) -> Iterator[str | None]:
    """The SVG of every name that the set has."""
    archive = cache / f"{style}.tgz"
    if not archive.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", cache, ARCHIVES[style]]
        packed = subprocess.run(command, check=True, capture_output=True, text=True)
        (cache / packed.stdout.split()[-1]).rename(archive)
    with tarfile.open(archive) as files:
        icons = json.load(files.extractfile("package/icons.json"))
    for name in NAMES:
        slug = _slug(name, style)
        if slug is None:
            yield None
            continue
        icon = icons["icons"][slug]
        width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
        side = max(width, height)
        yield (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{(width - side) / 2} {(height - side) / 2} {side} {side}">'
            f"{icon['body']}</svg>"
        )


def _raster(svg: str | None) -> Tensor:
    import resvg_py

    if svg is None:
        return torch.zeros(4, RASTER, RASTER, dtype=torch.uint8)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RASTER, height=RASTER, skip_system_fonts=True)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(png)).convert("RGBA")))
    pixels = pixels.movedim(-1, 0).float()  # (4, RASTER, RASTER)
    pixels[:3] *= pixels[3:] / 255
    return pixels.round().byte()
