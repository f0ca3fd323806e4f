"""The compression of one call of the network."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..measure.flops import LayerFlops
from ..methods import Method
from ..placement import LayerId
from ..schedules import DenoisingProgress
from ..tokens.centred_keys import keys_with_values
from ..tokens.grid import TokenGrid
from ..tokens.parts import plan_in_parts
from ..tokens.plans import IdentityPlan, Plan, repeated
from .break_even import kind_of, why_slower
from .decisions import Decision
from .rules import Compression
from .run_log import RunLog

CAPTURED = (
    "what runs is recorded into a CUDA graph, in which every later step would follow the decision "
    "of this one"
)


def captured() -> bool:
    """Whether a CUDA graph is being recorded; nothing can be read from the device then."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@dataclass
class NetworkCall:
    """The compression of one call of the network.

    `progress` is asked for when a layer is decided, as the host may have to wait for its device to
    know, and so is `confirms`, whether a flag () there is true. `layer_flops` is the cost of a
    layer whose queries and context are shortened. The batch holds `copies` of the same latents, one
    per prompt, unless something has changed them. `assignments` holds the last plan of each method
    that shares plans between layers; nothing is carried over to another call. `unseen` are the
    FLOPs per sample of an uncompressed call that linear layers do not account for in this one.
    `on_decision` is called for every compressed layer. Within `outliving` plans are made that later
    layers reuse.
    """

    compression: Compression
    progress: Callable[[], DenoisingProgress]
    log: RunLog
    layer_flops: LayerFlops
    copies: int = 1
    assignments: dict[Hashable, tuple[LayerId, Plan]] = field(default_factory=dict)
    unseen: int = 0
    on_decision: Callable[[Decision], object] | None = None
    confirms: Callable[[Tensor], bool] = bool
    outliving: Callable[[], AbstractContextManager] = nullcontext

    def visit(
        self,
        layer_id: LayerId,
        x: Tensor,
        grid: TokenGrid,
        normed: Tensor | None = None,
        width: int | None = None,
        at_hand: Tensor | None = None,
    ) -> Decision | None:
        """Decide for a layer and log it, see `decide`; None if the layer is to run as it is.

        `width` is that of the queries, where it is not C.
        """
        width = width or x.shape[-1]
        decision = self.decide(layer_id, x, grid, normed, width, at_hand)
        if isinstance(decision, str):
            return self.skip(layer_id, x.shape[1], width, decision)
        if self.on_decision:
            self.on_decision(decision)
        self.log.device = kind_of(x.device)
        self.unseen += self.log.add(decision, width, self.layer_flops)
        return decision

    def skip(self, layer_id: LayerId, tokens: int, width: int, reason: str) -> None:
        """Log a layer that runs as it is."""
        self.unseen += self.log.add_skipped(layer_id, tokens, width, self.layer_flops, reason)

    def plan(self, layer_id: LayerId, x: Tensor, grid: TokenGrid) -> Plan | None:
        """For a layer that projects queries, keys and values of x (B, N, C) and has no rotation.

        A method that goes by keys and values decides when they are there. None if the layer is to
        run as it is.
        """
        rule = self.compression.rule_at(layer_id, self.progress())
        if rule is not None and rule.method.after_projection:
            return _LatePlan(self, layer_id, x, grid)
        decision = self.visit(layer_id, x, grid)
        return decision and decision.plan

    def decide(
        self,
        layer_id: LayerId,
        x: Tensor,
        grid: TokenGrid,
        normed: Tensor | None,
        width: int,
        at_hand: Tensor | None = None,
    ) -> Decision | str:
        """For a sequence x (B, N, C) whose image lies on `grid` and is the metric, or why not.

        `normed` (B, N, C) is for methods that ask for it; where it is None, x is that state.
        `at_hand` are `keys_with_values` of a layer whose queries, keys and values are at hand. The
        reason is empty where no rule covers the layer.
        """
        if captured():
            return CAPTURED
        rule, tokens = self.compression.rule_at(layer_id, self.progress()), x.shape[1]
        if rule is None:
            return ""
        if tokens != grid.sequence_tokens:
            return f"{tokens} tokens where the image has {grid.height} x {grid.width}"
        if grid.tokens < rule.placement.min_tokens:
            return f"{grid.tokens} tokens, below the minimum of {rule.placement.min_tokens}"
        method = rule.method if at_hand is None else rule.method.after_projection
        grid = _planned_at_once(rule.method, grid)
        slower = why_slower(method, grid, width, self.layer_flops, kind_of(x.device))
        if slower and rule.only_where_faster:
            return f"{slower}; only_where_faster skips such layers"
        if at_hand is None:
            at_hand = normed if method.metric == "normed" and normed is not None else x
        metric = grid.image(at_hand)
        plan, flops = self._assign(method, metric, grid.piece, layer_id)
        references, flops = [], flops * grid.pieces
        for place in grid.references if rule.references else ():
            place = _planned_at_once(rule.references, place)
            short, cost = self._assign(rule.references, place.image(x), place.piece, layer_id)
            flops += cost * place.pieces
            if short.context_tokens < place.piece.tokens:
                references.append((place, short))
        if plan.query_tokens == plan.context_tokens == grid.piece.tokens and not references:
            return f"{method.name} keeps every token of {grid.height} x {grid.width}"
        return Decision(layer_id, rule, metric, grid, plan, flops, slower, tuple(references))

    def _assign(
        self, method: Method, metric: Tensor, grid: TokenGrid, layer_id: LayerId
    ) -> tuple[Plan, int]:
        """The method's plan and what deciding cost; nothing where an earlier layer's is reused."""
        if method.is_identity:
            return IdentityPlan(grid.tokens), 0
        key = (method, grid, metric.shape[0])
        if key in self.assignments:
            decided, plan = self.assignments[key]
            if method.reuses(decided, layer_id):
                return plan.in_layer(layer_id.number), 0
        cost = method.decision_flops(metric.shape[-1], grid)
        once = cost and layer_id.number == 0 and _repeats(metric, self.copies)
        rows = metric[: metric.shape[0] // self.copies] if once else metric
        lasts = method.reuses(layer_id, layer_id)
        with self.outliving() if lasts else nullcontext():
            plan = plan_in_parts(method, rows, grid, self.progress(), layer_id.number)
            if once:
                plan = repeated(plan, self.copies)
        if lasts:
            self.assignments[key] = (layer_id, plan)
        return plan, cost


@dataclass(frozen=True, eq=False)
class _LatePlan(Plan):
    """Decides when queries, keys and values are there."""

    call: NetworkCall
    layer_id: LayerId
    x: Tensor
    grid: TokenGrid

    @property
    def context_tokens(self) -> int:
        return self.grid.tokens

    def context(self, x: Tensor) -> Tensor:
        return x

    def unblended(self) -> Plan:
        return self

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        found = keys_with_values(k, v)
        decision = self.call.visit(self.layer_id, self.x, self.grid, at_hand=found)
        return decision.plan.attended(q, k, v, heads) if decision else (k, v, None)


def _planned_at_once(method: Method, grid: TokenGrid) -> TokenGrid:
    """All frames of a film together, for a method in which some share keys and values."""
    return replace(grid, joined=method.frames > 1 and grid.frames > 1)


def _repeats(metric: Tensor, copies: int) -> bool:
    """Whether a metric (B, N, C) is `copies` times the same rows; only looked at on the CPU.

    Text comes in behind the first layer of many networks: there all prompts see the same tokens.
    To wait for another device would cost more than is gained.
    """
    if copies < 2 or metric.shape[0] % copies or metric.device.type != "cpu":
        return False
    each = metric.unflatten(0, (copies, -1))
    return torch.equal(each, each[:1].expand_as(each))
