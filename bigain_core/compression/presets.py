"""The rows of the paper's tables, each as one compression."""

from __future__ import annotations

from collections.abc import Mapping

from ..methods import BlockMerging, KVDownsampling, Method, Sharing, SimilarityPruning, TokenMerging
from ..placement import named_placement
from ..schedules import AlphaSchedule
from .rules import Compression, Rule

ALPHAS = (0.0, 0.5, 0.8, 0.9, 1.0, 1.2)  # Table 7
SCHEDULES = ((0.2, 0.8), (0.5, 1.0), (0.7, 1.0), (0.8, 1.2), (0.0, 1.2))  # Table 8
PUBLISHED = "blocks 1-5 and 7-11 (published)"
L_GTM, TOME = TokenMerging(0.7), TokenMerging(0.7, "random")


def _placed(methods: Mapping[str, Method]) -> Compression:
    return Compression(tuple(Rule(one, named_placement(name)) for name, one in methods.items()))


def _everywhere(method: Method) -> Compression:
    return _placed({"everywhere": method})


def _pooled(factor: int, start: float, end: float) -> Compression:
    return _everywhere(KVDownsampling(factor, AlphaSchedule(start, end)))


PRESETS: dict[str, Compression] = {
    "Table 3: ToMe 0.7": _everywhere(TOME),
    "Table 3: L-GTM 0.7": _everywhere(L_GTM),
    "Table 3: L-GTM 0.7, cached assignment": _everywhere(TokenMerging(0.7, sharing=Sharing())),
    "Table 3: adaptive block merge 0.7": _everywhere(BlockMerging(0.7)),
    "Table 3: SiTo 0.7": _everywhere(SimilarityPruning(0.7)),
    "Table 3: ToDo factor 2": _pooled(2, 1.0, 1.0),
    "Table 3: IE-KVD factor 2": _pooled(2, 0.9, 0.9),
    "Table 6: ToMe 0.7": _everywhere(TOME),
    "Table 6: L-GTM 0.7": _everywhere(L_GTM),
    "Table 6: ToDo factor 2": _pooled(2, 1.0, 1.0),
    "Table 6: IE-KVD factor 2": _pooled(2, 0.9, 0.9),
    **{
        f"Table 7: factor {factor}, alpha {alpha:g}": _pooled(factor, alpha, alpha)
        for factor in (2, 4)
        for alpha in ALPHAS
    },
    "Table 8: ToDo factor 2": _pooled(2, 1.0, 1.0),
    **{f"Table 8: alpha {start:g} to {end:g}": _pooled(2, start, end) for start, end in SCHEDULES},
    "Table 9: ToMe 0.7": _everywhere(TOME),
    "Table 9: ToDo factor 2": _pooled(2, 1.0, 1.0),
    "Table 9: L-GTM 0.7": _everywhere(L_GTM),
    "Table 9: IE-KVD factor 2": _pooled(2, 0.9, 0.9),
    "Table 9: L-GTM encoder, IE-KVD decoder": _placed(
        {"encoder": L_GTM, "decoder": KVDownsampling()}
    ),
    "Table 9: IE-KVD encoder, L-GTM decoder": _placed(
        {"encoder": KVDownsampling(), "decoder": L_GTM}
    ),
    "DiT: L-GTM 0.7, published blocks": _placed({PUBLISHED: L_GTM}),
    "DiT: IE-KVD factor 2, published blocks": _placed({PUBLISHED: KVDownsampling()}),
}

TABLE_3 = {  # every method of the paper by its name
    name.removeprefix("Table 3: "): compression
    for name, compression in PRESETS.items()
    if name.startswith("Table 3: ")
}
