"""One key and value for each group of tokens, taken where attention looks (beyond the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from .content_groups import Split
from .grid import TokenGrid
from .plans import Plan, SelectPlan, rows_at
from .pooling import downsample_tokens, pooled_grid

CELL = 4  # tokens a side of the squares of which one query each stands for all


@dataclass(frozen=True, eq=False)
class CentredPlan(Plan):
    """A key and value for each group, weighted as the queries that attend to the group weigh it.

    Without queries at hand it is the mean of its group, which weighs as much as the tokens in it.
    """

    grid: TokenGrid
    members: Tensor  # (B, groups * size): the last token of a smaller group is repeated
    split: Split

    @property
    def context_tokens(self) -> int:
        return self.split.groups

    def _rows(self, x: Tensor) -> Tensor:
        """x (B, N, C) -> (B, groups, size, C)"""
        return rows_at(x, self.members).unflatten(1, (self.split.groups, -1))

    def context(self, x: Tensor) -> Tensor:
        return self.split.means(self._rows(x))

    @property
    def key_bias(self) -> Tensor:
        return self.split.counts.sum(1).log().expand(len(self.members), -1)

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One query of each square, of queries (B, N, C), attends to the means of groups.

        Of each head and group, those that do so give one query: keys and values of the group are
        weighted by what it would pay to each of them, and the bias on the logit, the entropy of
        these weights, makes that query see what it would have seen. Others do so to first order.
        """

        def apart(x: Tensor) -> Tensor:
            return x.unflatten(-1, (heads, -1)).movedim(-2, 1)  # (B, heads, ..., D)

        scale = 1 / sqrt(q.shape[-1] / heads)
        asking = apart(downsample_tokens(q, self.grid, CELL, alpha=1).float()) * scale
        rows_k, rows_v = (apart(self._rows(x)) for x in (k, v))  # (B, heads, groups, size, D)
        logits = asking @ self.split.means(rows_k).float().mT + self.key_bias[:, None, None]
        share = logits.softmax(-1).mT  # (B, heads, groups, squares)
        least = torch.finfo(share.dtype).tiny
        centre = share @ asking / share.sum(-1, keepdim=True).clamp_min(least)
        logits = (rows_k @ centre[..., None].to(k.dtype)).float()  # (B, heads, groups, size, 1)
        seen = logits
        if not self.split.even:
            seen = logits.masked_fill(~self.split.counts[..., None], -torch.inf)
        weights = seen.softmax(3)
        entropy = seen.logsumexp(3) - (weights * logits).sum(3)
        weights = weights.mT.to(k.dtype)
        short_k, short_v = (
            (weights @ rows).squeeze(3).transpose(1, 2).flatten(2) for rows in (rows_k, rows_v)
        )
        return short_k, short_v, entropy.squeeze(3).to(q.dtype)

    @property
    def _middle(self) -> Tensor:
        """(B, groups): a token of each."""
        members = self.members.unflatten(1, (self.split.groups, -1))
        place = self.split.counts.sum(1) // 2
        return members.gather(2, place[None, :, None].expand(len(members), -1, 1)).squeeze(2)

    @property
    def target(self) -> Tensor:
        """(B, N): the token in the middle of the group of each."""
        size = self.members.shape[1] // self.split.groups
        blank = self.members.new_zeros(len(self.members), self.grid.tokens)
        return blank.scatter(1, self.members, self._middle.repeat_interleave(size, dim=1))

    def unblended(self) -> SelectPlan:
        return SelectPlan(self.grid, self._middle)


def centring_flops(width: int, grid: TokenGrid, groups: int) -> int:
    """Matrix products of `attended` for one sample."""
    squares = pooled_grid(grid, CELL).tokens
    return 4 * squares * groups * width + 6 * grid.tokens * width


def keys_with_values(k: Tensor, v: Tensor) -> Tensor:
    """k, v (B, N, C) -> (B, N, C) in fp32 in which tokens are alike whose keys and values are.

    Both are brought to one size and added, every second channel of the values with its sign turned,
    so that distances are those of keys and values side by side but for what is left of products
    that have either sign.
    """
    signs = 1 - 2 * (torch.arange(v.shape[-1], device=v.device) % 2)
    return _even_sized(k.float()) + signs * _even_sized(v.float())


def _even_sized(x: Tensor) -> Tensor:
    """x (B, N, C) whose tokens have a mean square distance of 1 from their mean."""
    distance = torch.linalg.vector_norm(x - x.mean(1, keepdim=True), dim=-1)  # (B, N)
    size = distance.square().mean(1).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    return x / size[:, None, None]
