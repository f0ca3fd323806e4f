"""Frames that share keys and values: how close attention stays, and how far it flickers.

    python -m benchmarks.video [--host PATH] [--quick]

Small networks of the host's own classes with random weights see synthetic clips of known motion at
several noise levels. Each self-attention layer gets its plain inputs and is computed plain and with
each method. Random weights say nothing of a checkpoint; they say what motion does to each method.
Beside that, operations of the published networks at their real sizes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ceilings import MODELS, build, count
from benchmarks.demo_report import Row, table
from benchmarks.host import enter_host
from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.network_call import NetworkCall
from bigain_core.compression.rules import Compression, Rule
from bigain_core.compression.run_log import RunLog
from bigain_core.methods import KeyMerging, KVDownsampling, Method, TokenMerging
from bigain_core.schedules import AlphaSchedule, DenoisingProgress

FRAMES, ROWS, COLUMNS = 13, 12, 16  # tokens of a clip
LEVELS = (0.9, 0.5, 0.1)  # share of noise
SHARPNESS = 2.0  # of attention: how long queries are
CLIPS = ("still", "squares", "pan", "cuts")
TEXT, SOUND = (6, 24), (32, 2, 5)
BOXES = ((1, 2), (4, 1), (2, 2), (4, 2), (1, 4))  # frames; rows and columns
MERGED = ((1, 2), (4, 1))  # by the ratio of 0.7


@dataclass(frozen=True)
class Small:
    """A small network of the host's configuration of that name."""

    host_class: str
    config: Mapping[str, Any]
    channels: int
    patch: int = 2


SMALL = {
    "Wan": Small(
        "WAN21_T2V",
        {"dim": 128, "num_heads": 2, "ffn_dim": 256, "num_layers": 2, "text_dim": TEXT[1]},
        16,
    ),
    "LTX-Video": Small(
        "LTXV",
        {
            "cross_attention_dim": 128,
            "attention_head_dim": 64,
            "num_attention_heads": 2,
            "caption_channels": TEXT[1],
            "num_layers": 2,
        },
        128,
        1,
    ),
    "MiniMax H3": Small(
        "MiniMaxH3",
        {
            "hidden_size": 128,
            "num_layers": 2,
            "token_refiner_num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 64,
            "ffn_hidden_size": 128,
            "text_dim": TEXT[1],
            "timestep_input_dim": 16,
            "time_embed_hidden_size": 32,
            "time_embed_dim": 32,
            "rope_inv_freq_len": 8,
        },
        24,
    ),
}


def methods() -> dict[tuple[str, str], Method]:
    """By name and box: frames x rows x columns that share a key."""
    found = {}
    for frames, factor in BOXES:
        box = f"{frames} x {factor} x {factor}"
        mean = AlphaSchedule(0.0, 0.0)
        found["IE-KVD", box] = KVDownsampling(factor, frames=frames, proportional=True)
        found["average", box] = KVDownsampling(factor, mean, frames=frames, proportional=True)
        found["key merging", box] = KeyMerging(1 - 1 / factor**2, cell=factor, frames=frames)
    for frames, side in MERGED:
        merging = TokenMerging(0.7, frames=frames, proportional=True)
        found["L-GTM 0.7", f"{frames} x {side} x {side}"] = merging
    return found


def texture(channels: int, height: int, width: int, seed: int) -> Tensor:
    """(C, H, W): smooth patches with some detail, of variance one."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(channels, height, width)
    for scale in (1, 2, 4, 8):
        size = (-(-height // scale), -(-width // scale))
        coarse = torch.randn(1, channels, *size, generator=generator)
        total += scale * functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return total / total.std()


def clip(kind: str, channels: int, height: int, width: int) -> Tensor:
    """(1, C, FRAMES, H, W): still, three squares that move on it, a pan, or a cut at each frame."""
    wide = texture(channels, height, width + FRAMES, 0)
    frames = []
    for number in range(FRAMES):
        frame = wide[..., :width].clone()
        if kind == "pan":
            frame = wide[..., number : number + width]
        elif kind == "cuts":
            frame = texture(channels, height, width, 100 + number)
        elif kind == "squares":
            side = height // 4
            for square in range(3):
                top = (square * height // 3 + number * (square - 1)) % (height - side)
                left = (square * width // 3 + 2 * number) % (width - side)
                inside = texture(channels, side, side, 1 + square)
                frame[:, top : top + side, left : left + side] = inside
        frames.append(frame)
    return torch.stack(frames, 1)[None]


def random_network(small: Small) -> torch.nn.Module:
    """Weights scaled by fan-in; norms of queries are `SHARPNESS`, others one."""
    import comfy.supported_models

    config = getattr(comfy.supported_models, small.host_class)(dict(small.config))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    network = model.diffusion_model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    tables = [(name, table) for name, table in network.named_buffers() if "inv_freq" in name]
    for name, weight in [*network.named_parameters(), *tables]:
        if weight.ndim < 2 and not name.endswith("bias"):
            of_queries = name.endswith(("norm_q.weight", "q_norm.weight"))
            weight.data.fill_(SHARPNESS if of_queries else 1.0)
        else:
            scale = weight[0].numel() ** -0.5 if weight.ndim >= 2 else 0.1
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return network


@dataclass
class Measured:
    """Sums over layers: share of keys, error, error of what changes from frame to frame."""

    layers: int = 0
    keys: float = 0.0
    error: float = 0.0
    flicker: float = 0.0

    def add(self, plain: Tensor, found: Tensor, keys: float) -> None:
        """Attention of the image, (B, N, C) each; errors relative to the plain one."""
        plain, wrong = (x.unflatten(1, (FRAMES, -1)) for x in (plain, found - plain))
        self.layers += 1
        self.keys += keys
        self.error += (wrong.norm() / plain.norm()).item()
        self.flicker += (wrong.diff(dim=1).norm() / plain.norm()).item()

    def mean(self) -> tuple[float, float, float]:
        return tuple(total / self.layers for total in (self.keys, self.error, self.flicker))


def measure(
    small: Small, network: torch.nn.Module, clean: Tensor, level: float, tried: Mapping
) -> dict[tuple[str, str], Measured]:
    """Of all self-attention layers in a call of the network with the clip at a noise level."""
    from bigain_core.comfyui.patching.adapter import Inputs
    from bigain_core.comfyui.patching.families import find_family

    generator = torch.Generator().manual_seed(1)
    noisy = (1 - level) * clean + level * torch.randn(clean.shape, generator=generator)
    text = torch.randn(1, *TEXT, generator=generator)
    x, conditions, extra, timestep = noisy, {}, {}, level
    if small.host_class == "MiniMaxH3":
        sound = torch.randn(1, *SOUND, generator=generator)
        x, timestep = [noisy, sound], 1000 * level
        conditions = {"latent_shapes": [noisy.shape, sound.shape]}
    elif small.host_class == "LTXV":
        extra = {"attention_mask": None, "frame_rate": 25}
    adapter = find_family(network).adapter
    inputs, tokens = Inputs(network, noisy, text, conditions, {}), FRAMES * ROWS * COLUMNS
    found, overrides = {name: Measured() for name in tried}, {}

    def every(function, q, k, v, heads, *args, **kwargs):
        plain = function(q, k, v, heads, *args, **kwargs)
        for name, (log, override) in overrides.items():
            calls = compressed(log)
            out = override(function, q, k, v, heads, *args, **kwargs)
            if compressed(log) > calls:
                keys = max(record.context_tokens for record in log.layers.values()) / tokens
                image = (x[:, -tokens:] for x in (plain, out))  # text and sound come first
                found[name].add(*image, keys)
        return plain

    with ExitStack() as stack, torch.inference_mode():
        for name, method in tried.items():
            rules, log = Compression((Rule(method),)), RunLog()
            call = NetworkCall(
                rules, lambda: DenoisingProgress(1 - level), log, adapter.layer_flops
            )
            patches = adapter.intercept(adapter.layers(network), call, inputs)
            stack.enter_context(replaced_forwards(patches.forwards))
            overrides[name] = log, patches.options["optimized_attention_override"]
        options = {"optimized_attention_override": every}
        network(x, torch.tensor([timestep]), text, transformer_options=options, **extra)
    return found


def compressed(log: RunLog) -> int:
    return sum(record.compressed for record in log.layers.values())


def closeness(levels: tuple[float, ...]) -> Iterator[tuple[Row, Row]]:
    """For each method its errors and its flicker by clip and noise level, mean of the networks."""
    tried, found = methods(), {}
    for small in SMALL.values():
        network = random_network(small)
        for kind in CLIPS:
            clean = clip(kind, small.channels, ROWS * small.patch, COLUMNS * small.patch)
            for level in levels:
                measured = measure(small, network, clean, level, tried)
                for name, one in measured.items():
                    found.setdefault((name, kind, level), []).append(one.mean())
    for name in tried:
        means = {
            key[1:]: torch.tensor(rows).mean(0).tolist()
            for key, rows in found.items()
            if key[0] == name
        }
        keys = f"{next(iter(means.values()))[0]:.3f}"
        yield tuple(
            [*name, keys, *(" ".join(f"{means[k, n][m]:.3f}" for n in levels) for k in CLIPS)]
            for m in (1, 2)
        )


def operations() -> Iterator[Row]:
    """Gains of whole network calls at full size."""
    tried = {name: method for name, method in methods().items() if name[0] != "average"}
    for name, label in (("Wan 14B", "720p, 81 frames"), ("MiniMax H3", "1344x768, 10 s")):
        model = MODELS[name]
        patcher = build(model)
        for key, method in tried.items():
            log = count(patcher, model, model.sizes[label], Rule(method))
            gain = log.network_flops / (log.network_flops - log.flops_saved)
            yield [f"{name}, {label}", *key, f"{log.network_flops / 1e12:.0f}", f"{gain:.2f}x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    parser.add_argument("--quick", action="store_true", help="one noise level")
    args = parser.parse_args()
    enter_host(args.host, cpu=True)
    torch.set_num_threads(1)
    levels = LEVELS[1:2] if args.quick else LEVELS
    errors, flickers = zip(*closeness(levels), strict=True)
    noise = " / ".join(map(str, levels))
    head = ["method", "box", "keys", *CLIPS]
    print(f"Error of attention, relative to the plain one, at {noise} of noise.\n")
    print(table(head, errors))
    print("\nThe same of what the error changes by from one frame to the next.\n")
    print(table(head, flickers))
    print("\nOperations of a network call at full size, and the gain.\n")
    print(table(["model, size", "method", "box", "TFLOP", "gain"], list(operations())))


if __name__ == "__main__":
    main()
