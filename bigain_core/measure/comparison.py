"""The same images from several models: what each took, and how far it is from the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..text import csv_table
from .similarity import psnr, ssim

COLUMNS = ("model", "seconds", "times as fast", "operations", "SSIM", "PSNR")


@dataclass(frozen=True)
class Generated:
    """What a model made: images (B, H, W, 3) in [0, 1], and the seconds that it took.

    `operations` is the share of the plain network's that was left, None where nobody counted.
    """

    name: str
    images: Tensor
    seconds: float
    operations: float | None


@dataclass(frozen=True)
class Comparison:
    """Of several models, in their order; all but the first are compared with the first."""

    generated: Sequence[Generated]

    @property
    def images(self) -> Tensor:
        """All of them, those of the first model first."""
        return torch.cat([one.images for one in self.generated])

    def gain(self, one: Generated) -> float:
        """How many times as fast as the first."""
        return self.generated[0].seconds / one.seconds

    def similarity(self, one: Generated) -> tuple[float, float]:
        """Medians over the images: SSIM, and PSNR in dB (inf if equal)."""
        pair = one.images, self.generated[0].images
        return ssim(*pair).median().item(), psnr(*pair).median().item()

    def table(self) -> str:
        """CSV, a row for each model; a cell is empty where there is no number."""
        return csv_table(COLUMNS, map(self._cells, self.generated))

    def captions(self) -> Iterator[tuple[str, str]]:
        """For each model its name, and its numbers in a line."""
        for one in self.generated:
            seconds = f"{one.seconds:.3g} s" if one.seconds < 100 else f"{one.seconds:.0f} s"
            parts = [seconds]
            if one is not self.generated[0]:
                alike, decibels = self.similarity(one)
                parts = [f"{seconds} ({self.gain(one):.2f}x as fast)", f"SSIM {alike:.3f}"]
                parts.append(f"PSNR {decibels:.1f} dB")
            if one.operations is not None:
                parts.append(f"{one.operations:.0%} of operations")
            yield one.name, ", ".join(parts)

    def _cells(self, one: Generated) -> list[str]:
        alike, decibels = self.similarity(one)
        left = "" if one.operations is None else f"{one.operations:.3f}"
        numbers = f"{one.seconds:.3f}", f"{self.gain(one):.3f}", left
        return [one.name, *numbers, f"{alike:.4f}", f"{decibels:.2f}"]
