"""The interface to the self-attention of a class of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PureWindowsPath
from typing import Any, Protocol

from torch import Tensor, nn

from ...compression.forwards import Replacement
from ...compression.network_call import NetworkCall
from ...measure.flops import LayerFlops
from ...placement import LayerId
from ...tokens.grid import TokenGrid, patch_grid

Layers = list[tuple[LayerId, nn.Module]]
WHOLE = "control"  # stage of layers that see the image and are never compressed


@dataclass(frozen=True)
class Inputs:
    """A network and what the host calls it with.

    These are the noisy latent (B, C, [T,] H, W), of a model with sound that of the video, the text
    (B, n, C) or None, further conditions by name, and the host's options for this call. `patch` is
    how much of a latent becomes one token.
    """

    network: nn.Module
    latent: Tensor
    text: Tensor | None
    conditions: Mapping[str, Any]
    options: Mapping[str, Any]
    patch: int | Sequence[int] = 1

    def grid(self, latent: Tensor) -> TokenGrid:
        """Tokens of a latent or of a reference."""
        return patch_grid(latent.shape[2:], self.patch)

    @property
    def image(self) -> TokenGrid:
        return self.grid(self.latent)

    def placed(self, prefix: int, suffix: int = 0) -> TokenGrid:
        """The image with so many other tokens in front of it and behind it."""
        return replace(self.image, prefix=prefix, suffix=suffix)


def patch_name(patch: Callable | None) -> str:
    """Where the code of another node's patch is: module, which names its pack, and name."""
    named = patch if hasattr(patch, "__qualname__") else type(patch)
    module = PureWindowsPath(named.__module__ or "").name  # a path without its parents
    return f"{module}.{named.__qualname__}"


@dataclass(frozen=True)
class Patches:
    """What to change for the duration of one network call.

    `replaced` forwards do the work of the original, `observing` ones note that they are called and
    pass everything on; `options` are functions to set as options of the host.
    """

    replaced: Sequence[Replacement] = ()
    observing: Sequence[Replacement] = ()
    options: Mapping[str, Callable] = field(default_factory=dict)

    @property
    def forwards(self) -> list[Replacement]:
        return [*self.replaced, *self.observing]


class AttentionAdapter(Protocol):
    """A way to self-attention: `layers` of `intercept` are some of those of `layers()`."""

    layer_flops: LayerFlops

    def layers(self, network: nn.Module) -> list[tuple[LayerId, nn.Module | None]]:
        """The self-attention layers over image tokens, in order of execution.

        None stands for one whose place holds a module of another kind, so that the numbers of the
        others stay. Where a module is wrapped, by torch.compile say, the outermost wrapper comes.
        """
        ...

    def intercept(self, layers: Layers, call: NetworkCall, inputs: Inputs) -> Patches: ...
