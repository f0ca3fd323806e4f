"""The host's attention as it is called by us, and keys that weigh more than others in it.

By a mask, or by a channel where the kernel would leave what has a mask to a slower one. Since
ComfyUI 0.40 a checkpoint may choose the kernel of a module. The host never asks for that choice
where there is an override, so ours follow it themselves.
"""

from __future__ import annotations

from collections.abc import Callable

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ..tokens.weight_channel import wider, with_weight_channel

OVERRIDE = "optimized_attention_override"
MASKLESS = {"attention_flash": 256, "attention_sage": 128}  # kernels, and most channels of a head


def chosen_attention(module: nn.Module) -> nn.Module | None:
    """What holds the kernel of a module, in `function`, or None for the default one."""
    return getattr(module, "comfy_attention", None)


def kernel(function: Callable, previous: Callable | None, chosen: nn.Module | None) -> Callable:
    """What runs in an override in the place of the host's default `function`."""
    if previous is None and chosen is not None and chosen.function is not None:
        return chosen.function
    return function


def takes_no_mask(function: Callable) -> bool:
    """Of the host's attention, which an override may call in the end."""
    return function.__name__ in MASKLESS


def wants_channel(function: Callable, channels: int) -> bool:
    """Whether weights go into a channel, with so many channels of a head."""
    return wider(channels) <= MASKLESS.get(function.__name__, 0)


def widened(run: Callable, bias: Tensor, heads: int) -> Callable:
    """`run` with a bias on its logits, for q, k, v (B, N, heads * D) or (B, heads, N, D).

    `bias` is (B, 1 or heads, Nk).
    """

    def attention(q: Tensor, k: Tensor, v: Tensor, *args, **kwargs) -> Tensor:
        by_heads = q.ndim == 4
        channels = q.shape[-1] if by_heads else q.shape[-1] // heads
        if not by_heads:
            q, k, v = (x.unflatten(2, (-1, channels)).transpose(1, 2) for x in (q, k, v))
        wide = with_weight_channel(q, k, v, bias, kwargs.get("scale"))
        if not by_heads:
            wide = (x.transpose(1, 2).flatten(2) for x in wide)
        out = run(*wide, *args, **kwargs)
        if out.ndim == 4:
            return out[..., :channels]
        return out.unflatten(2, (heads, -1))[..., :channels].flatten(2)

    return attention


def weighing(bias: Tensor, previous: Callable | None, chosen: nn.Module | None = None) -> Callable:
    """An override of the host's attention, of q, k, v (B, N, C), with a bias on its logits.

    `bias` is (B, 1 or heads, Nk). It calls the override that was there before, or else the chosen
    attention.
    """

    def override(function: Callable, q, k, v, heads: int, **kwargs) -> Tensor:
        function = kernel(function, previous, chosen)

        def run(*tensors, **kwargs):
            if previous is not None:
                return previous(function, *tensors, heads, **kwargs)
            return function(*tensors, heads, **kwargs)

        if wants_channel(function, q.shape[-1] // heads):
            return widened(run, bias, heads)(q, k, v, **kwargs)
        return run(q, k, v, **{**kwargs, "mask": bias[:, :, None].to(q.dtype)})

    return override


def weighed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    bias: Tensor | None,
    chosen: nn.Module | None = None,
    **kwargs,
) -> Tensor:
    """The host's attention of q, k, v (B, N, C), with a bias on its logits if there is one.

    `bias` is (B, 1 or heads, Nk). `kwargs` are the host's.
    """
    if bias is None:
        if chosen is not None:  # older hosts do not know the argument
            kwargs["preferred_attention"] = chosen
        return optimized_attention(q, k, v, heads, **kwargs)
    options = kwargs.get("transformer_options") or {}
    options = {**options, OVERRIDE: weighing(bias, options.get(OVERRIDE), chosen)}
    return optimized_attention(q, k, v, heads, **{**kwargs, "transformer_options": options})
