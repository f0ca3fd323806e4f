"""Nodes about the compression of a model as a whole: presets and the report."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.comfyui.attach import attach, attached_to
from ..bigain_core.presets import PRESETS
from ..bigain_core.report import report, report_data
from ._host import CATEGORY, schema

PAPER = "paper: "


class BiGainAuto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainAuto",
            display_name="BiGain (Presets)",
            category=CATEGORY,
            description="A row of the paper's tables in one click.",
            search_aliases=["preset", "paper", "hybrid", "speed up", "acceleration"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to accelerate; it is not changed itself."
                ),
                io.Combo.Input(
                    "preset",
                    options=["off", *(PAPER + name for name in PRESETS)],
                    default=PAPER + "Table 9: L-GTM encoder, IE-KVD decoder",
                    tooltip="Rows of Tables 3 and 6 to 9 are for Stable Diffusion, those named DiT "
                    "for a DiT of at least 12 blocks.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the settings of that row.")],
        )

    @classmethod
    def execute(cls, model, preset) -> io.NodeOutput:
        if preset != "off":
            for rule in PRESETS[preset.removeprefix(PAPER)].rules:
                model = attach(model, rule)
        return io.NodeOutput(model)


class BiGainReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainReport",
            display_name="BiGain Report",
            category=CATEGORY,
            description="Says what BiGain did in the last run of a model: layers, tokens before "
            "and after, work saved, and what was left alone and why.",
            search_aliases=["statistics", "flops"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that the sampler used."),
                io.AnyType.Input(
                    "after",
                    tooltip="Any output of the sampler or classifier, so that the report comes "
                    "after.",
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="The report as text.")],
        )

    @classmethod
    def execute(cls, model, after) -> io.NodeOutput:
        attached = attached_to(model)
        text = report(attached.log) if attached else "BiGain: no compression on this model."
        data = report_data(attached.log) if attached else {"summary": text}
        return io.NodeOutput(text, ui=ui.PreviewText(text).as_dict() | {"bigain_report": [data]})
