"""The attention call of ComfyUI 0.40 and later, by stand-ins: which function runs for which module.

A module may own a `comfy_attention` whose `function` a checkpoint has chosen. The call hands over
boxes that hold queries, keys and values until somebody takes them; an override, where there is
one, decides alone, and only without one does the chosen function run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import comfy.ldm.modules.attention
import pytest
import torch
from bigain.bigain_core.comfyui import key_weights

from tests.host.recording import OVERRIDE

RAW = comfy.ldm.modules.attention.optimized_attention.__wrapped__
INSIDE = "_inside_attn_wrapper"
NAMES = ("optimized_attention", "optimized_attention_masked")


class Box:
    """A tensor with one owner: whoever takes it."""

    def __init__(self, x):
        self.x = x

    def peek(self):
        assert self.x is not None, "taken before"
        return self.x

    def take(self):
        x, self.x = self.peek(), None
        return x


class ChosenAttention(torch.nn.Module):
    """Without weights; `function` is None where the checkpoint has chosen nothing."""

    def __init__(self, function: Callable | None):
        super().__init__()
        self.function = function


def unboxed(args):
    return [x.take() if hasattr(x, "take") and not torch.is_tensor(x) else x for x in args]


class NewerHost:
    """A network whose attention is called as today; `calls` are those that ran, (kind, lengths)."""

    def __init__(self, network):
        self.network, self.running, self.calls, self.owners = network, [], [], {}
        self.default = wraps(RAW)(self.function("default"))

    def attention(self, *args, **kwargs):
        """The host's attention with its wrapper of today."""
        chosen = kwargs.pop("preferred_attention", None)
        boxes = isinstance(args[0], Box)
        if INSIDE not in kwargs:
            kwargs = {**kwargs, INSIDE: True}
            override = (kwargs.get("transformer_options") or {}).get(OVERRIDE)
            if override is not None:
                if boxes and hasattr(override, "container_function"):
                    return override.container_function(*args, **kwargs)
                return override(self.default, *unboxed(args), **kwargs)
        if chosen is not None and chosen.function is not None:
            return chosen.function(*args, **kwargs)
        return self.default(*unboxed(args), **kwargs)

    def boxed(self, *args, **kwargs):
        """What a module of today's host calls: it boxes its tensors and says what it prefers."""
        owner = self.running[-1]
        self.owners[owner] = None
        tensors = [Box(x if torch.is_tensor(x) else x.take()) for x in args[:3]]
        chosen = getattr(owner, "comfy_attention", None)
        return self.attention(*tensors, *args[3:], preferred_attention=chosen, **kwargs)

    def function(self, kind: str) -> Callable:
        """A kernel that takes boxes and notes that it ran."""

        def kernel(*args, **kwargs):
            q, k, v, *rest = unboxed(args)
            tokens = 2 if kwargs.get("skip_reshape") else 1
            self.calls.append((kind, tuple(x.shape[tokens] for x in (q, k, v))))
            return RAW(q, k, v, *rest, **kwargs)

        return kernel

    def backend(self) -> Callable:
        """What the host's node for an attention backend puts into the model: it takes boxes."""
        kernel = self.function("backend")

        def override(function, *args, **kwargs):
            return kernel(*args, **kwargs)

        override.container_function = kernel
        return override

    def choose(self) -> None:
        """Every other owner of attention gets a function of its own, as from a checkpoint."""
        for number, owner in enumerate(self.owners):
            function = self.function(f"chosen {number}") if number % 2 == 0 else None
            owner.comfy_attention = ChosenAttention(function)


@contextmanager
def newer_host(network) -> Iterator[NewerHost]:
    host = NewerHost(network)
    hooks = []
    for module in network.modules():
        hooks += [
            module.register_forward_pre_hook(lambda module, _: host.running.append(module)),
            module.register_forward_hook(lambda *_: host.running.pop() and None),
        ]
    modules = [module for name, module in sys.modules.items() if name.startswith("comfy.ldm.")]
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(key_weights, "optimized_attention", host.attention)
        for module in modules:
            for name in NAMES:
                if hasattr(module, name):
                    changed.setattr(module, name, host.boxed)
        try:
            yield host
        finally:
            for hook in hooks:
                hook.remove()
            for owner in host.owners:
                owner._modules.pop("comfy_attention", None)
