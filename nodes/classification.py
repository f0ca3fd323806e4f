"""Nodes that rank prompts for an image."""

from __future__ import annotations

from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..bigain_core.classification import TrialPlan
from ..bigain_core.classification.losses import LOSSES
from ..bigain_core.comfyui.classifier import classify_latents, encode_prompts
from ._host import CATEGORY, Prompts, Result, advanced, announce, lines, schema


class BiGainPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainPrompts",
            display_name="BiGain Prompts",
            category=CATEGORY,
            description="Labels as prompts for the diffusion classifier. They are read as plain "
            "text: parentheses are no weights.",
            search_aliases=["labels", "classes", "zero-shot"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that will classify."),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="cat\ndog",
                    placeholder="one label per line",
                    tooltip="What the image may show, one label per line.",
                ),
                io.String.Input(
                    "template",
                    default="a photo of a {}",
                    tooltip="The prompt of a label: {} is replaced by it. {} alone takes each line "
                    "as a whole prompt.",
                ),
            ],
            outputs=[
                Prompts.Output(
                    display_name="prompts", tooltip="For the BiGain Diffusion Classifier."
                )
            ],
        )

    @classmethod
    def execute(cls, clip, labels, template) -> io.NodeOutput:
        return io.NodeOutput(encode_prompts(clip, lines(labels), template))


class BiGainDiffusionClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainDiffusionClassifier",
            display_name="BiGain Diffusion Classifier",
            category=CATEGORY,
            description="Ranks prompts for an image by how well the model predicts the noise that "
            "is added to it under each. Give it an image with its VAE, or a latent.",
            search_aliases=["zero-shot", "classify", "rank prompts", "tagging"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A noise- or velocity-prediction model (Stable Diffusion 1.x, 2.x, XL, "
                    "DiT), compressed by BiGain nodes or not.",
                ),
                Prompts.Input("prompts", tooltip="From BiGain Prompts or BiGain DiT Labels."),
                io.String.Input(
                    "trials",
                    default="5, 20",
                    tooltip="Timesteps tried in total after each stage. The paper uses 5, 20 (few "
                    "classes) and 5, 20, 100. More are surer and slower.",
                ),
                io.String.Input(
                    "keep",
                    default="auto",
                    tooltip="Prompts that survive each stage, ending in 1. auto takes the paper's "
                    "lists: 5, 1 for two stages and 50, 10, 1 for three.",
                ),
                advanced(
                    io.Combo,
                    "loss",
                    options=list(LOSSES),
                    default="l2",
                    tooltip="How the error of the predicted noise is measured. The paper uses l2.",
                ),
                # Not "seed": the front end would add a widget that changes it after every run.
                advanced(
                    io.Int,
                    "trial_seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    tooltip="Fixes the noise of every trial. The same seed gives the same result.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="Images to classify; needs the VAE as well."
                ),
                io.Vae.Input("vae", optional=True, tooltip="The VAE of the model, for the image."),
                io.Latent.Input(
                    "latent", optional=True, tooltip="Encoded images, instead of image and VAE."
                ),
            ],
            outputs=[
                io.Int.Output(
                    display_name="best_index",
                    is_output_list=True,
                    tooltip="For each image the position of the best prompt, from 0.",
                ),
                io.String.Output(
                    display_name="best_prompt",
                    is_output_list=True,
                    tooltip="For each image the label of the best prompt.",
                ),
                io.Float.Output(
                    display_name="margin",
                    is_output_list=True,
                    tooltip="For each image how much larger the error of the runner-up is.",
                ),
                io.String.Output(
                    display_name="table", tooltip="CSV: one row per image and prompt, best first."
                ),
                Result.Output(
                    display_name="result", tooltip="All errors, for further BiGain nodes."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, prompts, trials, keep, loss, trial_seed, image=None, vae=None, latent=None
    ) -> io.NodeOutput:
        kept = None if keep.strip() == "auto" else _numbers("keep", keep)
        plan = TrialPlan(_numbers("trials", trials), kept, loss, trial_seed)
        latents = _latents(image, vae, latent)
        calls = plan.calls(len(prompts.labels)) * len(latents)
        announce(f"BiGain: {calls} network evaluations for {len(latents)} image(s)")
        bar = ProgressBar(calls)
        result = classify_latents(model, latents, prompts, plan, bar.update)
        best = [result.labels[index] for index in result.best]
        margins = [ranking.margin for ranking in result.rankings]
        table = result.table()
        return io.NodeOutput(result.best, best, margins, table, result, ui=ui.PreviewText(table))


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"BiGain: expected whole numbers separated by commas in `{name}`, for example 5, 20, "
            f"got {text!r}."
        ) from error


def _latents(image, vae, latent):
    """(B, C, ...) as they come from a VAE."""
    if (image is None) == (latent is None) or (image is None) != (vae is None):
        given = {"image": image, "vae": vae, "latent": latent}
        names = [name for name, value in given.items() if value is not None]
        raise ValueError(
            "BiGain: expected either an image with a VAE or a latent, got "
            f"{' and '.join(names) or 'neither'}. Connect one of the two."
        )
    if latent is None:
        return vae.encode(image[..., :3])
    if "noise_mask" in latent:
        raise ValueError(
            "BiGain: expected a latent without a mask, got one with a noise mask, which the "
            "classifier does not use yet. Connect the latent before the mask was set."
        )
    return latent["samples"]
