"""The settings that the demo and the accuracy benchmark compare."""

from bigain_core.compression import Compression, Rule
from bigain_core.methods import KVDownsampling, TokenMerging

OFF = "off"
METHODS = {
    OFF: Compression(),
    "L-GTM 0.7": Compression((Rule(TokenMerging(0.7)),)),
    "IE-KVD factor 2, alpha 0.9": Compression((Rule(KVDownsampling()),)),
}
