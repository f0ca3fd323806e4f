"""The node that samples several seeds and finishes only the best."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.comfyui.best_of_n import best_of_n
from ..bigain_core.comfyui.model_comparison import Sampling
from ._host import CallBar, announce, schema
from ._inputs import advanced, number, sampler_settings, trial_seed


class BiGainBestOfN(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainBestOfN",
            display_name="BiGain Best of N",
            description="Samples an image from each of several seeds and gives the one that fits "
            "the prompt best. The model itself judges; seeds that fall behind are not finished.",
            search_aliases=["best of n", "seed", "batch", "pick best", "ksampler", "rejection"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Samples and judges, compressed or not."),
                io.Conditioning.Input("positive", tooltip="What the image should show."),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The negative prompt. Images are judged against it, by how much "
                    "better the positive one describes them; an empty text is the usual measure.",
                ),
                io.Latent.Input("latent", tooltip="The latent of one image, as in KSampler."),
                number("candidates", (8, 2, 256), "How many seeds are tried."),
                number("keep", (1, 1, 64), "How many of the best images come out."),
                *sampler_settings(
                    "The first seed. The others follow: seed + 1, seed + 2 and so on."
                ),
                number("denoise", (1.0, 0.0, 1.0, 0.01), "As in KSampler."),
                *advanced(
                    number(
                        "trials",
                        (20, 1, 100),
                        "Noisy versions of each finished image, as in BiGain Rank Images. The "
                        "last of the candidates need most of them, the others a few.",
                    )
                ),
                *trial_seed("Seed of the noise of every trial."),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The best, best first: each is what KSampler makes of its seed.",
                ),
                io.Int.Output(
                    display_name="seeds",
                    is_output_list=True,
                    tooltip="The seeds of these, to have them again with KSampler.",
                ),
                io.String.Output(
                    display_name="table", tooltip="CSV: one row per seed, best first."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, latent, candidates, keep, seed, steps, cfg, sampler_name,
        scheduler, denoise, trials, trial_seed,
    ) -> io.NodeOutput:  # fmt: skip
        sampling = Sampling(latent, positive, negative, seed, steps, cfg, sampler_name, scheduler)
        calls = 2 * candidates * (steps + trials)
        announce(f"BiGain: about {calls} network evaluations at most for {candidates} seeds")
        found, latents = best_of_n(
            model, sampling, candidates, keep, trials, trial_seed, CallBar(calls), denoise=denoise
        )
        seeds = [found.seeds[number] for number in found.best]
        made = {**latent, "samples": latents}
        # A browser rounds whole numbers as large as seeds may be.
        rows = [{**row, "seed": str(row["seed"])} for row in found.rows]
        shown = {"rows": rows, "saved": 1 - found.share}
        shown = ui.PreviewText(str(found)).as_dict() | {"bigain_best": [shown]}
        return io.NodeOutput(made, seeds, found.table(), ui=shown)
