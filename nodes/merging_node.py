"""The node that merges tokens."""

from __future__ import annotations

from comfy_api.latest import io

from ..bigain_core.methods import (
    SHARING_SCOPES,
    BlockMerging,
    Protection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
from ..bigain_core.tokens.matching import AGGREGATES
from ..bigain_core.tokens.plans import MERGE_MODES
from ..bigain_core.tokens.selection import SELECTION_MODES
from ._host import CATEGORY, advanced, schema
from ._inputs import (
    patched,
    score_inputs,
    where_and_when,
    where_and_when_exactly,
    where_it_pays,
)

DESTINATIONS = {
    "L-GTM": "lowest",
    "ToMe": "random",
    "ToMe (top-left)": "top-left",
    "L-GTM (published code)": "published",
}
CACHED, BLOCKS, SITO = "cached assignment", "adaptive block merge", "SiTo"


def _merging_options() -> list[io.Input]:
    return [
        advanced(
            io.Combo,
            "merge_mode",
            options=list(MERGE_MODES),
            default="mean",
            tooltip="What merged tokens become. mean: their average (the paper). mlerp: "
            "the average at the length of the longest. prune: the destination alone. SiTo "
            "always prunes.",
        ),
        advanced(
            io.Float,
            "protect",
            default=0.0,
            min=0.0,
            max=0.9,
            step=0.01,
            tooltip="Share of tokens that take no part in merging; not used in the paper. "
            "Fewer tokens merge if ratio and protect do not fit together. For L-GTM and "
            "ToMe.",
        ),
        advanced(
            io.Combo,
            "protect_mode",
            options=list(SELECTION_MODES),
            default="high",
            tooltip="Which tokens are protected, by score: high are the most detailed.",
        ),
        advanced(
            io.Combo,
            "cache_scope",
            options=list(SHARING_SCOPES),
            default="stage",
            tooltip="For cached assignment: decide once for encoder, middle and decoder "
            "each (stage, as in the paper), once per network call, or anew after an "
            "interval of blocks (for a DiT).",
        ),
        advanced(
            io.Int,
            "cache_interval",
            default=5,
            min=1,
            max=100,
            tooltip="Blocks after which the cached assignment is decided anew, for the "
            "scope interval. The published scripts use 5.",
        ),
        advanced(
            io.Combo,
            "aggregate",
            options=list(AGGREGATES),
            default="max",
            tooltip="For adaptive block merge: how the scores of a square become one. The "
            "published scripts use max, and sum for classification.",
        ),
        advanced(
            io.Boolean,
            "proportional",
            default=False,
            tooltip="Proportional attention: a merged key weighs as much as the tokens it "
            "stands for. Not used for a published number.",
        ),
        advanced(
            io.Int,
            "random_seed",
            default=0,
            min=0,
            max=2**32 - 1,
            tooltip="For the random choices of ToMe and SiTo. The same seed, layer and "
            "timestep choose alike, whatever the batch.",
        ),
    ]


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
                    options=[*DESTINATIONS, CACHED, BLOCKS, SITO],
                    default="L-GTM",
                    tooltip="Which token of each 2 x 2 square others merge into. L-GTM: the "
                    "smoothest (the paper's method). ToMe: a random one. ToMe (top-left): always "
                    "the first. L-GTM (published code): by the rule of the published code, which "
                    "differs from the paper's. Cached assignment: L-GTM, decided once for several "
                    "layers. Adaptive block merge: whole smooth squares. SiTo: drops what is most "
                    "alike.",
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
                *where_and_when(),
                *score_inputs(),
                *_merging_options(),
                *where_and_when_exactly(),
                where_it_pays(),
            ],
            outputs=[io.Model.Output(tooltip="The model with token merging.")],
        )

    @classmethod
    def execute(
        cls, model, method, ratio, scorer, padding, metric, merge_mode, protect, protect_mode,
        cache_scope, cache_interval, aggregate, proportional, random_seed, **where_and_when,
    ) -> io.NodeOutput:  # fmt: skip
        scored = {"scorer": scorer, "padding": padding, "metric": metric}
        if method == BLOCKS:
            merging = BlockMerging(
                ratio, aggregate, mode=merge_mode, proportional=proportional, **scored
            )
        elif method == SITO:
            merging = SimilarityPruning(ratio, seed=random_seed, metric=metric)
        else:
            merging = TokenMerging(
                ratio,
                DESTINATIONS.get(method, "lowest"),
                seed=random_seed,
                mode=merge_mode,
                protection=Protection(protect, protect_mode),
                sharing=Sharing(cache_scope, cache_interval) if method == CACHED else None,
                proportional=proportional,
                **scored,
            )
        return io.NodeOutput(patched(model, merging, **where_and_when))
