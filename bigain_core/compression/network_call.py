"""The compression of one call of the network."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..measure.flops import LayerFlops
from ..methods import Method
from ..placement import LayerId
from ..schedules import DenoisingProgress
from ..tokens.grid import TokenGrid
from ..tokens.parts import plan_in_parts
from ..tokens.plans import Plan, repeated
from .break_even import why_slower
from .decisions import Decision
from .rules import Compression
from .run_log import RunLog


@dataclass
class NetworkCall:
    """The compression of one call of the network.

    `layer_flops` is the cost of a layer whose queries and context are shortened. The batch holds
    `copies` of the same latents, one per prompt, unless something has changed them. `assignments`
    holds the last plan of each method that shares plans between layers; nothing is carried over to
    another call. `unseen` are the FLOPs per sample of an uncompressed call that linear layers do
    not account for in this one. `on_decision` is called for every compressed layer.
    """

    compression: Compression
    progress: DenoisingProgress
    log: RunLog
    layer_flops: LayerFlops
    copies: int = 1
    assignments: dict[Hashable, tuple[LayerId, Plan]] = field(default_factory=dict)
    unseen: int = 0
    on_decision: Callable[[Decision], object] | None = None

    def visit(
        self,
        layer_id: LayerId,
        x: Tensor,
        grid: TokenGrid,
        normed: Tensor | None = None,
        width: int | None = None,
    ) -> Decision | None:
        """Decide for a layer and log it, see `decide`; None if the layer is to run as it is.

        `width` is that of the queries, where it is not C.
        """
        width = width or x.shape[-1]
        decision = self.decide(layer_id, x, grid, normed, width)
        if isinstance(decision, str):
            return self.skip(layer_id, x.shape[1], width, decision)
        if self.on_decision:
            self.on_decision(decision)
        self.log.device = x.device.type
        self.unseen += self.log.add(decision, width, self.layer_flops)
        return decision

    def skip(self, layer_id: LayerId, tokens: int, width: int, reason: str) -> None:
        """Log a layer that runs as it is."""
        self.unseen += self.log.add_skipped(layer_id, tokens, width, self.layer_flops, reason)

    def decide(
        self, layer_id: LayerId, x: Tensor, grid: TokenGrid, normed: Tensor | None, width: int
    ) -> Decision | str:
        """For a sequence x (B, N, C) whose image lies on `grid` and is the metric, or why not.

        `normed` (B, N, C) is for methods that ask for it; where it is None, x is that state. The
        reason is empty where no rule covers the layer.
        """
        rule, tokens = self.compression.rule_at(layer_id, self.progress), x.shape[1]
        if rule is None:
            return ""
        if tokens != grid.sequence_tokens:
            return f"{tokens} tokens where the image has {grid.height} x {grid.width}"
        if grid.tokens < rule.placement.min_tokens:
            return f"{grid.tokens} tokens, below the minimum of {rule.placement.min_tokens}"
        method = rule.method
        slower = why_slower(method, grid, width, self.layer_flops, x.device.type)
        if slower and rule.only_where_faster:
            return f"{slower}; only_where_faster skips such layers"
        metric = grid.image(normed if method.metric == "normed" and normed is not None else x)
        plan, flops = self._assign(method, metric, grid.frame, layer_id)
        if plan.query_tokens == plan.context_tokens == grid.frame.tokens:
            return f"{method.name} keeps every token of {grid.height} x {grid.width}"
        return Decision(layer_id, rule, metric, grid, plan, flops * grid.frames, slower)

    def _assign(
        self, method: Method, metric: Tensor, grid: TokenGrid, layer_id: LayerId
    ) -> tuple[Plan, int]:
        """The method's plan and what deciding cost; nothing where an earlier layer's is reused."""
        key = (method, grid, metric.shape[0])
        if key in self.assignments:
            decided, plan = self.assignments[key]
            if method.reuses(decided, layer_id):
                return plan, 0
        cost = method.decision_flops(metric.shape[-1], grid)
        once = cost and layer_id.number == 0 and _repeats(metric, self.copies)
        rows = metric[: metric.shape[0] // self.copies] if once else metric
        plan = plan_in_parts(method, rows, grid, self.progress, layer_id.number)
        if once:
            plan = repeated(plan, self.copies)
        if method.reuses(layer_id, layer_id):
            self.assignments[key] = (layer_id, plan)
        return plan, cost


def _repeats(metric: Tensor, copies: int) -> bool:
    """Whether a metric (B, N, C) is `copies` times the same rows; only looked at on the CPU.

    Text comes in behind the first layer of many networks: there all prompts see the same tokens.
    To wait for another device would cost more than is gained.
    """
    if copies < 2 or metric.shape[0] % copies or metric.device.type != "cpu":
        return False
    each = metric.unflatten(0, (copies, -1))
    return torch.equal(each, each[:1].expand_as(each))
