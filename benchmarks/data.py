"""Images of the bundled model: five shapes in six fine textures, and handwritten digits.

Shape is low-frequency information and texture high-frequency, so the accuracy of each shows which
frequencies a compressed model still sees. Textures have two- and four-pixel periods, low contrast
and random phase; every image carries pixel noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SIZE = 32
SHAPES = ("disc", "square", "triangle", "ring", "cross")
TEXTURES = (
    "plain",
    "checkered",
    "row-striped",
    "column-striped",
    "rising-striped",
    "falling-striped",
)
SHAPE_CLASSES = len(SHAPES) * len(TEXTURES)
CLASS_NAMES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES) + tuple(
    f"digit {digit}" for digit in range(10)
)
CONTRAST = (0.02, 0.06)  # of held-out textures; those of training are stronger
NOISE = 0.08


@dataclass(frozen=True)
class Images:
    """Pixels (B, 3, 32, 32) in [-1, 1] and labels (B,) into CLASS_NAMES."""

    pixels: Tensor
    labels: Tensor


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count, 1, 1), ready to broadcast over an image plane."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def local_coordinates(count: int, scale: Tensor, turn: float, drift: float, generator) -> tuple:
    """Pixel coordinates (B, 32, 32) in a frame moved by up to `drift`, turned and scaled down."""
    axis = torch.arange(SIZE, dtype=torch.float32) - (SIZE - 1) / 2
    y = axis[None, :, None] - uniform(count, -drift, drift, generator)
    x = axis[None, None, :] - uniform(count, -drift, drift, generator)
    angle = uniform(count, -turn, turn, generator)
    cos, sin = angle.cos(), angle.sin()
    return (x * cos + y * sin) / scale, (y * cos - x * sin) / scale


def shape_masks(shapes: Tensor, generator: torch.Generator) -> Tensor:
    """Anti-aliased silhouettes (B, 32, 32) in [0, 1] from signed distances to a unit shape."""
    count = len(shapes)
    radius = uniform(count, 0.28, 0.38, generator) * SIZE
    x, y = local_coordinates(count, radius, turn=0.35, drift=0.10 * SIZE, generator=generator)
    adapter = (x**2 + y**2).sqrt()
    ax, ay = x.abs(), y.abs()
    distances = torch.stack(
        [
            adapter - 1,
            torch.maximum(ax, ay) - 0.85,
            torch.maximum(ax * 0.866 + y * 0.5, -y) - 0.55,
            (adapter - 0.75).abs() - 0.25,
            torch.minimum(torch.maximum(ax - 0.32, ay - 1), torch.maximum(ay - 0.32, ax - 1)),
        ]
    )
    distance = distances[shapes, torch.arange(count)] * radius
    return (0.5 - distance).clamp(0, 1)


def texture_waves(textures: Tensor, generator: torch.Generator) -> Tensor:
    """Patterns (B, 32, 32) of -1 and 1 with random phase; zero where the texture is plain."""
    phase = torch.randint(4, (len(textures), 1, 1), generator=generator)
    y, x = torch.arange(SIZE)[:, None], torch.arange(SIZE)[None, :]
    ramps = torch.stack([2 * (x + y), 2 * y + 0 * x, 2 * x + 0 * y, x + y, x - y])  # period 4
    waves = 1 - 2 * ((ramps[(textures - 1).clamp(min=0)] + phase) % 4 >= 2).float()
    return waves * (textures > 0)[:, None, None]


def colours(count: int, gap: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Background and foreground (B, 3, 1, 1) whose brightness differs by gap to gap + 0.1."""
    back, front = (torch.rand(count, 3, 1, 1, generator=generator) * 0.2 - 0.1 for _ in range(2))
    level = 0.2 + 0.35 * torch.rand(count, 1, 1, 1, generator=generator)
    gap = gap + 0.1 * torch.rand(count, 1, 1, 1, generator=generator)
    swap = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    dark, light = level, level + gap
    return back + torch.where(swap, light, dark), front + torch.where(swap, dark, light)


def generate(masks: Tensor, detail: Tensor, gap: float, generator: torch.Generator) -> Tensor:
    """Masks and foreground detail (B, 32, 32) -> noisy colour images (B, 3, 32, 32) in [-1, 1]."""
    count = len(masks)
    back, front = colours(count, gap, generator)
    ramp = torch.linspace(-0.05, 0.05, SIZE)
    slope_y, slope_x = (uniform(count, -1, 1, generator) for _ in range(2))
    gradient = (ramp[:, None] * slope_y + ramp * slope_x)[:, None]
    masks = masks[:, None]
    image = back + gradient + masks * (front + detail[:, None] - back - gradient)
    image = image + NOISE * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 1) * 2 - 1


def shape_images(
    labels: Tensor, generator: torch.Generator, contrast: tuple[float, float] = CONTRAST
) -> Tensor:
    """Fresh images (B, 3, 32, 32) of shape-and-texture classes 0..29."""
    masks = shape_masks(labels // len(TEXTURES), generator)
    contrast = uniform(len(labels), *contrast, generator)
    waves = texture_waves(labels % len(TEXTURES), generator)
    return generate(masks, contrast * waves, 0.25, generator)


@cache
def scanned_digits() -> tuple[Tensor, Tensor, Tensor]:
    """The UCI digits bundled with scikit-learn: (1797, 8, 8) in [0, 1], digits, held-out flags.

    A seeded quarter of the scans is held out, image by image.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    held_out = np.random.default_rng(0).permutation(len(bunch.target)) < len(bunch.target) // 4
    scans = torch.tensor(bunch.images / 16, dtype=torch.float32)
    return scans, torch.tensor(bunch.target), torch.tensor(held_out)


def digit_images(indices: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, 32, 32) of the given scans, each moved, turned and scaled a little."""
    scans = scanned_digits()[0][indices]
    scale = uniform(len(indices), 0.90, 0.95, generator) * SIZE / 2
    x, y = local_coordinates(len(indices), scale, turn=0.05, drift=0.5, generator=generator)
    masks = functional.grid_sample(
        scans[:, None], torch.stack([x, y], -1), mode="bicubic", align_corners=False
    )[:, 0].clamp(0, 1)
    return generate(masks, torch.zeros_like(masks), 0.45, generator)


def training_batch(
    count: int, digit_share: float, contrast: tuple[float, float], generator: torch.Generator
) -> Images:
    """A batch of both kinds from the training side; `contrast` is the range of the textures'."""
    digits = int(count * digit_share)
    labels = torch.randint(SHAPE_CLASSES, (count - digits,), generator=generator)
    _, targets, held_out = scanned_digits()
    pool = (~held_out).nonzero()[:, 0]
    chosen = pool[torch.randint(len(pool), (digits,), generator=generator)]
    shapes = shape_images(labels, generator, contrast)
    pixels = torch.cat([shapes, digit_images(chosen, generator)])
    return Images(pixels, torch.cat([labels, SHAPE_CLASSES + targets[chosen]]))


def held_out_shapes(count: int, seed: int = 1) -> Images:
    """Shape-and-texture images, classes in turn.

    Of this seed torch keeps 32 bits, so the stream is that of an early training step, which draws
    other numbers in another order: its images are as far from these as those of any step.
    """
    generator = torch.Generator().manual_seed(2**40 + seed)
    labels = torch.arange(count) % SHAPE_CLASSES
    return Images(shape_images(labels, generator), labels)


def held_out_digits(seed: int = 1) -> Images:
    """Every held-out scan once."""
    generator = torch.Generator().manual_seed(2**41 + seed)
    _, targets, held_out = scanned_digits()
    chosen = held_out.nonzero()[:, 0]
    return Images(digit_images(chosen, generator), SHAPE_CLASSES + targets[chosen])
