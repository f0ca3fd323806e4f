"""Image transformers that keep attention to themselves: PixArt, HunyuanDiT and our own DiT.

They hand the host's attention none of its options, or are ours, so the forward of the module is
replaced. The metric is what enters attention, after the adaptive norm, as published for DiT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from comfy.ldm.hydit.attn_layers import apply_rotary_emb
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ...compression.network_call import NetworkCall
from ...measure.flops import projections_shortened
from ...models import compressed_dit
from ...placement import LayerId
from ...tokens.grid import TokenGrid
from ...tokens.plans import IdentityPlan, MergePlan, Plan
from .adapter import Inputs, Layers, Patches, image_grid, patch_sizes


class ClassConditionalDiT:
    layer_flops = staticmethod(projections_shortened)

    def layers(self, network: nn.Module) -> Layers:
        return compressed_dit.attention_layers(network)

    def intercept(
        self, network: nn.Module, layers: Layers, call: NetworkCall, inputs: Inputs
    ) -> Patches:
        grid = compressed_dit.token_grid(network.config, *inputs.latent.shape[-2:])
        return Patches(list(compressed_dit.replacements(network, grid, call)))


@dataclass(frozen=True)
class BlockAttention:
    """A network whose `blocks` have their self-attention in an attribute, `layer`.

    `compressed(module, plan, positions, x, ...)` is its forward with a plan; queries and keys that
    carry rotary positions follow `positions`.
    """

    layer: str
    compressed: Callable[..., object]

    layer_flops = staticmethod(projections_shortened)

    def layers(self, network: nn.Module) -> Layers:
        layers = (getattr(block, self.layer) for block in network.blocks)
        return [(LayerId(number, "transformer"), layer) for number, layer in enumerate(layers)]

    def intercept(
        self, network: nn.Module, layers: Layers, call: NetworkCall, inputs: Inputs
    ) -> Patches:
        grid = image_grid(inputs.latent, patch_sizes(network.patch_size))
        return Patches(
            [(layer, self._forward(layer_id, layer, call, grid)) for layer_id, layer in layers]
        )

    def _forward(
        self, layer_id: LayerId, layer: nn.Module, call: NetworkCall, grid: TokenGrid
    ) -> Callable:
        original = layer.forward

        def forward(x: Tensor, *args, **kwargs):
            if getattr(layer, "sr_ratio", 1) > 1:
                call.skip(layer_id, x, "the checkpoint shortens keys and values on its own")
                return original(x, *args, **kwargs)
            plan = call.plan(layer_id, x, grid)
            if isinstance(plan, IdentityPlan):
                return original(x, *args, **kwargs)
            rule = call.compression.rule_at(layer_id, call.progress)
            positions = plan if rule.blends_rotary else plan.unblended()
            return self.compressed(layer, plan, positions, x, *args, **kwargs)

        return forward


def pixart(layer: nn.Module, plan: Plan, positions: Plan, x: Tensor, *args, **kwargs) -> Tensor:
    """PixArt's forward of x (B, N, C); what else it is called with it only uses to shorten."""
    q, k, v = layer.qkv(plan.queries(x)).chunk(3, dim=-1)
    q, k = layer.q_norm(q), layer.k_norm(k)
    if not isinstance(plan, MergePlan):  # which has merged them before the projection
        k, v = plan.context(k), plan.context(v)
    out = optimized_attention(q, k, v, layer.num_heads, mask=_bias(plan, q))
    return plan.restore(layer.proj(out))


def hunyuan_dit(
    layer: nn.Module, plan: Plan, positions: Plan, x: Tensor, freqs_cis_img=None
) -> tuple[Tensor]:
    """HunyuanDiT's forward of x (B, N, C) with rotary tables for N positions.

    Merged queries and keys are spread to all positions, turned, and gathered again.
    """

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
    precision = layer.attn_precision
    out = optimized_attention(
        q, k, v, layer.num_heads, mask=_bias(plan, q), attn_precision=precision
    )
    return (plan.restore(layer.proj_drop(layer.out_proj(out))),)


def _bias(plan: Plan, q: Tensor) -> Tensor | None:
    """One bias per key, the same for every query and head."""
    return None if plan.key_bias is None else plan.key_bias[:, None].to(q.dtype)
