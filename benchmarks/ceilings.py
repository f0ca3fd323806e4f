"""What compression can gain at most on today's models: operations of their full-size networks.

    python -m benchmarks.ceilings [--host PATH]

The networks are ComfyUI's own, of their real sizes, without weights: tensors on the meta device
have shapes and no data. The counts are those of the pack's report. Operations, not time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.demo_report import Row, table
from benchmarks.host import enter_host
from bigain_core.compression.automatic import STRENGTHS, automatic_rules
from bigain_core.compression.rules import Rule
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import attention_shortened
from bigain_core.methods import KVDownsampling, TokenMerging

SQUARES = {"1024 px": (128, 128), "2048 px": (256, 256)}
VIDEOS = {"480p, 81 frames": (21, 60, 104), "720p, 81 frames": (21, 90, 160)}
WITH_SOUND = {
    "896x512, 5 s": (37, 32, 56),
    "1344x768, 5 s": (37, 48, 84),
    "1344x768, 10 s": (72, 48, 84),
    "1344x768, 15 s": (107, 48, 84),
}
METHODS = {
    "L-GTM 0.7": TokenMerging(0.7),
    "IE-KVD factor 2": KVDownsampling(2),
    "IE-KVD factor 4": KVDownsampling(4),
}


@dataclass(frozen=True)
class FullSize:
    """A published network: the host's configuration of that name and what it is called with.

    `text` are tokens and channels of a prompt, `conditions` widths of further vectors by name.
    """

    host_class: str
    config: Mapping[str, Any]
    channels: int
    text: tuple[int, int]
    conditions: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, tuple[int, ...]]


FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
SD35_LARGE = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 38,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 2432},
    },
    "num_patches": 192 * 192,
    "pos_embed_max_size": 192,
    "pos_embed_scaling_factor": None,
    "qk_norm": "rms",
}
QWEN = {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 60}
Z_IMAGE = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "qk_norm": True,
    "cap_feat_dim": 2560,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
WAN_14B = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 5120,
    "num_heads": 40,
    "ffn_dim": 13824,
    "num_layers": 40,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": 4096,
    "text_len": 512,
}

MODELS = {
    "SD 3.5 Large": FullSize("SD3", SD35_LARGE, 16, (154, 4096), {"y": (2048,)}, SQUARES),
    "Flux": FullSize("Flux", FLUX, 16, (512, 4096), {"y": (768,), "guidance": ()}, SQUARES),
    "Z-Image": FullSize("ZImage", Z_IMAGE, 16, (64, 2560), {}, SQUARES),
    "Qwen-Image": FullSize(
        "QwenImage", QWEN, 16, (64, 3584), {}, {name: (1, *size) for name, size in SQUARES.items()}
    ),
    "Wan 14B": FullSize("WAN21_T2V", WAN_14B, 16, (512, 4096), {}, VIDEOS),
    "MiniMax H3": FullSize(
        "MiniMaxH3", {"image_model": "minimax_h3"}, 24, (512, 5120), {}, WITH_SOUND
    ),
}


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def no_attention(function, q, k, v, heads, *args, skip_reshape=False, **kwargs):
    """The shape of the result: attention is counted in closed form, nobody needs to run it."""
    if skip_reshape:
        return q.new_empty(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
    return q.new_empty(q.shape)


def build(model: FullSize):
    """The host's model on the meta device."""
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, model.host_class)(dict(model.config))
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    network = config.get_model({}, "", device="meta")
    return comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)


def count(patcher, model: FullSize, size: tuple[int, ...], *rules: Rule) -> RunLog:
    """One network call behind the wrappers that the nodes install, and what it logged."""
    from comfy.patcher_extension import WrapperExecutor, WrappersMP
    from comfy.utils import pack_latents, unpack_latents

    from bigain_core.comfyui.patching.attach import attach, compression_state

    for rule in rules:
        patcher = attach(patcher, rule)
    conditions = {name: meta(1, *shape) for name, shape in model.conditions.items()}

    def network_call(x, sigma, concat, context, control, transformer_options, **conditions):
        network, sigma = patcher.model.diffusion_model, sigma.to("meta")
        if model.host_class == "ZImage":
            conditions["num_tokens"] = model.text[0]
        if shapes := conditions.pop("latent_shapes", ()):  # whose sigma is read on the host
            x, sigma = unpack_latents(x, shapes), torch.full((1,), 500.0)
        network(x, sigma, context, transformer_options=transformer_options, **conditions)

    options = patcher.model_options["transformer_options"]
    options = {**options, "optimized_attention_override": no_attention}
    wrappers = patcher.get_all_wrappers(WrappersMP.APPLY_MODEL)
    executor = WrapperExecutor.new_class_executor(network_call, patcher.model, wrappers)
    latent, text = meta(1, model.channels, *size), meta(1, *model.text)
    if model.host_class == "MiniMaxH3":
        with_sound = patcher.get_model_object("latent_format").fix_empty_latent(latent)
        latent, conditions["latent_shapes"] = pack_latents(with_sound.unbind())
    with torch.inference_mode():
        executor.execute(latent, torch.full((1,), 0.5), None, text, None, options, **conditions)
    return compression_state(patcher).log


def choices(patcher) -> list[tuple[Rule, ...]]:
    """Those of BiGain (Auto)."""
    from bigain_core.comfyui.patching.attach import resolve

    blocks = len(resolve(patcher)[1])
    return [automatic_rules(strength, attention_shortened, blocks) for strength in STRENGTHS]


def rows() -> Iterator[Row]:
    for name, model in MODELS.items():
        patcher = build(model)
        settings = [(Rule(method),) for method in METHODS.values()] + choices(patcher)
        for label, size in model.sizes.items():
            logs = [count(patcher, model, size, *rules) for rules in settings]
            whole = logs[0].network_flops
            gains = [whole / (whole - log.flops_saved) for log in logs]
            shortest = whole / (whole - logs[0].flops_before + logs[0].flops_fixed)
            row = [f"{name}, {label}", f"{whole / 1e12:.2f}"]
            yield [*row, *(f"{gain:.2f}x" for gain in gains), f"{shortest:.2f}x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    enter_host(parser.parse_args().host, cpu=True)
    head = ["model, size", "TFLOP", *METHODS, *STRENGTHS, "shortened to nothing"]
    print("Operations of a plain network call, and the gain that compression leaves at most.\n")
    print(table(head, list(rows())))


if __name__ == "__main__":
    main()
