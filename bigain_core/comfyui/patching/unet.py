"""Self-attention of Stable Diffusion UNets: which layers there are and how to compress one."""

from __future__ import annotations

from collections.abc import Iterator

from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from torch import Tensor, nn

from ...compression.decisions import Decision
from ...compression.network_call import NetworkCall
from ...measure.flops import input_shortened
from ...placement import LayerId, unwrapped
from ...tokens.grid import TokenGrid
from ...tokens.plans import MergePlan, key_mask
from ..key_weights import OVERRIDE, chosen_attention, kernel, takes_no_mask, weighing
from .adapter import Inputs, Layers, Patches


def attention_layers(model: UNetModel) -> Layers:
    """Spatial self-attention layers in order of execution, each with its transformer block.

    None stands for a block that another node has replaced by one of another kind.
    The temporal stacks of video models and layers that attend to text only are not among them.
    """
    found = [
        (stage, factor, block if hasattr(block, "attn1") else None)
        for stage, factor, layer in _spatial_transformers(model)
        for block in map(unwrapped, layer.transformer_blocks)
        if not getattr(block, "disable_self_attn", False)
    ]
    factors = sorted({factor for _, factor, _ in found})
    return [
        (LayerId(number, stage, level=factors.index(factor) + 1), block)
        for number, (stage, factor, block) in enumerate(found)
    ]


def _spatial_transformers(model: UNetModel) -> Iterator[tuple[str, int, SpatialTransformer]]:
    """(stage, factor by which the resolution is reduced there, layer)"""
    factor = 1
    parts = (
        ("encoder", model.input_blocks),
        ("middle", [model.middle_block]),
        ("decoder", model.output_blocks),
    )
    for stage, modules in parts:
        for module in modules:
            for layer in map(unwrapped, unwrapped(module)):
                if isinstance(layer, Downsample):
                    factor *= 2
                elif isinstance(layer, Upsample):
                    factor //= 2
                elif isinstance(layer, SpatialTransformer):
                    yield stage, factor, layer


class UNet:
    """Both operators work before the projections, where `attn1` gets its input."""

    layer_flops = staticmethod(input_shortened)
    layers = staticmethod(attention_layers)

    def intercept(self, layers: Layers, call: NetworkCall, inputs: Inputs) -> Patches:
        """The published metric is a block's input before its norm, so the norm's forward notes it.

        The grid comes from the activations of the call: odd sizes and Deep Shrink change it.
        """
        replaced = []
        for layer_id, block in layers:
            layer = _CompressedAttention(layer_id, block, call)
            replaced += [(block.norm1, layer.norm), (block.attn1, layer.attention)]
        return Patches(replaced)


class _CompressedAttention:
    """Stand-ins for `norm1` and `attn1` of one transformer block during one network call."""

    def __init__(self, layer_id: LayerId, block: nn.Module, call: NetworkCall):
        self.layer_id = layer_id
        self.original_norm = block.norm1.forward
        self.original_attention = block.attn1.forward
        self.chosen = chosen_attention(block.attn1)
        self.call = call
        self.block_input = None

    def norm(self, x: Tensor) -> Tensor:
        self.block_input = x
        return self.original_norm(x)

    def attention(self, x, context=None, value=None, mask=None, transformer_options=None, **rest):
        options = {} if transformer_options is None else transformer_options
        kept = {"mask": mask, "transformer_options": options, **rest}
        source = x if context is None else context
        decision = self._decide(x, source, value, mask, options)
        if decision is None:
            return self.original_attention(x, context=context, value=value, **kept)
        plan = decision.plan
        bias, previous = key_mask(plan, x.dtype), options.get(OVERRIDE)
        default = kernel(optimized_attention, previous, self.chosen)
        if bias is not None and takes_no_mask(default):
            override = weighing(bias, previous, self.chosen)
            kept["transformer_options"] = {**options, OVERRIDE: override}
        else:
            kept["mask"] = bias
        queries = plan.queries(x)
        shared = source is x and isinstance(plan, MergePlan)  # merge once, not twice
        keys = queries if shared else plan.context(source)
        values = None if value is None or value is source else plan.context(value)
        return plan.restore(self.original_attention(queries, context=keys, value=values, **kept))

    def _decide(self, x, source, value, mask, options) -> Decision | None:
        metric, self.block_input = self.block_input, None
        grid = TokenGrid(*options.get("activations_shape", (0, 0))[-2:])
        others = (metric, source) if value is None else (metric, source, value)
        if mask is not None:
            return self.call.skip(self.layer_id, *x.shape[1:], "an attention mask is in use")
        if any(t is None or t.shape[:2] != x.shape[:2] for t in others):
            reason = "another patch changed the number of tokens or the batch of this layer"
            return self.call.skip(self.layer_id, *x.shape[1:], reason)
        return self.call.visit(self.layer_id, metric, grid, normed=x)
