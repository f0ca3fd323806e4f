"""Methods that shorten queries, keys and values alike and copy results back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..measure.flops import matching_flops
from ..placement import LayerId
from ..schedules import DenoisingProgress
from ..tokens.grid import TokenGrid, frame_runs
from ..tokens.matching import (
    check_ratio,
    choose_destinations,
    match_tokens,
    merged_blocks,
    prune_tokens,
    rank_blocks,
)
from ..tokens.parts import in_film, runs_in_parts
from ..tokens.plans import MergePlan, Plan
from ..tokens.selection import select_tokens
from .base import Method, ScoredMethod, check_frames, random_bits, standard_normal

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

    Of a film, tokens merge within runs of `frames`, see `frame_runs`, and `ratio` and protection
    are shares of each run. Its cells reach over all of its frames. They are a single place where
    that leaves enough to merge, so that what stands still costs once.
    """

    ratio: float = 0.7
    destinations: str = "lowest"
    cell: int = 2
    seed: int = 0
    mode: str = "mean"
    protection: Protection = Protection()
    sharing: Sharing | None = None
    frames: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_frames(self.frames)
        if self.frames > 1 and self.destinations == "published":
            raise ValueError(
                "BiGain: expected frames 1 for the destination rule of the published code, which "
                f'is one for images, got {self.frames}. Use "lowest".'
            )

    @property
    def name(self) -> str:
        label = {
            "lowest": "L-GTM",
            "published": "L-GTM (published rule)",
            "random": "ToMe",
            "top-left": "ToMe (top-left)",
        }
        shared = f", assignment cached per {self.sharing.scope}" if self.sharing else ""
        return f"{label[self.destinations]} {self.ratio:g}{self.over_frames}{shared}"

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> MergePlan:
        if grid.frames == 1:
            return self._plan_run(metric, grid, progress, layer_number)
        target, kept = [], []
        for runs, run, begin in runs_in_parts(metric, grid, self.frames):
            plan = self._plan_run(runs, run, progress, layer_number)
            target.append(in_film(plan.target, begin))
            kept.append(in_film(plan.kept, begin))
        plan = MergePlan.from_target(torch.cat(target, 1), torch.cat(kept, 1), self.mode)
        return replace(plan, proportional=self.proportional)

    def _plan_run(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> MergePlan:
        """For runs (B, n, C), all frames of each together."""
        protected_count = self.protection.tokens(grid, self.ratio)
        cell = self._cell(grid.frames)
        in_cells = grid.frames * grid.cells(cell).tokens * cell**2
        ratio = self.ratio if protected_count < in_cells else 0  # no destination may be left
        scores = self.scores(metric, grid)
        if scores is None:
            scores = metric[..., 0]  # content-free rules only read the shape
        protected = None
        if protected_count:
            protected = select_tokens(scores, protected_count, self.protection.mode)
        drawn = None
        if self.destinations == "random":
            cells = grid.cells(cell).tokens
            drawn = random_bits(cells, self.seed, progress, layer_number, metric.device)
        chosen = choose_destinations(scores, grid, cell, self.destinations, drawn, protected)
        plan = match_tokens(metric, chosen, ratio, protected, self.mode)
        return replace(plan, proportional=self.proportional)

    def scores(self, metric: Tensor, grid: TokenGrid) -> Tensor | None:
        return super().scores(metric, grid) if self._scored(grid) else None

    def _scored(self, grid: TokenGrid) -> bool:
        needs = self.destinations in ("lowest", "published")
        return needs or self.protection.tokens(grid, self.ratio) > 0

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        matching = 0
        for part, length in frame_runs(grid.frames, self.frames):
            cells = grid.cells(self._cell(length)).tokens
            of_run = matching_flops(width, length * grid.frame.tokens, cells)
            matching += (part.stop - part.start) // length * of_run
        return matching + (super().decision_flops(width, grid) if self._scored(grid) else 0)

    def _cell(self, frames: int) -> int:
        """The side of cells of a run of so many frames."""
        return 1 if 0 < self.ratio <= 1 - 1 / frames else self.cell

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
