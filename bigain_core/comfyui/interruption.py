"""Stopping when the user says so, also in the middle of a network call that takes long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import nn

from .patching.compiled import may_compile


@contextmanager
def interruptible(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Before each layer that runs in the block, an interruption by the user ends it.

    Only on a CPU, where a call can take minutes; elsewhere calls are short and the host asks
    between them. Where a compiler is at work, hooks would make it start over.
    """
    layers = network.modules() if device.type == "cpu" and not may_compile() else ()
    hooks = [layer.register_forward_pre_hook(_check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check(layer: nn.Module, inputs: tuple) -> None:
    throw_exception_if_processing_interrupted()
