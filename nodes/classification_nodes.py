"""Nodes that rank prompts for an image."""

from __future__ import annotations

import logging

from comfy_api.latest import io, ui

from ..bigain_core.classification import WEIGHTINGS
from ..bigain_core.classification.datasets.labels import LABEL_SETS, Labels, read_labels
from ..bigain_core.classification.datasets.labels import label_set as published
from ..bigain_core.classification.results.classes import by_class
from ..bigain_core.classification.results.fit import FITS
from ..bigain_core.classification.results.result_table import result_table
from ..bigain_core.classification.results.summary import summary, warnings
from ..bigain_core.classification.trials.losses import LOSSES
from ..bigain_core.comfyui.classifying.chart import bar_chart
from ..bigain_core.comfyui.classifying.latent_classifier import (
    Screener,
    classify_latents,
    encode_fitted,
    max_calls,
    ranked_latents,
    warnings_about,
)
from ..bigain_core.comfyui.classifying.prompts import Prompts as EncodedPrompts
from ..bigain_core.comfyui.classifying.prompts import encode_prompts
from ._host import Prompts, Result, announce, schema
from ._inputs import advanced, branching, choice, chosen, number, optional, trial_seed
from ._race import Race, settled
from ._trial_plans import AUTO, CUSTOM, PRESETS, SAMPLERS, chosen_plan

TEMPLATE = "a photo of a {}"
PREVIEWED = 50  # rows of the table that a node shows for an image
STAGES = (
    io.String.Input(
        "trials",
        default="5, 20",
        tooltip="Timesteps tried in total after each stage. More are surer and slower. The paper "
        "uses 5, 20 (few classes) and 5, 20, 100.",
    ),
    io.String.Input(
        "keep",
        default="auto",
        tooltip="How many prompts survive each stage, ending in 1. auto uses the paper's lists: "
        "5, 1 for two stages and 50, 10, 1 for three.",
    ),
)
OWN = {name: STAGES if name == CUSTOM else () for name in PRESETS}


class BiGainPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainPrompts",
            display_name="BiGain Prompts",
            description="Turns labels into prompts for the diffusion classifier. They are read "
            "as plain text: parentheses are not weights.",
            search_aliases=["labels", "classes", "zero-shot", "interrogate", "tags"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that will classify."),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="cat\ndog",
                    placeholder="one label per line",
                    tooltip="What the image may show, one label per line. Or CSV with the "
                    "columns prompt and class: whole prompts, several of which may share a class. "
                    "A class counts by its best prompt, and no trials are spent on telling its "
                    "prompts apart.",
                ),
                io.String.Input(
                    "template",
                    default=TEMPLATE,
                    tooltip="The prompt of a label, which replaces {}. {} alone takes each line "
                    "as a whole prompt.",
                ),
                *optional(
                    choice(
                        "label_set",
                        [CUSTOM, *LABEL_SETS],
                        "custom uses the labels above. The others are the classes of data "
                        "sets, as published; for Oxford-IIIT Pets the paper's template is: a photo "
                        "of a {}, a type of pet",
                    )
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
        return io.NodeOutput(_encoded(clip, read, template))


def _encoded(clip, read: Labels, template: str) -> EncodedPrompts:
    template = "{}" if read.whole else template
    return encode_prompts(clip, read.labels, template, read.classes)


class BiGainDiffusionClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainDiffusionClassifier",
            display_name="BiGain Diffusion Classifier",
            description="Ranks prompts for an image by how well the model, given each of them, "
            "predicts the noise that was added to it. Takes an image and its VAE, or a latent.",
            search_aliases=[
                "zero-shot",
                "classify",
                "interrogate",
                "tag images",
                "clip",
                "what is it",
            ],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Any text-to-image model that predicts noise, velocity, a flow or the "
                    "clean image, or a DiT; compressed by BiGain nodes or not.",
                ),
                branching(
                    "preset",
                    OWN,
                    "fast, balanced, thorough and sequential drop prompts that are clearly worse "
                    "and stop when one is left. certified drops only on proof, which takes many "
                    "more trials. Then the paper's, and custom: stages of your own.",
                ),
                *advanced(
                    choice(
                        "loss",
                        LOSSES,
                        "How the error of the model's prediction is measured. The paper "
                        "uses l2, and only l2 gives likelihoods.",
                    )
                ),
                *trial_seed(
                    "Seed of the noise of every trial. The same seed gives the same result."
                ),
                *optional(
                    Prompts.Input(
                        "prompts",
                        tooltip="From BiGain Prompts or BiGain DiT Labels; instead of `clip` and "
                        "`labels`.",
                    ),
                    io.Image.Input(
                        "image", tooltip="Images to classify; they need the VAE as well."
                    ),
                    io.Vae.Input("vae", tooltip="The VAE of the model, for the image."),
                    io.Latent.Input(
                        "latent",
                        tooltip="Encoded images, instead of image and VAE. A noise mask on them "
                        "selects the region that counts.",
                    ),
                ),
                *_more_inputs(),
            ],
            outputs=[
                io.Int.Output(
                    display_name="best_index",
                    is_output_list=True,
                    tooltip="For each image, the position of the best prompt, from 0.",
                ),
                io.String.Output(
                    display_name="best_prompt",
                    is_output_list=True,
                    tooltip="For each image, the label of the best prompt.",
                ),
                io.Float.Output(
                    display_name="margin",
                    is_output_list=True,
                    tooltip="For each image, how much larger the error of the runner-up is.",
                ),
                io.String.Output(
                    display_name="table",
                    tooltip="CSV: one row per image and prompt, best first. posterior_bits is "
                    "the base-2 logarithm of the model's likelihood ratio; empty unless loss is "
                    "l2.",
                ),
                Result.Output(
                    display_name="result",
                    tooltip="All errors of all prompts, to continue from and for other nodes.",
                ),
                io.Float.Output(
                    display_name="confidence",
                    is_output_list=True,
                    tooltip="For each image, how sure it is, from 0 to 1, that more trials "
                    "would not change the best prompt. Not the probability that it is right.",
                ),
                io.Image.Output(
                    display_name="chart",
                    tooltip="For each image, how far every prompt is behind the best, with "
                    "standard errors.",
                ),
                io.Float.Output(
                    display_name="fits",
                    is_output_list=True,
                    tooltip="For each image, the probability that the best prompt describes it "
                    "at all, by the error without a prompt. Calibrated on the bundled model alone. "
                    "NaN where that was not run.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, prompts=None, preset=None, image=None, vae=None, latent=None, temperature=1.0,
        screening_model=None, screening_trials=5, screening_keep=8, previous=None, clip=None,
        labels="", **choices,
    ) -> io.NodeOutput:  # fmt: skip
        prompts = _prompts(prompts, clip, labels)
        name, stages = chosen("preset", preset, OWN)
        plan = chosen_plan(preset=name, **stages, **choices)
        latents, mask, notes = _latents(model, image, vae, latent)
        screener = screening_model and Screener(screening_model, screening_trials, screening_keep)
        calls = max_calls(plan, prompts, screener) * len(latents)
        logging.info(f"BiGain: at most {calls} network evaluations for {len(latents)} image(s)")
        # A screening model sees all images before the other one begins.
        each = None if screener else max_calls(plan, prompts)
        race = Race(prompts.labels, len(latents), calls, each)
        every = classify_latents(
            model, latents, prompts, plan, race, mask=mask, screener=screener, previous=previous
        )  # fmt: skip
        result = by_class(every, prompts.classes)
        others = [*notes, *warnings_about(model)]
        words = summary(result, every, temperature, others)
        if len(result.labels) > PREVIEWED:
            shown = f"These are the {PREVIEWED} best of {len(result.labels)}; `table` has all."
            words = f"{shown}\n\n{words}"
        return io.NodeOutput(
            result.best,
            [result.labels[index] for index in result.best],
            [ranking.margin for ranking in result.rankings],
            result_table(result, temperature),
            every,
            [ranking.confidence for ranking in result.rankings],
            bar_chart(result),
            [ranking.fits for ranking in result.rankings],
            ui=ui.PreviewText(f"{result_table(result, temperature, PREVIEWED)}\n{words}").as_dict()
            | {"bigain_race": settled(result, every), "bigain_notes": [*warnings(result), *others]},
        )


def _more_inputs() -> tuple[io.Input, ...]:
    """Optional ones, so that what was saved before they existed goes on as it was."""
    return optional(
        *advanced(
            choice(
                "weighting",
                WEIGHTINGS,
                "How much errors count at each noise level. native: the error of what the "
                "network predicts, as published; eps: of the noise; x0: of the clean image; elbo: "
                "weighted as in the likelihood.",
            ),
            choice(
                "design",
                [AUTO, *SAMPLERS],
                "Which noise levels are tried. auto: as the preset does. published: the "
                "paper's grid; spread: the same grid in an order that always covers it evenly; "
                "uniform: at random; adaptive: more where the leading prompts differ most.",
            ),
            number(
                "delta",
                (0.0, 0.0, 0.5, 0.01),
                "How many wrong drops to expect at most in each elimination step. Larger is "
                "faster. 0: as the preset does; with custom and the paper's presets, the keep "
                "lists alone decide.",
            ),
            number(
                "max_evaluations",
                (0, 0, 2**31 - 1),
                "Maximum number of network evaluations for one image. 0: no limit.",
            ),
            number(
                "max_seconds",
                (0.0, 0.0, 86400.0, 1.0),
                "Maximum number of seconds for one image. 0: no limit. With a limit, the "
                "result depends on how fast the machine is.",
            ),
            number(
                "temperature",
                (1.0, 0.0, 10.0, 0.01),
                "Scales the likelihoods in table and text, not the ranking. Models are "
                "overconfident; values below 1 correct that.",
            ),
        ),
        io.Model.Input(
            "screening_model",
            tooltip="A cheaper model that rules out prompts first, ideally the same one "
            "compressed by BiGain. The model above then decides among those that are left.",
        ),
        *advanced(
            number("screening_trials", (5, 1, 100), "Number of trials of the screening model."),
            number(
                "screening_keep",
                (8, 1, 10000),
                "How many prompts the screening model keeps; the best of every class first.",
            ),
        ),
        Result.Input(
            "previous",
            tooltip="An earlier result of the same model, images and prompts, to continue from: "
            "its trials are not run again. A result of another model, LoRA or compression is "
            "refused.",
        ),
        io.Clip.Input("clip", tooltip="Encodes the labels below; from the checkpoint."),
        io.String.Input(
            "labels",
            multiline=True,
            default="",
            placeholder="with `clip`: one label per line",
            tooltip="What the image may show, one label per line, or CSV, as in BiGain Prompts "
            "with its usual template. Used with `clip`.",
        ),
    )


class BiGainGate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainGate",
            display_name="BiGain Gate",
            description="Passes on one of two inputs, by the confidence or the margin of a "
            "classification, or by whether a prompt fits at all. Nodes that only feed the other "
            "input do not run.",
            search_aliases=["switch", "route", "threshold", "if"],
            inputs=[
                io.Float.Input(
                    "value",
                    force_input=True,
                    tooltip="Confidence, margin or fits from BiGain Diffusion Classifier, or fits "
                    "from BiGain Rank Images. With several images, each is decided on its own.",
                ),
                number(
                    "threshold", (0.95, -1e6, 1e6, 0.001), "Values from this one on count as sure."
                ),
                io.AnyType.Input("sure", lazy=True, tooltip="Passed on if the value is sure."),
                io.AnyType.Input(
                    "unsure", lazy=True, tooltip="Passed on if the value is not sure."
                ),
                *optional(
                    io.Float.Input(
                        "fits",
                        force_input=True,
                        tooltip="From BiGain Diffusion Classifier: below 0.5, where none of the "
                        "prompts fits, nothing is sure, whatever the value. That was calibrated on "
                        "the bundled model alone.",
                    )
                ),
            ],
            outputs=[
                io.AnyType.Output(display_name="chosen", tooltip="One of the two inputs."),
                io.Boolean.Output(display_name="is_sure", tooltip="Whether the value is sure."),
            ],
        )

    @classmethod
    def check_lazy_status(cls, value, threshold, sure=None, unsure=None, fits=1.0) -> list[str]:
        is_sure = _is_sure(value, threshold, fits)
        name, given = ("sure", sure) if is_sure else ("unsure", unsure)
        return [name] if given is None else []

    @classmethod
    def execute(cls, value, threshold, sure=None, unsure=None, fits=1.0) -> io.NodeOutput:
        is_sure = _is_sure(value, threshold, fits)
        reason = "none of the prompts fits" if fits < FITS else f"{value:.3g} of {threshold:g}"
        announce(f"BiGain: {'sure' if is_sure else 'unsure'}, {reason}")
        return io.NodeOutput(sure if is_sure else unsure, is_sure)


def _is_sure(value: float, threshold: float, fits: float) -> bool:
    """A probability that is not known (NaN) speaks against nothing."""
    return value >= threshold and not fits < FITS


def _prompts(prompts: EncodedPrompts | None, clip, labels: str) -> EncodedPrompts:
    """Those that are connected, or of labels that are written into the node."""
    if (prompts is None) == (clip is None) or (prompts is None and not labels.strip()):
        given = "both" if prompts and clip else "no labels" if clip else "neither"
        raise ValueError(
            "BiGain: expected either `prompts`, or `clip` and labels in `labels`, got "
            f"{given}. Connect the CLIP of the checkpoint and write one label per line, or "
            "connect BiGain Prompts or BiGain DiT Labels."
        )
    return prompts or _encoded(clip, read_labels(labels), TEMPLATE)


def _latents(model, image, vae, latent):
    """As `ranked_latents`, of either an image or a latent, with what was done to the image."""
    if (image is None) == (latent is None) or (image is None) != (vae is None):
        given = {"image": image, "vae": vae, "latent": latent}
        names = [name for name, value in given.items() if value is not None]
        advice = {
            ("image",): "Connect the VAE of the model to `vae`",
            ("vae",): "Connect an image to `image`",
            (): "Connect an image and the VAE of the model",
        }
        raise ValueError(
            "BiGain: expected either an image with a VAE or a latent, got "
            f"{' and '.join(names) or 'neither'}. "
            f"{advice.get(tuple(names), 'Disconnect the latent, or the image and the VAE')}."
        )
    if latent is None:
        samples, _, done = encode_fitted(model, vae, image)
        latent, notes = {"samples": samples}, [done] * bool(done)
    else:
        notes = []
    latents, mask, left_out = ranked_latents(latent)
    return latents, mask, [*notes, *left_out]
