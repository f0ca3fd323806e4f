"""Nodes that show why one prompt wins, and which image a prompt fits best."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import isfinite

from comfy_api.latest import io, ui

from ..bigain_core.classification import PLANS
from ..bigain_core.classification.evidence.evidence_images import evidence_images
from ..bigain_core.comfyui.classifying.latent_classifier import encode_fitted
from ..bigain_core.comfyui.classifying.latent_evidence import (
    find_evidence,
    max_calls,
    rank_for_prompt,
)
from ..bigain_core.comfyui.classifying.prompts import encode_prompts
from ._host import CallBar, Prompts, announce, schema
from ._inputs import advanced, choice, number, optional, trial_seed

MAX_SHOWN = 64  # thumbnails


class BiGainEvidenceMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainEvidenceMap",
            display_name="BiGain Evidence Map",
            description="Shows which parts of an image support one prompt (red) and which "
            "another (blue). The parts add up to the margin between the two.",
            search_aliases=["heat map", "explain", "saliency", "attribution"],
            inputs=[
                io.Model.Input("model", tooltip="The model that classifies, compressed or not."),
                Prompts.Input("prompts", tooltip="From BiGain Prompts or BiGain DiT Labels."),
                io.Image.Input("image", tooltip="The images to explain."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.String.Input(
                    "prompt_a",
                    default="",
                    placeholder="empty: the best prompt",
                    tooltip="Label of the prompt whose evidence is red. Empty: the best one.",
                ),
                io.String.Input(
                    "prompt_b",
                    default="",
                    placeholder="empty: the best other prompt",
                    tooltip="Label of the prompt whose evidence is blue. Empty: the best of the "
                    "others.",
                ),
                choice(
                    "preset",
                    PLANS,
                    "How many trials, and how prompts are dropped. Evidence is taken from the "
                    "trials that both prompts had, which are run a second time.",
                    default="balanced",
                ),
                *advanced(
                    number(
                        "smoothing",
                        (3, 1, 63, 2),
                        "Overlay and mask show means over squares of this many latent "
                        "pixels, as single ones are noisy. 1 shows them as they are.",
                    )
                ),
                *trial_seed("Seed of the noise of every trial."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="overlay",
                    tooltip="The images in grey, red where they support prompt A, blue where "
                    "they support prompt B.",
                ),
                io.Mask.Output(
                    display_name="mask", tooltip="Where the images support prompt A, 0 to 1."
                ),
                io.String.Output(
                    display_name="value", tooltip="Both prompts and the margin of each image."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, prompts, image, vae, prompt_a, prompt_b, preset, smoothing, trial_seed
    ) -> io.NodeOutput:
        plan = replace(PLANS[preset], seed=trial_seed)
        names = (prompt_a.strip(), prompt_b.strip())
        calls = max_calls(plan, prompts, *names) * len(image)
        announce(f"BiGain: at most {calls} network evaluations for {len(image)} image(s)")
        latents, image, fitting = encode_fitted(model, vae, image)
        found = find_evidence(model, latents, prompts, plan, *names, CallBar(calls))
        overlay, mask = evidence_images([one.plane for one in found], image, smoothing)
        value = "\n".join(filter(None, (fitting, *map(str, found))))
        return io.NodeOutput(overlay, mask, value, ui=ui.PreviewText(value))


class BiGainRankImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainRankImages",
            display_name="BiGain Rank Images",
            description="Sorts images by how well a prompt describes them: the best of several "
            "seeds first. Uses the loaded model itself, so it knows what its LoRAs know.",
            search_aliases=["best of n", "score", "select image", "clip score", "sort images"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that judges, compressed or not."),
                io.Image.Input("image", tooltip="A batch of images to compare."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                number(
                    "trials",
                    (20, 1, 100),
                    "Number of noisy versions of each image, with the same noise for "
                    "all. Each takes two network evaluations.",
                ),
                *trial_seed("Seed of the noise of every trial."),
                *optional(
                    io.Conditioning.Input(
                        "prompt",
                        tooltip="What the images should show, with `empty_prompt`; instead of "
                        "`clip` and `text`.",
                    ),
                    io.Conditioning.Input(
                        "empty_prompt",
                        tooltip="An empty text, encoded in the same way; for a DiT, the negative "
                        "of BiGain DiT Labels. Errors are measured against it, so that images "
                        "which are easy under any prompt gain nothing.",
                    ),
                    io.Clip.Input("clip", tooltip="Encodes the text below; from the checkpoint."),
                    io.String.Input(
                        "text",
                        default="",
                        placeholder="what the images should show",
                        tooltip="What the images should show, read as plain text. Used with "
                        "`clip`.",
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="sorted", tooltip="The images, best first."),
                io.Int.Output(
                    display_name="order",
                    is_output_list=True,
                    tooltip="Positions in the batch, from 0, best first.",
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="How much the prompt lowers the error of each image, best first.",
                ),
                io.String.Output(
                    display_name="table", tooltip="CSV: one row per image, best first."
                ),
                io.Float.Output(
                    display_name="fits",
                    is_output_list=True,
                    tooltip="The probability that the prompt describes each image at all, best "
                    "first. Calibrated on the bundled model alone. NaN after fewer than 12 trials.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, image, vae, trials, trial_seed, prompt=None, empty_prompt=None, clip=None,
        text="",
    ) -> io.NodeOutput:  # fmt: skip
        prompt, empty_prompt = _pair(prompt, empty_prompt, clip, text)
        calls = 2 * trials * len(image)
        logging.info(f"BiGain: {calls} network evaluations for {len(image)} image(s)")
        latents, _, fitting = encode_fitted(model, vae, image)
        ranking = rank_for_prompt(
            model, latents, prompt, empty_prompt, trials, trial_seed, CallBar(calls)
        )
        order, table = ranking.order, ranking.table()
        scores, errors, fits = (
            values[order].tolist()
            for values in (ranking.scores, ranking.behind_best()[1], ranking.fits)
        )
        thumbnails = ui.PreviewImage(image[order[:MAX_SHOWN]], cls=cls).as_dict()["images"]
        rows = [
            {
                **thumbnail,
                "image": number,
                "score": score,
                "error": error if isfinite(error) else None,
                "fits": chance if isfinite(chance) else None,
            }
            for thumbnail, number, score, error, chance in zip(
                thumbnails, order, scores, errors, fits, strict=False
            )
        ]
        shown = {"rows": rows, "images": len(order), "note": fitting}
        shown = ui.PreviewText(table).as_dict() | {"bigain_ranked": [shown]}
        return io.NodeOutput(image[order], order, scores, table, fits, ui=shown)


def _pair(prompt, empty_prompt, clip, text) -> tuple[list, list]:
    """What the images should show and no prompt, encoded, from either way of giving them."""
    given = {"prompt": prompt, "empty_prompt": empty_prompt, "clip": clip}
    connected = tuple(name for name, value in given.items() if value is not None)
    if connected == ("prompt", "empty_prompt"):
        return prompt, empty_prompt
    if connected != ("clip",) or not text.strip():
        raise ValueError(
            "BiGain: expected `clip` with what the images should show in `text`, or `prompt` and "
            f"`empty_prompt`, got {' and '.join(connected) or 'none of them'}"
            f"{'' if text.strip() else ', and no text'}. Connect the CLIP of the checkpoint and "
            "write a text; a DiT takes both prompts from BiGain DiT Labels."
        )
    encoded = encode_prompts(clip, [text.strip()], "{}")
    return encoded.conditionings[0], encoded.empty
