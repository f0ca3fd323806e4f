"""Staying out of torch.compile's way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .adapter import Patches


def may_compile() -> bool:
    """Whether this process has loaded the compiler, which takes seconds and is not for us to do."""
    return "torch._dynamo" in sys.modules


class _Door:
    """A function that the compiler does not look into; what lies behind it may change."""

    def __init__(self):
        self.behind: Callable | None = None
        self.function = torch.compiler.disable(self._pass)

    def _pass(self, *args, **kwargs):
        return self.behind(*args, **kwargs)


class Doors:
    """The functions of an interception, the same ones for each call of a network.

    Otherwise the compiler would trace our bookkeeping, and do so again whenever a count or a
    timestep has changed. Forwards that only pass a call on stay open, for a whole block of the
    network is behind them.
    """

    def __init__(self):
        self._modules: WeakKeyDictionary[nn.Module, _Door] = WeakKeyDictionary()
        self._options: dict[str, _Door] = {}

    @contextmanager
    def hidden(self, found: Patches) -> Iterator[Patches]:
        """The interception behind doors, for one network call; nothing of it is kept."""
        used: list[_Door] = []

        def through(doors: MutableMapping, key, function: Callable) -> Callable:
            used.append(doors.setdefault(key, _Door()))
            used[-1].behind = function
            return used[-1].function

        replacements = found.replacements
        if not found.passing:
            replacements = [(m, through(self._modules, m, forward)) for m, forward in replacements]
        options = {name: through(self._options, name, f) for name, f in found.options.items()}
        try:
            yield Patches(replacements, options)
        finally:
            for door in used:
                door.behind = None
