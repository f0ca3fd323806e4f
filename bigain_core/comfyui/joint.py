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

from ..compression import NetworkCall
from ..flops import attention_shortened
from ..grid import TokenGrid
from ..joint import JointPlan
from ..placement import Site
from ..plans import IdentityPlan
from .reach import Inputs, Interception, Layers, Patch, image_grid, patch_sizes

OVERRIDE = "optimized_attention_override"


@dataclass(frozen=True)
class Called:
    """A network, what it is called with, and the grid and patch of its latent."""

    network: nn.Module
    inputs: Inputs
    image: TokenGrid
    patch: Patch


Layout = Callable[[Called, int], TokenGrid | None]


def image_alone(called: Called, tokens: int) -> TokenGrid | None:
    """Image tokens only; with others (appended frames) their place is not known."""
    return called.image if tokens == called.image.tokens else None


def image_first(called: Called, tokens: int) -> TokenGrid | None:
    """[image, text]"""
    others = tokens - called.image.tokens
    return replace(called.image, behind=others) if others >= 0 else None


def image_last(called: Called, tokens: int) -> TokenGrid | None:
    """[text or references, image, padding to a multiple that the network may have]"""
    multiple = getattr(called.network, "pad_tokens_multiple", None) or 1
    padding = -called.image.tokens % multiple
    before = tokens - called.image.tokens - padding
    return replace(called.image, before=before, behind=padding) if before >= 0 else None


def text_image_references(called: Called, tokens: int) -> TokenGrid | None:
    """[text, image, reference images], or the image alone."""
    image, text = called.image, called.inputs.text
    if tokens == image.tokens or text is None:
        return image_alone(called, tokens)
    references = called.inputs.conditions.get("ref_latents") or ()
    behind = sum(image_grid(latent, called.patch).tokens for latent in references)
    fits = tokens == text.shape[1] + image.tokens + behind
    return replace(image, before=text.shape[1], behind=behind) if fits else None


def hunyuan_video(called: Called, tokens: int) -> TokenGrid | None:
    """[image, text] on older hosts, [text, image] on newer ones; a reference comes between."""
    if called.inputs.conditions.get("ref_latent") is not None:
        return None
    flipped = getattr(called.network.double_blocks[0], "flipped_img_txt", False)
    return (image_first if flipped else image_last)(called, tokens)


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
        owners = [m for name, m in network.named_modules() if re.fullmatch(self.owners, name)]
        return [(Site(number, "transformer"), owner) for number, owner in enumerate(owners)]

    def intercept(
        self, network: nn.Module, layers: Layers, call: NetworkCall, inputs: Inputs
    ) -> Interception:
        patch = patch_sizes(self.patch(network))
        called = Called(network, inputs, image_grid(inputs.latent, patch), patch)
        override = _Override(self, call, called)
        replacements = [(owner, override.within(site, owner.forward)) for site, owner in layers]
        return Interception(replacements, {OVERRIDE: override.attention})


class _Override:
    """The attention of one network call. An override that was there before is called by it."""

    def __init__(self, reach: JointAttention, call: NetworkCall, called: Called):
        self.reach, self.call, self.called = reach, call, called
        self.previous = called.inputs.options.get(OVERRIDE)
        self.site: Site | None = None
        self.masks: dict[int, tuple[Tensor, Tensor | None]] = {}

    def within(self, site: Site, original: Callable) -> Callable:
        """The forward of a module during which attention belongs to `site`."""

        def forward(*args, **kwargs):
            outer, self.site = self.site, site
            try:
                return original(*args, **kwargs)
            finally:
                self.site = outer

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

        if self.site is None:
            return run(q, k, v, *args, **kwargs)
        by_heads = kwargs.get("skip_reshape", False)
        flat_q, flat_k, flat_v = (_flat(x, by_heads) for x in (q, k, v))
        mask = args[0] if args else kwargs.get("mask")
        plan = self._plan(flat_q, flat_k, flat_v, mask)
        if plan is None:
            return run(q, k, v, *args, **kwargs)
        short_k = plan.keys(flat_k)
        mask = self._mask(plan, mask, short_k, q.dtype)
        if args:
            args = (mask, *args[1:])
        else:
            kwargs["mask"] = mask
        short_q, short_v = plan.queries(flat_q), plan.values(flat_v)
        if by_heads:
            short = zip((short_q, short_k, short_v), (q, k, v), strict=True)
            short_q, short_k, short_v = (_by_heads(x, like.shape[1]) for x, like in short)
        out = run(short_q, short_k, short_v, *args, **kwargs)
        apart = kwargs.get("skip_output_reshape", False)
        restored = plan.restore(_flat(out, apart))
        return _by_heads(restored, out.shape[1]) if apart else restored

    def _plan(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> JointPlan | None:
        """For q, k, v (B, N, C); the values, which no rotation has touched, are the metric."""
        call, site = self.call, self.site
        if not q.shape[:2] == k.shape[:2] == v.shape[:2]:
            call.leave_alone(site, q, "queries and keys differ in number or batch")
            return None
        grid = self.reach.layout(self.called, q.shape[1])
        if grid is None:
            image = self.called.image
            where = f"{image.frames} x {image.height} x {image.width}"
            call.leave_alone(site, q, f"no place known for {where} of {q.shape[1]} tokens")
            return None
        if mask is not None and self._key_mask(mask, grid) is None:
            call.leave_alone(site, q, "an attention mask treats image tokens differently")
            return None
        plan = call.plan(site, v, grid, width=q.shape[-1])
        if isinstance(plan, IdentityPlan):
            return None
        rule = call.compression.rule_at(site, call.moment)
        keep = self.reach.rotary and not rule.blends_rotary
        positions = plan.unblended() if keep else plan
        return JointPlan(grid, plan, positions, rule.method.proportional)

    def _key_mask(self, mask: Tensor, grid: TokenGrid) -> Tensor | None:
        """The row (..., 1, N) of a mask whose rows are equal and treat the image as if unmasked.

        Reading it waits for the device, so the answer for a mask is kept for the whole call.
        """
        if id(mask) not in self.masks:
            self.masks[id(mask)] = (mask, _plain_row(mask, grid))
        return self.masks[id(mask)][1]

    def _mask(
        self, plan: JointPlan, mask: Tensor | None, k: Tensor, dtype: torch.dtype
    ) -> Tensor | None:
        """For the shortened keys k (B, Nk, C): what the caller masked and the plan's own bias."""
        bias = plan.key_bias(k)
        if mask is not None:
            mask = plan.key_mask(self._key_mask(mask, plan.grid))
        if bias is None:
            return mask
        bias = bias[:, None, None].to(dtype)  # (B, heads, queries, Nk)
        if mask is None:
            return bias
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
        return bias + (mask if mask.ndim != 3 else mask[:, None])


def _plain_row(mask: Tensor, grid: TokenGrid) -> Tensor | None:
    tokens = grid.others + grid.tokens
    if mask.ndim < 2 or mask.shape[-1] != tokens or mask.shape[-2] not in (1, tokens):
        return None
    row = mask[..., :1, :]
    image = row.narrow(-1, grid.before, grid.tokens)
    visible = image.all() if mask.dtype == torch.bool else (image == 0).all()
    return row if bool(visible & (mask == row).all()) else None


def _flat(x: Tensor, by_heads: bool) -> Tensor:
    """(B, heads, N, D) or (B, N, heads, D) or (B, N, C) -> (B, N, C)"""
    return x.transpose(1, 2).flatten(2) if by_heads else x.flatten(2)


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * D) -> (B, heads, N, D)"""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
