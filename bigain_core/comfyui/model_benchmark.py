"""Timing settings of a model in turn, through the host's own batching and memory logic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_management import get_torch_device_name, throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.sample import fix_empty_latent_channels
from comfy.samplers import CFGGuider, calc_cond_batch
from torch import Tensor

from ..compression.rules import Compression
from ..compression.run_log import RunLog
from ..listener import SILENT, Listener
from ..measure.benchmark import OFF, Benchmark, Measured
from ..measure.timing import Times, Work, take_turns
from .classifying.denoiser import check_latents, uncached, while_sampling
from .dit_model import DiTModel, label_conditioning
from .patching.attach import (
    FOR_ONE_CALL,
    KEY,
    build_state,
    compress_network_call,
    compression_state,
)

PROMPT_TOKENS = 77
POOLED_WIDTH = 1280  # of Stable Diffusion XL; models without such a vector ignore it

Overlay = Mapping[str, Any]  # transformer options that a setting puts over those of the model


def uncompressed(model: ModelPatcher) -> ModelPatcher:
    """A clone that compresses nothing, ready for `our_settings`; all else on the model stays."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)  # it would clear the user's log
    if compression_state(model) is None:
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, compress_network_call)
    clone.model_options["transformer_options"].pop(KEY, None)
    return clone


def our_settings(
    model: ModelPatcher, compressions: Mapping[str, Compression]
) -> dict[str, Overlay]:
    """What makes an `uncompressed` model follow each compression, each with a log of its own.

    Raises ValueError as `attach` does.
    """
    networks = WeakKeyDictionary()  # one for all, or torch.compile would begin anew for each
    return {
        name: {FOR_ONE_CALL: replace(build_state(model, compression), networks=networks)}
        for name, compression in compressions.items()
    }


def empty_prompt(model: ModelPatcher) -> list:
    """Conditioning for a call whose time is measured, its content being of no interest.

    Raises ValueError for a model whose prompts have a shape that cannot be told from it.
    """
    if isinstance(model.model, DiTModel):
        return label_conditioning([])
    if not isinstance(model.get_model_object("diffusion_model"), UNetModel):
        raise ValueError(
            "BiGain: expected a prompt for the benchmark, as the shape of those of a "
            f"{type(model.model).__name__} model is not known, got none. Connect `positive`."
        )
    width = model.model.model_config.unet_config["context_dim"]
    tokens = torch.zeros(1, PROMPT_TOKENS, width)
    return [[tokens, {"pooled_output": torch.zeros(1, POOLED_WIDTH)}]]


def measure(
    model: ModelPatcher,
    latent: Tensor,
    conditionings: Sequence[list],
    settings: Mapping[str, Overlay],
    rounds: int,
    progress: float = 0.5,
    listener: Listener = SILENT,
) -> Benchmark:
    """Time "off" and each setting of an `uncompressed` model in turn, all conditionings in a call.

    latent (B, C, ...), or nested a video and its sound: noise is added as at `progress`, 0 being
    pure noise and 1 clean. A call of each comes first; it warms up, and its output, memory and
    operations are noted. `listener` hears of every call, 1 + rounds for each setting and for "off".

    Raises ValueError for a latent that does not fit the model.
    """
    latent = fix_empty_latent_channels(model, latent)
    image = latent.unbind()[0] if latent.is_nested else latent
    if not latent.is_nested:
        check_latents(model, latent)
    sigma = float(model.get_model_object("model_sampling").percent_to_sigma(progress))

    def work(guider, options: dict, x: Tensor) -> Benchmark:
        network, conds = guider.inner_model, list(guider.conds.values())
        if latent.is_nested and "latent_shapes" not in conds[0][0]["model_conds"]:
            raise ValueError(
                "BiGain: expected a latent of one stream, as a "
                f"{type(model.model).__name__} model makes no sound, got one of video and sound. "
                "Use the empty latent that belongs to this model."
            )
        sigmas = torch.full((len(x),), sigma).to(x)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        noisy = network.model_sampling.noise_scaling(sigmas[:1], noise, x)

        def call(overlay: Overlay) -> Tensor:
            """The clean latents that the host makes of one prediction for each conditioning."""
            inner = {**options["transformer_options"], **overlay}
            changed = {**options, "transformer_options": inner}
            return torch.stack(calc_cond_batch(network, conds, noisy, sigmas, changed))

        def before_each(name: str) -> None:
            throw_exception_if_processing_interrupted()
            listener.on_calls(1)

        works = {name: partial(call, overlay) for name, overlay in {OFF: {}, **settings}.items()}
        firsts = {}
        for name, one in works.items():
            before_each(name)
            firsts[name] = _first_call(one, noisy.device)
        times = take_turns(works, rounds, warm_up=0, before_each=before_each)
        measured = _measured(settings, firsts, times)
        return Benchmark(measured, get_torch_device_name(noisy.device), tuple(image.shape))

    guider = CFGGuider(uncached(model))
    return while_sampling(guider, latent, conditionings, torch.tensor([sigma, 0.0]), work)


def _measured(
    settings: Mapping[str, Overlay],
    firsts: Mapping[str, tuple[Tensor, int | None]],
    times: Mapping[str, Times],
) -> dict[str, Measured]:
    plain = firsts[OFF][0]
    states = {name: overlay.get(FOR_ONE_CALL) for name, overlay in settings.items()}
    logs = {name: state.log for name, state in states.items() if state}
    measured = {
        name: Measured(
            times[name],
            _flops(logs[name]) if name in logs else 0,
            ((output - plain).norm() / plain.norm()).item(),
            memory,
            logs[name].layers_compressed if name in logs else None,
        )
        for name, (output, memory) in firsts.items()
    }
    whole = max((_flops(log, compressed=False) for log in logs.values()), default=0)
    measured[OFF] = replace(measured[OFF], flops=whole)
    return measured


def _first_call(work: Work, device: torch.device) -> tuple[Tensor, int | None]:
    """The output, and the bytes at its peak where the device counts them."""
    if device.type != "cuda":
        return work(), None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    return work(), torch.cuda.max_memory_allocated(device) - before


def _flops(log: RunLog, compressed: bool = True) -> int:
    """Of a network call for one sample, 0 where nobody counted."""
    if not log.network_calls:
        return 0
    return (log.network_flops - compressed * log.flops_saved) // log.network_calls
