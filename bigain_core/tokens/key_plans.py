"""Plans that leave queries whole and merge keys and values by content."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .grid import TokenGrid
from .plans import MergePlan, Plan, SelectPlan, rows_at


@dataclass(frozen=True, eq=False)
class KeyMergePlan(Plan):
    """One key and value per group of tokens, which weighs as much as the tokens in it.

    `target`, `position` and `kept` are those of a `MergePlan`. A key is mean + alpha * (destination
    - mean) of its group: alpha 0 is the mean, alpha 1 the token that the others joined.
    """

    grid: TokenGrid
    target: Tensor  # (B, N)
    position: Tensor  # (B, N)
    kept: Tensor  # (B, K)
    alpha: float

    @classmethod
    def from_target(
        cls, grid: TokenGrid, target: Tensor, kept: Tensor, alpha: float
    ) -> KeyMergePlan:
        """target (B, N) and the tokens that are their own, kept (B, K) in any order."""
        groups = MergePlan.from_target(target, kept)
        return cls(grid, target, groups.position, groups.kept, alpha)

    @property
    def _groups(self) -> MergePlan:
        return MergePlan(self.position, self.kept, proportional=True)

    @property
    def context_tokens(self) -> int:
        return self.kept.shape[1]

    def context(self, x: Tensor) -> Tensor:
        chosen = rows_at(x, self.kept)
        return chosen if self.alpha == 1 else self._groups.merge(x).lerp(chosen, self.alpha)

    @property
    def key_bias(self) -> Tensor:
        return self._groups.key_bias

    def unblended(self) -> KeyMergePlan:
        return replace(self, alpha=1.0)


@dataclass(frozen=True, eq=False)
class KeyPairPlan(Plan):
    """Two keys and values for each group of tokens, on both sides of its mean.

    Both are weighted sums of the group. Groups are of one size, or of two that differ by one, in
    which case keys weigh as much as the tokens they stand for.
    """

    grid: TokenGrid
    members: Tensor  # (B, groups * size)
    weights: Tensor  # (B, groups * 2 * size)
    middle: Tensor  # (B, 2 * groups): a token in the place of each key
    sizes: Tensor | None  # (B, groups): tokens of each group, None where all have as many

    @property
    def context_tokens(self) -> int:
        return self.middle.shape[1]

    def context(self, x: Tensor) -> Tensor:
        groups = self.context_tokens // 2
        rows = rows_at(x, self.members).unflatten(1, (groups, -1))
        return (self.weights.to(x.dtype).unflatten(1, (groups, 2, -1)) @ rows).flatten(1, 2)

    @property
    def key_bias(self) -> Tensor | None:
        return None if self.sizes is None else (self.sizes / 2).log().repeat_interleave(2, dim=1)

    @property
    def target(self) -> Tensor:
        """(B, N): of the two `middle` tokens of its group the one on whose side each token lies."""
        groups = self.context_tokens // 2
        first, second = self.weights.unflatten(1, (groups, 2, -1)).unbind(2)  # (B, groups, size)
        blank = self.members.new_zeros(len(self.members), self.grid.tokens)
        beyond = blank.scatter_reduce(1, self.members, (second > first).flatten(1).long(), "amax")
        upper, lower = (
            blank.scatter(1, self.members, token[..., None].expand_as(first).flatten(1))
            for token in self.middle.unflatten(1, (groups, 2)).unbind(2)
        )
        return torch.where(beyond > 0, lower, upper)

    def unblended(self) -> SelectPlan:
        return SelectPlan(self.grid, self.middle)
