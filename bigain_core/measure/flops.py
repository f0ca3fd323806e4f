"""Closed-form FLOPs, a multiply and an add counted as two (paper, Tables 3 and 10).

Matrix products and convolutions are counted, as torch's counter does; norms, activations, sums and
softmax are not. All counts are for one sample.
"""

from __future__ import annotations

from collections.abc import Callable

LayerFlops = Callable[[int, int, int, int], int]  # of width, tokens, queries and context


def attention_flops(width: int, queries: int, context: int) -> int:
    """The two products of attention, without projections."""
    return 4 * queries * context * width


def self_attention_flops(width: int, tokens: int, context: int, projected: int) -> int:
    """One self-attention layer for one sample.

    `tokens` queries attend to `context` keys; keys and values are projected from `projected` tokens
    (`context` when pooling comes before the projection, `tokens` when it comes after).
    """
    projections = 4 * (tokens + projected) * width**2  # to_q and to_out, to_k and to_v
    return attention_flops(width, tokens, context) + projections


def input_shortened(width: int, tokens: int, queries: int, context: int) -> int:
    """A layer of `tokens` that shortens what it projects to queries, keys and values (UNet)."""
    return self_attention_flops(width, queries, context, context)


def projections_shortened(width: int, tokens: int, queries: int, context: int) -> int:
    """A layer that projects all three from `queries` tokens and pools keys and values then."""
    return self_attention_flops(width, queries, context, queries)


def attention_shortened(width: int, tokens: int, queries: int, context: int) -> int:
    """A layer that projects every token and shortens between projection and attention."""
    return attention_flops(width, queries, context) + 8 * tokens * width**2


def matching_flops(width: int, tokens: int, destinations: int) -> int:
    """Cosine similarities of all sources with all destinations."""
    return 2 * (tokens - destinations) * destinations * width


def laplacian_flops(width: int, tokens: int) -> int:
    """A depth-wise 3 x 3 convolution, as the paper counts it."""
    return 18 * tokens * width
