"""A small network that judges images of the small models: `python -m benchmarks.paper.judge`.

It learns the same classes from fresh training images and never sees a diffusion model. Its
features are those of the Frechet distance, and its answer says whether an image shows what was
asked for. The command trains it, writes it beside this file and says how often it is right on
images that nobody has seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from benchmarks.data import (
    CLASS_NAMES,
    CONTRAST,
    SHAPE_CLASSES,
    SIZE,
    Images,
    held_out_digits,
    held_out_shapes,
    training_batch,
)
from benchmarks.training import SEEDS_APART

WEIGHTS = Path(__file__).with_name("judge.safetensors")
CHANNELS = (3, 32, 48, 64, 96)
FEATURES = 64
STEPS, BATCH, PEAK_RATE = 1600, 96, 2e-3
DIGIT_SHARE = 0.25
TRAINING_CONTRAST = (CONTRAST[0], 2 * CONTRAST[1])
SHAPES_PER_DIGIT = 3  # as many of each class, as 30 shapes and 10 digits
AT_ONCE = 256
UNSEEN = 2  # seed of held-out images that are not those to be recognised


class Judge(nn.Module):
    """Images (B, 3, 32, 32) in [-1, 1] -> features (B, FEATURES) and logits (B, classes)."""

    def __init__(self, classes: int = len(CLASS_NAMES)):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(*CHANNELS[:2], 5, padding=2), nn.ReLU()]
        for inside, outside in zip(CHANNELS[1:], CHANNELS[2:], strict=False):
            layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.ReLU()]
        cells = (SIZE // 2 ** (len(CHANNELS) - 2)) ** 2
        layers += [nn.Flatten(), nn.Linear(CHANNELS[-1] * cells, FEATURES)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(pixels)
        return features, self.head(functional.relu(features))


@cache
def judge() -> Judge:
    model = Judge()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


@torch.no_grad()
def judged(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, FEATURES) and classes (N,) of images (N, 3, 32, 32) in [-1, 1]."""
    found = [judge()(part) for part in pixels.split(AT_ONCE)]
    features, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return features, logits.argmax(1)


def unseen() -> Images:
    """Held-out images, as many of each class on average."""
    digits = held_out_digits(UNSEEN)
    shapes = held_out_shapes(SHAPES_PER_DIGIT * len(digits.labels), UNSEEN)
    pixels = torch.cat([shapes.pixels, digits.pixels])
    return Images(pixels, torch.cat([shapes.labels, digits.labels]))


@cache
def reference() -> Tensor:
    """Features (N, FEATURES) of those."""
    return judged(unseen().pixels)[0]


def train(batch: Callable[[torch.Generator], Images], steps: int, seed: int, classes: int) -> Judge:
    """On images (B, 3, 32, 32) with labels below `classes`."""
    torch.manual_seed(seed)
    model = Judge(classes)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, steps)
    for step in tqdm(range(steps), unit="step", mininterval=10):
        generator = torch.Generator().manual_seed(seed * SEEDS_APART + step)
        images = batch(generator)
        loss = functional.cross_entropy(model(images.pixels)[1], images.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def fresh_images(generator: torch.Generator) -> Images:
    return training_batch(BATCH, DIGIT_SHARE, TRAINING_CONTRAST, generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = train(fresh_images, args.steps, args.seed, len(CLASS_NAMES))
    save_file({key: value.half() for key, value in model.state_dict().items()}, WEIGHTS)
    judge.cache_clear()
    images = unseen()
    right, shapes = judged(images.pixels)[1] == images.labels, images.labels < SHAPE_CLASSES
    for kind, chosen in (("shapes", shapes), ("digits", ~shapes)):
        print(f"right on {int(right[chosen].sum())} of {int(chosen.sum())} held-out {kind}")


if __name__ == "__main__":
    main()
