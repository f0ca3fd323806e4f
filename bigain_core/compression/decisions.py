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
    """The plan for a layer, from a metric (B * pieces, n, C) of the image that lies on `grid`.

    `references` are the places and plans of those that are shortened, `flops` is what deciding cost
    for one sample, `slower` the answer of `why_slower`.
    """

    layer_id: LayerId
    rule: Rule
    metric: Tensor
    grid: TokenGrid
    plan: Plan
    flops: int = 0
    slower: str | None = None
    references: tuple[tuple[TokenGrid, Plan], ...] = ()

    @property
    def positions(self) -> Plan:
        """The plan for queries and keys that carry rotary positions."""
        return self.kept_in_place(self.plan)

    def kept_in_place(self, plan: Plan) -> Plan:
        return plan if self.rule.blends_rotary else plan.unblended()

    @property
    def query_tokens(self) -> int:
        """Of the whole sequence."""
        return self.grid.shortened(self.plan.query_tokens)

    @property
    def context_tokens(self) -> int:
        """Of the whole sequence."""
        tokens, keys = self.reference_tokens
        return self.grid.shortened(self.plan.context_tokens) - tokens + keys

    @property
    def reference_tokens(self) -> tuple[int, int]:
        """Of references that are shortened: tokens, and keys in their place."""
        tokens = sum(place.tokens for place, _ in self.references)
        return tokens, sum(place.pieces * plan.context_tokens for place, plan in self.references)
