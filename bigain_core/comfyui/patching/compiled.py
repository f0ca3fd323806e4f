"""Staying out of the way of torch.compile and of the host's own compiler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy.patcher_extension import WrappersMP
from torch import nn

from .adapter import Patches

COMPILED = "torch.compile"  # the host's key for its own wrapper


def may_compile() -> bool:
    """Whether this process has loaded the compiler, which takes seconds and is not for us to do."""
    return "torch._dynamo" in sys.modules


def needs_one_graph(error: Exception) -> bool:
    """Whether a compiler has refused our graph breaks: `torch.compile(fullgraph=True)`."""
    return may_compile() and isinstance(error, torch._dynamo.exc.Unsupported)


def is_compiled(network: nn.Module, options: Mapping[str, Any]) -> bool:
    """Whether a network or some part of it is compiled, by the host's node or by wrappers."""
    if COMPILED in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
        return True
    return any(hasattr(module, "_orig_mod") for module in network.modules())


def is_recorded(network: nn.Module, device: torch.device) -> bool:
    """Whether a newer host records what the forward of a network allocates, to replay it.

    A network starts that by itself, with a function of the host's module.
    """
    host = sys.modules.get("comfy.model_prefetch")
    enabled = getattr(host, "malloc_graph_enabled", None)
    if enabled is None or not enabled(device):
        return False
    members = (member for kind in type(network).__mro__ for member in vars(kind).values())
    functions = (member for member in members if isinstance(member, FunctionType))
    return any("malloc_graph_begin" in function.__code__.co_names for function in functions)


def outside_graph() -> AbstractContextManager:
    """A pause of what newer hosts record of a forward to replay where its tensors lie.

    What is made within may outlive the forward.
    """
    host = sys.modules.get("comfy.model_prefetch")
    return getattr(host, "pause_malloc_graph", nullcontext)()


class DisabledCallable:
    """A function that the compiler does not look into and whose `target` may change."""

    def __init__(self):
        self.target: Callable | None = None
        self.function = torch.compiler.disable(self._call)

    def _call(self, *args, **kwargs):
        return self.target(*args, **kwargs)


class DisabledCallables:
    """The functions of patches, the same ones for each call of a network.

    Otherwise the compiler would trace our bookkeeping, and do so again whenever a count or a
    timestep has changed. Observing forwards stay open: they run a whole block of the network.
    """

    def __init__(self):
        self._modules: WeakKeyDictionary[nn.Module, DisabledCallable] = WeakKeyDictionary()
        self._options: dict[str, DisabledCallable] = {}

    @contextmanager
    def graph_breaks(self, patches: Patches) -> Iterator[Patches]:
        """The patches for one network call, each a graph break; nothing of them is kept."""
        used: list[DisabledCallable] = []

        def disabled(callables: MutableMapping, key, function: Callable) -> Callable:
            used.append(callables.setdefault(key, DisabledCallable()))
            used[-1].target = function
            return used[-1].function

        replaced = [(m, disabled(self._modules, m, forward)) for m, forward in patches.replaced]
        options = {name: disabled(self._options, name, f) for name, f in patches.options.items()}
        try:
            yield replace(patches, replaced=replaced, options=options)
        finally:
            for one in used:
                one.target = None
