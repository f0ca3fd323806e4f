"""Where image tokens lie."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenGrid:
    """Image tokens in raster order: token n sits at row n // width, column n % width."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.height * self.width

    def cells(self, cell: int) -> TokenGrid:
        """The grid of whole cell x cell squares from the top left; remainders belong to none."""
        return TokenGrid(self.height // cell, self.width // cell)
