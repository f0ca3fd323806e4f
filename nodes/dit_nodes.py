"""Nodes for class-conditional diffusion transformers."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..bigain_core.classification import check_labels
from ..bigain_core.classification.datasets.imagenet import SUBSETS, imagenet_labels
from ..bigain_core.comfyui.classifying.prompts import Prompts
from ..bigain_core.comfyui.dit_model import DiTModel, label_conditioning, load_dit_model
from ..bigain_core.models.checkpoint import BUNDLED_MODEL, class_indices
from ._host import Prompts as PromptsType
from ._host import schema
from ._inputs import choice, optional
from ._trial_plans import CUSTOM

BUNDLED_NAME = "bundled: drawings"
FOLDERS = ("diffusion_models", "checkpoints")


class BiGainDiTLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = sorted(
            {name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)}
        )
        return schema(
            menu="Recognise",
            node_id="BiGainDiTLoader",
            display_name="BiGain DiT Loader",
            description="Loads a class-conditional diffusion transformer (DiT-XL/2, or any size "
            "with the same keys), or the small one bundled with this pack.",
            search_aliases=["dit", "imagenet", "class conditional"],
            inputs=[
                choice(
                    "model_name",
                    [BUNDLED_NAME, *files],
                    "A DiT file in the folder diffusion_models or checkpoints. The bundled "
                    "model draws 48 things of everyday life, 64 x 64 pixels, by their names.",
                )
            ],
            outputs=[io.Model.Output(tooltip="For BiGain DiT Labels, BiGain nodes and samplers.")],
        )

    @classmethod
    def execute(cls, model_name) -> io.NodeOutput:
        if model_name == BUNDLED_NAME:
            return io.NodeOutput(load_dit_model(BUNDLED_MODEL))
        found = (folder_paths.get_full_path(folder, model_name) for folder in FOLDERS)
        path = next(path for path in found if path)
        return io.NodeOutput(load_dit_model(Path(path)))


class BiGainDiTLabels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainDiTLabels",
            display_name="BiGain DiT Labels",
            description="Turns classes of a DiT into conditioning for a sampler and into prompts "
            "for the diffusion classifier.",
            search_aliases=["class label", "imagenet"],
            inputs=[
                io.Model.Input("model", tooltip="A model from BiGain DiT Loader."),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    placeholder="one class per line; empty: all classes",
                    tooltip="One class per line, by name or by number from 0. Empty: all classes "
                    "of the model, or of the label set below.",
                ),
                *optional(
                    choice(
                        "label_set",
                        [CUSTOM, *SUBSETS],
                        "custom: classes are named as in the model file. The others are the "
                        "names of ImageNet, which the files of DiT-XL/2 lack; they also decide "
                        "which classes an empty list stands for.",
                    )
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="Image k of a latent batch gets label k; a single image gets the first "
                    "label.",
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The null class, for guidance."
                ),
                PromptsType.Output(
                    display_name="prompts", tooltip="For the BiGain Diffusion Classifier."
                ),
            ],
        )

    @classmethod
    def execute(cls, model, labels, label_set=CUSTOM) -> io.NodeOutput:
        if not isinstance(model.model, DiTModel):
            raise ValueError(
                "BiGain: expected a model from BiGain DiT Loader, got a "
                f"{type(model.model).__name__}. For a model with a CLIP use BiGain Prompts."
            )
        config = model.model.diffusion_model.config
        names, everything = _classes(model.model, label_set)
        lines = labels.lstrip("\ufeff").strip().splitlines()  # a blank one between labels stays
        chosen = tuple(line.strip() for line in lines) or everything
        check_labels(chosen)
        indices = class_indices(chosen, config, names)
        null = label_conditioning([])
        conditionings = tuple(label_conditioning([index]) for index in indices)
        prompts = Prompts(chosen, conditionings, empty=null)
        return io.NodeOutput(label_conditioning(indices), null, prompts)


def _classes(model: DiTModel, label_set: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of all classes by number, if they have any, and what an empty list stands for."""
    count = model.diffusion_model.config.num_classes
    if label_set == CUSTOM:
        return model.class_names, model.class_names or tuple(map(str, range(count)))
    names = tuple(imagenet_labels().values())
    if count != len(names):
        raise ValueError(
            f"BiGain: expected a model of the {len(names)} classes of ImageNet for the label set "
            f"{label_set}, got one of {count} classes. Choose {CUSTOM} for it."
        )
    return names, tuple(imagenet_labels(label_set).values())
