"""Where image tokens lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TokenGrid:
    """Image tokens in raster order: token n sits at row n // width, column n % width.

    A longer sequence has a `prefix` of text tokens, `frames` such grids one after the other, and a
    `suffix`; reference images and padding count as text.
    """

    height: int
    width: int
    frames: int = 1
    prefix: int = 0
    suffix: int = 0

    @property
    def tokens(self) -> int:
        """Of the image, all frames together."""
        return self.frames * self.height * self.width

    @property
    def text_tokens(self) -> int:
        """Tokens of the sequence that do not belong to the image."""
        return self.prefix + self.suffix

    @property
    def sequence_tokens(self) -> int:
        return self.text_tokens + self.tokens

    def shortened(self, frame_tokens: int) -> int:
        """Tokens of the sequence if each frame has so many."""
        return self.text_tokens + self.frames * frame_tokens

    @property
    def frame(self) -> TokenGrid:
        return TokenGrid(self.height, self.width)

    def image(self, sequence: Tensor) -> Tensor:
        """The image in a sequence (B, prefix + frames * n + suffix, C) -> (B * frames, n, C)."""
        if self == self.frame:
            return sequence
        image = sequence.narrow(1, self.prefix, self.tokens)
        return image.unflatten(1, (self.frames, -1)).flatten(0, 1)

    def cells(self, cell: int) -> TokenGrid:
        """The grid of whole cell x cell squares from the top left; remainders belong to none."""
        return TokenGrid(self.height // cell, self.width // cell)


def patch_grid(sizes: Sequence[int], patch: int | Sequence[int]) -> TokenGrid:
    """Tokens of an image (H, W) or a film (T, H, W); sides are padded to what the patch divides.

    `patch` is one number for rows and columns, two numbers, or three with that of frames first.
    """
    patch = (patch, patch) if isinstance(patch, int) else patch
    sizes, patch = ((1,) * (3 - len(given)) + tuple(given) for given in (sizes, patch))
    frames, height, width = (-(-size // step) for size, step in zip(sizes, patch, strict=True))
    return TokenGrid(height, width, frames)
