"""The demo inside ComfyUI, in this process: its loaders, samplers and attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.demo_backend import CallFlops
from benchmarks.demo_builtin import GUIDANCE, cpu_name
from benchmarks.host import enter_host
from bigain_core.classification import Classification, TrialPlan, trial_noise
from bigain_core.compression.automatic import AUTO, automatic_rules
from bigain_core.compression.rules import Compression
from bigain_core.compression.run_log import RunLog
from bigain_core.listener import SILENT, Listener
from bigain_core.models.checkpoint import BUNDLED_MODEL

if TYPE_CHECKING:  # importable only inside the host
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

NATIVE_SIZES = {768: 512, 1024: 768, 2048: 1024}  # by width of the text embedding: SD 1, 2, XL
LATENT_SCALE = 8


@dataclass(frozen=True)
class Loaded:
    """A model of the host with what it needs to read prompts and to see pixels."""

    patcher: ModelPatcher
    vae: VAE
    encode: Callable[[Sequence[str]], tuple[list, ...]]
    latent_shape: tuple[int, int, int]
    image_size: int

    @classmethod
    def bundled(cls, path: Path = BUNDLED_MODEL) -> Loaded:
        """Or another DiT whose pixels are its latents."""
        import comfy.sd

        from bigain_core.comfyui.dit_model import label_conditioning, load_dit_model
        from bigain_core.models.checkpoint import class_indices

        patcher = load_dit_model(path)
        config, names = patcher.model.diffusion_model.config, patcher.model.class_names

        def encode(prompts: Sequence[str]) -> tuple[list, ...]:
            labels = class_indices([p for p in prompts if p], config, names)
            return tuple(label_conditioning([k]) for k in labels) or (label_conditioning([]),)

        pixels = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
        side = config.input_size
        return cls(patcher, pixels, encode, (config.in_channels, side, side), side)

    @classmethod
    def stable_diffusion(cls, path: Path) -> Loaded:
        """Raises ValueError for a file that holds no Stable Diffusion model."""
        import comfy.sd
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        patcher, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
        if patcher is None or not isinstance(patcher.model.diffusion_model, UNetModel):
            kind = "no model" if patcher is None else type(patcher.model).__name__
            raise ValueError(f"expected a Stable Diffusion checkpoint, got {kind} in {path.name}.")
        if clip is None or vae is None:
            missing = "text encoder" if clip is None else "VAE"
            raise ValueError(
                f"expected a whole checkpoint, got one without {missing}: {path.name}."
            )

        def encode(prompts: Sequence[str]) -> tuple[list, ...]:
            tokens = (clip.tokenize(prompt, disable_weights=True) for prompt in prompts)
            return tuple(map(clip.encode_from_tokens_scheduled, tokens))

        size = NATIVE_SIZES.get(patcher.model.model_config.unet_config["context_dim"], 512)
        side = size // LATENT_SCALE
        channels = patcher.get_model_object("latent_format").latent_channels
        return cls(patcher, vae, encode, (channels, side, side), size)


def batched(conditionings: Sequence[list]) -> list:
    """One conditioning whose row k is conditioning k, for image k of a batch."""
    rows = [conditioning[0] for conditioning in conditionings]
    extra = {
        key: torch.cat([row[1][key] for row in rows])
        for key, value in rows[0][1].items()
        if isinstance(value, Tensor)
    }
    return [[torch.cat([row[0] for row in rows]), extra]]


def automatic(model: ModelPatcher) -> Compression:
    """What BiGain (Auto) does to a model of the host."""
    from bigain_core.comfyui.patching.attach import resolve

    family, layers = resolve(model)
    return Compression(automatic_rules(AUTO, family.adapter.layer_flops, len(layers)))


class HostBackend:
    """A `Backend` around a model of the host."""

    def __init__(self, host: Path, path: Path):
        enter_host(host, cpu=not torch.accelerator.is_available())
        bundled = path == BUNDLED_MODEL
        self.loaded = Loaded.bundled() if bundled else Loaded.stable_diffusion(path)
        self.automatic = automatic(self.loaded.patcher)
        self.model = path.name
        self.image_size = self.loaded.image_size

    @property
    def runner(self) -> str:
        from comfyui_version import __version__

        return f"ComfyUI {__version__}"

    @cached_property
    def device(self) -> str:
        device = self.loaded.patcher.load_device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()

    def flops(self, compression: Compression) -> CallFlops:
        from comfy.patcher_extension import WrappersMP

        from bigain_core.comfyui.patching.attach import compression_state

        calls = []

        def note(executor, *args, **kwargs):
            calls.append([a[:1].to("meta") if isinstance(a, Tensor) else None for a in args[:4]])
            return executor(*args, **kwargs)

        model = self._compressed(compression).clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "demo", note)
        self._sample(model, [""], steps=1, seed=0, on_step=lambda step: None)
        state = compression_state(model)
        log = state.log if state else RunLog()
        return CallFlops.from_log(self._network_flops(calls[0]), log)

    def _network_flops(self, inputs: list[Tensor | None]) -> int:
        """Of one plain call, counted without computing anything on a copy without weights."""
        import comfy.ops
        from comfy.ldm.modules.attention import attention_pytorch

        def fused(function, *args, **kwargs):  # what the counter knows, on any device
            return attention_pytorch(*args, **kwargs)

        model = self.loaded.patcher.model
        config = {**model.model_config.unet_config, "dtype": torch.float32}
        layers = comfy.ops.disable_weight_init
        network = type(model.diffusion_model)(**config, device="meta", operations=layers)
        inputs = [t.float() if t is not None and t.is_floating_point() else t for t in inputs]
        options = {"optimized_attention_override": fused}
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(*inputs, transformer_options=options)
        return counter.get_total_flops()

    def samples(
        self,
        compression: Compression,
        prompts: Sequence[str],
        steps: int,
        seed: int,
        on_step: Callable[[int], None],
    ) -> Tensor:
        model = self._compressed(compression)
        latents = self._sample(model, prompts, steps, seed, on_step)
        return self.loaded.vae.decode(latents).float().cpu().clamp(0, 1)

    def classify(
        self,
        compression: Compression,
        images: Tensor,
        prompts: Sequence[str],
        plan: TrialPlan,
        listener: Listener = SILENT,
    ) -> Classification:
        from bigain_core.comfyui.classifying.latent_classifier import classify_latents
        from bigain_core.comfyui.classifying.prompts import Prompts

        ranked = Prompts(tuple(prompts), self.loaded.encode(prompts))
        latents = self.loaded.vae.encode(images)
        return classify_latents(self._compressed(compression), latents, ranked, plan, listener)

    def _compressed(self, compression: Compression) -> ModelPatcher:
        from bigain_core.comfyui.patching.attach import attach

        model = self.loaded.patcher
        for rule in compression.rules:
            model = attach(model, rule)
        return model

    def _sample(self, model, prompts, steps, seed, on_step) -> Tensor:
        """Guided DDIM: latents (P, ...). The noise of image k depends on (seed, k) alone."""
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(batched(self.loaded.encode(prompts)), self.loaded.encode([""])[0])
        guider.set_cfg(GUIDANCE)
        sampling = model.get_model_object("model_sampling")
        noise = torch.stack(
            [trial_noise(self.loaded.latent_shape, seed, k, 0) for k in range(len(prompts))]
        )
        return guider.sample(
            noise,
            torch.zeros_like(noise),
            comfy.samplers.sampler_object("ddim"),
            comfy.samplers.calculate_sigmas(sampling, "normal", steps),
            callback=lambda step, clean, x, total: on_step(step + 1),
            disable_pbar=True,
            seed=seed,
        )
