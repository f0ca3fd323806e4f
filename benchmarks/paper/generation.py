"""Images of each row for the same prompts and starting noise, and how they are judged.

Images are generated in blocks of fixed numbers, so that neither an interruption nor the number of
processes changes one: a block that is not whole is generated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.data import CLASS_NAMES
from benchmarks.demo_drawing import to_image
from benchmarks.demo_host import batched
from benchmarks.paper.data import Data
from benchmarks.paper.frechet import Distance, distance
from benchmarks.paper.judge import judged, reference
from benchmarks.paper.models import Model, precision
from benchmarks.paper.recognition import Share, found_results, slug
from benchmarks.paper.tables import Row
from bigain_core.classification import trial_noise
from bigain_core.classification.datasets.result_files import ResultFile

BLOCK = 16  # images that are generated together
SEED = 0


def image_file(folder: Path, row: str, number: int) -> Path:
    return folder / slug(row) / f"{number:05}.png"


def blocks(count: int, share: Share) -> list[range]:
    """Numbers of the images that a process generates, block by block."""
    every = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
    return every[share.shard :: share.shards]


def generated(folder: Path, row: str) -> set[int]:
    found = found_results(folder, row)
    return {record["image"] for record in found.records.values()} if found else set()


def not_generated(count: int, share: Share, folder: Path, row: str) -> list[range]:
    done = generated(folder, row)
    return [block for block in blocks(count, share) if not done.issuperset(block)]


def generate_rows(
    model: Model, data: Data, rows: Mapping[str, Row], share: Share, folder: Path
) -> None:
    """Generate what is missing of this share in each row."""
    from bigain_core.comfyui.classifying.identity import settings
    from bigain_core.comfyui.classifying.prompts import Prompts

    texts = [data.prompt(text) if model.reads else text for text in data.asked]
    null = model.loaded.encode([""])[0]
    for name, row in rows.items():
        left, patcher = not_generated(len(texts), share, folder, name), model.compressed(row)
        if not left:
            continue
        made = {
            "prompts": data.name, "sampling": repr(model.sampling_settings), "seed": SEED,
            "size": model.loaded.image_size, "dtype": precision(patcher),
            **settings(patcher, Prompts(("",), (null,))),
        }  # fmt: skip
        quiet = share.shard > 0
        with (
            ResultFile(share.file(folder, name), made) as results,
            tqdm(total=sum(map(len, left)), desc=name, mininterval=10, disable=quiet) as bar,
        ):
            image_file(folder, name, 0).parent.mkdir(exist_ok=True)
            for block in left:
                prompts = [texts[number] for number in block]
                for number, pixels in zip(
                    block, generate(model, patcher, prompts, block), strict=True
                ):
                    path = image_file(folder, name, number)
                    to_image(pixels).save(path)
                    if path.name not in results.records:
                        asked = texts[number]
                        results.add({"image": number, "file": path.name, "asked": asked})
                bar.update(len(block))


def generate(model: Model, patcher, prompts: Sequence[str], numbers: Iterable[int]) -> Tensor:
    """(P, S, S, 3) in [0, 1]; the noise of an image depends on its number alone."""
    import comfy.samplers

    loaded, sampling_settings = model.loaded, model.sampling_settings
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(batched(loaded.encode(prompts)), loaded.encode([""])[0])
    guider.set_cfg(sampling_settings.guidance)
    sampling = patcher.get_model_object("model_sampling")
    noise = torch.stack([trial_noise(loaded.latent_shape, SEED, n, 0) for n in numbers])
    levels = sampling.sigma(torch.tensor(sampling_settings.timesteps)).float().cpu()
    latents = guider.sample(
        noise,
        torch.zeros_like(noise),
        comfy.samplers.sampler_object(sampling_settings.sampler),
        torch.cat([levels, torch.zeros(1)]),
        disable_pbar=True,
        seed=SEED,
    )
    return loaded.vae.decode(latents).float().cpu().clamp(0, 1)


# How images of the small models are judged


@dataclass(frozen=True, eq=False)
class Judged:
    """features (N, C), images in the order of their numbers; which show what was asked for."""

    features: Tensor
    agrees: dict[int, bool]


def judge_row(folder: Path, row: str) -> Judged | None:
    """None where nothing was generated yet."""
    found = found_results(folder, row)
    if found is None or not found.records:
        return None
    records = sorted(found.records.values(), key=lambda record: record["image"])
    numbers = [record["image"] for record in records]
    pixels = torch.stack([read_pixels(image_file(folder, row, n)) for n in numbers])
    features, classes = judged(pixels)
    named = [CLASS_NAMES[k] == r["asked"] for k, r in zip(classes, records, strict=True)]
    return Judged(features, dict(zip(numbers, named, strict=True)))


def read_pixels(path: Path) -> Tensor:
    """(3, H, W) in [-1, 1]."""
    with Image.open(path) as file:
        levels = np.asarray(file.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(levels / 255 * 2 - 1).movedim(-1, 0)


def small_distance(row: Judged, rival: Judged | None) -> Distance:
    """To held-out images of the same classes."""
    return distance(reference(), row.features, rival.features if rival else None)


# Images of published models


class Samples(torch.utils.data.Dataset):
    """Files as the library takes them: (3, H, W) in whole numbers from 0 to 255."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        with Image.open(self.paths[number]) as file:
            return torch.from_numpy(np.asarray(file.convert("RGB")).copy()).movedim(-1, 0)


def inception_distance(data: Data, folder: Path, row: str, weights: Path) -> float:
    """FID of a row to the images of the set, at their own size as published (torch-fidelity).

    weights: the Inception network that the library would otherwise fetch.
    """
    from torch_fidelity import calculate_metrics

    found = [image_file(folder, row, number) for number in sorted(generated(folder, row))]
    real = [data.images.path(image) for image in data.images.images]
    metrics = calculate_metrics(
        input1=Samples(found), input2=Samples(real), fid=True, batch_size=1, cache=False,
        feature_extractor_weights_path=str(weights), cuda=torch.cuda.is_available(), verbose=False,
    )  # fmt: skip
    return metrics["frechet_inception_distance"]
