"""A plan is the decision which tokens an attention layer works on, separate from carrying it out.

    q = plan.queries(x)                   # (B, N, C) -> (B, Nq, C)
    c = plan.context(x)                   # (B, N, C) -> (B, Nk, C)
    y = plan.restore(attention(q, c))     # (B, Nq, C) -> (B, N, C)

Any tensor with the same tokens can be passed: hidden states, queries, keys or values. `key_bias`
(B, Nk), if not None, is to be added to the attention logits of the keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid, frame_runs
from .pooling import downsample_film, downsample_tokens, nearest_places, pooled_grid

WITHOUT_BAGS = ("mps",)  # devices; Metal has no kernel for bags before torch 2.10
MERGE_MODES = ("mean", "mlerp", "prune")


def rows_at(x: Tensor, indices: Tensor) -> Tensor:
    """Tokens of x (B, N, C) at indices (B, K): (B, K, C).

    On a CPU whole rows are copied, several times faster than `gather` with an index for every
    channel. Elsewhere one `gather` takes the place of steps that add where each sample begins.
    """
    batch, count, channels = x.shape
    if x.device.type != "cpu":
        return x.gather(1, indices[..., None].expand(-1, -1, channels))
    first = torch.arange(0, batch * count, count, device=x.device)[:, None]  # (B, 1)
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

    @property
    def stands_for(self) -> list[tuple[int, float]]:
        """Runs of keys: how many there are, and for how many tokens each of them stands."""
        return [(self.context_tokens, self.query_tokens / self.context_tokens)]

    @abstractmethod
    def context(self, x: Tensor) -> Tensor: ...

    def restore(self, y: Tensor) -> Tensor:
        return y

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What queries (B, Nq, C) attend to: keys, values, and a mask (B, 1 or heads, Nk) if any.

        q, k and v are projections of `queries`.
        """
        return self.context(k), self.context(v), key_mask(self, q.dtype)

    def in_layer(self, number: int) -> Plan:
        """The plan for layer `number`, which takes it over from an earlier one."""
        return self

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
    """Keys and values are pooled by D(alpha, factor) (paper, IE-KVD).

    Those of a film come from runs of so many `frames`, see `frame_runs`. Of each window so many are
    taken as `draws` says. `places` (turns, keys) are the tokens to take, by device, of which layers
    take turns; where they are the nearest ones they are kept for later calls.
    """

    grid: TokenGrid
    factor: int
    alpha: float
    places: dict[torch.device, Tensor | None] = field(
        default_factory=dict, compare=False, repr=False
    )
    frames: int = 1
    draws: int = 1
    turn: int = 0

    def in_layer(self, number: int) -> PoolPlan:
        return replace(self, turn=number)

    @property
    def context_tokens(self) -> int:
        return sum(keys for keys, _ in self.stands_for)

    @property
    def stands_for(self) -> list[tuple[int, float]]:
        keys, runs = (
            self.draws * pooled_grid(self.grid, self.factor).tokens,
            frame_runs(self.grid.frames, self.frames),
        )
        return [
            ((part.stop - part.start) // length * keys, length * self.grid.frame.tokens / keys)
            for part, length in runs
        ]

    def context(self, x: Tensor) -> Tensor:
        places = self._places(x.device)
        if self.grid.frames == 1:
            return downsample_tokens(x, self.grid, self.factor, self.alpha, places)
        return downsample_film(x, self.grid, self.factor, self.frames, self.alpha, places)

    def _places(self, device: torch.device) -> Tensor | None:
        if device not in self.places:
            nearest = nearest_places(self.grid, self.factor, device)
            self.places[device] = None if nearest is None else nearest[None]
        turns = self.places[device]
        return None if turns is None else turns[self.turn % len(turns)]

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
    """Some tokens join others in groups, one for each token that is kept.

    Every sample keeps the same number of tokens. Queries, keys and values are all taken from the
    merged tokens, merged by `mode`. A `proportional` plan tells attention how many tokens each key
    stands for.
    """

    position: Tensor  # (B, N): place of the token's group in the merged sequence
    kept: Tensor  # (B, M): indices of kept tokens, ascending
    mode: str = "mean"
    proportional: bool = False

    @classmethod
    def from_target(cls, target: Tensor, kept: Tensor, mode: str = "mean") -> MergePlan:
        """target (B, N), see there, and the tokens that are their own, kept (B, M) in any order."""
        kept = kept.sort(dim=1).values
        return cls(torch.searchsorted(kept, target), kept, mode)

    @property
    def target(self) -> Tensor:
        """(B, N): the token that each ends up at, its own index if it is kept."""
        return self.kept.gather(1, self.position)

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
        """Mean over groups, summed in a fixed order on every device."""
        if x.device.type in WITHOUT_BAGS:
            return self._mean_by_product(x)
        return self._mean_of_bags(x)

    def _mean_of_bags(self, x: Tensor) -> Tensor:
        """Groups as bags of sorted tokens."""
        if x.dtype == torch.float16 and x.device.type == "cpu":  # the sum of a bag would overflow
            return self._mean_of_bags(x.float()).half()
        order, first = self._bags
        means = functional.embedding_bag(
            order, x.reshape(-1, x.shape[-1]), first, mode="mean", include_last_offset=True
        )
        return means.unflatten(0, self.kept.shape)

    @cached_property
    def _bags(self) -> tuple[Tensor, Tensor]:
        """Tokens of all samples sorted by group, and where each group begins and the last ends."""
        kept = self.kept.shape[1]
        group = torch.arange(self.kept.numel() + 1, device=self.kept.device)
        groups, order = (self.position + group[:-1:kept, None]).flatten().sort(stable=True)
        return order, torch.searchsorted(groups, group)

    def _mean_by_product(self, x: Tensor) -> Tensor:
        """One product in fp32 with ones where a token belongs to a group."""
        group = torch.arange(self.kept.shape[1], device=x.device).unsqueeze(1)
        belongs = (self.position.unsqueeze(1) == group).float()  # (B, M, N)
        return (belongs @ x.float() / belongs.sum(-1, keepdim=True)).to(x.dtype)

    def restore(self, y: Tensor) -> Tensor:
        """y (B, M, C) -> (B, N, C): every token receives a copy of its group's row."""
        if self.kept.shape[1] == self.position.shape[1]:
            return y
        return rows_at(y, self.position)

    @property
    def query_tokens(self) -> int:
        return self.kept.shape[1]

    context_tokens = query_tokens

    @property
    def sizes(self) -> Tensor:
        """(B, M): number of tokens that each kept one stands for."""
        return self._bags[1].diff().view_as(self.kept)

    @property
    def key_bias(self) -> Tensor | None:
        """(B, M): log of the sizes, so that a key weighs as much as the tokens it stands for."""
        return self.sizes.log() if self.proportional else None

    def queries(self, x: Tensor) -> Tensor:
        return self.merge(x, self.mode)

    context = queries

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return k, v, key_mask(self, q.dtype)

    def unblended(self) -> MergePlan:
        return replace(self, mode="prune")

    def within(self, grid: TokenGrid) -> MergePlan:
        """The plan for a sequence of one frame in which each token of text is a group."""
        if grid not in self._within:
            self._within[grid] = self._made_within(grid)
        return self._within[grid]

    @cached_property
    def _within(self) -> dict[TokenGrid, MergePlan]:
        return {}

    def _made_within(self, grid: TokenGrid) -> MergePlan:
        prefix, kept, position = grid.prefix, self.kept, self.position
        index = torch.arange(grid.sequence_tokens, device=kept.device).expand(len(kept), -1)
        if prefix:
            kept, position = kept + prefix, position + prefix
        image, shortened = prefix + grid.tokens, prefix + self.query_tokens
        suffix = index[:, shortened : shortened + grid.suffix]
        position = torch.cat((index[:, :prefix], position, suffix), dim=1)
        kept = torch.cat((index[:, :prefix], kept, index[:, image:]), dim=1)
        return replace(self, position=position, kept=kept)


def key_mask(plan: Plan, dtype: torch.dtype) -> Tensor | None:
    """(B, 1, Nk): the bias of each key, the same for every query and head."""
    bias = plan.key_bias
    return None if bias is None else bias[:, None].to(dtype)


def repeated(plan: Plan, copies: int) -> Plan:
    """The plan for a batch of so many copies of its own, one after the other."""
    rows = plan_tensors(plan)
    return replace(plan, **{name: row.repeat(copies, 1) for name, row in rows.items()})


def plan_tensors(plan: Plan) -> dict[str, Tensor]:
    """Its fields with a row for each sample."""
    rows = {field.name: getattr(plan, field.name) for field in fields(plan)}
    return {name: row for name, row in rows.items() if isinstance(row, Tensor)}
