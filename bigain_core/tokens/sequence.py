"""A plan for the image in a sequence that also holds text, frames or reference images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from operator import attrgetter

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid
from .plans import MergePlan, Plan


@dataclass(frozen=True, eq=False)
class JointPlan:
    """Shortens the image of a sequence, piece by piece, and passes all other tokens unchanged.

    `plan` is for a batch of B * pieces. Values follow it; queries and keys follow `positions`, the
    same plan or, where they carry rotary positions, the one that keeps to positions that exist.
    With `proportional` keys weigh as much as the tokens they stand for, so that text does not gain
    attention from a shorter image. With `image_queries` the queries are the image alone, and only
    keys and values are the whole sequence. Of `references`, which have places of their own in the
    same sequence, keys and values alone are shortened.
    """

    grid: TokenGrid
    plan: Plan
    positions: Plan
    proportional: bool = False
    image_queries: bool = False
    references: tuple[JointPlan, ...] = ()

    @property
    def _of_queries(self) -> TokenGrid:
        return replace(self.grid, prefix=0, suffix=0) if self.image_queries else self.grid

    @property
    def keeps_queries(self) -> bool:
        """Whether `queries` and `restore` change nothing."""
        return self.plan.query_tokens == self.grid.piece.tokens

    @cached_property
    def _whole(self) -> tuple[MergePlan, MergePlan] | None:
        """`plan` and `positions` for the sequence, whose text then needs no copies of its own.

        None where frames or queries are apart from the rest.
        """
        apart = self.grid.pieces > 1 or self.image_queries or not self.grid.text_tokens
        if apart or self.references or not isinstance(self.plan, MergePlan):
            return None
        plan = self.plan.within(self.grid)
        return plan, plan if self.positions is self.plan else plan.unblended()

    def queries(self, q: Tensor) -> Tensor:
        """(B, N, C) -> (B, Nq, C)"""
        if self._whole:
            return self._whole[1].queries(q)
        return _around(q, self._of_queries, self.grid.piece.tokens, self.positions.queries)

    def keys(self, k: Tensor) -> Tensor:
        """(B, N, C) -> (B, Nk, C)"""
        if self._whole:
            return self._whole[1].context(k)
        return self._shorten(k, attrgetter("positions"))

    def values(self, v: Tensor) -> Tensor:
        """(B, N, C) -> (B, Nk, C)"""
        if self._whole:
            return self._whole[0].context(v)
        return self._shorten(v, attrgetter("plan"))

    def restore(self, y: Tensor) -> Tensor:
        """(B, Nq, C) -> (B, N, C)"""
        if self._whole:
            return self._whole[0].restore(y)
        return _around(y, self._of_queries, self.plan.query_tokens, self.plan.restore)

    @property
    def _shortened(self) -> list[JointPlan]:
        """For the image and the references, in their order."""
        return sorted((self, *self.references), key=lambda part: part.grid.prefix)

    def _shorten(self, x: Tensor, chosen: Callable[[JointPlan], Plan]) -> Tensor:
        rows, end, changed = [], 0, False
        for part in self._shortened:
            image = part.grid.image(x)
            short = chosen(part).context(image)
            changed |= short is not image
            short = short.unflatten(0, (-1, part.grid.pieces)).flatten(1, 2)
            rows += [x[:, end : part.grid.prefix], short]
            end = part.grid.prefix + part.grid.tokens
        if not changed:
            return x
        return torch.cat((*rows, x[:, end:]), dim=1) if self.grid.text_tokens else short

    def mask(self, mask: Tensor) -> Tensor:
        """Rows and columns (..., N or 1, N) -> (..., Nq or 1, Nk) of a mask.

        The mask must be even over the image and the references, see `even_over_image`.
        """
        columns, end = [], 0
        for part in self._shortened:
            grid, keys = part.grid, part.grid.pieces * part.plan.context_tokens
            columns += [mask[..., end : grid.prefix], mask.narrow(-1, grid.prefix, keys)]
            end = grid.prefix + grid.tokens
        mask = torch.cat((*columns, mask[..., end:]), dim=-1)
        if mask.shape[-2] == 1 or self.keeps_queries:
            return mask
        prefix, image, suffix = mask.split(
            (self.grid.prefix, self.grid.tokens, self.grid.suffix), -2
        )
        queries = self.grid.pieces * self.plan.query_tokens
        return torch.cat((prefix, image.narrow(-2, 0, queries), suffix), dim=-2)

    def key_bias(self, k: Tensor, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """(B, Nk) for shortened keys k (B, Nk, C): log of the tokens that each stands for.

        None where keys are to weigh alike, and for a pool of keys that are all of one kind.
        """
        if self._whole and self.plan.proportional:
            return self._whole[0].key_bias.to(dtype)
        parts = [(part, part._own_bias(k, dtype)) for part in self._shortened]
        if all(bias is None for _, bias in parts):
            return None
        if len(parts) == 1:  # in one step instead of three
            part, bias = parts[0]
            sides = (
                part.grid.prefix,
                part.grid.sequence_tokens - part.grid.prefix - part.grid.tokens,
            )
            return functional.pad(bias, sides)
        rows, end = [], 0
        for part, bias in parts:
            keys = part.grid.pieces * part.plan.context_tokens
            zeros = k.new_zeros(len(k), part.grid.prefix - end + keys * (bias is None), dtype=dtype)
            rows += [zeros] if bias is None else [zeros, bias]
            end = part.grid.prefix + part.grid.tokens
        rest = k.new_zeros(len(k), self.grid.sequence_tokens - end, dtype=dtype)
        return torch.cat((*rows, rest), dim=1)

    def _own_bias(self, k: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Of the keys of the image alone: (B, pieces * per piece)."""
        bias, runs = self.plan.key_bias, self.plan.stands_for
        if bias is None:
            weighed = self.proportional and self.grid.text_tokens
            least = 1.0 if weighed else max(tokens for _, tokens in runs)
            if all(tokens == least for _, tokens in runs):
                return None
            pieces = len(k) * self.grid.pieces
            rows = [k.new_full((pieces, n), log(m / least), dtype=dtype) for n, m in runs]
            bias = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
        return bias.to(dtype).unflatten(0, (-1, self.grid.pieces)).flatten(1, 2)


def _around(x: Tensor, grid: TokenGrid, per_piece: int, step: Callable[[Tensor], Tensor]) -> Tensor:
    """`step` on the pieces of so many tokens each, the rest as it is."""
    prefix, image, suffix = x.split((grid.prefix, grid.pieces * per_piece, grid.suffix), dim=1)
    pieces = image.unflatten(1, (grid.pieces, per_piece)).flatten(0, 1)
    stepped = step(pieces)
    if stepped is pieces:
        return x
    stepped = stepped.unflatten(0, (-1, grid.pieces)).flatten(1, 2)
    return torch.cat((prefix, stepped, suffix), dim=1) if grid.text_tokens else stepped


def even_over_image(mask: Tensor, grid: TokenGrid) -> Tensor:
    """Whether a mask (..., N or 1, N) treats all image tokens alike, as keys and as queries: ().

    Text tokens may be masked in any way.
    """
    keys = mask.narrow(-1, grid.prefix, grid.tokens)
    even = (keys == keys[..., :1]).all()
    if mask.shape[-2] > 1:
        queries = mask.narrow(-2, grid.prefix, grid.tokens)
        even = even & (queries == queries[..., :1, :]).all()
    return even
