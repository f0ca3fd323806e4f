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
from ..measure.timing import take_turns
from .classifying.denoiser import check_latents, uncached, while_sampling
from .dit_model import DiTModel, label_conditioning
from .patching.attach import KEY, build_state, compress_network_call, compression_state

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
        name: {KEY: replace(build_state(model, compression), networks=networks)}
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

    latent (B, C, ...): noise is added as at `progress`, 0 being pure noise and 1 clean. A call of
    each comes first; it warms up, and its output, memory and operations are noted. `listener`
    hears of every call, 1 + rounds for each setting and for "off".

    Raises ValueError for a latent that does not fit the model.
    """

    check_latents(model, latent if latent.is_nested else fix_empty_latent_channels(model, latent))
    sigma = float(model.get_model_object("model_sampling").percent_to_sigma(progress))

    def work(guider, options: dict, x: Tensor) -> Benchmark:
        return _InTurn(guider, options, x, sigma, listener).measured(settings, rounds)

    guider = CFGGuider(uncached(model))
    return while_sampling(guider, latent, conditionings, torch.tensor([sigma, 0.0]), work)


class _InTurn:
    """The calls of a benchmark while the host has the model loaded."""

    def __init__(self, guider, options: dict, x: Tensor, sigma: float, listener: Listener):
        self.model, self.conds = guider.inner_model, list(guider.conds.values())
        self.options, self.listener = options, listener
        self.sigma = torch.full((len(x),), sigma).to(x)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        self.noisy = self.model.model_sampling.noise_scaling(self.sigma[:1], noise, x)

    def measured(self, settings: Mapping[str, Overlay], rounds: int) -> Benchmark:
        settings = {OFF: {}, **settings}
        firsts = {name: self.first_call(name, overlay) for name, overlay in settings.items()}
        works = {name: partial(self.call, overlay) for name, overlay in settings.items()}
        times = take_turns(works, rounds, warm_up=0, before_each=self.before_each)
        plain = firsts[OFF][0]
        logs = {name: overlay[KEY].log for name, overlay in settings.items() if KEY in overlay}
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
        return Benchmark(measured, get_torch_device_name(plain.device), tuple(self.noisy.shape))

    def first_call(self, name: str, overlay: Overlay) -> tuple[Tensor, int | None]:
        """The output, and the bytes at its peak where the device counts them."""
        self.before_each(name)
        device = self.noisy.device
        if device.type != "cuda":
            return self.call(overlay), None
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return self.call(overlay), torch.cuda.max_memory_allocated(device) - before

    def call(self, overlay: Overlay) -> Tensor:
        """The clean latents that the host makes of one prediction for each conditioning."""
        inner = {**self.options["transformer_options"], **overlay}
        options = {**self.options, "transformer_options": inner}
        clean = calc_cond_batch(self.model, self.conds, self.noisy, self.sigma, options)
        return torch.stack(clean)

    def before_each(self, name: str) -> None:
        throw_exception_if_processing_interrupted()
        self.listener.on_calls(1)


def _flops(log: RunLog, compressed: bool = True) -> int:
    """Of a network call for one sample, 0 where nobody counted."""
    if not log.network_calls:
        return 0
    return (log.network_flops - compressed * log.flops_saved) // log.network_calls
