"""Stable Diffusion UNets in outline: what a call costs and where its self-attention lies.

The networks themselves are the host's; see `comfyui.patching.unet` for compressing one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.outlines.outline import (
    AttentionLayer,
    Outline,
    convolution_flops,
    cross_attention_flops,
    linear_flops,
)
from bigain_core.measure.flops import input_shortened, self_attention_flops
from bigain_core.placement import LayerId
from bigain_core.tokens.grid import TokenGrid

LATENT_CHANNELS = 4
RESIDUAL_BLOCKS = 2  # per level of the encoder; the decoder has one more
PROMPT_TOKENS = 77  # of one CLIP window


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a UNet: per level, from the finest, the width and the transformer blocks of a stack.

    `vector_width` is that of the pooled prompt with sizes (Stable Diffusion XL), 0 for none. Heads,
    and whether the ends of a stack are linear or 1 x 1 convolutions, leave the counts as they are.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context_width: int
    vector_width: int = 0

    @property
    def embedding_width(self) -> int:
        return 4 * self.widths[0]


SD_1 = UNetConfig((320, 640, 1280, 1280), (1, 1, 1, 0), 1, 768)
SD_2 = UNetConfig((320, 640, 1280, 1280), (1, 1, 1, 0), 1, 1024)
SD_XL = UNetConfig((320, 640, 1280), (0, 2, 10), 10, 2048, 2816)


def unet_outline(
    config: UNetConfig, height: int, width: int, context_tokens: int = PROMPT_TOKENS
) -> Outline:
    """A call with a latent of height x width; sides are halved from level to level, rounded up."""
    grids = [
        TokenGrid(-(-height // 2**level), -(-width // 2**level))
        for level in range(len(config.widths))
    ]
    flops = _embedding_flops(config) + _residual_path_flops(config, grids)
    layers = []
    finest = next(level for level, depth in enumerate(config.depths) if depth)
    for stage, level, depth in _stacks(config):
        grid, channels = grids[level], config.widths[level]
        flops += _stack_flops(config, channels, grid.tokens, depth, context_tokens)
        for _ in range(depth):
            layer_id = LayerId(len(layers), stage, level - finest + 1)
            layers.append(AttentionLayer(layer_id, grid, channels))
    return Outline(flops, tuple(layers), layer_flops=input_shortened)


def _stacks(config: UNetConfig) -> Iterator[tuple[str, int, int]]:
    """(stage, level, transformer blocks) of each stack in order of execution."""
    levels = [(level, depth) for level, depth in enumerate(config.depths) if depth]
    for level, depth in levels:
        yield from [("encoder", level, depth)] * RESIDUAL_BLOCKS
    yield "middle", len(config.widths) - 1, config.middle_depth
    for level, depth in reversed(levels):
        yield from [("decoder", level, depth)] * (RESIDUAL_BLOCKS + 1)


def _stack_flops(config: UNetConfig, width: int, tokens: int, depth: int, context: int) -> int:
    """Transformer blocks between two layers of equal width."""
    block = self_attention_flops(width, tokens, tokens, tokens)
    block += cross_attention_flops(width, tokens, context, config.context_width)
    block += linear_flops(width, 8 * width, tokens) + linear_flops(4 * width, width, tokens)
    return 2 * linear_flops(width, width, tokens) + depth * block


def _embedding_flops(config: UNetConfig) -> int:
    """Of the timestep and the pooled prompt: two layers each."""
    width = config.embedding_width
    timestep = linear_flops(config.widths[0], width) + linear_flops(width, width)
    if not config.vector_width:
        return timestep
    return timestep + linear_flops(config.vector_width, width) + linear_flops(width, width)


def _residual_path_flops(config: UNetConfig, grids: list[TokenGrid]) -> int:
    """Convolutions from latent to prediction; the decoder takes in what the encoder set aside."""
    pixels = [grid.tokens for grid in grids]
    width = config.widths[0]
    skipped = [width]
    total = 2 * convolution_flops(LATENT_CHANNELS, width, 3, pixels[0])  # the first and the last
    for level, outputs in enumerate(config.widths):
        if level:
            total += convolution_flops(width, width, 3, pixels[level])
            skipped.append(width)
        for _ in range(RESIDUAL_BLOCKS):
            total += _residual_flops(config, width, outputs, pixels[level])
            width = outputs
            skipped.append(width)
    total += 2 * _residual_flops(config, width, width, pixels[-1])
    for level, outputs in reversed(list(enumerate(config.widths))):
        for _ in range(RESIDUAL_BLOCKS + 1):
            total += _residual_flops(config, width + skipped.pop(), outputs, pixels[level])
            width = outputs
        if level:
            total += convolution_flops(width, width, 3, pixels[level - 1])
    return total


def _residual_flops(config: UNetConfig, inputs: int, outputs: int, pixels: int) -> int:
    convolutions = convolution_flops(inputs, outputs, 3, pixels)
    convolutions += convolution_flops(outputs, outputs, 3, pixels)
    shortcut = convolution_flops(inputs, outputs, 1, pixels) if inputs != outputs else 0
    return convolutions + shortcut + linear_flops(config.embedding_width, outputs)
