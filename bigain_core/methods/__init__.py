"""The published methods, one frozen dataclass each."""

from .base import METRICS, Method
from .key_merging import KeyMerging
from .key_pairs import KeyPairs
from .keys_and_values import KVCellSelection, KVDownsampling, KVSelection
from .merging import (
    SHARING_SCOPES,
    BlockMerging,
    Protection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
