"""Counting the work of a network while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

COUNTED = (("in_features", "out_features"), ("in_channels", "groups", "kernel_size"))


@dataclass
class LayerCount:
    """FLOPs of linear layers and convolutions, for a whole batch."""

    flops: int = 0

    def add(self, layer: nn.Module, inputs, output) -> None:
        """Forward hook of a layer: every number of its output is one sum over its inputs."""
        summed = getattr(layer, "in_features", None)
        if summed is None:
            summed = layer.in_channels // layer.groups * prod(layer.kernel_size)
        if isinstance(output, Tensor):
            self.flops += 2 * summed * output.numel()


@contextmanager
def counted_layers(network: nn.Module) -> Iterator[LayerCount]:
    """Count what runs in the block; layers are known by their attributes, as hosts have their own.

    A wrapper that passes on the attributes of what it holds, as a compiled layer does, is no layer.
    Weights are not read: they may be quantised, on another device or not there yet.
    """
    count, hooks = LayerCount(), []
    try:
        for layer in network.modules():
            if not hasattr(layer, "_orig_mod") and any(
                all(hasattr(layer, name) for name in kind) for kind in COUNTED
            ):
                hooks.append(layer.register_forward_hook(count.add))
        yield count
    finally:
        for hook in hooks:
            hook.remove()
