"""Nodes that make a model cheaper to run, and the report on what they did."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..bigain_core.comfyui.attach import attach, attached_to
from ..bigain_core.compression import Rule
from ..bigain_core.methods import KVDownsampling, TokenMerging
from ..bigain_core.placement import PLACEMENTS, named_placement
from ..bigain_core.report import report
from ..bigain_core.schedules import ActiveRange, AlphaSchedule
from ._host import advanced, schema

CATEGORY = "BiGain"
DESTINATIONS = {"L-GTM": "lowest", "ToMe": "random", "ToMe (top-left)": "top-left"}
FIXED_ALPHA = {"ToDo": 1.0, "average": 0.0}


def _where_and_when() -> list[io.Input]:
    """The inputs that place a rule, shared by all compressing nodes."""
    return [
        io.Combo.Input(
            "placement",
            options=list(PLACEMENTS),
            default="everywhere",
            tooltip="Which self-attention layers. Encoder, middle and decoder are parts of a UNet; "
            "blocks are those of a DiT, counted from 0. Chain two BiGain nodes to treat parts "
            "differently: where both apply, the later node decides.",
        ),
        advanced(
            io.Int,
            "levels",
            default=1,
            min=1,
            max=4,
            tooltip="How many attention resolutions, from the finest. 1 as in the paper: the "
            "finest level holds nearly all of the cost. A DiT has one level only.",
        ),
        advanced(
            io.Float,
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip="Acts from this share of the denoising process on: 0 is pure noise.",
        ),
        advanced(
            io.Float,
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip="Acts up to this share of the denoising process: 1 is the finished image.",
        ),
    ]


def _patched(model, method, placement, levels, start_percent, end_percent) -> io.NodeOutput:
    active = ActiveRange(start_percent, end_percent)
    return io.NodeOutput(attach(model, Rule(method, named_placement(placement, levels), active)))


class BiGainTokenMerging(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainTokenMerging",
            display_name="BiGain Token Merging (L-GTM)",
            category=CATEGORY,
            description="Merges similar image tokens inside self-attention. L-GTM keeps detailed "
            "tokens apart and lets smooth ones absorb their like, so detail survives.",
            search_aliases=["tome", "token merging", "l-gtm", "speed up", "acceleration"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to accelerate; it is not changed itself."
                ),
                io.Combo.Input(
                    "method",
                    options=list(DESTINATIONS),
                    default="L-GTM",
                    tooltip="Which token of each 2 x 2 square others merge into. L-GTM: the "
                    "smoothest (the paper's method). ToMe: a random one. ToMe (top-left): always "
                    "the first.",
                ),
                io.Float.Input(
                    "ratio",
                    default=0.7,
                    min=0.0,
                    max=0.75,
                    step=0.01,
                    tooltip="Share of tokens that are merged away. The paper uses 0.1 to 0.75, "
                    "mostly 0.7; 0 is off. At most 0.75, as one token of four always stays.",
                ),
                *_where_and_when(),
            ],
            outputs=[io.Model.Output(tooltip="The model with token merging.")],
        )

    @classmethod
    def execute(cls, model, method, ratio, **where_and_when) -> io.NodeOutput:
        merging = TokenMerging(ratio, DESTINATIONS[method])
        return _patched(model, merging, **where_and_when)


class BiGainKVDownsampling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        alpha = "Blend of nearest (1) and average (0) sampling; above 1 sharpens beyond nearest. "
        return schema(
            node_id="BiGainKVDownsampling",
            display_name="BiGain KV Downsampling (IE-KVD)",
            category=CATEGORY,
            description="Shrinks the keys and values of self-attention and keeps every query, so "
            "each pixel still asks, only fewer answer.",
            search_aliases=["todo", "token downsampling", "ie-kvd", "speed up", "acceleration"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to accelerate; it is not changed itself."
                ),
                io.Combo.Input(
                    "method",
                    options=["IE-KVD", *FIXED_ALPHA],
                    default="IE-KVD",
                    tooltip="IE-KVD blends nearest and average sampling by alpha. ToDo is nearest "
                    "alone (alpha 1), average is alpha 0; both ignore the alpha inputs.",
                ),
                io.Int.Input(
                    "factor",
                    default=2,
                    min=1,
                    max=8,
                    tooltip="Keys and values shrink by this factor in height and in width. The "
                    "paper uses 2 and 4; 1 is off.",
                ),
                io.Float.Input(
                    "alpha_start",
                    default=0.9,
                    min=-1.0,
                    max=2.0,
                    step=0.01,
                    tooltip=alpha + "This value holds at pure noise. The paper uses 0.8 to 1.2.",
                ),
                io.Float.Input(
                    "alpha_end",
                    default=0.9,
                    min=-1.0,
                    max=2.0,
                    step=0.01,
                    tooltip=alpha + "This value holds at the finished image; between the two it "
                    "changes linearly over the timesteps.",
                ),
                *_where_and_when(),
            ],
            outputs=[io.Model.Output(tooltip="The model with smaller keys and values.")],
        )

    @classmethod
    def execute(
        cls, model, method, factor, alpha_start, alpha_end, **where_and_when
    ) -> io.NodeOutput:
        fixed = FIXED_ALPHA.get(method)
        ends = (alpha_start, alpha_end) if fixed is None else (fixed, fixed)
        pooling = KVDownsampling(factor, AlphaSchedule(*ends))
        return _patched(model, pooling, **where_and_when)


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
        return io.NodeOutput(text, ui=ui.PreviewText(text))
