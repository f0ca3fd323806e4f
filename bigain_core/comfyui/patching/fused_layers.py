"""Layers that the host computes without calling them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import comfy.ops
from torch import Tensor, nn

from ...measure.counting import LayerCount

FUSED = "linear_input_act"  # of `comfy.ops`, on newer hosts: linear(activation(x))

_lock = Lock()  # networks of several devices run in threads
_counting: dict[int, tuple[set[nn.Module], LayerCount]] = {}  # by the id of the count
_originals: list[Callable] = []  # kept, as a thread may be on its way through


@contextmanager
def counted_past_forwards(network: nn.Module, count: LayerCount) -> Iterator[None]:
    """Count linear layers with int8 weights, whose forward the host goes past to fuse them."""
    if not hasattr(comfy.ops, FUSED):
        yield
        return
    with _lock:
        if not _counting:
            _originals[:] = [getattr(comfy.ops, FUSED)]
            setattr(comfy.ops, FUSED, _fused)
        _counting[id(count)] = (set(network.modules()), count)
    try:
        yield
    finally:
        with _lock:
            del _counting[id(count)]
            if not _counting:
                setattr(comfy.ops, FUSED, _originals[0])


def _fused(linear: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
    counts = [count for layers, count in [*_counting.values()] if linear in layers]
    before = [count.flops for count in counts]
    out = _originals[0](linear, x, *args, **kwargs)
    for count, flops in zip(counts, before, strict=True):
        if count.flops == flops:  # nor did its hook see it
            count.add(linear, (x,), out)
    return out
