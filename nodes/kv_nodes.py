"""The nodes that shrink keys and values."""

from __future__ import annotations

from comfy_api.latest import io

from ..bigain_core.methods import KVCellSelection, KVDownsampling, KVSelection
from ..bigain_core.schedules import AlphaCurve, AlphaSchedule
from ._host import CATEGORY, Alpha, advanced, schema
from ._inputs import (
    patched,
    score_inputs,
    where_and_when,
    where_and_when_exactly,
    where_it_pays,
)

FIXED_ALPHA = {"ToDo": 1.0, "average": 0.0}
SELECTING = {
    "select high": "high",
    "select low": "low",
    "select medium": "medium",
    "select uniform": "uniform",
}
SELECTING_IN_CELLS = {
    "select high per square": "high",
    "select low per square": "low",
    "select median per square": "median",
}


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
                    options=["IE-KVD", *FIXED_ALPHA, *SELECTING, *SELECTING_IN_CELLS],
                    default="IE-KVD",
                    tooltip="IE-KVD blends nearest and average sampling by alpha. ToDo is nearest "
                    "alone (alpha 1), average is alpha 0; both ignore the alpha inputs. Select "
                    "(the paper's Table 4) takes 1 of factor x factor tokens by score: the most or "
                    "least detailed, from the middle, or evenly over the scores, of the whole "
                    "image or of each square.",
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
                *where_and_when(),
                advanced(
                    io.Int,
                    "level_2_factor",
                    default=0,
                    min=0,
                    max=8,
                    tooltip="A factor of its own for the coarser levels, if levels is 2 or more. "
                    "0: the same factor. The paper leaves the second level alone.",
                ),
                *score_inputs(),
                advanced(
                    io.Float,
                    "blend",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For selection per square: 1 takes the chosen token alone, 0 the "
                    "average of the square. The published default is 0.5.",
                ),
                *where_and_when_exactly(),
                advanced(
                    io.Boolean,
                    "proportional",
                    default=False,
                    tooltip="For models in which text and image share their attention (SD3, Flux, "
                    "Qwen-Image and others): each pooled key weighs as much as the tokens it "
                    "stands for, so that the text does not gain attention. Costs some time, as "
                    "attention then needs a mask.",
                ),
                Alpha.Input(
                    "alpha",
                    optional=True,
                    tooltip="A curve from BiGain Alpha Schedule in place of alpha_start and "
                    "alpha_end.",
                ),
                where_it_pays(),
            ],
            outputs=[io.Model.Output(tooltip="The model with smaller keys and values.")],
        )

    @classmethod
    def execute(
        cls, model, method, factor, alpha_start, alpha_end, level_2_factor, scorer, padding, metric,
        blend, levels, proportional, alpha=None, **where_and_when,
    ) -> io.NodeOutput:  # fmt: skip
        weighing = {"proportional": proportional}
        scored = {"scorer": scorer, "padding": padding, "metric": metric, **weighing}

        def shrinking(by):
            if method in SELECTING:
                return KVSelection(SELECTING[method], 1 - 1 / by**2, **scored)
            if method in SELECTING_IN_CELLS:
                return KVCellSelection(SELECTING_IN_CELLS[method], by, blend, **scored)
            fixed = FIXED_ALPHA.get(method)
            given = alpha or AlphaSchedule(alpha_start, alpha_end)
            chosen = given if fixed is None else AlphaSchedule(fixed, fixed)
            return KVDownsampling(by, chosen, **weighing)

        if levels > 1 and level_2_factor:
            coarser = {"levels": levels, "finest_level": 2}
            model = patched(model, shrinking(level_2_factor), **coarser, **where_and_when)
            levels = 1
        return io.NodeOutput(patched(model, shrinking(factor), levels=levels, **where_and_when))


class BiGainAlphaSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BiGainAlphaSchedule",
            display_name="BiGain Alpha Schedule",
            category=CATEGORY,
            description="A curve of alpha over the timesteps for BiGain KV Downsampling.",
            search_aliases=["curve", "ie-kvd"],
            inputs=[
                io.String.Input(
                    "curve",
                    multiline=True,
                    default="999: 0.8\n0: 1.2",
                    tooltip="Points `timestep: alpha`, one per line. 999 is pure noise, 0 the "
                    "finished image; straight lines between. The paper's best is 0.8 to 1.2.",
                ),
            ],
            outputs=[Alpha.Output(display_name="alpha", tooltip="For BiGain KV Downsampling.")],
        )

    @classmethod
    def execute(cls, curve) -> io.NodeOutput:
        return io.NodeOutput(AlphaCurve.from_text(curve))
