"""The node that measures what compression gains on this machine."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.comfyui.classifying.chart import benchmark_chart
from ..bigain_core.comfyui.model_benchmark import empty_prompt, measure, our_settings, uncompressed
from ..bigain_core.comfyui.patching.attach import compression_state
from ..bigain_core.compression.presets import TABLE_3
from ._host import CallBar, announce, schema
from ._inputs import advanced, choice, number, optional

THIS, ALL = "this model", "all methods"


class BiGainBenchmark(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Measure",
            node_id="BiGainBenchmark",
            display_name="BiGain Benchmark",
            description="Measures, in turn, how fast a model runs on this machine with and without "
            "compression, beside what the operations saved would allow.",
            search_aliases=["speed", "faster", "timing", "performance", "it/s"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to measure, as the sampler would get it."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="Sets the size and batch. With an encoded image the deviation means "
                    "more than with an empty latent.",
                ),
                choice(
                    "methods",
                    [THIS, ALL],
                    "this model: with and without the BiGain nodes before this one. all "
                    "methods: also every method of the paper's Table 3 at its settings.",
                ),
                number(
                    "rounds",
                    (5, 1, 100),
                    "Timed calls of each setting, after one warm-up call. The table gives "
                    "their median and quartiles.",
                ),
                *advanced(
                    number(
                        "progress",
                        (0.5, 0.001, 0.999, 0.001),
                        "At which share of the denoising process the network is called; some "
                        "settings act in only a part of it. 0 is pure noise.",
                    )
                ),
                *optional(
                    io.Conditioning.Input(
                        "positive", tooltip="The prompt. Not needed for Stable Diffusion and DiTs."
                    ),
                    io.Conditioning.Input(
                        "negative",
                        tooltip="The negative prompt, if the sampler uses guidance: both are then "
                        "computed in one call, as the sampler does.",
                    ),
                ),
            ],
            outputs=[
                io.String.Output(display_name="table", tooltip="CSV: one row per setting."),
                io.Image.Output(
                    display_name="chart",
                    tooltip="Bars of the times; a line marks where they would end by operations "
                    "alone.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, latent, methods, rounds, progress, positive=None, negative=None
    ) -> io.NodeOutput:
        state = compression_state(model)
        compressions = {THIS: state.compression} if state else {}
        if methods == ALL:
            compressions |= TABLE_3
        if not compressions:
            raise ValueError(
                "BiGain: expected a model behind a compressing BiGain node that is on, got one "
                f"without. Connect such a node, or choose {ALL!r}."
            )
        plain = uncompressed(model)
        settings = our_settings(plain, compressions)
        prompts = [prompt for prompt in (positive, negative) if prompt] or [empty_prompt(model)]
        calls = (1 + len(settings)) * (1 + rounds)
        announce(f"BiGain: {calls} network calls for {1 + len(settings)} settings")
        latent, bar = latent["samples"], CallBar(calls)
        found = measure(plain, latent, prompts, settings, rounds, progress, bar)
        announce(found.summary())
        table = found.table()
        preview = ui.PreviewText(f"{found.summary()}\n\n{table}")
        return io.NodeOutput(table, benchmark_chart(found), ui=preview)
