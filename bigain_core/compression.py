"""Rules on where, when and how to compress, and what they did in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .flops import LayerFlops, attention_flops, self_attention_flops
from .gate import why_slower
from .grid import TokenGrid
from .methods import Method
from .placement import Placement, Site
from .plans import IdentityPlan, Plan, repeated
from .schedules import ActiveRange, Moment


@dataclass(frozen=True)
class Rule:
    """A method, where and when it acts.

    Queries and keys that carry rotary positions keep to positions that exist unless
    `blends_rotary`; the average of keys turned by different angles loses what tells near from far.
    With `only_where_faster`, layers in which it is expected to take more time than it saves are
    left alone (see `gate`); which these are depends on the kind of device.
    """

    method: Method
    placement: Placement = Placement()
    active: ActiveRange = ActiveRange()
    blends_rotary: bool = False
    only_where_faster: bool = False


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
    """What happened at one site in a run.

    Token counts are those of the image in the last compressed call, beside `others` (text) that no
    method touches. FLOPs are of all calls, per sample; `flops_fixed` are left however few tokens
    are.
    """

    method: str = ""
    calls: int = 0
    compressed: int = 0
    tokens: int = 0
    query_tokens: int = 0
    context_tokens: int = 0
    flops_before: int = 0
    flops_after: int = 0
    others: int = 0
    flops_fixed: int = 0


@dataclass
class RunLog:
    """Sites of a model that were visited in a run, and calls left alone with the reason.

    FLOPs are per sample. `networks` holds, by the shape of the latent, those of a plain network
    call and the number of calls; it is empty where nobody counted. `slower` says for compressed
    sites why they are expected to be slower than plain ones, as `why_slower` does for `device`.
    """

    family: str = "a model"

    sites: dict[Site, SiteRecord] = field(default_factory=dict)
    left_alone: Counter[str] = field(default_factory=Counter)
    networks: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    slower: dict[Site, str | None] = field(default_factory=dict)
    device: str = ""

    def clear(self) -> None:
        self.device = ""
        self.sites.clear()
        self.slower.clear()
        self.left_alone.clear()
        self.networks.clear()

    @property
    def flops_before(self) -> int:
        """Of all self-attention layers visited in the run."""
        return sum(record.flops_before for record in self.sites.values())

    @property
    def flops_saved(self) -> int:
        """Summed over all calls of the run."""
        return self.flops_before - sum(record.flops_after for record in self.sites.values())

    @property
    def flops_fixed(self) -> int:
        return sum(record.flops_fixed for record in self.sites.values())

    @property
    def network_flops(self) -> int:
        """Of all network calls of the run without compression, 0 where nobody counted."""
        return sum(flops * calls for flops, calls in self.networks.values())

    @property
    def network_calls(self) -> int:
        """Those whose work was counted."""
        return sum(calls for _, calls in self.networks.values())

    @property
    def sites_compressed(self) -> int:
        return sum(record.compressed > 0 for record in self.sites.values())


@dataclass(frozen=True, eq=False)
class Decision:
    """The plan for one layer in one network call: metric (B, N, C) on `grid`, of all frames."""

    site: Site
    method: Method
    metric: Tensor
    grid: TokenGrid
    plan: Plan


Assignment = tuple[Site, Plan]


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
    moment: Moment
    log: RunLog
    layer_flops: LayerFlops
    copies: int = 1
    assignments: dict[Hashable, Assignment] = field(default_factory=dict)
    products: int = 0
    saved: int = 0
    on_plan: Callable[[Decision], object] | None = None

    def plan(
        self,
        site: Site,
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
        record = self._visit(site, tokens, width)
        rule = self.compression.rule_at(site, self.moment)
        if rule is None:
            return self._whole(tokens, width)
        if reason := _why_not(rule, tokens, grid):
            return self._whole(tokens, width, reason)
        slower = why_slower(rule.method, grid, width, self.layer_flops, x.device.type)
        if slower and rule.only_where_faster:
            return self._whole(tokens, width, f"{slower}, so only_where_faster spares it")
        wanted = normed if rule.method.metric == "normed" and normed is not None else x
        metric = grid.image(wanted)
        plan, deciding = self._assign(rule.method, metric, grid.frame, site)
        if plan.query_tokens == plan.context_tokens == grid.frame.tokens:
            reason = f"{rule.method.name} keeps every token of {grid.height} x {grid.width}"
            return self._whole(tokens, width, reason)
        if self.on_plan:
            self.on_plan(Decision(site, rule.method, metric, grid.frame, plan))
        queries = grid.others + grid.frames * plan.query_tokens
        context = grid.others + grid.frames * plan.context_tokens
        self.log.device, self.log.slower[site] = x.device.type, slower
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

    def leave_alone(self, site: Site, x: Tensor, reason: str) -> IdentityPlan:
        """For a layer called with x (B, N, C) that no plan can be made for."""
        self._visit(site, *x.shape[1:])
        return self._whole(*x.shape[1:], reason)

    def _visit(self, site: Site, tokens: int, width: int) -> SiteRecord:
        record = self.log.sites.setdefault(site, SiteRecord())
        plain = self_attention_flops(width, tokens, tokens, tokens)
        record.calls += 1
        record.flops_before += plain
        record.flops_after += plain
        record.flops_fixed += self.layer_flops(width, tokens, 0, 0)
        return record

    def _whole(self, tokens: int, width: int, reason: str = "") -> IdentityPlan:
        if reason:
            self.log.left_alone[reason] += 1
        self.products += attention_flops(width, tokens, tokens)
        return IdentityPlan(tokens)

    def _assign(
        self, method: Method, metric: Tensor, grid: TokenGrid, site: Site
    ) -> tuple[Plan, int]:
        """The method's plan and what deciding cost; nothing where an earlier layer's is reused."""
        key = (method, grid, metric.shape[0])
        if key in self.assignments:
            decided, plan = self.assignments[key]
            if method.reuses(decided, site):
                return plan, 0
        cost = method.decision_flops(metric.shape[-1], grid)
        if cost and site.number == 0 and _repeats(metric, self.copies):
            one = metric[: metric.shape[0] // self.copies]
            plan = repeated(method.plan(one, grid, self.moment, site.number), self.copies)
        else:
            plan = method.plan(metric, grid, self.moment, site.number)
        if method.reuses(site, site):
            self.assignments[key] = (site, plan)
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
