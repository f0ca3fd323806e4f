"""The settings that the demo and the accuracy benchmark compare."""

from bigain_core.compression.rules import Compression, Rule
from bigain_core.methods import KVDownsampling, TokenMerging
from bigain_core.placement import Placement

OFF = "off"
# The paper compresses 10 of the 28 blocks of DiT-XL/2 and skips the first; here 2 of 6.
BUNDLED_PLACEMENT = Placement(layers=(1, 2))


def methods(placement: Placement) -> dict[str, Compression]:
    """No compression and both operators at the paper's settings, by name."""
    return {
        OFF: Compression(),
        "L-GTM 0.7": Compression((Rule(TokenMerging(0.7), placement),)),
        "IE-KVD factor 2, alpha 0.9": Compression((Rule(KVDownsampling(), placement),)),
    }
