"""What the demo needs of a runner, with or without ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bigain_core.classification import Classification, TrialPlan
from bigain_core.compression.rules import Compression
from bigain_core.compression.run_log import RunLog
from bigain_core.listener import SILENT, Listener


@dataclass(frozen=True)
class CallFlops:
    """Floating point operations of one network call for one sample, a multiply-add counted as two.

    `network` is the whole plain network; `layers_before` and `layers_after` are the self-attention
    layers that a setting compresses, with their projections, plain and compressed. `tokens` is the
    most that such a layer has, 0 where nothing is compressed.
    """

    network: int
    layers_before: int
    layers_after: int
    tokens: int

    @classmethod
    def from_log(cls, network: int, log: RunLog) -> CallFlops:
        """The average call of those in `log`."""
        records = [record for record in log.layers.values() if record.compressed]
        before = sum(record.flops_before // record.calls for record in records)
        after = sum(record.flops_after // record.calls for record in records)
        return cls(network, before, after, max((record.tokens for record in records), default=0))

    @property
    def compressed(self) -> int:
        """The whole network under the setting."""
        return self.network - self.layers_before + self.layers_after

    @property
    def ceiling(self) -> float:
        """The speed-up of a network call that the operations allow."""
        return self.network / self.compressed

    @property
    def layers_ceiling(self) -> float:
        """The same for the compressed layers alone; 1 where there are none."""
        return self.layers_before / self.layers_after if self.layers_after else 1.0


class Backend(Protocol):
    """A loaded model that generates and ranks; every method takes the compression to work under.

    Tensors go in and come out on the CPU. Random numbers depend on the given seeds alone.
    """

    @property
    def runner(self) -> str:
        """For the report: "built-in runner", or the host with its version."""
        ...

    @property
    def model(self) -> str:
        """For the report: the file name of the model."""
        ...

    @property
    def device(self) -> str:
        """For the report: the CPU or GPU that the network runs on."""
        ...

    @property
    def image_size(self) -> int:
        """Side length S of the square images that the model is made for."""
        ...

    @property
    def automatic(self) -> Compression:
        """What BiGain (Auto) does to the model."""
        ...

    def flops(self, compression: Compression) -> CallFlops:
        """Counts one call of the network and makes it, so that what is timed afterwards is warm."""
        ...

    def samples(
        self,
        compression: Compression,
        prompts: Sequence[str],
        steps: int,
        seed: int,
        on_step: Callable[[int], None],
    ) -> Tensor:
        """One image per prompt: (P, S, S, 3) in [0, 1].

        `on_step` is called with the number of each step, 1 to `steps`, when all images are past
        it. Equal arguments give equal images; the starting noise is that of every compression.
        """
        ...

    def classify(
        self,
        compression: Compression,
        images: Tensor,
        prompts: Sequence[str],
        plan: TrialPlan,
        listener: Listener = SILENT,
    ) -> Classification:
        """Rank `prompts` for each of `images` (B, S, S, 3) in [0, 1].

        `listener` hears of network evaluations; over the run they add up to
        B * plan.calls(len(prompts)).
        """
        ...
