"""Replacing the forwards of modules for the duration of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn

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
