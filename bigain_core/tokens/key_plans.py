"""Plans that leave queries whole and merge keys and values by content."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from .grid import TokenGrid
from .plans import MergePlan, Plan, rows_at


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
        return cls(grid, groups.target, groups.position, groups.kept, alpha)

    @property
    def _groups(self) -> MergePlan:
        return MergePlan(self.target, self.position, self.kept, proportional=True)

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
