"""Closed-form FLOPs, a multiply and an add counted as two (paper, Tables 3 and 10)."""

from __future__ import annotations


def self_attention_flops(width: int, tokens: int, context: int, projected: int) -> int:
    """One self-attention layer for one sample.

    `tokens` queries attend to `context` keys; keys and values are projected from `projected` tokens
    (`context` when pooling comes before the projection, `tokens` when it comes after).
    """
    attention = 4 * tokens * context * width
    projections = 4 * (tokens + projected) * width**2  # to_q and to_out, to_k and to_v
    return attention + projections


def matching_flops(width: int, tokens: int, destinations: int) -> int:
    """Cosine similarities of all sources with all destinations."""
    return 2 * (tokens - destinations) * destinations * width


def laplacian_flops(width: int, tokens: int) -> int:
    """A depth-wise 3 x 3 convolution, as the paper counts it."""
    return 18 * tokens * width
