"""The node that shows what happens to the tokens of an image."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.comfyui.classifying.latent_classifier import encode_fitted
from ..bigain_core.comfyui.model_token_map import map_tokens
from ..bigain_core.compression.token_map import token_images, token_masks
from ._host import schema
from ._inputs import number, trial_seed


class BiGainTokenMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Measure",
            node_id="BiGainTokenMap",
            display_name="BiGain Token Map",
            description="Shows what a compressing node does to the tokens of an image in one "
            "layer: their scores, which ones stand for others, and the groups that merge.",
            search_aliases=["visualize", "merging", "debug", "tokens"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model, compressed by BiGain nodes."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt of the network call that is shown."
                ),
                io.Image.Input("image", tooltip="The images whose tokens are shown."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                number(
                    "layer",
                    (-1, -1, 10000),
                    "Number of the self-attention layer, as in BiGain Report. -1 is the "
                    "first that is compressed.",
                ),
                number(
                    "timestep",
                    (500, 0, 999),
                    "How much noise is added to the image first: 999 is pure noise, 0 nearly none.",
                ),
                *trial_seed("Seed of the noise."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="groups",
                    tooltip="Tokens that share keys have one colour and an outline; a dot marks "
                    "the one that stands for the others; dropped tokens are dark. Small images "
                    "are enlarged.",
                ),
                io.Image.Output(
                    display_name="scores",
                    tooltip="How much detail a token carries: dark is little, yellow much. Grey "
                    "for methods without scores.",
                ),
                io.Mask.Output(
                    display_name="shortened",
                    tooltip="1 where a token is replaced by another or dropped.",
                ),
                io.Mask.Output(
                    display_name="destinations", tooltip="1 where a token stands for others."
                ),
                io.String.Output(display_name="value", tooltip="The same in numbers."),
            ],
        )

    @classmethod
    def execute(cls, model, positive, image, vae, layer, timestep, trial_seed) -> io.NodeOutput:
        latents, image, fitting = encode_fitted(model, vae, image)
        maps = map_tokens(model, latents, positive, layer, timestep, trial_seed)
        groups, scores = token_images(maps, image)
        masks = token_masks(maps, image.shape[1:3])
        lines = (f"Image {number}: {one}" for number, one in enumerate(maps))
        value = "\n".join(filter(None, (fitting, *lines)))
        shown = ui.PreviewImage(groups, cls=cls).as_dict() | ui.PreviewText(value).as_dict()
        return io.NodeOutput(groups, scores, *masks, value, ui=shown)
