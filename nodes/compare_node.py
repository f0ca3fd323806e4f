"""The node that shows what a compression or any other patch does to images and their time."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.comfyui.comparison_grid import comparison_grid
from ..bigain_core.comfyui.model_comparison import Sampling, compare
from ._host import CallBar, announce, schema
from ._inputs import advanced, sampler_settings


class BiGainCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        models = io.Autogrow.TemplatePrefix(io.Model.Input("model"), prefix="model", min=2, max=10)
        return schema(
            menu="Measure",
            node_id="BiGainCompare",
            display_name="BiGain Compare",
            description="Samples the same images with several models and shows them in one grid: "
            "seconds, similarity to the first model's, operations left.",
            search_aliases=["xy plot", "before after", "side by side", "quality", "ssim", "psnr"],
            is_output_node=True,
            inputs=[
                io.Autogrow.Input(
                    "models",
                    models,
                    tooltip="The first is what the others are compared with. They may come from "
                    "nodes of any pack.",
                ),
                io.Vae.Input("vae", tooltip="Decodes the images."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Latent.Input("latent", tooltip="Sets size and batch, as in KSampler."),
                *sampler_settings("The noise, the same for all models."),
                *advanced(
                    io.String.Input(
                        "captions",
                        default="",
                        multiline=True,
                        tooltip="Names of the models in the grid, one a line. Models without a "
                        "line are named after their compression.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="All images, a row for each model."),
                io.Image.Output(
                    display_name="images",
                    tooltip="The images alone, those of the first model first.",
                ),
                io.String.Output(display_name="table", tooltip="CSV: one row per model."),
            ],
        )

    @classmethod
    def execute(
        cls, models, vae, positive, negative, latent, seed, steps, cfg, sampler_name, scheduler,
        captions,
    ) -> io.NodeOutput:  # fmt: skip
        sampling = Sampling(latent, positive, negative, seed, steps, cfg, sampler_name, scheduler)
        models, names = list(models.values()), captions.splitlines()
        found = compare(models, names, sampling, vae, CallBar(len(models) * (1 + steps)))
        for name, numbers in found.captions():
            announce(f"BiGain: {name}: {numbers}")
        grid = comparison_grid(found)
        return io.NodeOutput(
            grid,
            found.images,
            found.table(),
            ui=ui.PreviewImage(grid, cls=cls),
        )
