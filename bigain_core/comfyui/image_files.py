"""Image files as the host's images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..classification.datasets.image_folder import UnreadableImageError

THIN = 16  # sides whose ratio is larger are never resized as a whole: 1 x 60000 pixels grow to GB


def read_image(path: Path, size: int) -> Tensor:
    """The middle square of an image: (1, size, size, 3) in [0, 1].

    As in the paper: the short side is resized to `size` with a bicubic filter, then the long side
    is cut; of a very long one the middle is taken first. Raises UnreadableImageError for whatever
    is no image.
    """
    if not path.is_file():  # a pipe would never end
        raise UnreadableImageError("not a file")
    try:
        with Image.open(path) as file:
            return _middle_square(_in_colours(_upright(file)), size)
    except Exception as error:  # decoders raise nearly anything on broken files
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def middle_squares(images: Tensor, size: int) -> Tensor:
    """The same square of each of a batch (B, H, W, 3) in [0, 1]: (B, size, size, 3)."""
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return torch.cat([_middle_square(Image.fromarray(image), size) for image in pixels])


def read_images(paths: Iterable[Path], size: int) -> Tensor:
    """The same of several: (B, size, size, 3)."""
    return torch.cat([read_image(path, size) for path in paths])


def _middle_square(image: Image.Image, size: int) -> Tensor:
    short, long = sorted(image.size)
    if long > THIN * short:
        left, top = ((side - min(side, THIN * short)) // 2 for side in image.size)
        image = image.crop((left, top, image.width - left, image.height - top))
    sides = [int(size * side / short) for side in image.size]
    image = image.resize(sides, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in sides)
    square = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(square, dtype=np.float32) / 255)[None]


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its metadata say; as it is where they make no sense."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken metadata raise nearly anything, of a good image
        return image


def _in_colours(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which the library would clip to 8
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
