"""Compression of a DiT: merged or pooled tokens in its self-attention (paper, section "DiT")."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..compression.forwards import Replacement
from ..compression.network_call import NetworkCall
from ..placement import LayerId, modules_at, transformer_layers
from ..tokens.grid import patch_grid
from .dit import Attention, DiT, SelfAttention


def attention_layers(model: DiT) -> list[tuple[LayerId, SelfAttention | None]]:
    """In order of execution; None for a block that was replaced by one of another kind."""
    return transformer_layers(modules_at(model, "blocks.*.attn"))


def replacements(model: DiT, x: Tensor, call: NetworkCall) -> Iterator[Replacement]:
    """Forwards that compress the attention layers of `model` in a call with x (B, C, H, W).

    The metric is the tensor entering attention, after its adaptive norm, as published for DiT, or
    keys and values for methods that go by them.
    """
    grid = patch_grid(x.shape[2:], model.config.patch_size)

    def compressed(layer_id: LayerId, original):
        def forward(x: Tensor, attention: Attention) -> Tensor:
            plan = call.plan(layer_id, x, grid)
            if plan is None:
                return original(x, attention)

            def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
                k, v, mask = plan.attended(q, k, v, heads)
                return attention(q, k, v, heads, mask=mask)

            return plan.restore(original(plan.queries(x), attend))

        return forward

    for layer_id, layer in attention_layers(model):
        if layer is not None:
            yield layer, compressed(layer_id, layer.forward)
