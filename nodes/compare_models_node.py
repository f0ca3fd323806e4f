"""The node that finds the best of several models, LoRAs or epochs on held-out images."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import isfinite

import folder_paths
from comfy_api.latest import io, ui

from ..bigain_core.classification import Blocks, TrialPlan
from ..bigain_core.classification.datasets.captions import read_captions
from ..bigain_core.classification.datasets.held_out_comparison import ModelComparison
from ..bigain_core.classification.datasets.image_folder import read_folder
from ..bigain_core.classification.datasets.model_list import LORAS, parse_models
from ..bigain_core.classification.datasets.result_files import write_atomic
from ..bigain_core.comfyui.classifying.chart import comparison_chart
from ..bigain_core.comfyui.classifying.compared_models import (
    CHECKPOINTS,
    HeldOut,
    Models,
    compare_models,
    result_names,
)
from ..bigain_core.comfyui.dit_model import native_side
from ._folders import USUAL_SIZE, folder_choice, input_folder, output_path
from ._host import CallBar, Prompts, schema
from ._inputs import advanced, number, optional, switch, trial_seed

FOLDERS = (LORAS, CHECKPOINTS, "diffusion_models")


class BiGainCompareModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Measure",
            node_id="BiGainCompareModels",
            display_name="BiGain Compare Models",
            description="Finds out which LoRA, strength, epoch or checkpoint predicts held-out "
            "images best, and which differences are real. All get the same images, captions and "
            "noise.",
            search_aliases=["validation loss", "lora epoch", "overfitting", "best checkpoint"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model under the LoRAs. It takes part itself, as the connected "
                    "model.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                folder_choice(
                    "held_out",
                    "A folder in ComfyUI's input folder with images that no model was "
                    "trained on. A .txt file of the same name beside an image is its caption; "
                    "without one its class folder or the CSV file says what it shows.",
                ),
                io.String.Input(
                    "models",
                    multiline=True,
                    default="",
                    placeholder="style-*.safetensors\nother.safetensors: 0.5, 0.8, 1",
                    tooltip="One file on each line, below the folders of LoRAs, checkpoints or "
                    "diffusion models. * stands for anything, such as the number of an epoch. "
                    "Behind a colon a LoRA may have several strengths.",
                ),
                io.String.Input(
                    "csv",
                    default="",
                    placeholder="empty: .txt files or class folders",
                    tooltip="A CSV file in that folder, each row with a file and what it shows.",
                ),
                io.String.Input(
                    "output",
                    default="bigain/comparison",
                    tooltip="Name of the results in ComfyUI's output folder. The same name with "
                    "the same settings continues, also when images or models were added.",
                ),
                number(
                    "size",
                    (0, 0, 4096),
                    "Side of the square that is seen: the short side is resized to it and the "
                    "long one cropped. 0: the size that a DiT was made for; 512 for other models.",
                ),
                number(
                    "trials",
                    (4, 1, 100),
                    "Noisy versions of each image, spread over all noise levels. Each takes one "
                    "network evaluation of each model; more images tell more than more trials.",
                ),
                number(
                    "limit",
                    (0, 0, 10_000_000),
                    "Only this many images, spread evenly over the folder; 0 for all.",
                ),
                switch(
                    "stop_early",
                    "On: models that are clearly worse are dropped, so most of the time goes to "
                    "the best ones. Off: every model sees every image.",
                    default=True,
                ),
                *optional(
                    io.Clip.Input(
                        "clip",
                        tooltip="Encodes the captions. The LoRAs act on it as well, and "
                        "checkpoints use their own.",
                    ),
                    Prompts.Input(
                        "prompts",
                        tooltip="In place of a CLIP, for a DiT: from BiGain DiT Labels. Images "
                        "whose caption is not among them are left out.",
                    ),
                    *advanced(
                        io.String.Input(
                            "template",
                            default="{}",
                            tooltip="How a class folder or a label becomes a caption: it takes "
                            "the place of {}. Captions from .txt files stay as they are.",
                        )
                    ),
                    *trial_seed("Seed of the noise of every trial."),
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="best",
                    tooltip="Name of the model with the least error.",
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="The best, those that may be as good, those that are worse.",
                ),
                io.String.Output(
                    display_name="table",
                    tooltip="CSV: one row per model, with the difference to the best and its "
                    "95 % interval.",
                ),
                io.Image.Output(
                    display_name="chart",
                    tooltip="The same as a curve over the models in their order, such as epochs.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")  # the folders may have changed: never answered from the cache

    @classmethod
    def execute(
        cls, model, vae, folder, models, csv, output, size, trials, limit, stop_early,
        clip=None, prompts=None, template="{}", trial_seed=0,
    ) -> io.NodeOutput:  # fmt: skip
        if (clip is None) == (prompts is None):
            raise ValueError(
                "BiGain: expected a CLIP for the captions or, for a DiT, prompts from BiGain DiT "
                f"Labels, got {'none' if clip is None else 'both'}. Connect one of them."
            )
        offered = {kind: folder_paths.get_filename_list(kind) for kind in FOLDERS}
        files = parse_models(models, offered)
        images = read_folder(input_folder(), folder, csv)
        images = replace(images, images=images.chosen(limit))
        plan = TrialPlan((trials,), (1,), seed=trial_seed, sampler=Blocks(trials))
        captions = read_captions(images)
        size = size or native_side(model) or USUAL_SIZE
        held_out = HeldOut(images, captions, template, vae, plan, size, prompts)
        compared = Models(model, clip, files)
        if len(compared.names) < 2:
            raise ValueError(
                "BiGain: expected models to compare in `models`, got none. Write the name of a "
                "LoRA or checkpoint on each line."
            )
        used, count = len(held_out.order), len(compared.names)
        calls = used * count * trials
        logging.info(
            f"BiGain: {count} models on {used} of {len(images.images)} images, at most {calls} "
            "network evaluations"
        )
        paths = [output_path(output, ending) for ending in result_names(compared.names)]
        exported = output_path(output, ".csv")
        found = compare_models(compared, held_out, paths, stop_early, CallBar(calls))
        table, text = found.table(), str(found)
        if left_out := len(images.images) - used:
            text += f"\n{left_out} images left out, without a caption that can be used"
        write_atomic(exported, table)
        chart = comparison_chart(found)
        shown = ui.PreviewText(text).as_dict() | {"bigain_comparison": _rows(found)}
        return io.NodeOutput(found.names[found.best], text, table, chart, ui=shown)


def _rows(found: ModelComparison) -> list[dict]:
    """What the panel of the node shows, in the order of the models."""
    return [
        {
            "name": name,
            "behind": behind,
            "interval": [low, high] if isfinite(low) else None,
            "images": int(found.images[model]),
            "best": model == found.best,
            "worse": model not in found.alive,
        }
        for model, (name, (behind, low, high)) in enumerate(
            zip(found.names, found.behind, strict=True)
        )
    ]
