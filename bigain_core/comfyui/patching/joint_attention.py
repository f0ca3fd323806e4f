"""Transformers that hand queries, keys and values to the host's attention: most of today's models.

They pass the host's options on, so an attention override sees every call after projection and
rotation. Which of them are self-attention over image tokens shows by the module that is running,
where the image lies in the sequence by the family's layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from torch import Tensor, nn

from ...compression.network_call import NetworkCall
from ...measure.flops import attention_shortened
from ...placement import LayerId, transformer_layers
from ...tokens.grid import TokenGrid
from ...tokens.sequence import JointPlan, even_over_image
from .adapter import Inputs, Layers, Patches

OVERRIDE = "optimized_attention_override"


Layout = Callable[[Inputs, int], TokenGrid | None]  # of the tokens of a sequence; None: unknown


def image_alone(inputs: Inputs, tokens: int) -> TokenGrid | None:
    """Image tokens only; with others (appended frames) their place is not known."""
    return inputs.image if tokens == inputs.image.tokens else None


def image_first(inputs: Inputs, tokens: int) -> TokenGrid | None:
    """[image, text]"""
    return _after(0, inputs, tokens)


def _after(prefix: int, inputs: Inputs, tokens: int) -> TokenGrid | None:
    """The image after a prefix, with the rest of the sequence as suffix."""
    suffix = tokens - prefix - inputs.image.tokens
    return replace(inputs.image, prefix=prefix, suffix=suffix) if suffix >= 0 else None


def image_last(inputs: Inputs, tokens: int) -> TokenGrid | None:
    """[text or references, image, padding to a multiple that the network may have]"""
    multiple = getattr(inputs.network, "pad_tokens_multiple", None) or 1
    padding = -inputs.image.tokens % multiple
    prefix = tokens - inputs.image.tokens - padding
    return replace(inputs.image, prefix=prefix, suffix=padding) if prefix >= 0 else None


def text_image_references(inputs: Inputs, tokens: int) -> TokenGrid | None:
    """[text, image, reference images], or the image alone."""
    if tokens == inputs.image.tokens or inputs.text is None:
        return image_alone(inputs, tokens)
    references = inputs.conditions.get("ref_latents") or ()
    prefix, suffix = inputs.text.shape[1], sum(inputs.grid(r).tokens for r in references)
    placed = replace(inputs.image, prefix=prefix, suffix=suffix)
    return placed if tokens == placed.sequence_tokens else None


def hunyuan_video(inputs: Inputs, tokens: int) -> TokenGrid | None:
    """[reference, image, text] on older hosts, [text, reference, image] on newer ones."""
    if getattr(inputs.network.double_blocks[0], "flipped_img_txt", False):
        return _after(_tokens_of(inputs, "ref_latent"), inputs, tokens)
    return image_last(inputs, tokens)


def wan(inputs: Inputs, tokens: int) -> TokenGrid | None:
    """[reference, image] of a network that has a layer for references, else the image alone."""
    if getattr(inputs.network, "ref_conv", None) is None:
        return image_alone(inputs, tokens)
    placed = _after(_tokens_of(inputs, "reference_latent"), inputs, tokens)
    return placed if placed and not placed.suffix else None


def _tokens_of(inputs: Inputs, condition: str) -> int:
    """Tokens of a reference image; none where the condition is not given."""
    latent = inputs.conditions.get(condition)
    return 0 if latent is None else inputs.grid(latent).tokens


@dataclass(frozen=True)
class JointAttention:
    """`owners` matches the names of modules whose forward runs self-attention, `layout` finds the
    image in its sequence, `patch` reads the size of a patch from the network.

    With `rotary` queries and keys carry rotary positions when attention gets them.
    """

    owners: str
    layout: Layout
    rotary: bool = True
    patch: Callable[[nn.Module], int | Sequence[int]] = attrgetter("patch_size")

    layer_flops = staticmethod(attention_shortened)

    def layers(self, network: nn.Module) -> Layers:
        return transformer_layers(
            module for name, module in network.named_modules() if re.fullmatch(self.owners, name)
        )

    def intercept(self, layers: Layers, call: NetworkCall, inputs: Inputs) -> Patches:
        override = _Override(self, call, replace(inputs, patch=self.patch(inputs.network)))
        noted = [(owner, override.within(layer_id, owner.forward)) for layer_id, owner in layers]
        return Patches(observing=noted, options={OVERRIDE: override.attention})


class _Override:
    """The attention of one network call. An override that was there before is called by it."""

    def __init__(self, adapter: JointAttention, call: NetworkCall, inputs: Inputs):
        self.adapter, self.call, self.inputs = adapter, call, inputs
        self.previous = inputs.options.get(OVERRIDE)
        self.layer_id: LayerId | None = None
        # Verdicts by id, beside the mask itself so that no other one gets its id.
        self.masks: dict[int, tuple[Tensor, bool]] = {}

    def within(self, layer_id: LayerId, original: Callable) -> Callable:
        """The forward of a module during which attention belongs to `layer`."""

        def forward(*args, **kwargs):
            outer, self.layer_id = self.layer_id, layer_id
            try:
                return original(*args, **kwargs)
            finally:
                self.layer_id = outer

        return forward

    def attention(self, function, q, k, v, heads, *args, **kwargs):
        """In the place of the host's attention `function`.

        q, k, v: (B, N, heads * D), or (B, heads, N, D) with `skip_reshape`; the mask comes by
        position or by name.
        """

        def run(q, k, v, *args, **kwargs):
            if self.previous is not None:
                return self.previous(function, q, k, v, heads, *args, **kwargs)
            return function(q, k, v, heads, *args, **kwargs)

        by_heads = kwargs.get("skip_reshape", False)
        mask = args[0] if args else kwargs.get("mask")
        plan = self._plan(q, k, v, by_heads, mask)
        if plan is None:
            return run(q, k, v, *args, **kwargs)
        short_q, short_k = plan.queries(_flat(q, by_heads)), plan.keys(_flat(k, by_heads))
        short_v = plan.values(_flat(v, by_heads))
        mask = self._mask(plan, mask, short_k, q.dtype)
        if args:
            args = (mask, *args[1:])
        elif mask is not None:
            kwargs["mask"] = mask
        if by_heads:
            short = zip((short_q, short_k, short_v), (q, k, v), strict=True)
            short_q, short_k, short_v = (_by_heads(x, like.shape[1]) for x, like in short)
        out = run(short_q, short_k, short_v, *args, **kwargs)
        apart = kwargs.get("skip_output_reshape", False)
        restored = plan.restore(_flat(out, apart))
        return _by_heads(restored, out.shape[1]) if apart else restored

    def _plan(
        self, q: Tensor, k: Tensor, v: Tensor, by_heads: bool, mask: Tensor | None
    ) -> JointPlan | None:
        """None for a call that runs as it is. Values are the metric, as they are never rotated."""
        if self.layer_id is None:
            return None
        values = _flat(v, by_heads)
        batch, tokens, width = values.shape
        grid = self.adapter.layout(self.inputs, tokens)
        if any((x.shape[0], x.shape[2 if by_heads else 1]) != (batch, tokens) for x in (q, k)):
            reason = "queries, keys and values differ in length or batch size"
        elif grid is None:
            image = self.inputs.image
            where = f"{image.frames} x {image.height} x {image.width}"
            reason = f"cannot locate an image of {where} tokens in a sequence of {tokens}"
        elif mask is not None and not self._can_shorten(mask, grid):
            reason = "an attention mask differs between image tokens"
        else:
            return self._decide(values, grid, q.shape[1] * q.shape[3] if by_heads else q.shape[2])
        return self.call.skip(self.layer_id, tokens, width, reason)

    def _decide(self, values: Tensor, grid: TokenGrid, width: int) -> JointPlan | None:
        decision = self.call.visit(self.layer_id, values, grid, width=width)
        if decision is None:
            return None
        positions = decision.positions if self.adapter.rotary else decision.plan
        return JointPlan(grid, decision.plan, positions, decision.rule.method.proportional)

    def _can_shorten(self, mask: Tensor, grid: TokenGrid) -> bool:
        """Looked at once in a call for each mask, as looking waits for the device."""
        if id(mask) not in self.masks:
            tokens = grid.sequence_tokens
            fits = mask.ndim > 1 and mask.shape[-1] == tokens and mask.shape[-2] in (1, tokens)
            self.masks[id(mask)] = (mask, fits and even_over_image(mask, grid))
        return self.masks[id(mask)][1]

    def _mask(
        self, plan: JointPlan, mask: Tensor | None, k: Tensor, dtype: torch.dtype
    ) -> Tensor | None:
        """For the shortened keys k (B, Nk, C): what the caller masked and the plan's own bias."""
        bias = plan.key_bias(k)
        if mask is not None:
            mask = plan.mask(mask)
        if bias is None:
            return mask
        bias = bias[:, None, None].to(dtype)  # (B, heads, queries, Nk)
        if mask is None:
            return bias
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
        return bias + (mask if mask.ndim != 3 else mask[:, None])


def _flat(x: Tensor, by_heads: bool) -> Tensor:
    """(B, heads, N, D) or (B, N, heads, D) or (B, N, C) -> (B, N, C)"""
    return x.transpose(1, 2).flatten(2) if by_heads else x.flatten(2)


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * D) -> (B, heads, N, D)"""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
