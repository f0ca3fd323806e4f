"""The node that shows what happens to the tokens of an image."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.comfyui.classifying.latent_classifier import encode_images
from ..bigain_core.comfyui.model_token_map import map_tokens
from ..bigain_core.compression.token_map import token_images, token_masks
from ._host import CATEGORY, advanced, schema


class BiGainTokenMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainTokenMap",
            display_name="BiGain Token Map",
            category=CATEGORY,
            description="Shows what a compressing node does to the tokens of an image at one "
            "layer: their scores, which ones stand for others, and the groups that merge.",
            search_aliases=["visualize", "merging", "debug", "tokens"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model, compressed by BiGain nodes."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt of the network call that is looked at."
                ),
                io.Image.Input("image", tooltip="The images whose tokens are shown."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Int.Input(
                    "layer",
                    default=-1,
                    min=-1,
                    max=10000,
                    tooltip="Number of the self-attention layer, as in BiGain Report. -1 is the "
                    "first that is compressed.",
                ),
                io.Int.Input(
                    "timestep",
                    default=500,
                    min=0,
                    max=999,
                    tooltip="How much noise is added before the look: 999 is pure noise, 0 nearly "
                    "none.",
                ),
                # Not "seed": the front end would add a widget that changes it after every run.
                advanced(
                    io.Int,
                    "trial_seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    tooltip="Fixes the noise.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="groups",
                    tooltip="Tokens that share keys have one colour and an outline; a dot marks "
                    "the one that stands for the others; what is left out is dark. Small images "
                    "are enlarged.",
                ),
                io.Image.Output(
                    display_name="scores",
                    tooltip="How much detail a token carries: dark is little, yellow much. Grey "
                    "for methods without scores.",
                ),
                io.Mask.Output(
                    display_name="shortened",
                    tooltip="1 where another token stands in, or none.",
                ),
                io.Mask.Output(
                    display_name="destinations", tooltip="1 where a token stands for others."
                ),
                io.String.Output(display_name="value", tooltip="The same in numbers."),
            ],
        )

    @classmethod
    def execute(cls, model, positive, image, vae, layer, timestep, trial_seed) -> io.NodeOutput:
        latents = encode_images(vae, image)
        maps = map_tokens(model, latents, positive, layer, timestep, trial_seed)
        groups, scores = token_images(maps, image)
        masks = token_masks(maps, image.shape[1:3])
        value = "\n".join(f"Image {number}: {one}" for number, one in enumerate(maps))
        shown = ui.PreviewImage(groups, cls=cls).as_dict() | ui.PreviewText(value).as_dict()
        return io.NodeOutput(groups, scores, *masks, value, ui=shown)
