"""Run a DiT without a host: pictures by DDIM and noise predictions for the classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bigain_core.classification.errors import Trial
from bigain_core.classification.trials.levels import NoiseSchedule
from bigain_core.classification.trials.noise import TIMESTEPS, alphas_cumprod
from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.network_call import NetworkCall
from bigain_core.compression.rules import Compression
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import projections_shortened
from bigain_core.models.compressed_dit import replacements, token_grid
from bigain_core.models.dit import DiT
from bigain_core.schedules import DenoisingProgress


@dataclass
class DiTRunner:
    """A DiT (linear noise schedule) with a compression that acts in every call of the network."""

    model: DiT
    compression: Compression = Compression()
    log: RunLog = field(default_factory=RunLog)
    signal: Tensor = field(default_factory=lambda: alphas_cumprod("linear"))

    @torch.inference_mode()
    def predict_noise(self, x: Tensor, timestep: int, labels: Tensor) -> Tensor:
        """x (B, C, H, W) at one timestep, labels (B,) -> noise (B, C, H, W)."""
        progress = DenoisingProgress.at_timestep(timestep)
        call = NetworkCall(self.compression, progress, self.log, layer_flops=projections_shortened)
        grid = token_grid(self.model.config, *x.shape[-2:])
        with replaced_forwards(replacements(self.model, grid, call)):
            return self.model(x, torch.full((len(x),), timestep), labels)

    def denoiser(
        self, classes: Sequence[int], on_calls: Callable[[int], None] | None = None
    ) -> DiTDenoiser:
        """Denoiser for `classify`; prompt k is class classes[k]; `on_calls` hears of each call."""
        schedule = NoiseSchedule.variance_preserving(self.signal)
        return DiTDenoiser(self, tuple(classes), schedule, on_calls)

    def sample(
        self,
        labels: Sequence[int],
        steps: int,
        guidance: float,
        seed: int,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Latent images (B, C, S, S) by deterministic DDIM with classifier-free guidance.

        The noise of image k depends on (seed, k) alone.
        """
        config = self.model.config
        shape = (config.in_channels, config.input_size, config.input_size)
        x = torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(seed + k))
                for k in range(len(labels))
            ]
        )
        both = torch.tensor([*labels, *[config.num_classes] * len(labels)])
        timesteps = torch.linspace(TIMESTEPS - 1, 0, steps + 1).round().long().tolist()
        for step, (now, after) in enumerate(zip(timesteps, timesteps[1:], strict=False)):
            wanted, unguided = self.predict_noise(x.repeat(2, 1, 1, 1), now, both).chunk(2)
            noise = unguided + guidance * (wanted - unguided)
            level = self.signal[now]
            clean = (x - (1 - level).sqrt() * noise) / level.sqrt()
            final = step == steps - 1
            level = torch.tensor(1.0) if final else self.signal[after]
            x = level.sqrt() * clean + (1 - level).sqrt() * noise
            if on_step:
                on_step(step + 1)
        return x


@dataclass(frozen=True, eq=False)
class DiTDenoiser:
    """Clean latents by the noise that a runner predicts for classes."""

    runner: DiTRunner
    classes: tuple[int, ...]
    schedule: NoiseSchedule
    on_calls: Callable[[int], None] | None = None

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        noisy = trial.noised(latent)
        rows = noisy.expand(len(prompts), *noisy.shape)
        labels = torch.tensor([self.classes[k] for k in prompts])
        predicted = self.runner.predict_noise(rows, trial.timestep, labels).float()
        if self.on_calls:
            self.on_calls(len(prompts))
        return (noisy - trial.level.noise * predicted) / trial.level.signal
