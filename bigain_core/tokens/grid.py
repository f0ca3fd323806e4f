"""Where image tokens lie."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TokenGrid:
    """Image tokens in raster order: token n sits at row n // width, column n % width.

    In a longer sequence they are `frames` such grids, one after the other, behind `before` other
    tokens (text) and ahead of `behind` others.
    """

    height: int
    width: int
    frames: int = 1
    before: int = 0
    behind: int = 0

    @property
    def tokens(self) -> int:
        """Of the image, all frames together."""
        return self.frames * self.height * self.width

    @property
    def others(self) -> int:
        """Tokens of the sequence that do not belong to the image."""
        return self.before + self.behind

    @property
    def frame(self) -> TokenGrid:
        return TokenGrid(self.height, self.width)

    def image(self, sequence: Tensor) -> Tensor:
        """The image in a sequence (B, before + frames * n + behind, C) -> (B * frames, n, C)."""
        if self == self.frame:
            return sequence
        image = sequence.narrow(1, self.before, self.tokens)
        return image.unflatten(1, (self.frames, -1)).flatten(0, 1)

    def cells(self, cell: int) -> TokenGrid:
        """The grid of whole cell x cell squares from the top left; remainders belong to none."""
        return TokenGrid(self.height // cell, self.width // cell)
