"""A DiT in outline: what a call costs and where its self-attention lies."""

from __future__ import annotations

from benchmarks.outlines.outline import (
    AttentionLayer,
    Outline,
    convolution_flops,
    linear_flops,
)
from bigain_core.measure.flops import projections_shortened, self_attention_flops
from bigain_core.models.dit import FREQUENCY_EMBEDDING_SIZE, DiTConfig
from bigain_core.placement import LayerId
from bigain_core.tokens.grid import patch_grid

DIT_XL_2 = DiTConfig(64, 2, 4, 1152, 28, 16, 1000, learn_sigma=True)  # for 512 x 512 pixels


def dit_outline(config: DiTConfig, height: int, width: int) -> Outline:
    """A call with an input of height x width."""
    grid = patch_grid((height, width), config.patch_size)
    layers = (
        AttentionLayer(LayerId(number, "transformer"), grid, config.hidden_size)
        for number in range(config.depth)
    )
    flops = config.depth * _block_flops(config.hidden_size, grid.tokens)
    flops += _ends_flops(config, grid.tokens)
    return Outline(flops, tuple(layers), layer_flops=projections_shortened)


def _block_flops(width: int, tokens: int) -> int:
    mlp = linear_flops(width, 4 * width, tokens) + linear_flops(4 * width, width, tokens)
    modulation = linear_flops(width, 6 * width)
    return self_attention_flops(width, tokens, tokens, tokens) + mlp + modulation


def _ends_flops(config: DiTConfig, tokens: int) -> int:
    """Patches and timestep to tokens, and tokens to patches."""
    width, patch = config.hidden_size, config.patch_size
    patches = convolution_flops(config.in_channels, width, patch, tokens)
    timestep = linear_flops(FREQUENCY_EMBEDDING_SIZE, width) + linear_flops(width, width)
    outputs = patch**2 * config.in_channels * (2 if config.learn_sigma else 1)
    modulation = linear_flops(width, 2 * width)
    return patches + timestep + modulation + linear_flops(width, outputs, tokens)
