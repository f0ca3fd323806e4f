"""The demo without a host: the bundled model in the built-in runner, on the CPU."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.demo_backend import CallFlops
from benchmarks.dit_runner import DiTRunner, load_dit
from benchmarks.outlines.dit_outline import dit_outline
from bigain_core.classification import Classification, TrialPlan, classify
from bigain_core.compression.automatic import AUTO, automatic_rules
from bigain_core.compression.rules import Compression
from bigain_core.listener import SILENT, Listener
from bigain_core.measure.flops import projections_shortened
from bigain_core.models.checkpoint import class_indices, read_checkpoint

GUIDANCE = 2.5
CPU_INFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """Name of the CPU and the number of threads in use."""
    name = platform.processor() or platform.machine()
    if CPU_INFO.is_file():
        fields = (line.partition(":") for line in CPU_INFO.read_text().splitlines())
        name = next((value for key, _, value in fields if key.strip() == "model name"), name)
    return f"{name.strip()}, {torch.get_num_threads()} threads"


class BuiltinBackend:
    """A `Backend` around a pixel-space DiT whose file names its classes."""

    runner = "built-in runner"

    def __init__(self, path: Path):
        checkpoint = read_checkpoint(path)
        self.model = path.name
        self.class_names = checkpoint.class_names
        self.image_size = checkpoint.config.input_size
        self.dit = load_dit(checkpoint)
        rules = automatic_rules(AUTO, projections_shortened, checkpoint.config.depth)
        self.automatic = Compression(rules)

    @cached_property
    def device(self) -> str:
        return cpu_name()

    def classes(self, prompts: Sequence[str]) -> list[int]:
        return class_indices(prompts, self.dit.config, self.class_names)

    def flops(self, compression: Compression) -> CallFlops:
        runner = DiTRunner(self.dit, compression)
        config = self.dit.config
        side = config.input_size
        runner.predict_noise(torch.zeros(1, config.in_channels, side, side), 500, torch.tensor([0]))
        return CallFlops.from_log(dit_outline(config, side, side).flops, runner.log)

    def samples(
        self,
        compression: Compression,
        prompts: Sequence[str],
        steps: int,
        seed: int,
        on_step: Callable[[int], None],
    ) -> Tensor:
        runner = DiTRunner(self.dit, compression)
        pixels = runner.sample(self.classes(prompts), steps, GUIDANCE, seed, on_step)
        return (pixels.movedim(1, -1) / 2 + 0.5).clamp(0, 1)  # (P, S, S, 3)

    def classify(
        self,
        compression: Compression,
        images: Tensor,
        prompts: Sequence[str],
        plan: TrialPlan,
        listener: Listener = SILENT,
    ) -> Classification:
        denoiser = DiTRunner(self.dit, compression).denoiser(self.classes(prompts), listener)
        return classify(denoiser, images.movedim(-1, 1) * 2 - 1, prompts, plan)
