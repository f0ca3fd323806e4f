"""How far a compressed model is from the plain one, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from benchmarks.fidelity.settings import Setting
from benchmarks.paper.data import Data
from benchmarks.paper.experiments import FixedTimes
from benchmarks.paper.generation import SEED, generate
from benchmarks.paper.models import Model
from benchmarks.paper.recognition import slug
from benchmarks.paper.tables import FINEST, Row
from bigain_core.classification import Trial, TrialPlan, trial_noise
from bigain_core.classification.datasets.image_folder import LabelledImage
from bigain_core.classification.datasets.result_files import SUFFIX, ResultFile
from bigain_core.compression.rules import Compression, Rule
from bigain_core.listener import SILENT
from bigain_core.measure.similarity import ssim

TIMESTEPS = (20, 100, 300, 600, 900)
BLOCK = 16  # images that are generated together


def compressed(model: Model, setting: Setting):
    return model.compressed(Row(Compression((Rule(setting.method, FINEST),))))


@contextmanager
def result_files(folder: Path, settings: Iterable[Setting]) -> Iterator[dict[Setting, ResultFile]]:
    with ExitStack() as stack:
        yield {
            setting: stack.enter_context(
                ResultFile(folder / (slug(setting.file) + SUFFIX), {"method": repr(setting.method)})
            )
            for setting in settings
        }


# Predictions


def measure_predictions(
    model: Model, data: Data, images: Sequence[LabelledImage], settings: Sequence[Setting],
    folder: Path,
) -> None:  # fmt: skip
    """Add the images that are missing to the results of each setting."""
    from bigain_core.comfyui.classifying.latent_classifier import encode_images
    from bigain_core.comfyui.image_files import read_image

    patchers = {setting: compressed(model, setting) for setting in settings}
    with result_files(folder, settings) as files:
        for image in tqdm(images, mininterval=10):
            left = [s for s in settings if image.file not in files[s].records]
            if not left:
                continue
            pixels = read_image(data.images.path(image), model.loaded.image_size)
            latents = encode_images(model.loaded.vae, pixels)
            names = data.contest(image).labels
            given = latents, names, image.number, TIMESTEPS
            plain, noise, _ = predictions(model, model.loaded.patcher, *given)
            for setting in left:
                found, _, cost = predictions(model, patchers[setting], *given)
                right = names.index(image.labels[0])
                files[setting].add(
                    {"file": image.file, **cost, **compared(plain, found, noise, right)}
                )


def predictions(
    model: Model,
    patcher,
    latents: Tensor,
    names: Sequence[str],
    number: int,
    timesteps: Sequence[int],
) -> tuple[Tensor, Tensor, dict]:
    """Predicted noise (T, P, ...) of an image's prompts, the noise (T, ...), and operations."""
    from bigain_core.comfyui.classifying.denoiser import with_denoiser
    from bigain_core.comfyui.classifying.prompts import Prompts
    from bigain_core.comfyui.patching.attach import compression_state

    prompts = Prompts(tuple(names), tuple(model.loaded.encode(names)))
    plan = TrialPlan((len(timesteps),), (1,), sampler=FixedTimes(times=tuple(timesteps)))

    def work(denoiser, x: Tensor) -> tuple[Tensor, Tensor]:
        found, noises = [], []
        for place, timestep in enumerate(timesteps):
            level = denoiser.schedule.level(timestep)
            noise = trial_noise(tuple(x[0].shape), SEED, number, place).to(x.device)
            trial = Trial(level, noise)
            clean = denoiser(x[0], trial, range(len(names))).float()
            found.append(noise + level.signal * (x[0] - clean) / level.noise)
            noises.append(noise)
        return torch.stack(found).cpu(), torch.stack(noises).cpu()

    found, noise = with_denoiser(patcher, latents, prompts, plan, SILENT, work)
    state = compression_state(patcher)
    if state is None:
        return found, noise, {}
    log = state.log
    calls = log.network_calls
    return found, noise, {
        "flops": (log.network_flops - log.flops_saved) // calls,
        "plain_flops": log.network_flops // calls,
    }  # fmt: skip


def compared(plain: Tensor, found: Tensor, noise: Tensor, right: int) -> dict:
    """A prediction (T, P, ...) beside the plain one, for a noise (T, ...); prompt `right` is true.

    "error" and "size" are sums of squares for each timestep, "difference" and "of" those of what
    tells prompts apart, predictions less their mean over the prompts.
    """
    plain, found = plain.flatten(2).double(), found.flatten(2).double()
    error, noise = found - plain, noise.flatten(1).double()[:, None]
    ours, theirs = ((x - noise).square().mean(-1) for x in (found, plain))  # (T, P)
    best, plain_best = (int(x.mean(0).argmin()) for x in (ours, theirs))
    return {
        "error": error.square().sum((1, 2)).tolist(),
        "size": plain.square().sum((1, 2)).tolist(),
        "difference": (error - error.mean(1, keepdim=True)).square().sum().item(),
        "of": (plain - plain.mean(1, keepdim=True)).square().sum().item(),
        "ranks": rank_correlation(ours, theirs).mean().item(),
        "same": best == plain_best,
        "right": best == right,
        "plain_right": plain_best == right,
    }


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's, over the last axis (..., P) -> (...); equal values are ranked in order."""
    ranks = [x.argsort(dim=-1, stable=True).argsort(-1).double() for x in (one, other)]
    first, second = (functional.normalize(r - r.mean(-1, keepdim=True), dim=-1) for r in ranks)
    return (first * second).sum(-1)


# Generated images


def measure_generation(
    model: Model, asked: Sequence[str], settings: Sequence[Setting], folder: Path
) -> None:
    """Images for the same prompts and starting noise, beside those of the plain model."""
    patchers = {setting: compressed(model, setting) for setting in settings}
    with result_files(folder, settings) as files:
        for first in tqdm(range(0, len(asked), BLOCK), mininterval=10):
            numbers = range(first, min(first + BLOCK, len(asked)))
            names = [f"{number:06}" for number in numbers]
            prompts = [asked[number] for number in numbers]
            left = [s for s in settings if not files[s].records.keys() >= set(names)]
            if not left:
                continue
            plain = generate(model, model.loaded.patcher, prompts, numbers)
            for setting in left:
                found = generate(model, patchers[setting], prompts, numbers)
                for name, record in zip(names, images_compared(plain, found), strict=True):
                    if name not in files[setting].records:
                        files[setting].add({"file": name, **record})


def images_compared(plain: Tensor, found: Tensor) -> Iterator[Mapping[str, float]]:
    """Of images (B, H, W, 3) in [0, 1]."""
    squares = (found - plain).square().flatten(1).mean(1)
    alike = ssim(plain, found)
    rows = zip(squares.tolist(), alike.tolist(), plain, found, strict=True)
    for square, same, one, other in rows:
        yield {"square": square, "ssim": same, "flip": flip(one, other)}


def flip(plain: Tensor, found: Tensor) -> float:
    """Mean FLIP (Andersson et al., 2020) of two images (H, W, 3) in [0, 1], as its authors have it.

    It is what alternating between the two shows to an eye at the distance that they take.
    """
    from flip_evaluator import evaluate

    return evaluate(plain.float().numpy(), found.float().numpy(), "LDR", applyMagma=False)[1]
