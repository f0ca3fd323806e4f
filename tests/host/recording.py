"""Recording the host's attention while a network runs."""

import importlib
import re
from dataclasses import dataclass

from torch import Tensor

OVERRIDE = "optimized_attention_override"


@dataclass(frozen=True)
class Attention:
    """One call of the host's attention.

    `module` is the name of the module that owns it, with ":2" behind it if it is the second one
    there. `mask` is of any shape with the keys last, `options` tells if the transformer options
    were passed to it.
    """

    module: str
    keys: Tensor  # (B, N, C)
    mask: Tensor | None
    options: bool


class Recorder:
    """Records the attention calls of a case; one module may be given its keys in reverse."""

    def __init__(self, case, reversed_at=None):
        self.network = case.model.model.diffusion_model
        self.blind = case.blind and importlib.import_module(case.blind)
        self.reversed_at = reversed_at
        self.running = []  # [name, attention calls so far] of the modules that run, the inner last
        self.calls = []

    def __enter__(self):
        self.hooks = []
        for name, module in self.network.named_modules():
            self.hooks += [
                module.register_forward_pre_hook(lambda *_, name=name: self.enter(name)),
                module.register_forward_hook(lambda *_: self.leave()),
            ]
        if self.blind:
            self.attention = self.blind.optimized_attention
            self.blind.optimized_attention = self.without_options
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()
        if self.blind:
            self.blind.optimized_attention = self.attention

    def enter(self, name):
        self.running.append([name, 0])

    def leave(self):
        self.running.pop()

    def override(self, function, *args, **kwargs):
        return self.record(function, args, kwargs, options=True)

    def without_options(self, *args, **kwargs):
        return self.record(self.attention, args, kwargs, options=False)

    def record(self, function, args, kwargs, options):
        self.running[-1][1] += 1
        name, number = self.running[-1]
        module = name if number == 1 else f"{name}:{number}"
        queries, keys, *others = args
        tokens = 2 if kwargs.get("skip_reshape") else 1  # (B, H, N, D) or (B, N, H * D)
        mask = others[2] if len(others) > 2 else kwargs.get("mask")
        recorded = keys.movedim(tokens, 1).flatten(2).clone()  # (B, N, H * D)
        self.calls.append(Attention(module, recorded, mask, options))
        if module == self.reversed_at:
            keys = keys.flip(tokens)
        return function(queries, keys, *others, **kwargs)


def layer_of(case, module):
    """The layer of the case that declares the attention of this module, None if there is none."""
    layers = [layer for layer in case.layers if re.fullmatch(layer.modules, module)]
    assert len(layers) <= 1, f"{module} is in several layers of the case"
    return layers[0] if layers else None


def grid(case, layer, size):
    """(frames, rows, columns) of the image's tokens."""
    return (case.frames, *(-(-length // layer.patch) for length in size))
