"""A watch for nodes that keep something of one network call for the next, whatever their name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from comfy.model_management import get_torch_device
from torch import nn

from ...placement import unwrapped
from ..patching.compiled import is_compiled, is_recorded
from ..patching.families import find_family


@contextmanager
def same_layers(
    network: nn.Module, options: Mapping[str, Any]
) -> Iterator[Callable[[], None] | None]:
    """Within, the function that is given is to be called after each batch of prompts.

    It raises ValueError unless every call of the network has run its self-attention layers as often
    as the first one. None is given for networks that are not watched: of no known family, compiled,
    recorded or on several devices.
    """
    family = find_family(network)
    inner, device = options["transformer_options"], get_torch_device()
    kept = is_compiled(network, inner) or is_recorded(unwrapped(network), device)
    if family is None or kept or "multigpu_clones" in options:
        yield None
        return
    found = family.adapter.layers(unwrapped(network))
    layers = [layer for _, layer in found if layer is not None]
    runs: Counter[nn.Module] = Counter()
    first: dict[nn.Module, float] = {}

    def check() -> None:
        calls = runs[network]
        if calls and not first:
            first.update({layer: runs[layer] // calls for layer in layers})
        same = sum(runs[layer] == first[layer] * calls for layer in layers) if calls else 0
        runs.clear()
        if same < len(layers) or not calls:
            raise ValueError(
                "BiGain: expected every evaluation to run the same layers of the network, got one "
                f"in which {len(layers) - same} of {len(layers)} self-attention layers ran more or "
                "less often. A node in front of this one keeps results between evaluations, as "
                "caches do, and would answer for one prompt with those of another; or it leaves "
                "out layers at some noise levels. Remove or bypass it."
            )

    def entered(module: nn.Module, args) -> None:
        runs[module] += 1

    hooks = [module.register_forward_pre_hook(entered) for module in (network, *layers)]
    try:
        yield check
    finally:
        for hook in hooks:
            hook.remove()
