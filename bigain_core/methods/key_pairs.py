"""Key pairs: queries whole, keys and values of groups by mean and spread (beyond the paper)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log2
from typing import ClassVar

import torch
from torch import Tensor

from ..schedules import DenoisingProgress
from ..tokens.centred_keys import CentredPlan, centring_flops
from ..tokens.content_groups import Split, content_groups, levels, main_direction
from ..tokens.grid import TokenGrid
from ..tokens.key_plans import KeyPairPlan
from ..tokens.matching import check_ratio
from ..tokens.plans import IdentityPlan, rows_at
from .base import Method, random_bits

SKETCH = 128  # channels that tell which tokens are alike
ROUNDING = 1e-4  # as a share of what it is the rounding of, with room to spare


@dataclass(frozen=True)
class KeyPairs(Method):
    """Tokens are grouped by content, and each group has two keys and values for all of its own.

    `ratio` is the share of keys and values that is removed. The two lie on both sides of the mean
    of their group, along the direction in which it differs most, `spread` standard deviations of
    the whole group away: attention then sees its mean and, at spread 1, how far it is spread.
    None is for `fitting_spread`. Sigma points of an unscented transform (Julier and Uhlmann, 1997)
    are alike.

    Where queries, keys and values are at hand it is `centred`: twice as many groups, of tokens with
    keys and values that are alike, have one key and value each, weighted as attention weighs them.
    """

    ratio: float = 0.75
    spread: float | None = None
    centred: bool = False

    metric: ClassVar[str] = "normed"
    proportional: ClassVar[bool] = True

    def __post_init__(self):
        check_ratio(self.ratio)

    @property
    def name(self) -> str:
        return f"key pairs {self.ratio:g}{', centred' if self.centred else ''}"

    @property
    def is_identity(self) -> bool:
        return self.ratio == 0

    @property
    def after_projection(self) -> KeyPairs:
        return replace(self, centred=True)

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> KeyPairPlan | CentredPlan | IdentityPlan:
        batch, count, _ = metric.shape
        if count == 1:
            return IdentityPlan(count)
        x, groups = metric.float(), self._groups(count)
        sketch = _sketched(x, progress, layer_number)
        if self.centred:
            members, split = content_groups(sketch, 2 * groups)
            return CentredPlan(grid, members.flatten(1), split)
        members, split = content_groups(sketch, groups)
        share = split.counts / split.counts.sum(1, keepdim=True)  # (groups, size)
        rows = split.centred(rows_at(x, members.flatten(1)).unflatten(1, (groups, -1)))
        tiny = torch.finfo(x.dtype).tiny
        rows = rows / rows.abs().amax((2, 3), keepdim=True).clamp_min(tiny)  # no product vanishes
        along = (rows * main_direction(rows)).sum(-1)  # (B, groups, size)
        apart = (along - (share * along).sum(-1, keepdim=True)) * split.counts
        # Equal tokens have rounding as their rows, the same one for each.
        differ = apart.abs().amax(-1, keepdim=True) > ROUNDING * along.abs().amax(-1, keepdim=True)
        along = apart * differ
        offset = torch.linalg.vector_norm(((share * along)[..., None] * rows).sum(2), dim=-1)
        variance = (share * rows.square().sum(-1)).sum(-1)  # (B, groups)
        spread = fitting_spread(2 * groups) if self.spread is None else self.spread
        length = spread * variance.sqrt() / offset.clamp_min(tiny)
        away = length[..., None] * share * along
        weights = torch.stack([share + away, share - away], dim=2)  # (B, groups, 2, size)
        sizes = None if split.even else split.counts.sum(1).expand(batch, -1)
        return KeyPairPlan(
            grid, members.flatten(1), weights.flatten(1), _halfway(members, along, split), sizes
        )

    def _groups(self, tokens: int) -> int:
        return max(1, int(tokens * (1 - self.ratio)) // 2)

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        """Products of tokens with directions, and the sketch."""
        groups, sketch = self._groups(grid.tokens), 0 if width <= SKETCH else SKETCH
        if self.centred:
            halved, finding = levels(2 * groups), centring_flops(width, grid, 2 * groups)
        else:
            halved, finding = levels(groups), 6 * grid.tokens * width
        products = 6 * halved * min(width, SKETCH) + 2 * sketch * width
        return grid.tokens * products + finding


def fitting_spread(keys: int) -> float:
    """`spread` for so many keys: .7 for 64, .8 for 256, .9 for 1024, at most 1.

    The more keys there are, the smaller are their groups, and the better tells one direction how
    keys and values are spread in them.
    """
    return max(0.0, min(1.0, 0.7 + 0.05 * log2(keys / 64)))


def _sketched(x: Tensor, progress: DenoisingProgress, layer_number: int) -> Tensor:
    """x (B, N, C) in at most SKETCH channels that keep distances (Johnson and Lindenstrauss)."""
    width = x.shape[2]
    if width <= SKETCH:
        return x
    bits = random_bits(width * SKETCH, 0, progress, layer_number, x.device)
    signs = (bits % 2 * 2 - 1).to(x.dtype).unflatten(0, (width, SKETCH))
    return torch.stack([image @ signs for image in x])  # a product of all would round otherwise


def _halfway(members: Tensor, along: Tensor, split: Split) -> Tensor:
    """(B, 2 * groups): the middle tokens of the upper and of the lower half of each group."""
    ranked = along.masked_fill(~split.counts, -torch.inf).argsort(
        dim=2, descending=True, stable=True
    )
    size = split.counts.sum(1)
    places = torch.stack([size // 4, size - 1 - size // 4], dim=1)  # (groups, 2)
    places = ranked.gather(2, places.expand(len(members), -1, -1))
    return members.gather(2, places).flatten(1)
