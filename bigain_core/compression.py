"""Rules on where, when and how to compress, and what they did in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from .flops import self_attention_flops
from .grid import TokenGrid
from .methods import Method
from .placement import Placement, Site
from .plans import IdentityPlan, Plan
from .schedules import ActiveRange, Moment


@dataclass(frozen=True)
class Rule:
    method: Method
    placement: Placement = Placement()
    active: ActiveRange = ActiveRange()


@dataclass(frozen=True)
class Compression:
    """An ordered list of rules; for each site and moment the last rule that matches decides."""

    rules: tuple[Rule, ...] = ()

    def followed_by(self, rule: Rule) -> Compression:
        return Compression((*self.rules, rule))

    def rule_at(self, site: Site, moment: Moment) -> Rule | None:
        for rule in reversed(self.rules):
            if rule.placement.covers(site) and rule.active.contains(moment):
                return rule
        return None


@dataclass
class SiteRecord:
    """What happened at one site in a run; token counts are those of the last compressed call."""

    method: str = ""
    calls: int = 0
    compressed: int = 0
    tokens: int = 0
    query_tokens: int = 0
    context_tokens: int = 0
    flops_before: int = 0
    flops_after: int = 0


@dataclass
class RunLog:
    """Sites visited in a run, and calls left alone with the reason. FLOPs are per sample."""

    sites: dict[Site, SiteRecord] = field(default_factory=dict)
    left_alone: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        self.sites.clear()
        self.left_alone.clear()

    @property
    def flops_saved(self) -> int:
        """Per sample, summed over all compressed calls of the run."""
        return sum(record.flops_before - record.flops_after for record in self.sites.values())

    @property
    def sites_compressed(self) -> int:
        return sum(record.compressed > 0 for record in self.sites.values())


Assignment = tuple[Site, Plan]


@dataclass(frozen=True)
class NetworkCall:
    """The compression of one call of the network.

    `pools_after_projection` tells where keys and values are pooled, for the count of FLOPs.
    `assignments` holds the last plan of each method that shares plans between layers; nothing is
    carried over to another call.
    """

    compression: Compression
    moment: Moment
    log: RunLog
    pools_after_projection: bool
    assignments: dict[Hashable, Assignment] = field(default_factory=dict)

    def plan(
        self, site: Site, metric: Tensor, grid: TokenGrid, normed: Tensor | None = None
    ) -> Plan:
        """Plan for metric (B, N, C); the identity where no rule matches or N is unexpected.

        `normed` (B, N, C) is for methods that ask for it; where it is None, `metric` is that state.
        """
        record = self.log.sites.setdefault(site, SiteRecord())
        record.calls += 1
        tokens, width = metric.shape[1:]
        rule = self.compression.rule_at(site, self.moment)
        if rule is None:
            return IdentityPlan(tokens)
        if reason := _why_not(rule, tokens, grid):
            return self.leave_alone(tokens, reason)
        wanted = normed if rule.method.metric == "normed" and normed is not None else metric
        plan, deciding = self._assign(rule.method, wanted, grid, site)
        if plan.query_tokens == plan.context_tokens == tokens:
            return self.leave_alone(
                tokens, f"{rule.method.name} keeps every token of {grid.height} x {grid.width}"
            )
        record.method = rule.method.name
        record.compressed += 1
        record.tokens = tokens
        record.query_tokens, record.context_tokens = plan.query_tokens, plan.context_tokens
        record.flops_before += self_attention_flops(width, tokens, tokens, tokens)
        record.flops_after += deciding + self._layer_flops(width, plan)
        return plan

    def _assign(
        self, method: Method, metric: Tensor, grid: TokenGrid, site: Site
    ) -> tuple[Plan, int]:
        """The method's plan and what deciding cost; nothing where an earlier layer's is reused."""
        key = (method, grid, metric.shape[0])
        if key in self.assignments:
            decided, plan = self.assignments[key]
            if method.reuses(decided, site):
                return plan, 0
        plan = method.plan(metric, grid, self.moment, site.number)
        if method.reuses(site, site):
            self.assignments[key] = (site, plan)
        return plan, method.decision_flops(metric.shape[-1], grid)

    def _layer_flops(self, width: int, plan: Plan) -> int:
        queries, context = plan.query_tokens, plan.context_tokens
        projected = queries if self.pools_after_projection else context
        return self_attention_flops(width, queries, context, projected)

    def leave_alone(self, tokens: int, reason: str) -> IdentityPlan:
        self.log.left_alone[reason] += 1
        return IdentityPlan(tokens)


def _why_not(rule: Rule, tokens: int, grid: TokenGrid) -> str:
    """Why a rule leaves a layer with so many tokens alone; empty if it does not."""
    if tokens != grid.tokens:
        return f"{tokens} tokens where the image has {grid.height} x {grid.width}"
    if tokens < rule.placement.min_tokens:
        return f"{tokens} tokens, fewer than the {rule.placement.min_tokens} asked for"
    return ""


Replacement = tuple[nn.Module, Callable]


@contextmanager
def replaced_forwards(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Give modules another `forward` for the duration of the block, then restore what was there.

    Instance attributes are used, so state dict, weights and class stay untouched, and a replacement
    that another pack has put on the instance is restored as it was.
    """
    missing = object()
    undo = []
    try:
        for module, forward in replacements:
            undo.append((module, module.__dict__.get("forward", missing)))
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, previous in reversed(undo):
            if previous is missing:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = previous
