"""Class-conditional DiT (Peebles & Xie, "Scalable Diffusion Models with Transformers").

Module names follow the published checkpoints, so a DiT-XL/2 file loads by its own keys. Layers come
from `operations` (`torch.nn` by default, the host's casting layers inside ComfyUI) and attention
from a callable.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]

FREQUENCY_EMBEDDING_SIZE = 256
PREDICTIONS = ("eps", "v")


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a DiT. `input_size` is the latent side that the position table was made for.

    `predicts` is what it was trained to give, one of PREDICTIONS: the noise or the velocity
    sqrt(a) * noise - sqrt(1 - a) * clean at the signal level a.
    """

    input_size: int
    patch_size: int
    in_channels: int
    hidden_size: int
    depth: int
    num_heads: int
    num_classes: int
    learn_sigma: bool
    predicts: str = "eps"

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> DiTConfig:
        """Infer the shape from a checkpoint in the published key layout.

        Heads leave no trace in the weights: the published models use 16 heads at width 1152 and
        heads of 64 channels everywhere else, and so does this rule.

        Raises ValueError when the checkpoint is not a class-conditional DiT.
        """
        dimensions = {
            "x_embedder.proj.weight": 4,
            "pos_embed": 3,
            "y_embedder.embedding_table.weight": 2,
            "blocks.0.attn.qkv.weight": 2,
            "final_layer.linear.weight": 2,
        }
        for key, count in dimensions.items():
            found = getattr(state.get(key), "ndim", None)
            if found == count:
                continue
            what = "is missing" if found is None else f"has {found} dimensions instead of {count}"
            raise ValueError(
                "BiGain: expected a class-conditional DiT checkpoint (published DiT key layout), "
                f"but {key!r} {what}; the file starts with {sorted(map(str, state))[:3]}. "
                "Load Stable Diffusion and other models with ComfyUI's own loaders."
            )
        hidden_size, in_channels, patch_size, _ = state["x_embedder.proj.weight"].shape
        depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
        num_heads = 16 if hidden_size == 1152 else max(1, hidden_size // 64)
        if hidden_size % num_heads:
            raise ValueError(
                "BiGain: expected a DiT whose width is a multiple of 64, the channels of a head, "
                f"got width {hidden_size}. The number of its heads is not in the file."
            )
        out_channels = state["final_layer.linear.weight"].shape[0] // patch_size**2
        return cls(
            input_size=math.isqrt(state["pos_embed"].shape[1]) * patch_size,
            patch_size=patch_size,
            in_channels=in_channels,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            num_classes=state["y_embedder.embedding_table.weight"].shape[0] - 1,
            learn_sigma=out_channels == 2 * in_channels,
        )


def timestep_embedding(timesteps: Tensor) -> Tensor:
    """Sinusoidal embedding of timesteps (B,) -> (B, 256), cosines first, in fp32."""
    half = FREQUENCY_EMBEDDING_SIZE // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm: x (B, N, C), shift and scale (B, C)."""
    return x * (1 + scale[:, None]) + shift[:, None]


def named(**layers: nn.Module) -> nn.Sequential:
    """Layers in order, by the names that they have in published checkpoints."""
    return nn.Sequential(OrderedDict(layers))


class SelfAttention(nn.Module):
    def __init__(self, config: DiTConfig, operations, **factory):
        super().__init__()
        size, self.num_heads = config.hidden_size, config.num_heads
        self.qkv = operations.Linear(size, 3 * size, **factory)
        self.proj = operations.Linear(size, size, **factory)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        """x (B, N, C) -> (B, N, C)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attention(q, k, v, self.num_heads))


class DiTBlock(nn.Module):
    def __init__(self, config: DiTConfig, operations, **factory):
        super().__init__()
        size, linear = config.hidden_size, partial(operations.Linear, **factory)
        norm = partial(operations.LayerNorm, size, elementwise_affine=False, eps=1e-6, **factory)
        self.norm1 = norm()
        self.attn = SelfAttention(config, operations, **factory)
        self.norm2 = norm()
        gelu = nn.GELU(approximate="tanh")
        self.mlp = named(fc1=linear(size, 4 * size), act=gelu, fc2=linear(4 * size, size))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(size, 6 * size))

    def forward(self, x: Tensor, condition: Tensor, attention: Attention) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(
            6, dim=1
        )
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1), attention)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    def __init__(self, config: DiTConfig, operations, **factory):
        super().__init__()
        size, linear = config.hidden_size, partial(operations.Linear, **factory)
        out_channels = config.in_channels * (2 if config.learn_sigma else 1)
        self.norm_final = operations.LayerNorm(size, elementwise_affine=False, eps=1e-6, **factory)
        self.linear = linear(size, config.patch_size**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(size, 2 * size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DiT(nn.Module):
    """Predicts the noise in x (B, C, H, W), or its velocity, for integer class labels (B,)."""

    def __init__(self, config: DiTConfig, operations=nn, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.config = config
        size, patch, classes = config.hidden_size, config.patch_size, config.num_classes
        linear = partial(operations.Linear, **factory)
        self.x_embedder = named(
            proj=operations.Conv2d(config.in_channels, size, patch, patch, **factory)
        )
        timestep = nn.Sequential(
            linear(FREQUENCY_EMBEDDING_SIZE, size), nn.SiLU(), linear(size, size)
        )
        self.t_embedder = named(mlp=timestep)
        # The last row is the null class of guidance.
        self.y_embedder = named(embedding_table=operations.Embedding(classes + 1, size, **factory))
        side = config.input_size // patch
        self.pos_embed = nn.Parameter(
            torch.zeros(1, side * side, size, **factory), requires_grad=False
        )
        self.blocks = nn.ModuleList(
            [DiTBlock(config, operations, **factory) for _ in range(config.depth)]
        )
        self.final_layer = FinalLayer(config, operations, **factory)

    def positions(self, height: int, width: int, like: Tensor) -> Tensor:
        """Position table (1, height * width, C), resized bicubically if made for another size."""
        table = self.pos_embed.to(like)
        side = math.isqrt(table.shape[1])
        if (height, width) == (side, side):
            return table
        image = table.float().transpose(1, 2).unflatten(2, (side, side))  # (1, C, side, side)
        image = functional.interpolate(image, size=(height, width), mode="bicubic")
        return image.flatten(2).transpose(1, 2).to(like.dtype)

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor, attention: Attention) -> Tensor:
        """x (B, C, H, W), timesteps (B,) in [0, 1000), labels (B,) -> prediction, shape of x.

        Sides that the patch does not divide are padded by repetition and cropped again. A learned
        variance (second half of the output channels) is dropped.
        """
        height, width = x.shape[-2:]
        patch = self.config.patch_size
        padding = (0, -width % patch, 0, -height % patch)
        if any(padding):
            x = functional.pad(x, padding, mode="replicate")
        grid = self.x_embedder(x)  # (B, hidden, h, w)
        h, w = grid.shape[-2:]
        tokens = grid.flatten(2).transpose(1, 2)  # (B, h * w, hidden)
        tokens = tokens + self.positions(h, w, tokens)
        dtype = tokens.dtype
        condition = self.t_embedder(timestep_embedding(timesteps).to(dtype))
        condition = condition + self.y_embedder(labels).to(dtype)
        for block in self.blocks:
            tokens = block(tokens, condition, attention)
        tokens = self.final_layer(tokens, condition)  # (B, h * w, patch * patch * out)
        out = tokens.unflatten(1, (h, w)).unflatten(-1, (patch, patch, -1))
        out = out.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # (B, out, h * p, w * p)
        return out[:, : self.config.in_channels, :height, :width]
