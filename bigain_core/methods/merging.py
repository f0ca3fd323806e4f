"""Methods that shorten queries, keys and values alike and copy results back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..measure.flops import matching_flops
from ..placement import LayerId
from ..schedules import DenoisingProgress
from ..tokens.grid import TokenGrid
from ..tokens.matching import (
    check_ratio,
    choose_destinations,
    match_tokens,
    merged_blocks,
    prune_tokens,
    rank_blocks,
)
from ..tokens.plans import IdentityPlan, Plan
from ..tokens.selection import select_tokens
from .base import Method, ScoredMethod, random_bits, standard_normal

SHARING_SCOPES = ("stage", "network", "interval")


@dataclass(frozen=True)
class Sharing:
    """Which layers of one network call share an assignment (cached assignment merge, CAM).

    "stage" decides once for encoder, middle and decoder each, as in the paper's rows, "network"
    once, "interval" anew once `interval` blocks have passed since the last decision (DiT).
    """

    scope: str = "stage"
    interval: int = 5

    def __post_init__(self):
        if self.scope not in SHARING_SCOPES or self.interval < 1:
            raise ValueError(
                f"BiGain: expected a scope of {SHARING_SCOPES} and an interval of at least 1 block "
                f"for the cached assignment, got {self.scope!r} and {self.interval}."
            )

    def reuses(self, decided: LayerId, layer_id: LayerId) -> bool:
        if self.scope == "stage":
            return layer_id.stage == decided.stage
        return self.scope == "network" or layer_id.number - decided.number < self.interval


@dataclass(frozen=True)
class Protection:
    """The share of tokens that take no part in merging, by score ("high" for the most detailed).

    Modes are those of `select_tokens`. Not used for a published number.
    """

    share: float = 0.0
    mode: str = "high"

    def tokens(self, grid: TokenGrid, ratio: float) -> int:
        """int(N * share), but never so many that fewer than N * ratio are left."""
        return min(int(grid.tokens * self.share), grid.tokens - int(grid.tokens * ratio))


class _ByRatio(Method):
    """Methods whose `ratio` is the share of all tokens that is removed."""

    def __post_init__(self):
        check_ratio(self.ratio)

    @property
    def is_identity(self) -> bool:
        return self.ratio == 0


@dataclass(frozen=True)
class TokenMerging(_ByRatio, ScoredMethod):
    """Token merging: L-GTM with destinations "lowest" (paper, Algorithm 2), ToMe with "random".

    "published" is L-GTM with the destination rule of the published code. `ratio` is the share of
    all tokens that is removed; with one destination per cell x cell square it saturates at
    1 - 1 / cell**2. `seed` drives random destinations: the same seed, layer and timestep draw the
    same ones whatever the batch. `proportional` weighs each key by the tokens it stands for.
    """

    ratio: float = 0.7
    destinations: str = "lowest"
    cell: int = 2
    seed: int = 0
    mode: str = "mean"
    protection: Protection = Protection()
    sharing: Sharing | None = None

    @property
    def name(self) -> str:
        label = {
            "lowest": "L-GTM",
            "published": "L-GTM (published rule)",
            "random": "ToMe",
            "top-left": "ToMe (top-left)",
        }
        shared = f", assignment cached per {self.sharing.scope}" if self.sharing else ""
        return f"{label[self.destinations]} {self.ratio:g}{shared}"

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> Plan:
        protected_count = self.protection.tokens(grid, self.ratio)
        if protected_count and protected_count >= grid.cells(self.cell).tokens * self.cell**2:
            return IdentityPlan(grid.tokens)  # there may be no destination left
        scores = self.scores(metric, grid)
        if scores is None:
            scores = metric[..., 0]  # content-free rules only read the shape
        protected = None
        if protected_count:
            protected = select_tokens(scores, protected_count, self.protection.mode)
        drawn = None
        if self.destinations == "random":
            cells = grid.cells(self.cell).tokens
            drawn = random_bits(cells, self.seed, progress, layer_number, metric.device)
        chosen = choose_destinations(scores, grid, self.cell, self.destinations, drawn, protected)
        plan = match_tokens(metric, chosen, self.ratio, protected, self.mode)
        return replace(plan, proportional=self.proportional)

    def scores(self, metric: Tensor, grid: TokenGrid) -> Tensor | None:
        return super().scores(metric, grid) if self._scored(grid) else None

    def _scored(self, grid: TokenGrid) -> bool:
        needs = self.destinations in ("lowest", "published")
        return needs or self.protection.tokens(grid, self.ratio) > 0

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        matching = matching_flops(width, grid.tokens, grid.cells(self.cell).tokens)
        return matching + (super().decision_flops(width, grid) if self._scored(grid) else 0)

    def reuses(self, decided: LayerId, layer_id: LayerId) -> bool:
        return self.sharing is not None and self.sharing.reuses(decided, layer_id)


@dataclass(frozen=True)
class BlockMerging(_ByRatio, ScoredMethod):
    """Adaptive block merge (paper, Algorithm 3): whole blocks with the lowest aggregate score.

    `ratio` is the share of all tokens that is removed, as in the published code; the paper's text
    reads as a share of blocks, its operation counts do not.
    """

    ratio: float = 0.7
    aggregate: str = "max"
    cell: int = 2
    mode: str = "mean"

    @property
    def name(self) -> str:
        return f"adaptive block merge {self.ratio:g} by {self.aggregate}"

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> Plan:
        scores = self.scores(metric, grid)
        plan = rank_blocks(scores, grid, self.cell, self.ratio, self.aggregate, self.mode)
        return replace(plan, proportional=self.proportional)

    def describe(self, grid: TokenGrid) -> str:
        merged, present = merged_blocks(grid, self.cell, self.ratio), grid.cells(self.cell).tokens
        return f"{self.name} ({merged} of {present} blocks)"


@dataclass(frozen=True)
class SimilarityPruning(_ByRatio):
    """SiTo: drop the tokens most alike a destination, the token most alike all others of a cell.

    score = similarity * sum of cosines with all tokens + noise * xi, xi ~ N(0, 1) per token and
    shared by the batch. Published: similarity 1, noise 0.1, ratio 0.7 in the
    comparison. The sum of cosines is one product with the summed tokens, not an N x N matrix.
    """

    ratio: float = 0.7
    similarity: float = 1.0
    noise: float = 0.1
    cell: int = 2
    seed: int = 0
    metric: str = "block input"

    @property
    def name(self) -> str:
        return f"SiTo {self.ratio:g}"

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> Plan:
        score = self.similarity * torch.cat([_sums_of_cosines(one) for one in metric.split(1)])
        bits = random_bits(2 * grid.tokens, self.seed, progress, layer_number, metric.device)
        noisy = score + self.noise * standard_normal(bits)
        chosen = choose_destinations(-noisy, grid, self.cell)
        return prune_tokens(metric, chosen, self.ratio)

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        tokens, cells = grid.tokens, grid.cells(self.cell).tokens
        dropped = min(int(tokens * self.ratio), tokens - cells) if cells else 0
        restoring = 2 * dropped * (tokens - dropped) * width
        return 2 * tokens * width + matching_flops(width, tokens, cells) + restoring


def _sums_of_cosines(metric: Tensor) -> Tensor:
    """(1, N) of each token with all: metric (1, N, C), as products round by the batch."""
    unit = functional.normalize(metric.float().contiguous(), dim=-1)
    return (unit @ unit.sum(1, keepdim=True).mT).squeeze(-1)
