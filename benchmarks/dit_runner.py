"""Run a DiT without a host: images by DDIM and noise predictions for the classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.noise_schedules import alphas_cumprod, noised, variance_preserving
from bigain_core.classification.errors import Trial
from bigain_core.classification.trials.levels import NoiseSchedule
from bigain_core.classification.trials.noise import TIMESTEPS
from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.network_call import NetworkCall
from bigain_core.compression.rules import Compression
from bigain_core.compression.run_log import RunLog
from bigain_core.listener import SILENT, Listener
from bigain_core.measure.flops import projections_shortened
from bigain_core.models.checkpoint import Checkpoint
from bigain_core.models.compressed_dit import replacements
from bigain_core.models.dit import Attention, DiT
from bigain_core.schedules import DenoisingProgress

SMALL_DIT = Path(__file__).parent / "models" / "shapes_and_digits.safetensors"  # 32 x 32 pixels


def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention: q (B, Nq, C), k and v (B, Nk, C) -> (B, Nq, C).

    `mask` (B, 1 or heads, Nk) is added to the logits of every query.
    """
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (B, heads, N, D)
    mask = None if mask is None else mask[:, :, None]
    return functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


class PlainDiT(DiT):
    """A DiT with torch's own attention, unless another is given."""

    def forward(self, x, timesteps, labels, attention: Attention = scaled_dot_product_attention):
        return super().forward(x, timesteps, labels, attention)


def load_dit(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> PlainDiT:
    """The model as a plain torch module in evaluation mode, on the CPU."""
    model = PlainDiT(checkpoint.config, dtype=dtype)
    model.load_state_dict(checkpoint.state)
    return model.eval()


@dataclass
class DiTRunner:
    """A DiT (linear noise schedule) with a compression that acts in every call of the network."""

    model: PlainDiT
    compression: Compression = Compression()
    log: RunLog = field(default_factory=RunLog)
    signal: Tensor = field(default_factory=lambda: alphas_cumprod("linear"))

    @torch.inference_mode()
    def predict_noise(self, x: Tensor, timestep: int, labels: Tensor) -> Tensor:
        """x (B, C, H, W) at one timestep, labels (B,) -> noise (B, C, H, W)."""
        progress = DenoisingProgress(1 - timestep / 999)
        call = NetworkCall(
            self.compression, lambda: progress, self.log, layer_flops=projections_shortened
        )
        device = next(self.model.parameters()).device
        inputs = (t.to(device) for t in (x, torch.full((len(x),), timestep), labels))
        with replaced_forwards(replacements(self.model, x, call)):
            predicted = self.model(*inputs).to(x.device)
        if self.model.config.predicts == "eps":
            return predicted
        level = self.signal[timestep]
        return level.sqrt() * predicted + (1 - level).sqrt() * x

    def denoiser(self, classes: Sequence[int], listener: Listener = SILENT) -> DiTDenoiser:
        """Denoiser for `classify`; prompt k is class classes[k]; `listener` hears of each call."""
        schedule = variance_preserving(self.signal, self.model.config.predicts)
        return DiTDenoiser(self, tuple(classes), schedule, listener)

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
    listener: Listener = SILENT

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        noisy = noised(latent, trial)
        rows = noisy.expand(len(prompts), *noisy.shape)
        labels = torch.tensor([self.classes[k] for k in prompts])
        predicted = self.runner.predict_noise(rows, trial.level.timestep, labels).float()
        self.listener.on_calls(len(prompts))
        return (noisy - trial.level.noise * predicted) / trial.level.signal
