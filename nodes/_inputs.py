"""The inputs of nodes: how they are declared, which ones nodes share, and the rule they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import comfy.samplers
from comfy_api.latest import io

from ..bigain_core.compression.rules import Rule
from ..bigain_core.methods import METRICS, Method
from ..bigain_core.placement import PLACEMENTS, named_placement
from ..bigain_core.schedules import ActiveRange
from ..bigain_core.tokens.scoring import PADDINGS, SCORERS


def choice(name: str, options: Iterable[str], tooltip: str, default: str | None = None) -> io.Input:
    """The first option is the default, unless another one is named."""
    options = list(options)
    return io.Combo.Input(name, options=options, default=default or options[0], tooltip=tooltip)


class Option(NamedTuple):
    """A method: the inputs that not every method reads, and what makes it of all of them."""

    inputs: tuple[io.Input, ...]
    build: Callable[..., Method]


def branching(name: str, options: Mapping[str, Iterable[io.Input]], tooltip: str) -> io.Input:
    """A choice whose options bring inputs of their own. The first one is the default."""
    options = [io.DynamicCombo.Option(key, list(inputs)) for key, inputs in options.items()]
    return io.DynamicCombo.Input(name, options=options, tooltip=tooltip)


def chosen(
    name: str, given: dict | None, options: Mapping[str, Iterable[io.Input]]
) -> tuple[str, dict]:
    """The option of such a choice, and the values of its inputs and of theirs, by name.

    The host checks those, but runs a node without a choice that is missing or unknown to it.
    """
    if given is None:
        raise ValueError(
            f"BiGain: expected one of {', '.join(options)} in `{name}`, got something else or "
            "nothing. Choose it again."
        )
    values = {key: value for key, value in given.items() if key != name}
    for own in options[given[name]]:
        if isinstance(own, io.DynamicCombo.Input):
            inner = {option.key: option.inputs for option in own.options}
            values[own.id], more = chosen(own.id, given.get(own.id), inner)
            values |= more
    return given[name], values


def number(name: str, limits: tuple, tooltip: str) -> io.Input:
    """`limits` are the default, the least, the largest and, where it matters, the step."""
    kind = io.Float if isinstance(limits[0], float) else io.Int
    limits = dict(zip(("default", "min", "max", "step"), limits, strict=False))
    return kind.Input(name, **limits, tooltip=tooltip)


def switch(name: str, tooltip: str, default: bool = False) -> io.Input:
    return io.Boolean.Input(name, default=default, tooltip=tooltip)


def advanced(*inputs: io.Input) -> tuple[io.Input, ...]:
    """Newer hosts fold these away under "advanced"; older ones show them like any other."""
    for one in inputs:
        one.advanced = True
    return inputs


def optional(*inputs: io.Input) -> tuple[io.Input, ...]:
    """Inputs that a workflow may lack, such as one saved before they existed."""
    for one in inputs:
        one.optional = True
    return inputs


def trial_seed(tooltip: str) -> tuple[io.Input, ...]:
    """Not "seed": the front end would add a widget that changes it after every run."""
    return advanced(number("trial_seed", (0, 0, 2**32 - 1), tooltip))


def sampler_settings(seed: str) -> list[io.Input]:
    """Those of the host's KSampler, up to the scheduler; `seed` says what the seed is for."""
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip=seed
        ),
        number("steps", (20, 1, 10000), "Sampling steps."),
        number("cfg", (8.0, 0.0, 100.0, 0.1), "The scale of classifier-free guidance."),
        choice("sampler_name", comfy.samplers.KSampler.SAMPLERS, "As in KSampler."),
        choice("scheduler", comfy.samplers.KSampler.SCHEDULERS, "As in KSampler."),
    ]


def model_to_accelerate() -> io.Input:
    return io.Model.Input("model", tooltip="The model to accelerate. It is not changed itself.")


def where_and_when() -> list[io.Input]:
    """The inputs that place a rule, shared by all compressing nodes."""
    return [
        choice(
            "placement",
            PLACEMENTS,
            "Which self-attention layers to compress. Encoder, middle and decoder are "
            "parts of a UNet; blocks are those of a transformer, counted from 0. To treat parts "
            "differently, chain two BiGain nodes: where both apply, the later one decides.",
        ),
        *advanced(
            number(
                "levels",
                (1, 1, 4),
                "How many attention resolutions to compress, from the finest. The paper uses 1: "
                "the finest level holds nearly all of the cost. A transformer has only one level.",
            ),
            number(
                "start_percent",
                (0.0, 0.0, 1.0, 0.001),
                "Starts at this share of the denoising process: 0 is pure noise.",
            ),
            number(
                "end_percent",
                (1.0, 0.0, 1.0, 0.001),
                "Ends at this share of the denoising process: 1 is the finished image.",
            ),
        ),
    ]


def where_and_when_exactly() -> list[io.Input]:
    """Finer inputs of the same kind, at the end of every compressing node."""
    return [
        io.String.Input(
            "blocks",
            default="",
            tooltip="Attention layers by number, as in BiGain Report: 1-5, 7-11. Empty: all "
            "layers of the placement.",
        ),
        number(
            "min_tokens",
            (0, 0, 1048576),
            "Layers with fewer tokens are skipped. Compressing a small layer costs more time "
            "than it saves.",
        ),
        switch(
            "strict_end",
            "Excludes the end of the range itself, as the published code does: a run that ends "
            "at timestep 0 is not compressed in its last step.",
        ),
    ]


def blending() -> io.Input:
    """For methods that make one token of several."""
    return switch(
        "blend_rotary",
        "For models with rotary positions (Flux, Qwen-Image, Wan and most newer ones). On: "
        "queries and keys are blended as well. Off: they keep positions that exist, and only "
        "values are blended.",
    )


def shared_frames(tooltip: str) -> tuple[io.Input, ...]:
    """How many frames of a film are shortened together."""
    return optional(*advanced(number("frames", (1, 1, 16), tooltip)))


def where_it_pays() -> io.Input:
    """Behind all others, and optional, as older workflows have none."""
    return switch(
        "only_where_faster",
        "Skips layers that are too small to become faster, as measured for this kind of device; "
        "BiGain Report lists them. The same seed may then give another image on another kind of "
        "device.",
    )


def rule(
    method: Method,
    placement: str,
    start_percent: float,
    end_percent: float,
    strict_end: bool,
    blend_rotary: bool = False,
    only_where_faster: bool = False,
    **layers,
) -> Rule:
    """From the values of the inputs above; `layers` are those of `named_placement`."""
    where = named_placement(placement, **layers)
    when = ActiveRange(start_percent, end_percent, strict_end)
    return Rule(method, where, when, blend_rotary, only_where_faster)


def compared_by() -> io.Input:
    return choice(
        "metric",
        METRICS,
        "What the tokens of a UNet are compared by: the input of the block, as published, "
        "or that input after its norm. A transformer always uses the state that enters "
        "attention, or its values where text shares the attention.",
    )


def score_inputs() -> list[io.Input]:
    """How tokens are compared and how their detail is measured."""
    padding = choice(
        "padding",
        PADDINGS,
        "What the Laplacian sees outside the image. zeros, as published, makes borders "
        "look detailed; replicate does not.",
    )
    return [
        branching(
            "scorer",
            {name: advanced(padding) if name.startswith("laplacian") else () for name in SCORERS},
            "How detail is measured: tokens with a low score count as smooth. The paper uses "
            "laplacian-l1 and compares the others in its Table 5.",
        ),
        compared_by(),
    ]
