"""Nodes about the compression of a model as a whole: presets and the report."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.comfyui.patching.attach import attach, compression_state, resolve
from ..bigain_core.compression.automatic import AUTO, STRENGTHS, automatic_rules
from ..bigain_core.compression.presets import PRESETS
from ..bigain_core.compression.report import headline_data, report, report_data
from ._host import schema, sender
from ._inputs import choice, model_to_accelerate

PAPER = "paper: "
EVENT = "bigain.auto"


class BiGainAuto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Speed",
            node_id="BiGainAuto",
            display_name="BiGain (Auto)",
            not_idempotent=True,  # what it says after a run goes to the id that it ran under
            description="Makes a model faster in one click: chooses method, layers and strength "
            "for its kind. On a CPU, layers that are too small to gain are skipped.",
            search_aliases=[
                "faster",
                "speed up",
                "acceleration",
                "performance",
                "tome",
                "preset",
                "paper",
            ],
            inputs=[
                model_to_accelerate(),
                choice(
                    "preset",
                    ["off", *STRENGTHS, *(PAPER + name for name in PRESETS)],
                    "auto goes as far as published or measured figures support for such "
                    "a model and size; quality, balanced and fast lose more detail, in this "
                    "order. Rows of Tables 3 and 6 to 9 are for Stable Diffusion, those named DiT "
                    "for a DiT of at least 12 blocks; they apply at any size.",
                    default=AUTO,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with this preset applied.")],
        )

    @classmethod
    def execute(cls, model, preset) -> io.NodeOutput:
        if preset == "off":
            return io.NodeOutput(model)
        family, layers = resolve(model)
        if preset in STRENGTHS:
            kind = family.adapter.layer_flops
            rules = automatic_rules(preset, kind, len(layers), family.active)
        else:
            rules = PRESETS[preset.removeprefix(PAPER)].rules
        for rule in rules:
            model = attach(model, rule)
        tell = sender(EVENT)
        compression_state(model).on_end = lambda log: tell(headline_data(log))
        return io.NodeOutput(model)


class BiGainReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Measure",
            node_id="BiGainReport",
            display_name="BiGain Report",
            description="Reports what BiGain did in the last run of a model: layers, tokens "
            "before and after, operations saved, and what was skipped and why.",
            search_aliases=["statistics", "flops", "faster", "speed up"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that the sampler used."),
                io.AnyType.Input(
                    "after",
                    tooltip="Any output of the sampler or classifier, so that the report is "
                    "made after it.",
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="The report as text.")],
        )

    @classmethod
    def execute(cls, model, after) -> io.NodeOutput:
        state = compression_state(model)
        text = report(state.log) if state else "BiGain: no compression on this model."
        data = report_data(state.log) if state else {"summary": text}
        return io.NodeOutput(text, ui=ui.PreviewText(text).as_dict() | {"bigain_report": [data]})
