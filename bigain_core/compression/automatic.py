"""What BiGain (Auto) does to a network, by the kind of its self-attention and the strength.

What is closest to the plain model is told by docs/fidelity.md, on two small models. Closer methods
than these start 150 to 200 kernels in a layer (key pairs and key merging; L-GTM about 35, random
places about 20), which a GPU may need longer for than what they save in layers of 4096 tokens. That
was counted, not timed, and networks differ, so they are left to who asks for them.

UNets are pooled at random places: at the operations of IE-KVD they predict as closely or closer, on
the small UNet's own images with half of its error, on photographs with the same. How far keys go
down is by the paper's Tables 7 and 9 (Pets; accuracy, FID): 81.0 and 35.0 for off, 81.5 and 32.2
for IE-KVD factor 2, 78.0 for factor 4, and 74.6 and 37.7 for L-GTM 0.7, which is also slower than
factor 4 (docs/results.md, "Speed of one block"). These figures are for 4096 tokens in the finest
level, which leave 1024 or 256 keys. It is our judgement that as many keys are enough in larger
images and in the next level, and that factor 2 does no harm there.

DiT, PixArt and HunyuanDiT are pooled at random places in every block, down to 256 keys, in the
middle, from a third to five sixths of the depth, down to 512. In the bundled model, whose layers
have 1024 tokens, attention is narrow there, as wide as 9 to 48 keys at little noise, against 342 to
750 in the other blocks; in the small DiT 47 to 79 of 256 in two of the three. Most of the error
comes from there. That is faster and closer to the plain images than L-GTM 0.7 in the published
blocks (docs/bundled_model.md), and large images gain more. Other depths than six blocks are
judgement. The other strengths merge before projection, which saves most where tokens are few
(README: 1.44x against 1.11x). Keys weigh as much as their tokens, which leaves .53 to .71 of the
error at no further operation. L-GTM 0.7 costs the small DiT one or two points of accuracy, within
chance, in the published blocks, and half of it in all blocks (docs/results.md), so they keep to the
published ones. The assignment is shared as in the published scripts.

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


def middle(blocks: int) -> Placement:
    """From a third to five sixths of the depth."""
    return Placement(layers=tuple(range(-(-blocks // 3), -(-5 * blocks // 6))))


def all_but_the_first(blocks: int) -> Placement:
    return Placement(layers=tuple(range(1, blocks)) or (0,))


PUBLISHED_POOLING = KVDownsampling(2)
PUBLISHED_TO_256_KEYS = replace(PUBLISHED_POOLING, factor=4, keys=256)
POOLED = KVDownsampling(2, AlphaSchedule(1.0, 1.0), random_places=True)
TO_1024_KEYS, TO_256_KEYS = (replace(POOLED, factor=4, keys=keys) for keys in (1024, 256))
DOWN_TO_256_KEYS = replace(POOLED, keys=256)
MERGED = TokenMerging(0.7, proportional=True)

CHOICES: dict[LayerFlops, dict[str, tuple[tuple[Method, Where], ...]]] = {  # by what is saved
    input_shortened: {
        AUTO: ((TO_1024_KEYS, two_finest),),
        QUALITY: ((POOLED, finest),),
        BALANCED: ((POOLED, two_finest),),
        FAST: ((TO_256_KEYS, two_finest),),
    },
    projections_shortened: {
        AUTO: ((DOWN_TO_256_KEYS, finest), (replace(DOWN_TO_256_KEYS, opposite=True), middle)),
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
    the part of the process in which it can do with less. The last rule that covers a layer decides.
    """
    return tuple(
        Rule(method, where(blocks), active, only_where_faster=True)
        for method, where in CHOICES[layer_flops][strength]
    )
