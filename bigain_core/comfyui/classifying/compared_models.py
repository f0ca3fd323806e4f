"""Held-out errors of several models of the host: the same images, captions, timesteps and noise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import Denoiser, ErrorSource, TrialPlan
from ...classification.datasets.captions import Captions
from ...classification.datasets.evaluation import unreadable_record
from ...classification.datasets.held_out_comparison import (
    DELTA,
    ModelComparison,
    compare,
    errors_under,
    shuffled,
)
from ...classification.datasets.image_folder import (
    LabelledImage,
    LabelledSet,
    UnreadableImageError,
)
from ...classification.datasets.model_list import LORAS, ModelFile
from ...classification.datasets.result_files import SUFFIX, ResultFile
from ...listener import SILENT, Listener
from ..dit_model import DiTModel, load_dit_model
from ..image_files import read_image
from .denoiser import with_denoiser
from .folder_evaluation import ENCODED_AT_ONCE
from .identity import settings, weights_digests
from .latent_classifier import encode_images
from .noise_levels import host_levels
from .prompts import Prompts, encode_prompts

CONNECTED = "connected model"
CHECKPOINTS = "checkpoints"
PROBE = "a photo"  # its encoding tells text encoders apart
NAN = float("nan")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What all models have in common: images, what they show, and how their errors are taken.

    Captions are encoded by the CLIP of each model, or stand among `prompts` where that is given.
    """

    images: LabelledSet
    captions: Captions
    template: str
    vae: object
    plan: TrialPlan
    size: int
    prompts: Prompts | None = None

    def __post_init__(self):
        if not self.order:
            raise ValueError(
                "BiGain: expected images with a caption, got none. Put a .txt file of the same "
                "name beside each, or images into folders that are named after what they show."
                + (" Captions must be among the prompts." if self.prompts else "")
            )

    def caption(self, image: LabelledImage) -> str:
        return self.captions.of(image.file, "{}" if self.prompts else self.template)

    @property
    def order(self) -> list[LabelledImage]:
        """Images with a caption that can be used, shuffled."""
        found = [image for image in self.images.images if image.file in self.captions]
        if self.prompts is not None:
            known = set(self.prompts.classes)
            found = [image for image in found if self.caption(image) in known]
        return shuffled(found)

    def encoded(self, clip, captions: Sequence[str]) -> Prompts:
        """One prompt for each of these different captions."""
        if self.prompts is None:
            return encode_prompts(clip, captions, "{}")
        places = [self.prompts.classes.index(caption) for caption in captions]
        return Prompts(tuple(captions), tuple(self.prompts.conditionings[k] for k in places))

    def settings(self, model: ModelPatcher, clip, **others) -> dict:
        """What the results of one model must have in common."""
        probe = self.prompts or self.encoded(clip, [PROBE])
        return {
            "folder": self.images.folder,
            "plan": repr(self.plan),
            "size": self.size,
            "template": self.template,
            **settings(model, probe),
            **others,
        }


@dataclass(eq=False)
class Models:
    """The connected model and those of a list of files, each loaded when it is asked for."""

    model: ModelPatcher
    clip: object
    files: Sequence[ModelFile]

    @property
    def names(self) -> list[str]:
        return [CONNECTED, *(file.name for file in self.files)]

    def load(self, number: int) -> tuple[ModelPatcher, object]:
        """A model and its CLIP; number 0 is the connected one.

        Raises ValueError for a file that does not go with the connected model.
        """
        if number == 0:
            return self.model, self.clip
        file = self.files[number - 1]
        path = folder_paths.get_full_path_or_raise(file.folder, file.file)
        load = self._with_lora if file.folder == LORAS else self._checkpoint
        model, clip = load(file, path)
        self._check(model, file)
        return model, clip

    def _with_lora(self, file: ModelFile, path: str) -> tuple[ModelPatcher, object]:
        lora = comfy.utils.load_torch_file(path, safe_load=True)
        strengths = (file.strength, file.strength)
        model, clip = comfy.sd.load_lora_for_models(self.model, self.clip, lora, *strengths)
        if weights_digests(model) == weights_digests(self.model):
            raise ValueError(
                f"BiGain: expected a LoRA for {type(self.model.model).__name__}, got {file.file}, "
                "none of whose weights belong to it. Connect the model that it was trained for."
            )
        return model, clip

    def _checkpoint(self, file: ModelFile, path: str) -> tuple[ModelPatcher, object]:
        if isinstance(self.model.model, DiTModel):
            return load_dit_model(Path(path)), self.clip
        if file.folder != CHECKPOINTS:
            return comfy.sd.load_diffusion_model(path), self.clip
        embeddings = folder_paths.get_folder_paths("embeddings")
        found = comfy.sd.load_checkpoint_guess_config(
            path, False, self.clip is not None, embedding_directory=embeddings
        )
        return found[0], found[1] or self.clip

    def _check(self, model: ModelPatcher, file: ModelFile) -> None:
        """Errors compare only where noise, latents and what is predicted are the same."""
        kinds = []
        for one in (self.model, model):
            sigmas, schedule = host_levels(one)
            form = type(one.get_model_object("latent_format")).__name__
            kinds.append((form, schedule.predicts, f"{sigmas.double().log().mean():.4f}"))
        if kinds[0] != kinds[1]:
            raise ValueError(
                "BiGain: expected models with the same latents, noise levels and prediction, got "
                f"{' '.join(kinds[1])} in {file.file} beside {' '.join(kinds[0])}. Their errors "
                "cannot be compared."
            )


def compare_models(
    models: Models,
    held_out: HeldOut,
    paths: Sequence[Path],
    stop_early: bool = True,
    listener: Listener = SILENT,
) -> ModelComparison:
    """Compare models; the errors of each are kept in a file of its own, image by image.

    What these files have of the same images, captions and settings is not computed again. Models
    that are clearly worse are dropped, unless `stop_early` is off.

    Raises ValueError as `with_denoiser` does, and for files with results of something else.
    """
    with ExitStack() as stack:
        measure = _Measuring(models, held_out, paths, stack, listener)
        delta = DELTA if stop_early else None
        return compare(models.names, len(measure.order), measure, delta)


@dataclass(eq=False)
class _Measuring:
    models: Models
    held_out: HeldOut
    paths: Sequence[Path]
    stack: ExitStack
    listener: Listener
    order: list[LabelledImage] = field(init=False)
    opened: dict[int, ResultFile] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)  # of the images of this round
    start: int = 0

    def __post_init__(self):
        self.order = self.held_out.order

    def __call__(self, number: int, start: int, end: int) -> Tensor:
        if start != self.start:
            self.start, self.latents = start, {}
        images = self.order[start:end]
        pending = images if number not in self.opened else self._pending(number, images)
        if pending:
            model, clip = self.models.load(number)
            if number not in self.opened:
                made = self.held_out.settings(model, clip)
                results = self.stack.enter_context(ResultFile(self.paths[number], made))
                self.opened[number] = results
                pending = self._pending(number, images)
            self._measure(model, clip, pending, self.opened[number])
        self.listener.on_calls(self.held_out.plan.trials[-1] * (len(images) - len(pending)))
        records = self.opened[number].records
        means = [_mean(records[image.file].get("errors")) for image in images]
        return torch.tensor(means, dtype=torch.float64)

    def _pending(self, number: int, images: Sequence[LabelledImage]) -> list[LabelledImage]:
        records = self.opened[number].records
        return [i for i in images if not self._is_finished(i, records.get(i.file, {}))]

    def _is_finished(self, image: LabelledImage, record: dict) -> bool:
        errors = record.get("errors")
        if not isinstance(errors, list) or len(errors) != self.held_out.plan.trials[-1]:
            return False
        try:
            now = self.held_out.images.content(image), self.held_out.caption(image)
        except UnreadableImageError:
            return False
        return (record.get("content"), record.get("caption")) == now

    def _measure(
        self, model: ModelPatcher, clip, images: Sequence[LabelledImage], results: ResultFile
    ) -> None:
        held_out = self.held_out
        readable = [image for image in images if self._encode(image, results)]
        if not readable:
            return
        captions = list(dict.fromkeys(map(held_out.caption, readable)))
        prompts = held_out.encoded(clip, captions)
        name = type(model.model).__name__
        for start in range(0, len(readable), ENCODED_AT_ONCE):
            chunk = readable[start : start + ENCODED_AT_ONCE]

            def work(denoiser: Denoiser, latents: Tensor, chunk=chunk) -> None:
                for image, latent in zip(chunk, latents, strict=True):
                    content, caption = held_out.images.content(image), held_out.caption(image)
                    source = ErrorSource(
                        denoiser, latent, prompts.labels, held_out.plan, int(content, 16),
                        model={"model": name},
                    )  # fmt: skip
                    errors = errors_under(source, captions.index(caption))
                    results.add(
                        {
                            "file": image.file,
                            "content": content,
                            "caption": caption,
                            "errors": errors,
                        }
                    )

            latents = torch.cat([self.latents[image.file] for image in chunk])
            with_denoiser(model, latents, prompts, held_out.plan, self.listener, work)

    def _encode(self, image: LabelledImage, results: ResultFile) -> bool:
        """Whether an image can be read; its latent serves all models of the round."""
        if image.file in self.latents:
            return True
        held_out = self.held_out
        try:
            held_out.images.content(image)
            pixels = read_image(held_out.images.path(image), held_out.size)
        except UnreadableImageError as error:
            found = unreadable_record(image, error)
            if results.records.get(image.file) != found:
                results.add(found)
            return False
        self.latents[image.file] = encode_images(held_out.vae, pixels)
        return True


def _mean(errors: Sequence[float] | None) -> float:
    return sum(errors) / len(errors) if errors else NAN


def result_names(names: Sequence[str]) -> list[str]:
    """What is appended to the name of a comparison for the results of each of its models."""
    found = []
    for name in names:
        letters = "".join(c if c.isalnum() or c in "-._" else "_" for c in name)
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:6]
        found.append(f".{letters}-{digest}{SUFFIX}")  # a/b and a_b have the same letters
    return found
