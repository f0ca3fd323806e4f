"""The nodes that shrink keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from comfy_api.latest import io

from ..bigain_core.comfyui.patching.attach import attach
from ..bigain_core.methods import (
    KeyMerging,
    KeyPairs,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Method,
)
from ..bigain_core.schedules import AlphaCurve, AlphaSchedule
from ..bigain_core.tokens.selection import CELL_MODES, SELECTION_MODES
from ._host import Alpha, schema
from ._inputs import (
    Option,
    advanced,
    blending,
    branching,
    chosen,
    model_to_accelerate,
    number,
    optional,
    rule,
    score_inputs,
    shared_frames,
    switch,
    where_and_when,
    where_and_when_exactly,
    where_it_pays,
)

ALPHA = "Blend of nearest (1) and average (0) sampling; above 1 is sharper than nearest. "
ALPHAS = (
    number(
        "alpha_start",
        (0.9, -1.0, 2.0, 0.01),
        ALPHA + "This value applies at pure noise. The paper uses 0.8 to 1.2.",
    ),
    number(
        "alpha_end",
        (0.9, -1.0, 2.0, 0.01),
        ALPHA + "This value applies at the finished image; in between it changes linearly over "
        "the timesteps.",
    ),
    *optional(
        Alpha.Input(
            "alpha",
            tooltip="A curve from BiGain Alpha Schedule, used in place of alpha_start and "
            "alpha_end.",
        )
    ),
)
(WEIGHT,) = advanced(
    switch(
        "proportional",
        "For models in which text and image share their attention (SD3, Flux, "
        "Qwen-Image and others): each pooled key weighs as much as the tokens it "
        "stands for, so that the text does not gain attention. Costs some time, as "
        "attention then needs a mask.",
    )
)
(ROTARY,) = advanced(blending())
FRAMES = shared_frames(
    "For video models: so many frames of the latent share keys and values, so that what stands "
    "still costs once. 1: every frame has its own. Images stay as they are."
)
SCORES = advanced(*score_inputs())
BLEND = advanced(
    number(
        "blend",
        (0.5, 0.0, 1.0, 0.01),
        "1 takes the chosen token alone, 0 the average of the square. The published default "
        "is 0.5.",
    )
)


def _blended(factor, proportional, alpha_start, alpha_end, alpha=None, frames=1) -> Method:
    alpha = alpha or AlphaSchedule(alpha_start, alpha_end)
    return KVDownsampling(factor, alpha, proportional, frames=frames)


def _random_places(factor: int, proportional: bool, frames: int = 1) -> Method:
    alpha = AlphaSchedule(1.0, 1.0)
    return KVDownsampling(factor, alpha, proportional, random_places=True, frames=frames)


def _fixed(alpha: float) -> Callable[..., Method]:
    return partial(_blended, alpha_start=alpha, alpha_end=alpha)


def _selecting(choice: str) -> Callable[..., Method]:
    return lambda factor, **scored: KVSelection(choice, 1 - 1 / factor**2, **scored)


def _merging_keys(factor: int, frames: int = 1) -> Method:
    return KeyMerging(1 - 1 / factor**2, cell=factor, frames=frames)


def _paired_keys(factor: int) -> Method:
    return KeyPairs(1 - 1 / factor**2)


METHODS = {
    # Keys that stand as they are, the nearest ones, have nothing to blend; merged ones always weigh
    # as much as their tokens.
    "IE-KVD": Option((*ALPHAS, WEIGHT, ROTARY, *FRAMES), _blended),
    "ToDo": Option((WEIGHT, *FRAMES), _fixed(1.0)),
    "average": Option((WEIGHT, ROTARY, *FRAMES), _fixed(0.0)),
    **{f"select {mode}": Option((*SCORES, WEIGHT), _selecting(mode)) for mode in SELECTION_MODES},
    **{
        f"select {mode} per square": Option(
            (*SCORES, *BLEND, WEIGHT, ROTARY), partial(KVCellSelection, mode)
        )
        for mode in CELL_MODES
    },
    "key merging": Option((ROTARY, *FRAMES), _merging_keys),
    "key pairs": Option((ROTARY,), _paired_keys),
    "random places": Option((WEIGHT, *FRAMES), _random_places),
}
OWN = {name: option.inputs for name, option in METHODS.items()}


class BiGainKVDownsampling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Speed",
            node_id="BiGainKVDownsampling",
            display_name="BiGain KV Downsampling (IE-KVD)",
            description="Keeps every query of self-attention and downsamples keys and values, "
            "which makes it faster.",
            search_aliases=["todo", "tome", "token downsampling", "ie-kvd", "faster", "speed up"],
            inputs=[
                model_to_accelerate(),
                number(
                    "factor",
                    (2, 1, 8),
                    "Keys and values shrink by this factor in height and in width. "
                    "Higher is faster and loses more detail. The paper uses 2 and 4; 1 is off.",
                ),
                branching(
                    "method",
                    OWN,
                    "IE-KVD (the paper's method) blends nearest and average sampling by alpha; "
                    "ToDo is nearest alone. Select keeps one of factor x factor tokens by its "
                    "score, key merging averages the most alike, key pairs are mostly closest to "
                    "the plain model. The help page explains every method.",
                ),
                *where_and_when(),
                *advanced(
                    number(
                        "level_2_factor",
                        (0, 0, 8),
                        "A separate factor for the coarser levels, if levels is 2 or more. 0: the "
                        "same factor. The paper does not compress the second level.",
                    ),
                    *where_and_when_exactly(),
                ),
                *optional(*advanced(where_it_pays())),
                *optional(
                    *advanced(
                        number(
                            "reference_factor",
                            (1, 1, 8),
                            "For models that are given reference images (Flux Kontext, Flux 2, "
                            "Qwen-Image-Edit and others): keys and values of each of them shrink "
                            "by this factor. 1: they stay whole.",
                        )
                    )
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with smaller keys and values.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        factor,
        level_2_factor,
        levels,
        method=None,
        reference_factor=1,
        **where_and_when,
    ) -> io.NodeOutput:
        name, inputs = chosen("method", method, OWN)
        where_and_when["blend_rotary"] = inputs.pop("blend_rotary", False)
        shrinking = partial(METHODS[name].build, **inputs)
        if levels > 1 and level_2_factor:
            coarser = {"levels": levels, "finest_level": 2, **where_and_when}
            model = attach(model, rule(shrinking(factor=level_2_factor), **coarser))
            levels = 1
        finest = rule(shrinking(factor=factor), levels=levels, **where_and_when)
        if reference_factor > 1:
            finest = replace(finest, references=shrinking(factor=reference_factor))
        return io.NodeOutput(attach(model, finest))


class BiGainAlphaSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Speed",
            node_id="BiGainAlphaSchedule",
            display_name="BiGain Alpha Schedule",
            description="A curve of alpha over the timesteps for BiGain KV Downsampling.",
            search_aliases=["curve", "ie-kvd"],
            inputs=[
                io.String.Input(
                    "curve",
                    multiline=True,
                    default="999: 0.8\n0: 1.2",
                    tooltip="Points `timestep: alpha`, one per line, joined by straight lines. "
                    "999 is pure noise, 0 the finished image. The paper's best is 0.8 to 1.2.",
                )
            ],
            outputs=[Alpha.Output(display_name="alpha", tooltip="For BiGain KV Downsampling.")],
        )

    @classmethod
    def execute(cls, curve) -> io.NodeOutput:
        return io.NodeOutput(AlphaCurve.from_text(curve))
