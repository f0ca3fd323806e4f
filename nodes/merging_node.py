"""The node that merges tokens."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io

from ..bigain_core.comfyui.patching.attach import attach
from ..bigain_core.methods import (
    SHARING_SCOPES,
    BlockMerging,
    Method,
    Protection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
from ..bigain_core.tokens.matching import AGGREGATES
from ..bigain_core.tokens.plans import MERGE_MODES
from ..bigain_core.tokens.selection import SELECTION_MODES
from ._host import schema
from ._inputs import (
    Option,
    advanced,
    blending,
    branching,
    choice,
    chosen,
    compared_by,
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

MERGING = (
    branching(
        "merge_mode",
        {mode: () if mode == "prune" else advanced(blending()) for mode in MERGE_MODES},
        "What a merged token becomes. mean: the average (the paper). mlerp: the average, at "
        "the length of the longest. prune: the destination alone.",
    ),
    switch(
        "proportional",
        "Proportional attention: a merged key weighs as much as the tokens it stands for, "
        "which keeps L-GTM and ToMe closer to the plain model. No published number uses it.",
        default=True,
    ),
)
PROTECTING = (
    number(
        "protect",
        (0.0, 0.0, 0.9, 0.01),
        "Share of tokens that are never merged; the paper does not use it. If ratio and "
        "protect do not fit together, fewer tokens are merged.",
    ),
    choice(
        "protect_mode",
        SELECTION_MODES,
        "Which tokens are protected, by score: high protects the most detailed.",
    ),
)
INTERVAL = number(
    "cache_interval",
    (5, 1, 100),
    "The number of blocks after which the cached assignment is decided again. The published "
    "scripts use 5.",
)
SHARING = branching(
    "cache_scope",
    {scope: advanced(INTERVAL) if scope == "interval" else () for scope in SHARING_SCOPES},
    "Decide once each for encoder, middle and decoder (stage, as in the paper), once per "
    "network call, or again after an interval of blocks (for a DiT).",
)
AGGREGATE = choice(
    "aggregate",
    AGGREGATES,
    "How the scores of a square are combined. The published scripts use max, and sum for "
    "classification.",
)
SEED = number(
    "random_seed",
    (0, 0, 2**32 - 1),
    "Seed of the random choices. The same seed, layer and timestep give the same choices, "
    "whatever the batch.",
)


def _merging(destinations: str) -> Callable[..., Method]:
    def build(
        ratio, merge_mode, protect, protect_mode, random_seed=0, sharing=None, frames=1, **scored
    ):
        return TokenMerging(
            ratio,
            destinations,
            seed=random_seed,
            mode=merge_mode,
            protection=Protection(protect, protect_mode),
            sharing=sharing,
            frames=frames,
            **scored,
        )

    return build


def _cached(cache_scope, cache_interval=INTERVAL.default, **inputs) -> Method:
    return _merging("lowest")(sharing=Sharing(cache_scope, cache_interval), **inputs)


def _blocks(ratio, aggregate, merge_mode, **scored) -> Method:
    return BlockMerging(ratio, aggregate, mode=merge_mode, **scored)


def _pruning(ratio, metric, random_seed) -> Method:
    return SimilarityPruning(ratio, seed=random_seed, metric=metric)


_TOKENS = (*score_inputs(), *MERGING, *PROTECTING)
METHODS = {
    "L-GTM": Option(_TOKENS, _merging("lowest")),
    "ToMe": Option((*_TOKENS, SEED), _merging("random")),
    "ToMe (top-left)": Option(_TOKENS, _merging("top-left")),
    "L-GTM (published code)": Option(_TOKENS, _merging("published")),
    "cached assignment": Option((*_TOKENS, SHARING), _cached),
    "adaptive block merge": Option((*score_inputs(), *MERGING, AGGREGATE), _blocks),
    "SiTo": Option((compared_by(), SEED), _pruning),
}
OVER_FRAMES = ("L-GTM", "ToMe", "ToMe (top-left)", "cached assignment")
OWN = {name: advanced(*option.inputs) for name, option in METHODS.items()}


class BiGainTokenMerging(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Speed",
            node_id="BiGainTokenMerging",
            display_name="BiGain Token Merging (L-GTM)",
            description="Merges similar image tokens inside self-attention, which then runs "
            "faster. L-GTM merges into the smoothest tokens, so that detail survives.",
            search_aliases=[
                "tome",
                "tomesd",
                "token merging",
                "l-gtm",
                "faster",
                "speed up",
                "acceleration",
            ],
            inputs=[
                model_to_accelerate(),
                number(
                    "ratio",
                    (0.7, 0.0, 0.75, 0.01),
                    "Share of tokens to merge. Higher is faster and loses more detail. "
                    "The paper uses 0.1 to 0.75, mostly 0.7; 0 is off. The limit is 0.75, as one "
                    "token of four always stays.",
                ),
                branching(
                    "method",
                    OWN,
                    "Which token of each 2 x 2 square the others merge into. L-GTM: the smoothest "
                    "(the paper's method). ToMe: a random one. SiTo drops the most similar tokens "
                    "instead. The help page explains every method.",
                ),
                *where_and_when(),
                *advanced(*where_and_when_exactly()),
                *optional(*advanced(where_it_pays())),
                *shared_frames(
                    "For video models, with L-GTM, ToMe and cached assignment: tokens merge within "
                    "so many frames of the latent, so that what stands still costs once. 1: each "
                    "frame by itself. Images stay as they are.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with token merging.")],
        )

    @classmethod
    def execute(cls, model, ratio, method=None, frames=1, **where_and_when) -> io.NodeOutput:
        name, inputs = chosen("method", method, OWN)
        if name in OVER_FRAMES:  # another input of an option would move saved values
            inputs["frames"] = frames
        elif frames > 1:
            raise ValueError(
                f"BiGain: expected one of {', '.join(OVER_FRAMES)} for merging over {frames} "
                f"frames, got {name}. Choose another method, or set frames to 1."
            )
        blend_rotary = inputs.pop("blend_rotary", False)
        merging = METHODS[name].build(ratio=ratio, **inputs)
        return io.NodeOutput(
            attach(model, rule(merging, blend_rotary=blend_rotary, **where_and_when))
        )
