"""The same sampling with several models, as the host's KSampler does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import comfy.sample
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ..listener import SILENT, Listener
from ..measure.comparison import Comparison, Generated
from .patching.attach import compression_state

FIRST_STEP = {"start_step": 0, "last_step": 1, "force_full_denoise": True}


@dataclass(frozen=True)
class Sampling:
    """One set-up of the host's KSampler; `latent` is a LATENT."""

    latent: Mapping
    positive: list
    negative: list
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str

    def run(self, model: ModelPatcher, on_step: Callable[..., None], **options) -> Tensor:
        """The finished latents (B, C, ...).

        on_step gets the number of a step and the clean latents predicted in it, among others, as
        the host's callbacks do; `options` are those of the host's `sample`.
        """
        start = comfy.sample.fix_empty_latent_channels(model, self.latent["samples"])
        indices = self.latent.get("batch_index")
        return comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(start, self.seed, indices),
            self.steps,
            self.cfg,
            self.sampler,
            self.scheduler,
            self.positive,
            self.negative,
            start,
            noise_mask=self.latent.get("noise_mask"),
            callback=on_step,
            disable_pbar=True,
            seed=self.seed,
            **options,
        )


def compare(
    models: Sequence[ModelPatcher],
    names: Sequence[str],
    sampling: Sampling,
    vae: VAE,
    listener: Listener = SILENT,
) -> Comparison:
    """Sample with each model and time it.

    One step of each comes first, untimed, for what is only done once: loading, compiling.
    `listener` hears of all steps, 1 + steps for each model. `names` may be fewer than the models;
    what the others are called follows from their compression.
    """

    def on_step(*_) -> None:
        listener.on_calls(1)

    for model in models:
        sampling.run(model, on_step, **FIRST_STEP)
    generated = []
    for model, name in zip(models, _names(models, names), strict=True):
        start = perf_counter()
        latents = sampling.run(model, on_step)  # on the CPU, so all of it has been waited for
        seconds = perf_counter() - start
        generated.append(Generated(name, _decoded(vae, latents), seconds, _operations(model)))
    return Comparison(generated)


def _names(models: Sequence[ModelPatcher], given: Sequence[str]) -> list[str]:
    names = [*given[: len(models)], *map(_own_name, models[len(given) :])]
    seen = Counter()
    for place, name in enumerate(names):
        seen[name] += 1
        names[place] = f"{name} ({seen[name]})" if seen[name] > 1 else name
    return names


def _own_name(model: ModelPatcher) -> str:
    state = compression_state(model)
    rules = state.compression.rules if state else ()
    return " + ".join(rule.method.name for rule in rules) or "plain"


def _decoded(vae: VAE, latents: Tensor) -> Tensor:
    """(B, H, W, 3); of a video all frames, of a video with sound the video."""
    images = vae.decode(latents.unbind()[0] if latents.is_nested else latents)
    return images.flatten(0, -4).cpu()


def _operations(model: ModelPatcher) -> float | None:
    """The share that the last run left of the network's, None where nobody counted."""
    state = compression_state(model)
    whole = state.log.network_flops if state else 0
    return 1 - state.log.flops_saved / whole if whole else None
