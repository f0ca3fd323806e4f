"""Published networks at full size with random weights, as models of the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.dry_run import Inputs
from benchmarks.outlines.dit_outline import DIT_XL_2

TEXT_TOKENS = 77
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "legacy": False,
    "use_checkpoint": False,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "adm_in_channels": None,
}
SD15 = {
    **UNET,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False,
    "context_dim": 768,
}
SD2 = {**SD15, "use_linear_in_transformer": True, "context_dim": 1024}
SDXL = {
    **UNET,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}


@dataclass(frozen=True)
class Network:
    """How to make a network's host model, and what it is called with besides latent and timestep.

    `latent_scale` are pixels per side of a latent; a UNet also takes patches of the host's nodes.
    """

    config: Callable[[], object]
    model: Callable[[object, torch.device], object]
    inputs: Callable[[int, int], Inputs]
    is_unet: bool = True
    latent_scale: int = 8


def _unet(name: str, config: dict) -> Network:
    import comfy.supported_models

    def inputs(height: int, width: int) -> Inputs:
        text = torch.zeros(1, TEXT_TOKENS, config["context_dim"])
        vector = config["adm_in_channels"]
        return Inputs((1, 4, height, width), text, torch.zeros(1, vector) if vector else None)

    return Network(
        lambda: getattr(comfy.supported_models, name)(dict(config)),
        lambda made, device: made.get_model({}, "", device=device),
        inputs,
    )


def _dit() -> Network:
    from bigain_core.comfyui.dit_model import DiTModel, DiTModelConfig

    return Network(
        lambda: DiTModelConfig(DIT_XL_2),
        lambda made, device: DiTModel(made, ()).to(device),
        lambda height, width: Inputs((1, 4, height, width), None, torch.zeros(1, dtype=torch.long)),
        is_unet=False,
    )


def networks() -> dict[str, Network]:
    """By name; needs the host."""
    return {
        "SD 1.5": _unet("SD15", SD15),
        "SD 2": _unet("SD20", SD2),
        "SDXL": _unet("SDXL", SDXL),
        "DiT-XL/2": _dit(),
    }


def load(network: Network, dtype: torch.dtype):
    """The host's MODEL with random weights, where the host computes."""
    import comfy.model_management
    import comfy.model_patcher

    device = comfy.model_management.get_torch_device()
    config = network.config()
    config.set_inference_dtype(dtype, None)
    model = network.model(config, device)
    fill(model.diffusion_model)
    model.diffusion_model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def fill(network: nn.Module) -> None:
    """Weights scaled by fan-in, norms at one, biases at zero: nothing overflows or vanishes.

    They are the same random numbers again and again, as making billions takes minutes.
    """
    network.requires_grad_(False)
    numbers = torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    tensors: list[tuple[str, Tensor]] = [*network.named_parameters(), *network.named_buffers()]
    for name, weight in tensors:
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        scaled = (numbers * weight[0].numel() ** -0.5).to(weight)
        for part in weight.view(-1).split(len(numbers)):
            part.copy_(scaled[: len(part)])
