"""Nodes that rank prompts for an image."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.classification import WEIGHTINGS
from ..bigain_core.classification.datasets.labels import LABEL_SETS, read_labels
from ..bigain_core.classification.datasets.labels import label_set as published
from ..bigain_core.classification.results.classes import by_class
from ..bigain_core.classification.results.summary import summary
from ..bigain_core.classification.trials.losses import LOSSES
from ..bigain_core.comfyui.classifying.chart import bar_chart
from ..bigain_core.comfyui.classifying.latent_classifier import (
    Screener,
    classify_latents,
    encode_images,
    most_calls,
    warnings_about,
)
from ..bigain_core.comfyui.classifying.prompts import encode_prompts
from ._host import CATEGORY, Prompts, Result, advanced, announce, schema
from ._race import Race, settled
from ._trial_plans import AUTO, CUSTOM, PRESETS, SAMPLERS, trial_plan

PREVIEWED = 50  # rows of the table that a node shows for an image


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
                    tooltip="What the image may show, one label per line. Or CSV with the columns "
                    "prompt and class: whole prompts, several of which may share a class. The best "
                    "of a class counts, and nothing is spent on telling its prompts apart.",
                ),
                io.String.Input(
                    "template",
                    default="a photo of a {}",
                    tooltip="The prompt of a label: {} is replaced by it. {} alone takes each line "
                    "as a whole prompt.",
                ),
                io.Combo.Input(
                    "label_set",
                    options=[CUSTOM, *LABEL_SETS],
                    default=CUSTOM,
                    optional=True,
                    tooltip="custom takes the labels above. The others are the classes of data "
                    "sets, as published; for Oxford-IIIT Pets the paper's template is: a photo of "
                    "a {}, a type of pet",
                ),
            ],
            outputs=[
                Prompts.Output(
                    display_name="prompts", tooltip="For the BiGain Diffusion Classifier."
                )
            ],
        )

    @classmethod
    def execute(cls, clip, labels, template, label_set=CUSTOM) -> io.NodeOutput:
        read = read_labels(labels) if label_set == CUSTOM else published(label_set)
        template = "{}" if read.whole else template
        return io.NodeOutput(encode_prompts(clip, read.labels, template, read.classes))


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
                    tooltip="Any text-to-image model that predicts noise, velocity, a flow or the "
                    "clean image, or a DiT; compressed by BiGain nodes or not.",
                ),
                Prompts.Input("prompts", tooltip="From BiGain Prompts or BiGain DiT Labels."),
                io.String.Input(
                    "trials",
                    default="5, 20",
                    tooltip="With the preset custom: timesteps tried in total after each stage. "
                    "The paper uses 5, 20 (few classes) and 5, 20, 100. More are surer and slower.",
                ),
                io.String.Input(
                    "keep",
                    default="auto",
                    tooltip="With the preset custom: prompts that survive each stage, ending in 1. "
                    "auto takes the paper's lists: 5, 1 for two stages and 50, 10, 1 for three.",
                ),
                advanced(
                    io.Combo,
                    "loss",
                    options=list(LOSSES),
                    default="l2",
                    tooltip="How the error of what the model predicts is measured. The paper uses "
                    "l2, and only l2 gives likelihoods.",
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
                    "latent",
                    optional=True,
                    tooltip="Encoded images, instead of image and VAE. A noise mask on it says "
                    "where to look.",
                ),
                *_more_inputs(),
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
                    display_name="table",
                    tooltip="CSV: one row per image and prompt, best first. posterior_bits is the "
                    "logarithm to base 2 of the model's likelihood ratio; empty unless loss is l2.",
                ),
                Result.Output(
                    display_name="result",
                    tooltip="All errors of all prompts, to go on from and for other nodes.",
                ),
                io.Float.Output(
                    display_name="confidence",
                    is_output_list=True,
                    tooltip="For each image how sure it is that more trials would not change the "
                    "best prompt, from 0 to 1. Not the probability that it is right.",
                ),
                io.Image.Output(
                    display_name="chart",
                    tooltip="For each image how far every prompt is behind the best, with standard "
                    "errors.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, prompts, trials, keep, loss, trial_seed, image=None, vae=None, latent=None,
        preset=CUSTOM, weighting="native", design=AUTO, delta=0.0, max_evaluations=0,
        max_seconds=0.0, temperature=1.0, screening_model=None, screening_trials=5,
        screening_keep=8, previous=None,
    ) -> io.NodeOutput:  # fmt: skip
        plan = trial_plan(
            preset, trials, keep, loss, trial_seed, weighting, design, delta, max_evaluations,
            max_seconds,
        )  # fmt: skip
        latents, mask = _latents(image, vae, latent)
        screener = screening_model and Screener(screening_model, screening_trials, screening_keep)
        calls = most_calls(plan, len(prompts.labels), screener) * len(latents)
        announce(f"BiGain: at most {calls} network evaluations for {len(latents)} image(s)")
        # A screening model sees all images before the other one begins.
        each = None if screener else plan.calls(len(prompts.labels))
        race = Race(prompts.labels, len(latents), calls, each)
        every = classify_latents(
            model, latents, prompts, plan, race.count, mask=mask, screener=screener,
            previous=previous, on_trial=race.tell,
        )  # fmt: skip
        result = by_class(every, prompts.classes)
        words = summary(result, every, temperature, warnings_about(model))
        if len(result.labels) > PREVIEWED:
            shown = f"These are the {PREVIEWED} best of {len(result.labels)}; `table` has all."
            words = f"{shown}\n\n{words}"
        return io.NodeOutput(
            result.best,
            [result.labels[index] for index in result.best],
            [ranking.margin for ranking in result.rankings],
            result.table(temperature),
            every,
            [ranking.confidence for ranking in result.rankings],
            bar_chart(result),
            ui=ui.PreviewText(f"{result.table(temperature, PREVIEWED)}\n{words}").as_dict()
            | {"bigain_race": settled(result, every)},
        )


def _more_inputs() -> list[io.Input]:
    """Optional ones, so that what was saved before they existed goes on as it was."""
    return [
        io.Combo.Input(
            "preset",
            options=PRESETS,
            default=CUSTOM,
            optional=True,
            tooltip="custom: the trials and keep above, as published. fast, balanced, thorough and "
            "sequential drop a prompt as soon as it is clear enough that it is worse, and stop "
            "when one is left. certified drops only on proof, which takes many more trials. The "
            "paper's ignore trials and keep above as well.",
        ),
        advanced(
            io.Combo,
            "weighting",
            options=list(WEIGHTINGS),
            default="native",
            optional=True,
            tooltip="How much errors count at each noise level. native: the error of what the "
            "network predicts, as published; eps: of the noise; x0: of the clean image; elbo: by "
            "their share in the likelihood.",
        ),
        advanced(
            io.Combo,
            "design",
            options=[AUTO, *SAMPLERS],
            default=AUTO,
            optional=True,
            tooltip="Which noise levels are tried. auto: as the preset does. published: the "
            "paper's grid; spread: the same in an order that always covers it evenly; uniform: at "
            "random; adaptive: more where the leading prompts differ most.",
        ),
        advanced(
            io.Float,
            "delta",
            default=0.0,
            min=0.0,
            max=0.5,
            step=0.01,
            optional=True,
            tooltip="How many wrong drops to expect at most at each look. Larger is faster. 0: as "
            "the preset does; with custom and the paper's, the keep lists alone decide.",
        ),
        advanced(
            io.Int,
            "max_evaluations",
            default=0,
            min=0,
            max=2**31 - 1,
            optional=True,
            tooltip="Most network evaluations for one image. 0: no limit.",
        ),
        advanced(
            io.Float,
            "max_seconds",
            default=0.0,
            min=0.0,
            max=86400.0,
            step=1.0,
            optional=True,
            tooltip="Most seconds for one image. 0: no limit. With a limit the result depends on "
            "how fast the machine is.",
        ),
        advanced(
            io.Float,
            "temperature",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            optional=True,
            tooltip="For the likelihoods in table and text, not for the ranking. Models are "
            "overconfident; below 1 answers that.",
        ),
        io.Model.Input(
            "screening_model",
            optional=True,
            tooltip="A cheaper model that rules prompts out first, best the same one compressed by "
            "BiGain. The model above then decides among those that are left.",
        ),
        advanced(
            io.Int,
            "screening_trials",
            default=5,
            min=1,
            max=100,
            optional=True,
            tooltip="Trials of the screening model.",
        ),
        advanced(
            io.Int,
            "screening_keep",
            default=8,
            min=1,
            max=10000,
            optional=True,
            tooltip="Prompts that the screening model leaves over; the best of every class first.",
        ),
        Result.Input(
            "previous",
            optional=True,
            tooltip="An earlier result of the same model, images and prompts, to go on from: its "
            "trials are not run again. One of another model, LoRA or compression is refused.",
        ),
    ]


class BiGainGate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainGate",
            display_name="BiGain Gate",
            category=CATEGORY,
            description="Passes on one of two inputs, by the confidence or the margin of a "
            "classification. What feeds the other one is not run.",
            search_aliases=["switch", "route", "threshold", "if"],
            inputs=[
                io.Float.Input(
                    "value",
                    force_input=True,
                    tooltip="Confidence or margin of a BiGain Diffusion Classifier. With several "
                    "images each has its own way.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.95,
                    min=-1e6,
                    max=1e6,
                    step=0.001,
                    tooltip="From this value on it is sure.",
                ),
                io.AnyType.Input("sure", lazy=True, tooltip="What to pass on if it is sure."),
                io.AnyType.Input("unsure", lazy=True, tooltip="What to pass on if it is not."),
            ],
            outputs=[
                io.AnyType.Output(display_name="chosen", tooltip="One of the two inputs."),
                io.Boolean.Output(display_name="is_sure", tooltip="Whether it is sure."),
            ],
        )

    @classmethod
    def check_lazy_status(cls, value, threshold, sure=None, unsure=None) -> list[str]:
        name, given = ("sure", sure) if value >= threshold else ("unsure", unsure)
        return [name] if given is None else []

    @classmethod
    def execute(cls, value, threshold, sure=None, unsure=None) -> io.NodeOutput:
        is_sure = value >= threshold
        return io.NodeOutput(sure if is_sure else unsure, is_sure)


def _latents(image, vae, latent):
    """(B, C, ...) as they come from a VAE, and a noise mask or None."""
    if (image is None) == (latent is None) or (image is None) != (vae is None):
        given = {"image": image, "vae": vae, "latent": latent}
        names = [name for name, value in given.items() if value is not None]
        raise ValueError(
            "BiGain: expected either an image with a VAE or a latent, got "
            f"{' and '.join(names) or 'neither'}. Connect one of the two."
        )
    if latent is None:
        return encode_images(vae, image), None
    return latent["samples"], latent.get("noise_mask")
