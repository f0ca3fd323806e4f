"""The published methods, one frozen dataclass each."""

from .base import METRICS, Method
from .keys_and_values import KVCellSelection, KVDownsampling, KVSelection
from .merging import (
    SHARING_SCOPES,
    BlockMerging,
    Protection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
