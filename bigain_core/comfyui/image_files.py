"""Image files as the host's images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..classification.datasets.evaluation import UnreadableImageError


def read_image(path: Path, size: int) -> Tensor:
    """The middle square of a image: (1, size, size, 3) in [0, 1].

    As in the paper: the short side is resized to `size` with a bicubic filter, then the long side
    is cut. Raises UnreadableImageError for whatever is no image.
    """
    try:
        with Image.open(path) as file:
            picture = _in_colours(ImageOps.exif_transpose(file))
    except Exception as error:  # decoders raise nearly anything on broken files
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error
    short = min(picture.size)
    sides = [int(size * side / short) for side in picture.size]
    picture = picture.resize(sides, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in sides)
    square = picture.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(square, dtype=np.float32) / 255)[None]


def _in_colours(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits, which the library would clip to 8
        return Image.fromarray((np.asarray(picture) // 256).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
