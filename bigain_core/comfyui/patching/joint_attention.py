"""Transformers that hand queries, keys and values to the host's attention: most of today's models.

They pass the host's options on, so an attention override sees every call after projection and
rotation. Which of them are self-attention over image tokens shows by the module that is running,
where the image lies in the sequence by the family's layout.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from math import prod
from operator import attrgetter

import torch
from torch import Tensor, nn

from ...compression.network_call import NetworkCall, captured
from ...measure.flops import attention_shortened
from ...placement import LayerId, modules_at, transformer_layers, unwrapped
from ...tokens.grid import TokenGrid
from ...tokens.sequence import JointPlan, even_over_image
from ..key_weights import OVERRIDE, chosen_attention, kernel, wants_channel, widened
from .adapter import WHOLE, Inputs, Layers, Patches, patch_name

# Where the image may lie in the sequences of a network: the one that has exactly all tokens is it.
Layout = Callable[[Inputs], Sequence[TokenGrid]]


def image_alone(inputs: Inputs) -> list[TokenGrid]:
    return [inputs.image]


def text_image_references(inputs: Inputs) -> list[TokenGrid]:
    """[text, image, reference images], or the image alone."""
    place = inputs.placed(_text(inputs), _references(inputs))
    return [inputs.image, _with_references(inputs, place, place.prefix + place.tokens)]


def text_references_image(inputs: Inputs) -> list[TokenGrid]:
    """[text, reference images, image], the same without the text, or the image alone."""
    alone = inputs.placed(_references(inputs))
    return [inputs.image, _with_references(inputs, alone, 0), *before_image(inputs)]


def before_image(inputs: Inputs) -> list[TokenGrid]:
    """[text, reference images, image]"""
    text = _text(inputs)
    return [_with_references(inputs, inputs.placed(text + _references(inputs)), text)]


def image_references_text(inputs: Inputs) -> list[TokenGrid]:
    place = inputs.placed(0, _references(inputs) + _text(inputs))
    return [_with_references(inputs, place, place.tokens)]


def registers_text_image(inputs: Inputs) -> list[TokenGrid]:
    return [inputs.placed(inputs.network.register_tokens.shape[1] + _text(inputs))]


def kandinsky6(inputs: Inputs) -> list[TokenGrid]:
    """[video, reference frame]"""
    return [inputs.placed(0, _tokens_of(inputs, "k6_reference"))]


def hidream(inputs: Inputs) -> list[TokenGrid]:
    """[image, text of T5, of Llama's last layer and of another]

    The reference image of HiDream-E1 stands beside the image, in every row: those calls have more
    tokens and are skipped.
    """
    llama = inputs.conditions["encoder_hidden_states_llama3"].shape[-2]
    return [inputs.placed(0, _text(inputs) + 2 * llama)]


def lumina(inputs: Inputs) -> list[TokenGrid]:
    """[text, reference images, image], the same without the text, or the image alone.

    Each part is padded to a multiple that the network may have. References then have a text of
    their own, of padding where none is given; older hosts know neither and leave out padded text.
    """
    multiple = getattr(inputs.network, "pad_tokens_multiple", None) or 1

    def padded(tokens: int) -> int:
        return tokens + -tokens % multiple

    conditions, text = inputs.conditions, padded(_text(inputs))
    if not hasattr(inputs.network, "pad_tokens_multiple"):
        text = conditions["num_tokens"]
    references = conditions.get("ref_latents") or ()
    texts = [padded(given.shape[1]) for given in conditions.get("ref_contexts") or ()]
    if references:
        text += sum(texts) + max(0, len(references) - len(texts)) * multiple
    images = sum(padded(inputs.grid(latent).tokens) for latent in references)
    padding = padded(inputs.image.tokens) - inputs.image.tokens
    return [inputs.placed(images, padding), inputs.placed(text + images, padding)]


def hunyuan_video(inputs: Inputs) -> list[TokenGrid]:
    """[reference, image, text] on older hosts, [text, reference, image] on newer ones."""
    reference, text = _tokens_of(inputs, "ref_latent"), _text(inputs)
    for condition in ("txt_byt5", "clip_fea"):
        if (tokens := inputs.conditions.get(condition)) is not None:
            text += tokens.shape[1]
    if getattr(unwrapped(inputs.network.double_blocks[0]), "flipped_img_txt", False):
        return [inputs.placed(reference, text)]
    return [inputs.placed(text + reference)]


def wan(inputs: Inputs) -> list[TokenGrid]:
    """[reference, image, others], by what the network has a layer for.

    References lie behind the image in networks for sound (HuMo, S2V) and where they are further
    frames (Phantom) or videos in context; plain networks leave out a reference of the first kind.
    """
    network, reference = inputs.network, _tokens_of(inputs, "reference_latent")
    context = inputs.conditions.get("context_latents") or ()
    behind = _tokens_of(inputs, "time_dim_concat") + sum(inputs.grid(x).tokens for x in context)
    if hasattr(network, "patch_embedding_pose"):
        return [inputs.placed(reference, behind + _tokens_of(inputs, "pose_latents"))]
    if getattr(network, "ref_conv", None) is not None:
        return [inputs.placed(reference, behind)]
    if hasattr(network, "frame_packer"):
        return [inputs.placed(0, behind + reference + _packed_frames(inputs))]
    return [inputs.placed(0, behind), inputs.placed(0, behind + reference)]


def _packed_frames(inputs: Inputs) -> int:
    """Tokens of the frames before a video of Wan S2V: the last whole, earlier ones smaller."""
    latent = inputs.conditions.get("reference_motion")
    if latent is None:
        return 0
    sizes = ((1, 2), (1, 4), (4, 8))  # how many frames, side of a patch
    height, width = latent.shape[-2:]
    return sum(frames * (height // side) * (width // side) for frames, side in sizes)


def ltxv(inputs: Inputs) -> list[TokenGrid]:
    """[image, guide frames]: guides are the last frames of the latent."""
    guides, image = inputs.conditions.get("keyframe_idxs"), inputs.image
    tokens = 0 if guides is None else guides.shape[2]
    frames = image.frames - tokens // image.frame.tokens
    return [replace(image, frames=frames, suffix=tokens)]


def minimax_h3(inputs: Inputs) -> list[TokenGrid]:
    """[text, keyframes, references, sound, video]

    Keyframes and references may have sound of their own, that of a reference is in front of it.
    """
    given = inputs.conditions.get("minimax_payload") or {}
    start, references = _text(inputs), []
    for part in (*given.get("keyframes", ()), *given.get("refs", ())):
        video, sound = part.get("latent"), part.get("audio_latent")
        start += 0 if sound is None else prod(sound.shape[2:])  # (B, C, channels of stereo, length)
        if video is not None:
            grid = inputs.grid(video)
            if "kind" in part:  # a reference
                references.append((grid, start))
            start += grid.tokens
    sounds = inputs.conditions.get("latent_shapes", ())[1:]
    place = inputs.placed(start + sum(prod(shape[2:]) for shape in sounds))
    found = (grid.placed(start, place.sequence_tokens) for grid, start in references)
    return [replace(place, references=tuple(found))]


def _text(inputs: Inputs) -> int:
    return 0 if inputs.text is None else inputs.text.shape[1]


def _references(inputs: Inputs) -> int:
    return sum(grid.tokens for grid in _reference_grids(inputs))


def _reference_grids(inputs: Inputs) -> list[TokenGrid]:
    return [inputs.grid(latent) for latent in inputs.conditions.get("ref_latents") or ()]


def _with_references(inputs: Inputs, place: TokenGrid, start: int) -> TokenGrid:
    """The place of the image in a sequence whose reference images begin at token `start`."""
    references = []
    for grid in _reference_grids(inputs):
        references.append(grid.placed(start, place.sequence_tokens))
        start += grid.tokens
    return replace(place, references=tuple(references))


def _tokens_of(inputs: Inputs, condition: str) -> int:
    """Tokens of a reference image; none where the condition is not given."""
    latent = inputs.conditions.get(condition)
    return 0 if latent is None else inputs.grid(latent).tokens


@dataclass(frozen=True)
class JointAttention:
    """`owners` are the paths of modules whose forward runs self-attention (see `modules_at`),
    `layout` finds the image in its sequence, `patch` reads the size of a patch from the network.

    Layers at `whole` see the image, too, but are not compressed. With `rotary` queries and keys
    carry rotary positions when attention gets them. With `image_queries` the image comes last and
    asks alone: queries are the image, keys and values all tokens.
    """

    owners: tuple[str, ...]
    layout: Layout
    rotary: bool = True
    image_queries: bool = False
    whole: tuple[str, ...] = ()
    patch: Callable[[nn.Module], int | Sequence[int]] = attrgetter("patch_size")

    layer_flops = staticmethod(attention_shortened)

    def layers(self, network: nn.Module) -> Layers:
        found, whole = (
            [module for path in paths for module in modules_at(network, path)]
            for paths in (self.owners, self.whole)
        )
        layers = transformer_layers(found)
        return layers + [(LayerId(n, WHOLE), m) for n, m in enumerate(whole, len(layers))]

    def intercept(self, layers: Layers, call: NetworkCall, inputs: Inputs) -> Patches:
        override = _Override(self, call, replace(inputs, patch=self.patch(inputs.network)))
        noted = {owner: override.owning(owner, layer_id) for layer_id, owner in layers}
        for module in inputs.network.modules():
            if "comfy_attention" in module._modules:  # through a wrapper it would be found twice
                forward = noted.get(module, module.forward)
                noted[module] = override.within(forward, "chosen", chosen_attention(module))
        return Patches(observing=list(noted.items()), options={OVERRIDE: override.attention})


class _Override:
    """The attention of one network call. An override that was there before is called by it."""

    def __init__(self, adapter: JointAttention, call: NetworkCall, inputs: Inputs):
        self.adapter, self.call, self.inputs = adapter, call, inputs
        self.places = adapter.layout(inputs)
        self.previous = inputs.options.get(OVERRIDE)
        self.beside_sparse = "sparse" in patch_name(self.previous).lower()
        # Of the modules that run, the innermost that has one:
        self.layer_id: LayerId | None = None
        self.chosen: nn.Module | None = None
        # Masks that the host's own code makes masks of in that layer.
        self.sources: tuple[Tensor, ...] = ()
        # Verdicts by ids, beside the masks themselves so that no other ones get these ids.
        self.masks: dict[Hashable, tuple[tuple[Tensor, ...], bool]] = {}

    def owning(self, owner: nn.Module, layer_id: LayerId) -> Callable:
        """The forward of a module that runs self-attention."""
        running = self.within(owner.forward, "layer_id", layer_id)
        code, network = type(owner).forward, type(self.inputs.network)
        by_host = "forward" not in vars(owner) and code.__module__ == network.__module__

        def forward(*args, **kwargs):
            masks = [value for name, value in kwargs.items() if by_host and "mask" in name]
            self.sources = tuple(mask for mask in masks if isinstance(mask, Tensor))
            return running(*args, **kwargs)

        return forward

    def within(self, original: Callable, name: str, value: LayerId | nn.Module | None) -> Callable:
        """The forward of a module during which one of our attributes has that value."""

        def forward(*args, **kwargs):
            outer = getattr(self, name)
            setattr(self, name, value)
            try:
                return original(*args, **kwargs)
            finally:
                setattr(self, name, outer)

        return forward

    def attention(self, function, q, k, v, heads, *args, **kwargs):
        """In the place of the host's attention `function`.

        q, k, v: (B, N, heads * D), or (B, heads, N, D) with `skip_reshape`; the mask comes by
        position or by name.
        """
        function = kernel(function, self.previous, self.chosen)

        def run(q, k, v, *args, **kwargs):
            if self.previous is not None:
                return self.previous(function, q, k, v, heads, *args, **kwargs)
            return function(q, k, v, heads, *args, **kwargs)

        by_heads = kwargs.get("skip_reshape", False)
        given = mask = args[0] if args else kwargs.get("mask")
        if self.layer_id is None:
            return run(q, k, v, *args, **kwargs)
        values = _flat(v, by_heads)  # a copy, where heads come first
        plan = self._plan(q, k, values, by_heads, mask)
        if plan is None:
            return run(q, k, v, *args, **kwargs)
        short_k, short_v = plan.keys(_flat(k, by_heads)), plan.values(values)
        del values
        channels = q.shape[-1] if by_heads else q.shape[-1] // heads
        by_channel = mask is None and wants_channel(function, channels)
        bias = plan.key_bias(short_k, torch.float32 if by_channel else q.dtype)
        if by_channel and bias is not None:
            run = widened(run, bias[:, None], heads)
        else:
            mask = self._mask(plan, mask, bias)
        if self.beside_sparse and given is None and (plan.keeps_queries or mask is not None):
            self.call.log.dense.add(self.layer_id)
        if args:
            args = (mask, *args[1:])
        elif mask is not None:
            kwargs["mask"] = mask
        if by_heads:
            short_k, short_v = _by_heads(short_k, k.shape[1]), _by_heads(short_v, v.shape[1])
        if plan.keeps_queries:
            return run(q, short_k, short_v, *args, **kwargs)
        short_q = plan.queries(_flat(q, by_heads))
        if by_heads:
            short_q = _by_heads(short_q, q.shape[1])
        out = run(short_q, short_k, short_v, *args, **kwargs)
        del short_q, short_k, short_v  # the caller still holds the long ones
        apart = kwargs.get("skip_output_reshape", False)
        restored = plan.restore(_flat(out, apart))
        return _by_heads(restored, out.shape[1]) if apart else restored

    def _plan(
        self, q: Tensor, k: Tensor, values: Tensor, by_heads: bool, mask: Tensor | None
    ) -> JointPlan | None:
        """None for a call that runs as it is.

        Values (B, N, C) are the metric, as they are never rotated.
        """
        batch, tokens, width = values.shape
        grid = next((place for place in self.places if place.sequence_tokens == tokens), None)
        lengths = [(x.shape[0], x.shape[2 if by_heads else 1]) for x in (q, k)]
        queries = grid.tokens if grid and self.adapter.image_queries else tokens
        if self.layer_id.stage == WHOLE:
            reason = "control blocks stay whole"
        elif lengths != [(batch, queries), (batch, tokens)]:
            reason = "queries, keys and values differ in length or batch size"
        elif grid is None:
            image, lengths = self.inputs.image, {place.sequence_tokens for place in self.places}
            reason = (
                f"a sequence of {tokens} tokens, where an image of {image.frames} x {image.height} "
                f"x {image.width} tokens with its text and references makes "
                f"{' or '.join(map(str, sorted(lengths)))}: another node adds or removes tokens, "
                "or a reference lies beside the image"
            )
        elif mask is not None and not captured() and not self._can_shorten(mask, grid):
            reason = "an attention mask differs between image tokens"
        else:
            if mask is not None and any(rule.references for rule in self.call.compression.rules):
                even = [place for place in grid.references if self._can_shorten(mask, place)]
                grid = replace(grid, references=tuple(even))
            return self._decide(values, grid, q.shape[1] * q.shape[3] if by_heads else q.shape[2])
        return self.call.skip(self.layer_id, tokens, width, reason)

    def _decide(self, values: Tensor, grid: TokenGrid, width: int) -> JointPlan | None:
        decision = self.call.visit(self.layer_id, values, grid, width=width)
        if decision is None:
            return None
        rule, rotary = decision.rule, self.adapter.rotary
        references = tuple(
            JointPlan(
                place,
                plan,
                decision.kept_in_place(plan) if rotary else plan,
                rule.references.proportional,
            )
            for place, plan in decision.references
        )
        positions = decision.positions if rotary else decision.plan
        return JointPlan(
            decision.grid,
            decision.plan,
            positions,
            rule.method.proportional,
            self.adapter.image_queries,
            references,
        )

    def _can_shorten(self, mask: Tensor, grid: TokenGrid) -> bool:
        """Looked at once in a call for each mask, as looking waits for the device.

        Some networks make one anew in every layer, all alike from what the layers are given.
        """
        sources = self.sources or (mask,)
        key = (*map(id, sources), mask.shape, grid.prefix, grid.tokens)
        if key not in self.masks:
            tokens = grid.sequence_tokens
            fits = mask.ndim > 1 and mask.shape[-1] == tokens and mask.shape[-2] in (1, tokens)
            even = fits and self.call.confirms(even_over_image(mask, grid))
            self.masks[key] = (sources, even)
        return self.masks[key][1]

    def _mask(self, plan: JointPlan, mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
        """For the shortened keys: what the caller masked and the plan's own bias (B, Nk)."""
        if mask is not None:
            mask = plan.mask(mask)
        if bias is None:
            return mask
        bias = bias[:, None, None]  # (B, heads, queries, Nk)
        if mask is None:
            return bias
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, float("-inf"))
        return bias + (mask if mask.ndim != 3 else mask[:, None])


def _flat(x: Tensor, by_heads: bool) -> Tensor:
    """(B, heads, N, D) or (B, N, heads, D) or (B, N, C) -> (B, N, C)"""
    return x.transpose(1, 2).flatten(2) if by_heads else x.flatten(2)


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * D) -> (B, heads, N, D)"""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
