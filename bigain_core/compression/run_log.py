"""What a compression did in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from threading import Lock

from ..measure.flops import LayerFlops, attention_flops
from ..placement import LayerId
from .decisions import Decision


@dataclass
class LayerRecord:
    """What happened at one layer in a run.

    Token counts are those of the image in the last compressed call; no method touches the
    `text_tokens` beside it. FLOPs are of all calls, per sample; `flops_fixed` remain however few
    tokens there are.
    """

    method: str = ""
    calls: int = 0
    compressed: int = 0
    tokens: int = 0
    query_tokens: int = 0
    context_tokens: int = 0
    flops_before: int = 0
    flops_after: int = 0
    text_tokens: int = 0
    flops_fixed: int = 0


@dataclass
class RunLog:
    """The ledger of a run: what was decided at its layers, and how often for which reason not.

    FLOPs are per sample. `networks` holds, by the shape of the latent, those of an uncompressed
    network call and the number of calls; it is empty where none were counted. `slower` says why
    compressed layers are expected to be slower than uncompressed ones, as `why_slower` does for
    `device`. `expected` are layers that a rule is to change, and whether the network had them or
    modules of another kind in their place, `dense` those that keep a sparse attention of another
    node from being sparse.

    Networks on several devices, each in a thread, may write at once.
    """

    family: str = "a model"

    layers: dict[LayerId, LayerRecord] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    networks: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    slower: dict[LayerId, str | None] = field(default_factory=dict)
    expected: dict[LayerId, bool] = field(default_factory=dict)
    dense: set[LayerId] = field(default_factory=set)
    device: str = ""
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def clear(self) -> None:
        self.device = ""
        self.layers.clear()
        self.expected.clear()
        self.dense.clear()
        self.slower.clear()
        self.skipped.clear()
        self.networks.clear()

    def expect(self, layer_id: LayerId, covered: bool, found: bool) -> None:
        """Note a layer of the network before its first call."""
        with self._lock:
            self.layers.setdefault(layer_id, LayerRecord())
            if covered:
                self.expected.setdefault(layer_id, found)

    def add_call(self, latent: Hashable, flops: int = 0) -> None:
        """Note a network call; FLOPs are those of the first call with a latent of this shape."""
        with self._lock:
            first, calls = self.networks.get(latent, (flops, 0))
            self.networks[latent] = (first, calls + 1)

    def add_reason(self, reason: str) -> None:
        with self._lock:
            self.skipped[reason] += 1

    def add(self, decision: Decision, width: int, layer_flops: LayerFlops) -> int:
        """Note a compressed layer; returns the FLOPs of an uncompressed one without the
        projections of this one."""
        grid, plan = decision.grid, decision.plan
        work = width, grid.sequence_tokens, decision.query_tokens, decision.context_tokens
        references, keys = decision.reference_tokens
        how = f", {references} of references -> {keys} keys" if references else ""
        with self._lock:
            record = self.layers.setdefault(decision.layer_id, LayerRecord())
            record.method = decision.rule.method.describe(grid.piece) + how
            record.compressed += 1
            record.tokens, record.text_tokens = grid.tokens, grid.text_tokens
            record.query_tokens = grid.pieces * plan.query_tokens
            record.context_tokens = grid.pieces * plan.context_tokens
            self.slower[decision.layer_id] = decision.slower
            return self._count(record, layer_flops, work, decision.flops)

    def add_skipped(
        self, layer_id: LayerId, tokens: int, width: int, layer_flops: LayerFlops, reason: str
    ) -> int:
        """Note a layer that ran as it is; returns the FLOPs of its attention."""
        if reason:
            self.add_reason(reason)
        with self._lock:
            record = self.layers.setdefault(layer_id, LayerRecord())
            return self._count(record, layer_flops, (width, tokens, tokens, tokens))

    def _count(
        self, record: LayerRecord, layer_flops: LayerFlops, work: tuple[int, ...], deciding: int = 0
    ) -> int:
        width, tokens, queries, context = work
        plain, after = layer_flops(width, tokens, tokens, tokens), layer_flops(*work)
        record.calls += 1
        record.flops_before += plain
        record.flops_after += deciding + after
        record.flops_fixed += layer_flops(width, tokens, 0, 0)
        return plain - after + attention_flops(width, queries, context)

    @property
    def flops_before(self) -> int:
        """Of all self-attention layers visited in the run."""
        return sum(record.flops_before for record in self.layers.values())

    @property
    def flops_saved(self) -> int:
        """Summed over all calls of the run."""
        return self.flops_before - sum(record.flops_after for record in self.layers.values())

    @property
    def flops_fixed(self) -> int:
        return sum(record.flops_fixed for record in self.layers.values())

    @property
    def network_flops(self) -> int:
        """Of all network calls of the run without compression, 0 where none were counted."""
        return sum(flops * calls for flops, calls in self.networks.values())

    @property
    def network_calls(self) -> int:
        """Those whose work was counted."""
        return sum(calls for _, calls in self.networks.values())

    @property
    def layers_compressed(self) -> int:
        return sum(record.compressed > 0 for record in self.layers.values())
