"""Image transformers that keep attention to themselves: PixArt, HunyuanDiT and our own DiT.

They hand the host's attention none of its options, or are ours, so the forward of the module is
replaced. The metric is what enters attention, after the adaptive norm, as published for DiT, or
keys and values for methods that go by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from comfy.ldm.hydit.attn_layers import apply_rotary_emb
from torch import Tensor, nn

from ...compression.decisions import Decision
from ...compression.network_call import NetworkCall
from ...measure.flops import projections_shortened
from ...models import compressed_dit
from ...placement import LayerId, modules_at, transformer_layers, unwrapped
from ...tokens.grid import TokenGrid, patch_grid
from ...tokens.plans import MergePlan, Plan, key_mask
from ..key_weights import chosen_attention, weighed_attention
from .adapter import Inputs, Layers, Patches


class ClassConditionalDiT:
    layer_flops = staticmethod(projections_shortened)
    layers = staticmethod(compressed_dit.attention_layers)

    def intercept(self, layers: Layers, call: NetworkCall, inputs: Inputs) -> Patches:
        found = compressed_dit.replacements(inputs.network, inputs.latent, call)
        return Patches(replaced=list(found))


@dataclass(frozen=True)
class BlockAttention:
    """A network whose `blocks` have their self-attention in an attribute, `layer`.

    `compressed(module, decided, x, ...)` is its forward with what `decide` gives for a layer.
    """

    layer: str
    compressed: Callable[..., object]
    decide: Callable[[NetworkCall, LayerId, Tensor, TokenGrid], Plan | Decision | None]

    layer_flops = staticmethod(projections_shortened)

    def layers(self, network: nn.Module) -> Layers:
        return transformer_layers(modules_at(network, f"blocks.*.{self.layer}"))

    def intercept(self, layers: Layers, call: NetworkCall, inputs: Inputs) -> Patches:
        grid = patch_grid(inputs.latent.shape[2:], inputs.network.patch_size)
        found = [(layer, self._forward(layer_id, layer, call, grid)) for layer_id, layer in layers]
        return Patches(replaced=found)

    def _forward(
        self, layer_id: LayerId, layer: nn.Module, call: NetworkCall, grid: TokenGrid
    ) -> Callable:
        original, inner = layer.forward, unwrapped(layer)

        def forward(x: Tensor, *args, **kwargs):
            if getattr(inner, "sr_ratio", 1) > 1:
                call.skip(layer_id, *x.shape[1:], "the checkpoint already shortens keys and values")
                return original(x, *args, **kwargs)
            decided = self.decide(call, layer_id, x, grid)
            if decided is None:
                return original(x, *args, **kwargs)
            return self.compressed(inner, decided, x, *args, **kwargs)

        return forward


def pixart(layer: nn.Module, plan: Plan, x: Tensor, *args, **kwargs) -> Tensor:
    """PixArt's forward of x (B, N, C); what else it is called with it only uses to shorten."""
    q, k, v = layer.qkv(plan.queries(x)).chunk(3, dim=-1)
    q, k = layer.q_norm(q), layer.k_norm(k)
    k, v, mask = plan.attended(q, k, v, layer.num_heads)
    out = weighed_attention(q, k, v, layer.num_heads, mask, chosen_attention(layer))
    return plan.restore(layer.proj(out))


def hunyuan_dit(
    layer: nn.Module, decision: Decision, x: Tensor, freqs_cis_img=None
) -> tuple[Tensor]:
    """HunyuanDiT's forward of x (B, N, C) with rotary tables for N positions.

    Merged queries and keys are spread to all positions, turned, and gathered again.
    """
    plan, positions = decision.plan, decision.positions

    def by_heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (layer.num_heads, layer.head_dim)).transpose(1, 2)  # (B, heads, N, D)

    q, k, v = layer.Wqkv(plan.queries(x)).chunk(3, dim=-1)
    q, k = (plan.restore(tokens) for tokens in (q, k))
    q, k = layer.q_norm(by_heads(q)), layer.k_norm(by_heads(k))
    if freqs_cis_img is not None:
        q, k = apply_rotary_emb(q, k, freqs_cis_img, head_first=True)
    q, k = (tokens.transpose(1, 2).flatten(2) for tokens in (q, k))  # (B, N, C)
    q, k = positions.queries(q), positions.context(k)
    if not isinstance(plan, MergePlan):
        v = plan.context(v)
    precision, chosen = layer.attn_precision, chosen_attention(layer)
    out = weighed_attention(
        q, k, v, layer.num_heads, key_mask(plan, q.dtype), chosen, attn_precision=precision
    )
    return (plan.restore(layer.proj_drop(layer.out_proj(out))),)
