"""A plan for the image in a sequence that also holds text, frames or reference images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import log

import torch
from torch import Tensor

from .grid import TokenGrid
from .plans import MergePlan, Plan


@dataclass(frozen=True, eq=False)
class JointPlan:
    """Shortens the image of a sequence, frame by frame, and passes all other tokens unchanged.

    `plan` is for a batch of B * frames. Values follow it; queries and keys follow `positions`, the
    same plan or, where they carry rotary positions, the one that keeps to positions that exist.
    With `proportional` keys weigh as much as the tokens they stand for, so that text does not gain
    attention from a shorter image. With `image_queries` the queries are the image alone, and only
    keys and values are the whole sequence.
    """

    grid: TokenGrid
    plan: Plan
    positions: Plan
    proportional: bool = False
    image_queries: bool = False

    @property
    def _of_queries(self) -> TokenGrid:
        return replace(self.grid, prefix=0, suffix=0) if self.image_queries else self.grid

    @property
    def keeps_queries(self) -> bool:
        """Whether `queries` and `restore` change nothing."""
        return self.plan.query_tokens == self.grid.frame.tokens

    @cached_property
    def _whole(self) -> tuple[MergePlan, MergePlan] | None:
        """`plan` and `positions` for the sequence, whose text then needs no copies of its own.

        None where frames or queries are apart from the rest.
        """
        apart = self.grid.frames > 1 or self.image_queries or not self.grid.text_tokens
        if apart or not isinstance(self.plan, MergePlan):
            return None
        plan = self.plan.within(self.grid)
        return plan, plan if self.positions is self.plan else plan.unblended()

    def queries(self, q: Tensor) -> Tensor:
        """(B, N, C) -> (B, Nq, C)"""
        if self._whole:
            return self._whole[1].queries(q)
        return _around(q, self._of_queries, self.grid.frame.tokens, self.positions.queries)

    def keys(self, k: Tensor) -> Tensor:
        """(B, N, C) -> (B, Nk, C)"""
        if self._whole:
            return self._whole[1].context(k)
        return self._shorten(k, self.positions.context)

    def values(self, v: Tensor) -> Tensor:
        """(B, N, C) -> (B, Nk, C)"""
        if self._whole:
            return self._whole[0].context(v)
        return self._shorten(v, self.plan.context)

    def restore(self, y: Tensor) -> Tensor:
        """(B, Nq, C) -> (B, N, C)"""
        if self._whole:
            return self._whole[0].restore(y)
        return _around(y, self._of_queries, self.plan.query_tokens, self.plan.restore)

    def _shorten(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        return _around(x, self.grid, self.grid.frame.tokens, step)

    def mask(self, mask: Tensor) -> Tensor:
        """Rows and columns (..., N or 1, N) -> (..., Nq or 1, Nk) of a mask.

        The mask must be even over the image, see `even_over_image`.
        """
        mask = self._first(mask, -1, self.plan.context_tokens)
        return mask if mask.shape[-2] == 1 else self._first(mask, -2, self.plan.query_tokens)

    def _first(self, mask: Tensor, dim: int, per_frame: int) -> Tensor:
        """The mask with the image cut to its first tokens along `dim`."""
        grid = self.grid
        prefix, image, suffix = mask.split((grid.prefix, grid.tokens, grid.suffix), dim)
        return torch.cat((prefix, image.narrow(dim, 0, grid.frames * per_frame), suffix), dim)

    def key_bias(self, k: Tensor, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """(B, Nk) for shortened keys k (B, Nk, C): log of the tokens that each stands for.

        None where keys are to weigh alike, and for a pool of keys that are all of one kind.
        """
        if self._whole and self.plan.proportional:
            return self._whole[0].key_bias.to(dtype)
        bias = self.plan.key_bias  # (B * frames, per frame)
        if bias is None:
            if not (self.proportional and self.grid.text_tokens):
                return None
            shrinking = self.grid.frame.tokens / self.plan.context_tokens
            frames = k.shape[0] * self.grid.frames
            bias = k.new_full((frames, self.plan.context_tokens), log(shrinking), dtype=dtype)
        image = bias.to(dtype).unflatten(0, (-1, self.grid.frames)).flatten(1, 2)
        return torch.nn.functional.pad(image, (self.grid.prefix, self.grid.suffix))


def _around(x: Tensor, grid: TokenGrid, per_frame: int, step: Callable[[Tensor], Tensor]) -> Tensor:
    """`step` on the frames of `per_frame` tokens each, the rest as it is."""
    prefix, image, suffix = x.split((grid.prefix, grid.frames * per_frame, grid.suffix), dim=1)
    frames = image.unflatten(1, (grid.frames, per_frame)).flatten(0, 1)
    stepped = step(frames)
    if stepped is frames:
        return x
    stepped = stepped.unflatten(0, (-1, grid.frames)).flatten(1, 2)
    return torch.cat((prefix, stepped, suffix), dim=1) if grid.text_tokens else stepped


def even_over_image(mask: Tensor, grid: TokenGrid) -> bool:
    """Whether a mask (..., N or 1, N) treats all image tokens alike, as keys and as queries.

    Text tokens may be masked in any way. Waits for the mask's device.
    """
    keys = mask.narrow(-1, grid.prefix, grid.tokens)
    even = (keys == keys[..., :1]).all()
    if mask.shape[-2] > 1:
        queries = mask.narrow(-2, grid.prefix, grid.tokens)
        even = even & (queries == queries[..., :1, :]).all()
    return bool(even)
