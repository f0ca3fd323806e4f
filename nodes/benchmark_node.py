"""The node that measures what compression gains on this machine."""

from __future__ import annotations

from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..bigain_core.comfyui.classifying.chart import benchmark_chart
from ..bigain_core.comfyui.model_benchmark import empty_prompt, measure, our_settings, uncompressed
from ..bigain_core.comfyui.patching.attach import compression_state
from ..bigain_core.compression.presets import TABLE_3
from ._host import CATEGORY, advanced, announce, schema

THIS, ALL = "this model", "all methods"


class BiGainBenchmark(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainBenchmark",
            display_name="BiGain Benchmark",
            category=CATEGORY,
            description="Measures on this machine how fast a model is with and without "
            "compression, in turn, beside what the operations saved promise.",
            search_aliases=["speed", "timing", "performance", "it/s"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to measure, as the sampler would get it."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="Says for what size and batch. An image makes the deviation mean more "
                    "than an empty latent.",
                ),
                io.Combo.Input(
                    "methods",
                    options=[THIS, ALL],
                    default=THIS,
                    tooltip="this model: with the BiGain nodes before this one, and without them. "
                    "all methods: also every method of the paper's Table 3 at its settings.",
                ),
                io.Int.Input(
                    "rounds",
                    default=5,
                    min=1,
                    max=100,
                    tooltip="Timed calls of each setting, after one that warms up. The table has "
                    "their median and quartiles.",
                ),
                advanced(
                    io.Float,
                    "progress",
                    default=0.5,
                    min=0.001,
                    max=0.999,
                    step=0.001,
                    tooltip="At which share of the denoising process the network is called; a "
                    "setting may act in a part of it only. 0 is pure noise.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The prompt. Stable Diffusion and DiTs do without one here.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The negative prompt, if the sampler uses guidance: both are then "
                    "calculated in one call, as it does.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="table", tooltip="CSV: one row per setting."),
                io.Image.Output(
                    display_name="chart",
                    tooltip="Bars of the times; a line stands where operations alone would put "
                    "their ends.",
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
        resting = uncompressed(model)
        settings = our_settings(resting, compressions)
        prompts = [prompt for prompt in (positive, negative) if prompt] or [empty_prompt(model)]
        calls = (1 + len(settings)) * (1 + rounds)
        announce(f"BiGain: {calls} network calls for {1 + len(settings)} settings")
        bar = ProgressBar(calls)
        found = measure(
            resting, latent["samples"], prompts, settings, rounds, progress, lambda: bar.update(1)
        )
        announce(found.summary())
        table = found.table()
        preview = ui.PreviewText(f"{found.summary()}\n\n{table}")
        return io.NodeOutput(table, benchmark_chart(found), ui=preview)
