"""Where image tokens lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class TokenGrid:
    """Image tokens in raster order: token n sits at row n // width, column n % width.

    A longer sequence has a `prefix` of text tokens, `frames` such grids one after the other, and a
    `suffix`; reference images and padding count as text. Of the `references` each is a grid of the
    same sequence, with all that is in front of it and behind it. A plan is for one frame or, where
    they are `joined`, for all frames together.
    """

    height: int
    width: int
    frames: int = 1
    prefix: int = 0
    suffix: int = 0
    references: tuple[TokenGrid, ...] = ()
    joined: bool = False

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

    @property
    def frame(self) -> TokenGrid:
        return TokenGrid(self.height, self.width)

    @property
    def piece(self) -> TokenGrid:
        """What a plan is for."""
        return TokenGrid(self.height, self.width, self.frames) if self.joined else self.frame

    @property
    def pieces(self) -> int:
        """How many of them a sequence has."""
        return 1 if self.joined else self.frames

    def shortened(self, piece_tokens: int) -> int:
        """Tokens of the sequence if each piece has so many."""
        return self.text_tokens + self.pieces * piece_tokens

    def image(self, sequence: Tensor) -> Tensor:
        """The image in a sequence (B, sequence_tokens, C) -> (B * pieces, n, C)."""
        if not self.text_tokens and self.pieces == 1:
            return sequence
        image = sequence.narrow(1, self.prefix, self.tokens)
        return image.unflatten(1, (self.pieces, -1)).flatten(0, 1)

    def placed(self, prefix: int, tokens: int) -> TokenGrid:
        """The grid in a sequence of so many tokens, behind a prefix."""
        return replace(self, prefix=prefix, suffix=tokens - prefix - self.tokens)

    def cells(self, cell: int) -> TokenGrid:
        """The grid of whole cell x cell squares from the top left; remainders belong to none."""
        return TokenGrid(self.height // cell, self.width // cell)


def frame_runs(frames: int, step: int) -> Iterator[tuple[slice, int]]:
    """Runs of `step` frames: (part of all frames, length of the runs in it), alike ones together.

    The first frame is alone, as video autoencoders make it of one frame of the film and each of the
    others of several; the last run has what is left.
    """
    last = frames - (frames - 1) % step
    parts = ((0, 1, 1), (1, last, step), (last, frames, frames - last))
    return ((slice(start, stop), length) for start, stop, length in parts if start < stop)


def patch_grid(sizes: Sequence[int], patch: int | Sequence[int]) -> TokenGrid:
    """Tokens of an image (H, W) or a film (T, H, W); sides are padded to what the patch divides.

    `patch` is one number for rows and columns, two numbers, or three with that of frames first.
    """
    patch = (patch, patch) if isinstance(patch, int) else patch
    sizes, patch = ((1,) * (3 - len(given)) + tuple(given) for given in (sizes, patch))
    frames, height, width = (-(-size // step) for size, step in zip(sizes, patch, strict=True))
    return TokenGrid(height, width, frames)
