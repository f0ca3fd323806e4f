"""A plan is the decision which tokens an attention layer works on, separate from carrying it out.

    q = plan.queries(x)                   # (B, N, C) -> (B, Nq, C)
    c = plan.context(x)                   # (B, N, C) -> (B, Nk, C)
    y = plan.restore(attention(q, c))     # (B, Nq, C) -> (B, N, C)

Any tensor with the same tokens can be passed: hidden states, queries, keys or values. `key_bias`
(B, Nk), if not None, is to be added to the attention logits of the keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid
from .pooling import downsample_tokens, pooled_grid

MERGE_MODES = ("mean", "mlerp", "prune")


def indices_of(mask: Tensor, count: int) -> Tensor:
    """Indices of the true entries: mask (B, N) with `count` in every row -> (B, count), ascending.

    Unlike `nonzero` its shape does not depend on the data, so a device is not waited for.
    """
    batch, tokens = mask.shape
    slot = torch.where(mask, mask.cumsum(1) - 1, count)  # false entries share one slot at the end
    index = torch.arange(tokens, device=mask.device).expand(batch, -1)
    return index.new_zeros(batch, count + 1).scatter_(1, slot, index)[:, :count]


def rows_at(x: Tensor, indices: Tensor) -> Tensor:
    """Tokens of x (B, N, C) at indices (B, K): (B, K, C).

    Whole rows are copied, which on a CPU is several times faster than `gather` with an index for
    every channel, and takes no memory for those.
    """
    batch, count, channels = x.shape
    first = torch.arange(batch, device=x.device)[:, None] * count  # (B, 1)
    return functional.embedding(indices + first, x.reshape(-1, channels))


class Plan(ABC):
    """By default every token is a query and receives its own result."""

    grid: TokenGrid
    key_bias: Tensor | None = None

    @property
    def query_tokens(self) -> int:
        return self.grid.tokens

    @property
    @abstractmethod
    def context_tokens(self) -> int: ...

    def queries(self, x: Tensor) -> Tensor:
        return x

    @abstractmethod
    def context(self, x: Tensor) -> Tensor: ...

    def restore(self, y: Tensor) -> Tensor:
        return y

    @abstractmethod
    def unblended(self) -> Plan:
        """The same decision with tokens that exist in place of blends (rotary positions)."""


@dataclass(frozen=True)
class IdentityPlan(Plan):
    """Keeps all `tokens`: each step returns its argument itself."""

    tokens: int

    @property
    def query_tokens(self) -> int:
        return self.tokens

    context_tokens = query_tokens

    def context(self, x: Tensor) -> Tensor:
        return x

    def unblended(self) -> IdentityPlan:
        return self


@dataclass(frozen=True)
class PoolPlan(Plan):
    """Keys and values are pooled by D(alpha, factor) (paper, IE-KVD)."""

    grid: TokenGrid
    factor: int
    alpha: float

    @property
    def context_tokens(self) -> int:
        return pooled_grid(self.grid, self.factor).tokens

    def context(self, x: Tensor) -> Tensor:
        return downsample_tokens(x, self.grid, self.factor, self.alpha)

    def unblended(self) -> PoolPlan:
        return replace(self, alpha=1.0)


@dataclass(frozen=True, eq=False)
class SelectPlan(Plan):
    """Keys and values come from the `chosen` (B, K) tokens of the grid (paper, Table 4).

    With `average` they are blended with its result, one token per window of its grid:
    blend * chosen + (1 - blend) * average.
    """

    grid: TokenGrid
    chosen: Tensor
    average: PoolPlan | None = None
    blend: float = 1.0

    @property
    def context_tokens(self) -> int:
        return self.chosen.shape[1]

    def context(self, x: Tensor) -> Tensor:
        chosen = rows_at(x, self.chosen)
        if self.average is None or self.blend == 1:
            return chosen
        return self.average.context(x).lerp(chosen, self.blend)

    def unblended(self) -> SelectPlan:
        return replace(self, blend=1.0)


@dataclass(frozen=True, eq=False)
class MergePlan(Plan):
    """Some tokens join others: `target` (B, N) is the token each ends up at, its own index if kept.

    Every sample keeps the same number of tokens. Queries, keys and values are all taken from the
    merged tokens, merged by `mode`. A `proportional` plan tells attention how many tokens each key
    stands for.
    """

    target: Tensor
    position: Tensor  # (B, N): place of the token's group in the merged sequence
    kept: Tensor  # (B, M): indices of kept tokens, ascending
    mode: str = "mean"
    proportional: bool = False

    @classmethod
    def from_target(cls, target: Tensor, tokens_left: int, mode: str = "mean") -> MergePlan:
        """target (B, N) with `tokens_left` kept tokens in every row."""
        is_kept = target == torch.arange(target.shape[1], device=target.device)
        rank = is_kept.cumsum(1) - 1  # (B, N)
        return cls(target, rank.gather(1, target), indices_of(is_kept, tokens_left), mode)

    def merge(self, x: Tensor, mode: str = "mean") -> Tensor:
        """x (B, N, C) -> (B, M, C).

        "mean" averages each group with equal weights, "mlerp" gives that mean the largest norm of
        its group, "prune" keeps the group's target and drops the rest.

        Raises ValueError for another mode.
        """
        if mode not in MERGE_MODES:
            raise ValueError(f"BiGain: expected a merge mode of {MERGE_MODES}, got {mode!r}.")
        if self.kept.shape[1] == x.shape[1]:
            return x
        if mode == "prune":
            return rows_at(x, self.kept)
        mean = self._group_mean(x)
        if mode == "mean":
            return mean
        norms = x.float().norm(dim=-1)  # (B, N)
        longest = norms.new_zeros(mean.shape[:2]).scatter_reduce(1, self.position, norms, "amax")
        length = mean.float().norm(dim=-1).clamp(min=1e-12)
        return (mean * (longest / length)[..., None]).to(mean.dtype)

    def _group_mean(self, x: Tensor) -> Tensor:
        """Mean over groups as bags of sorted tokens: summed in a fixed order on every device."""
        if x.dtype == torch.float16 and x.device.type == "cpu":  # the sum of a bag would overflow
            return self._group_mean(x.float()).half()
        batch, count, channels = x.shape
        groups = self.kept.shape[1]
        offset = torch.arange(batch, device=x.device)[:, None]
        order = self.position.argsort(dim=1, stable=True) + offset * count  # (B, N)
        sizes = self.sizes.flatten()
        bags = functional.embedding_bag(
            order.flatten(), x.reshape(-1, channels), sizes.cumsum(0) - sizes, mode="mean"
        )
        return bags.view(batch, groups, channels)

    def restore(self, y: Tensor) -> Tensor:
        """y (B, M, C) -> (B, N, C): every token receives a copy of its group's row."""
        if self.kept.shape[1] == self.target.shape[1]:
            return y
        return rows_at(y, self.position)

    @property
    def query_tokens(self) -> int:
        return self.kept.shape[1]

    context_tokens = query_tokens

    @property
    def sizes(self) -> Tensor:
        """(B, M): number of tokens that each kept one stands for."""
        return torch.zeros_like(self.kept).scatter_add_(
            1, self.position, torch.ones_like(self.position)
        )

    @property
    def key_bias(self) -> Tensor | None:
        """(B, M): log of the sizes, so that a key weighs as much as the tokens it stands for."""
        return self.sizes.float().log() if self.proportional else None

    def queries(self, x: Tensor) -> Tensor:
        return self.merge(x, self.mode)

    context = queries

    def unblended(self) -> MergePlan:
        return replace(self, mode="prune")


def key_mask(plan: Plan, dtype: torch.dtype) -> Tensor | None:
    """(B, 1, Nk): the bias of each key, the same for every query and head."""
    return None if plan.key_bias is None else plan.key_bias[:, None].to(dtype)


def repeated(plan: Plan, copies: int) -> Plan:
    """The plan for a batch of so many copies of its own, one after the other."""
    rows = {field.name: getattr(plan, field.name) for field in fields(plan)}
    tensors = {name: row for name, row in rows.items() if isinstance(row, Tensor)}
    return replace(plan, **{name: row.repeat(copies, 1) for name, row in tensors.items()})
