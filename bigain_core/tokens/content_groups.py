"""Groups of tokens that are alike, all of one size: halves of halves along what differs most.

As colours are grouped by median cut (Heckbert, 1982), but along the direction of greatest spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2

import torch
from torch import Tensor

from .plans import rows_at


@dataclass(frozen=True)
class Split:
    """A row of `count` items in `parts` pieces that are whole runs of `groups` equal shares.

    Sizes of shares differ by one at most. A piece shorter than the `widest` repeats its last item.
    """

    count: int
    groups: int
    parts: int
    device: torch.device

    @property
    def widest(self) -> int:
        return -(-self.count * -(-self.groups // self.parts) // self.groups)

    @property
    def even(self) -> bool:
        return self.widest * self.parts == self.count

    @cached_property
    def _edges(self) -> Tensor:
        """(parts + 1,): where pieces begin, and the end."""
        shares = torch.arange(self.parts + 1, device=self.device) * self.groups // self.parts
        return shares * self.count // self.groups

    @property
    def _steps(self) -> Tensor:
        return torch.arange(self.widest, device=self.device)

    @cached_property
    def counts(self) -> Tensor:
        """(parts, widest): false for what is repeated."""
        return self._steps < self._edges.diff()[:, None]

    def apart(self, row: Tensor) -> Tensor:
        """(B, count) -> (B, parts, widest)"""
        if self.even:
            return row.unflatten(1, (self.parts, self.widest))
        places = torch.minimum(self._edges[:-1, None] + self._steps, self._edges[1:, None] - 1)
        return row[:, places]

    def centred(self, rows: Tensor) -> Tensor:
        """Rows (B, parts, widest, C) less the mean of their piece; 0 for what is repeated."""
        centred = rows - self.means(rows)[:, :, None]
        return centred if self.even else centred * self.counts[..., None]

    def means(self, rows: Tensor) -> Tensor:
        """Rows (..., parts, widest, C) -> (..., parts, C)"""
        if self.even:
            return rows.mean(-2)
        counts = self.counts[..., None]
        return (rows * counts).sum(-2) / counts.sum(-2)

    def together(self, pieces: Tensor) -> Tensor:
        """(B, parts, widest), what is repeated last in each -> (B, count)"""
        if self.even:
            return pieces.flatten(1)
        place = torch.arange(self.count, device=self.device)
        piece = torch.searchsorted(self._edges[1:], place, right=True)
        return pieces.flatten(1)[:, piece * self.widest + place - self._edges[piece]]


def content_groups(x: Tensor, groups: int) -> tuple[Tensor, Split]:
    """x (B, N, C) in fp32 -> tokens (B, groups, size) of each group, and what counts in them.

    Every token counts in one group. No step depends on the batch, shapes not on the values.
    """
    batch, count, _ = x.shape
    order = torch.arange(count, device=x.device).expand(batch, -1)
    for level in range(levels(groups)):
        split = Split(count, groups, 2**level, x.device)
        members = split.apart(order)
        rows = split.centred(rows_at(x, members.flatten(1)).unflatten(1, members.shape[1:]))
        along = (rows * main_direction(rows)).sum(-1)
        if not split.even:
            along = along.masked_fill(~split.counts, torch.inf)
        order = split.together(members.gather(2, along.argsort(dim=2, stable=True)))
    split = Split(count, groups, groups, x.device)
    return split.apart(order), split


def levels(groups: int) -> int:
    """How often tokens are halved to make so many groups."""
    return ceil(log2(groups))


def main_direction(rows: Tensor) -> Tensor:
    """Of centred rows (..., tokens, C) about the direction of greatest spread, (..., 1, C).

    A step of power iteration from the longest row. It has any length.
    """
    longest = torch.linalg.vector_norm(rows, dim=-1).argmax(-1)[..., None, None]
    start = rows.gather(-2, longest.expand(*rows.shape[:-2], 1, rows.shape[-1]))
    return ((rows * start).sum(-1, keepdim=True) * rows).sum(-2, keepdim=True)
