"""Inputs that several compressing nodes share, and what becomes of them."""

from __future__ import annotations

from comfy_api.latest import io

from ..bigain_core.comfyui.patching.attach import attach
from ..bigain_core.compression.rules import Rule
from ..bigain_core.methods import METRICS
from ..bigain_core.placement import PLACEMENTS, named_placement
from ..bigain_core.schedules import ActiveRange
from ..bigain_core.tokens.scoring import PADDINGS, SCORERS
from ._host import advanced


def where_and_when() -> list[io.Input]:
    """The inputs that place a rule, shared by all compressing nodes."""
    return [
        io.Combo.Input(
            "placement",
            options=list(PLACEMENTS),
            default="everywhere",
            tooltip="Which self-attention layers. Encoder, middle and decoder are parts of a UNet; "
            "blocks are those of a transformer, counted from 0. Chain two BiGain nodes to treat "
            "parts differently: where both apply, the later node decides.",
        ),
        advanced(
            io.Int,
            "levels",
            default=1,
            min=1,
            max=4,
            tooltip="How many attention resolutions, from the finest. 1 as in the paper: the "
            "finest level holds nearly all of the cost. A transformer has one level only.",
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


def where_and_when_exactly() -> list[io.Input]:
    """Finer inputs of the same kind, at the end of every compressing node."""
    return [
        advanced(
            io.String,
            "blocks",
            default="",
            tooltip="Attention layers by number, as the report counts them: 1-5, 7-11. Empty: all "
            "of the placement.",
        ),
        advanced(
            io.Int,
            "min_tokens",
            default=0,
            min=0,
            max=1048576,
            tooltip="Layers with fewer tokens are left alone. Merging small layers costs more time "
            "than it saves.",
        ),
        advanced(
            io.Boolean,
            "strict_end",
            default=False,
            tooltip="Spares the end of the range itself, as the published gate does: a run that "
            "ends at timestep 0 leaves its last step alone.",
        ),
        advanced(
            io.Boolean,
            "blend_rotary",
            default=False,
            tooltip="For models with rotary positions (Flux, Qwen-Image, Wan and most newer ones): "
            "also blends queries and keys. Off: they keep to positions that exist, only values "
            "are blended.",
        ),
    ]


def where_it_pays() -> io.Input:
    """The last widget of every compressing node; optional, as older workflows have none."""
    return advanced(
        io.Boolean,
        "only_where_faster",
        default=False,
        optional=True,
        tooltip="Leaves layers alone that are too small to become faster, as measured for this "
        "kind of device; BiGain Report says which. The same seed may then give another picture on "
        "another kind of device.",
    )


def patched(
    model, method, placement, levels, start_percent, end_percent, blocks, min_tokens, strict_end,
    blend_rotary, finest_level=1, only_where_faster=False,
):  # fmt: skip
    """The model with one more rule."""
    where = named_placement(placement, levels, blocks, min_tokens, finest_level)
    when = ActiveRange(start_percent, end_percent, strict_end)
    return attach(model, Rule(method, where, when, blend_rotary, only_where_faster))


def score_inputs() -> list[io.Input]:
    """How tokens are compared and how their detail is measured."""
    return [
        advanced(
            io.Combo,
            "scorer",
            options=list(SCORERS),
            default="laplacian-l1",
            tooltip="How detail is measured: tokens with a low score count as smooth. The paper "
            "uses laplacian-l1; its Table 5 compares the others.",
        ),
        advanced(
            io.Combo,
            "padding",
            options=list(PADDINGS),
            default="zeros",
            tooltip="What the Laplacian sees outside the image. zeros, as published, makes borders "
            "look detailed; replicate does not.",
        ),
        advanced(
            io.Combo,
            "metric",
            options=list(METRICS),
            default="block input",
            tooltip="What tokens are compared by in a UNet: the input of the block, as published, "
            "or its normed state. A transformer always takes the state that enters attention, or "
            "its values where text shares the attention.",
        ),
    ]
