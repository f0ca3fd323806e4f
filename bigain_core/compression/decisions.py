"""What becomes of one layer in one call of the network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..placement import LayerId
from ..tokens.grid import TokenGrid
from ..tokens.plans import Plan
from .rules import Rule


@dataclass(frozen=True, eq=False)
class Decision:
    """The plan for a layer, from a metric (B * frames, n, C) of the image that lies on `grid`.

    `flops` is what deciding cost for one sample, `slower` the answer of `why_slower`.
    """

    layer_id: LayerId
    rule: Rule
    metric: Tensor
    grid: TokenGrid
    plan: Plan
    flops: int = 0
    slower: str | None = None

    @property
    def positions(self) -> Plan:
        """The plan for queries and keys that carry rotary positions."""
        return self.plan if self.rule.blends_rotary else self.plan.unblended()
