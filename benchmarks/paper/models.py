"""The four models behind one face: what loads them, and where rows act in them.

Importable without a host; loading needs one (see `benchmarks.host`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.data import SIZE
from benchmarks.demo_host import LATENT_SCALE, Loaded
from benchmarks.dit_runner import SMALL_DIT
from benchmarks.methods import BUNDLED_PLACEMENT
from benchmarks.paper.tables import DECODER, ENCODER, EVERY_LEVEL, FINEST, Row, translated
from bigain_core.classification.datasets.imagenet import imagenet_labels
from bigain_core.placement import Placement, named_placement

if TYPE_CHECKING:  # importable only inside the host
    from comfy.model_patcher import ModelPatcher

Places = Mapping[Placement, Placement]


def transformer(first: Sequence[int], second: Sequence[int]) -> Places:
    """Where rows act in a transformer: blocks that stand for encoder and decoder."""
    return {
        FINEST: Placement(layers=(*first, *second)),
        ENCODER: Placement(layers=tuple(first)),
        DECODER: Placement(layers=tuple(second)),
        EVERY_LEVEL: Placement(),
    }


@dataclass(frozen=True)
class SamplingSettings:
    """How images are sampled: timesteps from noise to clean, guidance, the host's sampler."""

    timesteps: tuple[float, ...]
    guidance: float
    sampler: str


def _even(steps: int) -> tuple[float, ...]:
    return tuple(torch.linspace(999, 0, steps, dtype=torch.float64).tolist())


UNGUIDED = SamplingSettings(_even(16), 1.0, "euler")  # guided images lie far from real ones
EULER = SamplingSettings(_even(50), 7.5, "euler")  # as published, also of the last
DDIM = SamplingSettings(tuple(range(980, -1, -20)), 4.0, "ddim")


@dataclass(frozen=True)
class Files:
    """What a published model is made of; `size` is the side of its images in pixels."""

    checkpoint: Path | None = None
    vae: Path | None = None
    size: int = 512

    def needed(self, *names: str) -> None:
        if missing := [name for name in names if getattr(self, name) is None]:
            raise ValueError(f"expected --{missing[0]} FILE for this model, got none.")


@dataclass(frozen=True)
class Model:
    """`reads` says that prompts are text rather than names of classes."""

    loaded: Loaded
    sampling_settings: SamplingSettings
    places: Places = field(default_factory=dict)
    reads: bool = False

    def compressed(self, row: Row) -> ModelPatcher:
        from bigain_core.comfyui.patching.attach import attach

        model = self.loaded.patcher
        for rule in translated(row.compression, self.places).rules:
            model = attach(model, rule)
        return model


def precision(model: ModelPatcher) -> str:
    """In which a network computes, by which results of different runs are told apart."""
    weights = str(model.model_dtype())
    return f"{weights}, products in bfloat16" if torch.is_autocast_enabled("cpu") else weights


def small_dit(files: Files) -> Model:
    """Of shapes and digits; the paper compresses 10 of 28 blocks, here it is 2 of 6."""
    first, second = BUNDLED_PLACEMENT.layers
    return Model(Loaded.bundled(SMALL_DIT), UNGUIDED, transformer([first], [second]))


def bundled_dit(files: Files) -> Model:
    """Of drawings, as deep as the small one."""
    first, second = BUNDLED_PLACEMENT.layers
    return Model(Loaded.bundled(), UNGUIDED, transformer([first], [second]))


def small_unet(files: Files) -> Model:
    import comfy.sd

    from benchmarks import small_unet as bundled

    patcher, encode = bundled.load()
    pixels = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    return Model(Loaded(patcher, pixels, encode, (3, SIZE, SIZE), SIZE), UNGUIDED)


def sd2(files: Files) -> Model:
    """stable-diffusion-2-base, or another checkpoint of Stable Diffusion."""
    files.needed("checkpoint")
    loaded, side = Loaded.stable_diffusion(files.checkpoint), files.size // LATENT_SCALE
    shape = (loaded.latent_shape[0], side, side)
    return Model(replace(loaded, latent_shape=shape, image_size=files.size), EULER, reads=True)


def dit_xl_2(files: Files) -> Model:
    """DiT-XL/2, whose classes are those of ImageNet-1K, with Stable Diffusion's autoencoder."""
    import comfy.sd
    import comfy.utils

    from bigain_core.comfyui.dit_model import label_conditioning, load_dit_model

    files.needed("checkpoint", "vae")
    patcher = load_dit_model(files.checkpoint)
    config = patcher.model.diffusion_model.config
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(files.vae)))
    numbers = {label: k for k, label in enumerate(imagenet_labels().values())}

    def encode(prompts: Sequence[str]) -> tuple[list, ...]:
        return tuple(label_conditioning([numbers[p]] if p else []) for p in prompts)

    side = config.input_size
    loaded = Loaded(patcher, vae, encode, (config.in_channels, side, side), side * LATENT_SCALE)
    published = named_placement("blocks 1-5 and 7-11 (published)").layers
    first = [number for number in published if number < 6]
    return Model(loaded, DDIM, transformer(first, [n for n in published if n not in first]))


LOADERS: dict[str, Callable[[Files], Model]] = {
    "small-unet": small_unet,
    "small-dit": small_dit,
    "bundled-dit": bundled_dit,
    "sd2": sd2,
    "dit-xl-2": dit_xl_2,
}
SMALL = ("small-unet", "small-dit")
UNETS = ("small-unet", "sd2")
