"""One network call at a size that people use: Stable Diffusion 1.5's shape, with BiGain (Auto)."""

from __future__ import annotations

import torch

from benchmarks.demo_host import automatic
from bigain_core.listener import SILENT, Listener
from bigain_core.measure.benchmark import Benchmark

NAME, PIXELS = "SD 1.5", 768
SETTING = "BiGain (Auto)"


def whole_call(pixels: int = PIXELS, rounds: int = 1, listener: Listener = SILENT) -> Benchmark:
    """Time such a network with random weights, off and on, in a process that has entered a host.

    `listener` hears of 2 * (1 + rounds) calls.
    """
    from benchmarks.networks import load, networks
    from bigain_core.comfyui.model_benchmark import (
        empty_prompt,
        measure,
        our_settings,
        uncompressed,
    )

    network = networks()[NAME]
    model = load(network, torch.float16 if torch.cuda.is_available() else torch.float32)
    found = automatic(model)
    model = uncompressed(model)
    settings = our_settings(model, {SETTING: found})
    side = pixels // network.latent_scale
    latent = torch.zeros(network.inputs(side, side).latent)
    return measure(model, latent, [empty_prompt(model)], settings, rounds, listener=listener)
