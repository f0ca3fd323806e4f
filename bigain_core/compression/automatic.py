"""What BiGain (Auto) does to a network, by the kind of its self-attention and the strength.

What is closest to the plain model is told by docs/fidelity.md, on two small models. Closer methods
than these start 220 to 270 kernels in a layer (key pairs and key merging; L-GTM 50, random places
2), for which an H200 needs longer than what they save in layers of 4096 tokens (docs/results.md),
so they are left to who asks for them.

UNets are pooled at random places: at the operations of IE-KVD they predict as closely or closer, on
the small UNet's own images with half of its error, on photographs with the same. How far keys go
down is by the paper's Tables 7 and 9 (Pets; accuracy, FID): 81.0 and 35.0 for off, 81.5 and 32.2
for IE-KVD factor 2, 78.0 for factor 4, and 74.6 and 37.7 for L-GTM 0.7, which is also slower than
factor 4 (docs/results.md, "Speed of one block"). These figures are for 4096 tokens in the finest
level, which leave 1024 or 256 keys. It is our judgement that as many keys are enough in larger
images and in the next level, and that factor 2 does no harm there.

DiT, PixArt and HunyuanDiT are pooled at opposite pairs of random places in every block, which keeps
half of the keys. A quarter, random places alone, is faster and less close: in the bundled model
attention is as narrow as 9 to 48 keys in three of six blocks at little noise
(docs/bundled_model.md). Both are closer to the plain images and faster than L-GTM 0.7 in the
published blocks, and large images gain more. That as many keys are enough in networks of other
depths is our judgement. The other strengths merge before projection, which saves most where tokens
are few (README: 1.44x against 1.11x). Keys weigh as much as their tokens, which leaves .53 to .71
of the error at no further operation. L-GTM 0.7 costs the small DiT one or two points of accuracy,
within chance, in the published blocks, and half of it in all blocks (docs/results.md), so they keep
to the published ones. The assignment is shared as in the published scripts.

All others are pooled after projection, the fastest way there. What it costs in quality has not been
measured in any of them, so they keep the paper's method: careful strengths keep to the published
blocks, and all blocks but the first is judgement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..measure.flops import LayerFlops, attention_shortened, input_shortened, projections_shortened
from ..methods import KVDownsampling, Method, Sharing, TokenMerging
from ..placement import PLACEMENTS, Placement
from ..schedules import ActiveRange, AlphaSchedule
from .rules import Rule

AUTO, QUALITY, BALANCED, FAST = STRENGTHS = ("auto", "quality", "balanced", "fast")
PUBLISHED_BLOCKS, PUBLISHED_DEPTH = PLACEMENTS["blocks 1-5 and 7-11 (published)"][1], 28
WHOLE_PROCESS = ActiveRange()

Where = Callable[[int], Placement]  # from the number of layers that there are


def finest(blocks: int) -> Placement:
    return Placement()


def two_finest(blocks: int) -> Placement:
    return Placement(levels=2)


def as_deep_as_published(blocks: int) -> Placement:
    """Blocks where the paper's lie in DiT-XL/2; of a network too shallow for one, the last."""
    layers = (n for n in range(blocks) if n * PUBLISHED_DEPTH // blocks in PUBLISHED_BLOCKS)
    return Placement(layers=tuple(layers) or (blocks - 1,))


def all_but_the_first(blocks: int) -> Placement:
    return Placement(layers=tuple(range(1, blocks)) or (0,))


PUBLISHED_POOLING = KVDownsampling(2)
PUBLISHED_TO_256_KEYS = replace(PUBLISHED_POOLING, factor=4, keys=256)
POOLED = KVDownsampling(2, AlphaSchedule(1.0, 1.0), random_places=True)
TO_1024_KEYS, TO_256_KEYS = (replace(POOLED, factor=4, keys=keys) for keys in (1024, 256))
OPPOSITE_PAIRS = replace(POOLED, keys=256, opposite=True)
MERGED = TokenMerging(0.7, proportional=True)

CHOICES: dict[LayerFlops, dict[str, tuple[tuple[Method, Where], ...]]] = {  # by what is saved
    input_shortened: {
        AUTO: ((TO_1024_KEYS, two_finest),),
        QUALITY: ((POOLED, finest),),
        BALANCED: ((POOLED, two_finest),),
        FAST: ((TO_256_KEYS, two_finest),),
    },
    projections_shortened: {
        AUTO: ((OPPOSITE_PAIRS, finest),),
        QUALITY: ((replace(MERGED, ratio=0.5), as_deep_as_published),),
        BALANCED: ((MERGED, as_deep_as_published),),
        FAST: ((replace(MERGED, sharing=Sharing("interval")), as_deep_as_published),),
    },
    attention_shortened: {
        AUTO: ((PUBLISHED_POOLING, as_deep_as_published),),
        QUALITY: ((PUBLISHED_POOLING, as_deep_as_published),),
        BALANCED: ((PUBLISHED_POOLING, all_but_the_first),),
        FAST: ((PUBLISHED_TO_256_KEYS, all_but_the_first),),
    },
}


def automatic_rules(
    strength: str, layer_flops: LayerFlops, blocks: int, active: ActiveRange = WHOLE_PROCESS
) -> tuple[Rule, ...]:
    """One of STRENGTHS for a network of so many self-attention layers, where it is faster.

    "auto" is the most that published or measured figures bear out for such a network; `active` is
    the part of the process in which it can do with less.
    """
    return tuple(
        Rule(method, where(blocks), active, only_where_faster=True)
        for method, where in CHOICES[layer_flops][strength]
    )
