"""What a compression did in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from ..placement import LayerId


@dataclass
class LayerRecord:
    """What happened at one layer in a run.

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
    """Sites of a model that were visited in a run, and calls skipped with the reason.

    FLOPs are per sample. `networks` holds, by the shape of the latent, those of a plain network
    call and the number of calls; it is empty where nobody counted. `slower` says for compressed
    layers why they are expected to be slower than plain ones, as `why_slower` does for `device`.
    """

    family: str = "a model"

    layers: dict[LayerId, LayerRecord] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    networks: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    slower: dict[LayerId, str | None] = field(default_factory=dict)
    device: str = ""

    def clear(self) -> None:
        self.device = ""
        self.layers.clear()
        self.slower.clear()
        self.skipped.clear()
        self.networks.clear()

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
        """Of all network calls of the run without compression, 0 where nobody counted."""
        return sum(flops * calls for flops, calls in self.networks.values())

    @property
    def network_calls(self) -> int:
        """Those whose work was counted."""
        return sum(calls for _, calls in self.networks.values())

    @property
    def layers_compressed(self) -> int:
        return sum(record.compressed > 0 for record in self.layers.values())
