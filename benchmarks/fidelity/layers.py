"""One layer of attention on photographs, where a network would be too slow or there is none.

Made layers have the width of Stable Diffusion or rotary positions, but no trained weights: tokens
are patches of a noisy photograph in random channels, projections are random, scaled so that logits
have a standard deviation of about 2 (1.3 in the first layer of the small UNet). They tell how well
groups of natural tokens are found among so many and in so many channels, not what a trained network
makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from benchmarks.data import CLASS_NAMES
from benchmarks.fidelity.measuring import predictions, result_files
from benchmarks.fidelity.photos import read_photo
from benchmarks.fidelity.settings import Setting
from benchmarks.paper.models import Model
from bigain_core.methods import Method
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid

QUERIES = 1024  # of which the output is compared, evenly spread
PATCH, STRIDE = 12, 4  # pixels of a token, and from one to the next
SPREAD = 2.0  # about the standard deviation of logits
TIMESTEP = 300


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a layer gets: the input of its block and the normed one (1, N, C), and its weights."""

    block_input: Tensor
    normed: Tensor
    weights: Sequence[Tensor]  # (C, C) of queries, keys and values
    heads: int
    rotary: bool = False

    @property
    def grid(self) -> TokenGrid:
        side = int(self.normed.shape[1] ** 0.5)
        return TokenGrid(side, side)

    @property
    def compared(self) -> Tensor:
        """Places of the evenly spread tokens of which the output is compared."""
        count = self.normed.shape[1]
        return torch.arange(0, count, max(1, count // QUERIES))

    def projected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (1, N, C)."""
        q, k, v = (self.normed @ weight.T for weight in self.weights)
        if self.rotary:
            q, k = (turned(part, self.grid, self.heads) for part in (q, k))
        return q, k, v

    def attention(self, method: Method | None = None) -> Tensor:
        """(1, QUERIES or N, C): what the layer makes of `compared` tokens, before `to_out`."""
        row, bias = self.compared, None
        q, k, v = self.projected()
        if method is not None:
            metric = self.normed if method.metric == "normed" else self.block_input
            plan = method.plan(metric, self.grid, DenoisingProgress(0.5), 0)
            positions = plan.unblended() if self.rotary else plan
            q, k, v, bias = (
                positions.queries(q),
                positions.context(k),
                plan.context(v),
                plan.key_bias,
            )
            places = torch.arange(q.shape[1]).float()[None, :, None]
            row = plan.restore(places)[0, row, 0].long()
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q[:, row], k, v))
        mask = None if bias is None else bias[:, None, None]
        out = functional.scaled_dot_product_attention(q, k, v, mask)
        return out.transpose(1, 2).flatten(2)


def turned(x: Tensor, grid: TokenGrid, heads: int) -> Tensor:
    """x (B, N, C) with rotary positions: half of a head's pairs by rows, the others by columns."""
    pairs = x.unflatten(2, (heads, 2, -1, 2))  # (B, N, heads, 2 axes, pairs, 2)
    frequency = 10000 ** -torch.linspace(0, 1, pairs.shape[4] + 1)[:-1]
    token = torch.arange(grid.tokens)
    places = torch.stack((token // grid.width, token % grid.width), 1)  # (N, 2)
    angle = (places[..., None] * frequency)[:, None]
    a, b = pairs.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(2)


@dataclass(frozen=True)
class MadeLayer:
    """Of a grid of side x side tokens of a photograph; `noise` is the share of it in the pixels."""

    side: int
    noise: float
    width: int = 320
    heads: int = 8
    rotary: bool = False

    def tokens(self, model: Model, photo: str, number: int) -> Tokens:
        draw = torch.Generator().manual_seed(number)
        pixels = read_photo(photo, self.side * STRIDE).movedim(3, 1) - 0.5
        noise = 0.5 * torch.randn(pixels.shape, generator=draw)
        noisy = (1 - self.noise**2) ** 0.5 * pixels + self.noise * noise
        patches = functional.unfold(noisy, PATCH, padding=STRIDE, stride=STRIDE).mT  # (1, N, 432)
        draw.manual_seed(0)  # the same weights for all photographs
        channels = torch.randn(patches.shape[2], self.width, generator=draw)
        x = patches @ channels
        normed = functional.layer_norm(x, (self.width,))
        weights = [torch.randn(self.width, self.width, generator=draw) for _ in range(3)]
        size = (SPREAD / self.width) ** 0.5
        return Tokens(x, normed, [size * weight for weight in weights], self.heads, self.rotary)


class _StoppedError(Exception):
    """What the first layer of a network gets."""


@dataclass(frozen=True)
class FirstLayer:
    """That of the small UNet, with its weights, at so many pixels and tokens a side."""

    side: int

    def tokens(self, model: Model, photo: str, number: int) -> Tokens:
        from bigain_core.comfyui.classifying.latent_classifier import encode_images
        from bigain_core.comfyui.patching.unet import attention_layers

        (_, block), *_ = attention_layers(model.loaded.patcher.model.diffusion_model)

        def stop(module, args, out):
            raise _StoppedError(args[0], out)

        handle = block.norm1.register_forward_hook(stop)
        try:
            latents = encode_images(model.loaded.vae, read_photo(photo, self.side))
            patcher = model.loaded.patcher
            predictions(model, patcher, latents, CLASS_NAMES[:1], number, (TIMESTEP,))
        except _StoppedError as stopped:
            block_input, normed = (x.clone() for x in stopped.args)
        finally:
            handle.remove()
        layer = block.attn1
        weights = [part.weight.detach() for part in (layer.to_q, layer.to_k, layer.to_v)]
        return Tokens(block_input, normed, weights, layer.heads)


LAYERS: Mapping[str, Mapping[str, MadeLayer | FirstLayer]] = {
    "small-unet": {
        "first layer, 16384 tokens": FirstLayer(128),
        "made, 320 channels, 4096 tokens, little noise": MadeLayer(64, 0.1),
        "made, 320 channels, 4096 tokens, much noise": MadeLayer(64, 0.4),
        "made, 320 channels, 16384 tokens, little noise": MadeLayer(128, 0.1),
    },
    "small-dit": {
        "made, rotary positions, 4096 tokens, little noise": MadeLayer(64, 0.1, rotary=True)
    },
    "bundled-dit": {},
}


@torch.inference_mode()
def measure_layers(
    model: Model,
    layer: MadeLayer | FirstLayer,
    settings: Sequence[Setting],
    photos: Sequence[str],
    folder: Path,
) -> None:
    """Add the photographs that are missing to the results of each setting."""
    with result_files(folder, settings) as files:
        for number, name in enumerate(tqdm(photos, mininterval=10)):
            left = [s for s in settings if name not in files[s].records]
            if not left:
                continue
            tokens = layer.tokens(model, name, number)
            plain = tokens.attention().double()
            for setting in left:
                error = tokens.attention(setting.method).double() - plain
                files[setting].add({
                    "file": name, "error": [error.square().sum().item()],
                    "size": [plain.square().sum().item()],
                })  # fmt: skip
