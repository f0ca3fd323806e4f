"""Compression of a DiT: merged or pooled tokens in its self-attention (paper, section "DiT")."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from ..compression.forwards import Replacement
from ..compression.network_call import NetworkCall
from ..placement import LayerId
from ..tokens.grid import TokenGrid
from ..tokens.plans import IdentityPlan, MergePlan
from .dit import Attention, DiT, DiTConfig, SelfAttention


def attention_layers(model: DiT) -> list[tuple[LayerId, SelfAttention]]:
    return [
        (LayerId(number, "transformer"), block.attn) for number, block in enumerate(model.blocks)
    ]


def token_grid(config: DiTConfig, height: int, width: int) -> TokenGrid:
    """Grid of tokens of an input of height x width."""
    patch = config.patch_size
    return TokenGrid(-(-height // patch), -(-width // patch))


def replacements(model: DiT, grid: TokenGrid, call: NetworkCall) -> Iterator[Replacement]:
    """Forwards that compress the attention layers of `model` for one network call.

    The metric is the tensor entering attention, after its adaptive norm, as published for DiT.
    """
    for layer_id, attention_layer in attention_layers(model):
        yield attention_layer, _compressed(attention_layer.forward, layer_id, grid, call)


def _compressed(original, layer_id: LayerId, grid: TokenGrid, call: NetworkCall):
    def forward(x: Tensor, attention: Attention) -> Tensor:
        plan = call.plan(layer_id, x, grid)
        if isinstance(plan, IdentityPlan):
            return original(x, attention)
        if isinstance(plan, MergePlan):
            if plan.key_bias is not None:  # one bias per key, the same for every query and head
                attention = partial(attention, mask=plan.key_bias[:, None].to(x.dtype))
            return plan.restore(original(plan.queries(x), attention))
        return original(x, attention, pool=plan.context)

    return forward
