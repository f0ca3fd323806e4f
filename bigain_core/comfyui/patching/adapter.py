"""What it takes to reach the self-attention of a class of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ...compression.forwards import Replacement
from ...compression.network_call import NetworkCall
from ...measure.flops import LayerFlops
from ...placement import LayerId
from ...tokens.grid import TokenGrid

Layers = list[tuple[LayerId, nn.Module]]
Patch = tuple[int, int, int]  # frames, rows and columns of a latent that become one token


@dataclass(frozen=True)
class Inputs:
    """What the host hands to a network: the noisy latent (B, C, [T,] H, W), the text (B, n, C) or
    None, further conditions by name, and its options for this call."""

    latent: Tensor
    text: Tensor | None
    conditions: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Patches:
    """Forwards to replace and functions to set as options for the duration of one network call.

    `passing` forwards only note that they are called and pass everything on.
    """

    replacements: list[Replacement]
    options: Mapping[str, Callable] = field(default_factory=dict)
    passing: bool = False


class AttentionAdapter(Protocol):
    """A way to self-attention. `layers` are those of `layers()`; their modules are the reach's."""

    layer_flops: LayerFlops

    def layers(self, network: nn.Module) -> Layers:
        """The self-attention layers over image tokens, in order of execution."""
        ...

    def intercept(
        self, network: nn.Module, layers: Layers, call: NetworkCall, inputs: Inputs
    ) -> Patches: ...


def patch_sizes(given: int | Sequence[int]) -> Patch:
    """From how a network states its patch: one number for rows and columns, or two, or three."""
    sizes = (given, given) if isinstance(given, int) else tuple(given)
    return (1, *sizes) if len(sizes) == 2 else sizes


def image_grid(latent: Tensor, patch: Patch) -> TokenGrid:
    """Tokens of a latent (B, C, [T,] H, W); a network pads sides that its patch does not divide."""
    frames = latent.shape[2] if latent.ndim == 5 else 1
    sizes = (frames, *latent.shape[-2:])
    frames, height, width = (-(-size // step) for size, step in zip(sizes, patch, strict=True))
    return TokenGrid(height, width, frames)
