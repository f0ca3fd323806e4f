"""The compression of one call of the network."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..measure.flops import LayerFlops, attention_flops, self_attention_flops
from ..methods import Method
from ..placement import LayerId
from ..schedules import DenoisingProgress
from ..tokens.grid import TokenGrid
from ..tokens.plans import IdentityPlan, Plan, repeated
from .break_even import why_slower
from .rules import Compression, Rule
from .run_log import LayerRecord, RunLog


@dataclass(frozen=True, eq=False)
class Decision:
    """The plan for one layer in one network call: metric (B, N, C) on `grid`, of all frames."""

    layer_id: LayerId
    method: Method
    metric: Tensor
    grid: TokenGrid
    plan: Plan


Assignment = tuple[LayerId, Plan]


@dataclass
class NetworkCall:
    """The compression of one call of the network.

    `layer_flops` is the cost of a layer whose queries and context are shortened. `assignments`
    holds the last plan of each method that shares plans between layers; nothing is carried over to
    another call. The batch is `copies` of the same latents, one after the other, as far as nobody
    has changed them: one for each prompt that the host asks in one call. `products` are the FLOPs
    that the layers spent outside of projections, `saved` what they spared, both for one sample.
    `on_plan` is told of every layer that is compressed.
    """

    compression: Compression
    progress: DenoisingProgress
    log: RunLog
    layer_flops: LayerFlops
    copies: int = 1
    assignments: dict[Hashable, Assignment] = field(default_factory=dict)
    products: int = 0
    saved: int = 0
    on_plan: Callable[[Decision], object] | None = None

    def plan(
        self,
        layer_id: LayerId,
        x: Tensor,
        grid: TokenGrid,
        normed: Tensor | None = None,
        width: int | None = None,
    ) -> Plan:
        """Plan for the image of a sequence x (B, N, C), which is the metric; see `TokenGrid.image`.

        It is the identity where no rule matches or N is unexpected. `normed` (B, N, C) is for
        methods that ask for it; where it is None, x is that state. `width` is that of the queries,
        where it is not C.
        """
        tokens = x.shape[1]
        width = width or x.shape[-1]
        record = self._visit(layer_id, tokens, width)
        rule = self.compression.rule_at(layer_id, self.progress)
        if rule is None:
            return self._whole(tokens, width)
        if reason := _why_not(rule, tokens, grid):
            return self._whole(tokens, width, reason)
        slower = why_slower(rule.method, grid, width, self.layer_flops, x.device.type)
        if slower and rule.only_where_faster:
            return self._whole(tokens, width, f"{slower}, so only_where_faster spares it")
        wanted = normed if rule.method.metric == "normed" and normed is not None else x
        metric = grid.image(wanted)
        plan, deciding = self._assign(rule.method, metric, grid.frame, layer_id)
        if plan.query_tokens == plan.context_tokens == grid.frame.tokens:
            reason = f"{rule.method.name} keeps every token of {grid.height} x {grid.width}"
            return self._whole(tokens, width, reason)
        if self.on_plan:
            self.on_plan(Decision(layer_id, rule.method, metric, grid.frame, plan))
        queries = grid.others + grid.frames * plan.query_tokens
        context = grid.others + grid.frames * plan.context_tokens
        self.log.device, self.log.slower[layer_id] = x.device.type, slower
        record.method = rule.method.describe(grid.frame)
        record.compressed += 1
        record.tokens, record.others = grid.tokens, grid.others
        record.query_tokens, record.context_tokens = queries - grid.others, context - grid.others
        deciding *= grid.frames
        after = deciding + self.layer_flops(width, tokens, queries, context)
        saved = self_attention_flops(width, tokens, tokens, tokens) - after
        record.flops_after -= saved
        self.saved += saved
        self.products += deciding + attention_flops(width, queries, context)
        return plan

    def skip(self, layer_id: LayerId, x: Tensor, reason: str) -> IdentityPlan:
        """For a layer called with x (B, N, C) that no plan can be made for."""
        self._visit(layer_id, *x.shape[1:])
        return self._whole(*x.shape[1:], reason)

    def _visit(self, layer_id: LayerId, tokens: int, width: int) -> LayerRecord:
        record = self.log.layers.setdefault(layer_id, LayerRecord())
        plain = self_attention_flops(width, tokens, tokens, tokens)
        record.calls += 1
        record.flops_before += plain
        record.flops_after += plain
        record.flops_fixed += self.layer_flops(width, tokens, 0, 0)
        return record

    def _whole(self, tokens: int, width: int, reason: str = "") -> IdentityPlan:
        if reason:
            self.log.skipped[reason] += 1
        self.products += attention_flops(width, tokens, tokens)
        return IdentityPlan(tokens)

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
        if cost and layer_id.number == 0 and _repeats(metric, self.copies):
            one = metric[: metric.shape[0] // self.copies]
            plan = repeated(method.plan(one, grid, self.progress, layer_id.number), self.copies)
        else:
            plan = method.plan(metric, grid, self.progress, layer_id.number)
        if method.reuses(layer_id, layer_id):
            self.assignments[key] = (layer_id, plan)
        return plan, cost


def _repeats(metric: Tensor, copies: int) -> bool:
    """Whether a metric (B, N, C) is `copies` times the same rows; waits for its device if so many.

    Text comes in behind the first layer of many networks: there all prompts see the same tokens.
    """
    if copies < 2 or metric.shape[0] % copies:
        return False
    each = metric.unflatten(0, (copies, -1))
    return torch.equal(each, each[:1].expand_as(each))


def _why_not(rule: Rule, tokens: int, grid: TokenGrid) -> str:
    """Why a rule leaves a layer with so many tokens alone; empty if it does not."""
    if tokens != grid.others + grid.tokens:
        return f"{tokens} tokens where the image has {grid.height} x {grid.width}"
    if grid.tokens < rule.placement.min_tokens:
        return f"{grid.tokens} tokens, fewer than the {rule.placement.min_tokens} asked for"
    return ""
