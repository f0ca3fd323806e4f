"""The model families that can be compressed: adding one is a row here and a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ..compression import NetworkCall, Replacement
from ..models import compressed_dit
from ..models.dit import DiT
from ..placement import Site
from . import unet


@dataclass(frozen=True)
class Family:
    """How to reach the self-attention of a class of diffusion models.

    `sites` lists its layers in order of execution, `replacements(model, latent, call)` compresses
    them for one call with a noisy latent (B, C, H, W).
    """

    name: str
    model_class: type[nn.Module]
    sites: Callable[[nn.Module], list[tuple[Site, nn.Module]]]
    replacements: Callable[[nn.Module, Tensor, NetworkCall], Iterator[Replacement]]
    pools_after_projection: bool


def _dit_replacements(model: DiT, latent: Tensor, call: NetworkCall) -> Iterator[Replacement]:
    grid = compressed_dit.token_grid(model.config, *latent.shape[-2:])
    return compressed_dit.replacements(model, grid, call)


FAMILIES = (
    Family(
        "Stable Diffusion UNet (1.x, 2.x, XL)",
        UNetModel,
        unet.sites,
        unet.replacements,
        pools_after_projection=False,
    ),
    Family(
        "class-conditional DiT",
        DiT,
        compressed_dit.sites,
        _dit_replacements,
        pools_after_projection=True,
    ),
)


def find_family(diffusion_model: nn.Module) -> Family | None:
    compiled_from = getattr(diffusion_model, "_orig_mod", diffusion_model)
    return next((f for f in FAMILIES if isinstance(compiled_from, f.model_class)), None)
