"""Operation counts of deciding: closed forms against torch's counter and the published figures."""

import pytest
import torch
from torch.nn import functional

from bigain_core.compression.rules import Rule
from bigain_core.methods import (
    BlockMerging,
    KeyMerging,
    KeyPairs,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Protection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
from bigain_core.placement import LayerId
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import MIDDLE, counted, network_call

BASELINE = 804.26e9  # Stable Diffusion 2.0, one network call at 512 x 512
FULL_RESOLUTION = [LayerId(n, "encoder" if n < 2 else "decoder") for n in range(5)]
WIDTH, TOKENS, CELLS = 320, 4096, 1024
CACHED = TokenMerging(0.7, sharing=Sharing())


def tokens(count, width=WIDTH):
    return torch.empty(1, count, width, device="meta")


def convolution(side=64, width=WIDTH):
    """The Laplacian as the published code makes it."""
    kernel = torch.empty(width, 1, 3, 3, device="meta")
    functional.conv2d(
        torch.empty(1, width, side, side, device="meta"), kernel, groups=width, padding=1
    )


def run(method, layers=FULL_RESOLUTION):
    call = network_call(Rule(method))
    for layer_id in layers:
        call.visit(layer_id, tokens(TOKENS), TokenGrid(64, 64))
    assert call.log.layers_compressed == len(layers)
    return call.log


def total_gflops(method):
    return (BASELINE - run(method).flops_saved) / 1e9


@pytest.mark.parametrize(
    ("scope", "gflops"), [("stage", 698.88), ("network", 696.85), ("interval", 696.85)]
)
def test_published_totals_of_cached_assignment(scope, gflops):
    """Per stage 2 of 5 assignments are computed, as printed; once per call it would be 1."""
    method = TokenMerging(0.7, sharing=Sharing(scope))
    assert total_gflops(method) == pytest.approx(gflops, abs=0.011)


def test_block_merge_saves_the_second_laplacian_of_the_published_count():
    laplacian = counted(convolution) / 1e9
    assert total_gflops(BlockMerging(0.7)) + 5 * laplacian == pytest.approx(695.08, abs=0.011)


def test_pruning_saves_the_whole_cosine_matrix_of_the_published_count():
    """The published count holds that matrix alone, which serves for all steps of the decision."""
    matrix = counted(lambda: tokens(TOKENS) @ tokens(TOKENS).mT)
    assert matrix == 2 * TOKENS**2 * WIDTH
    method = SimilarityPruning(0.7)
    decision = method.decision_flops(WIDTH, TokenGrid(64, 64))
    assert decision < matrix / 2
    published = total_gflops(method) + 5 * (matrix - decision) / 1e9
    assert published == pytest.approx(748.49, abs=0.011)


def slow_pruning():
    tokens(TOKENS) @ tokens(1).mT  # all tokens with their sum
    tokens(TOKENS - CELLS) @ tokens(CELLS).mT  # sources with destinations
    tokens(2867) @ tokens(TOKENS - 2867).mT  # dropped with kept


def slow_merging():
    convolution()
    tokens(TOKENS - CELLS) @ tokens(CELLS).mT


def slow_key_merging():
    for _ in range(16):  # windows of 16 x 16 tokens
        tokens(256 - 64) @ tokens(64).mT


@pytest.mark.parametrize(
    ("method", "slow"),
    [
        (SimilarityPruning(0.7), slow_pruning),
        (BlockMerging(0.7), convolution),
        (BlockMerging(0.7, scorer="variance"), lambda: None),
        (TokenMerging(0.7), slow_merging),
        (TokenMerging(0.7, "published"), slow_merging),
        (TokenMerging(0.7, "random", protection=Protection(0.1)), slow_merging),
        (TokenMerging(0.7, "random"), lambda: tokens(TOKENS - CELLS) @ tokens(CELLS).mT),
        (KVSelection(), convolution),
        (KVCellSelection(), convolution),
        (KVCellSelection(scorer="l2-norm"), lambda: None),
        (KVDownsampling(2), lambda: None),
        (KeyMerging(), slow_key_merging),
    ],
)
def test_a_decision_equals_the_count_of_torch(method, slow):
    assert method.decision_flops(WIDTH, TokenGrid(64, 64)) == counted(slow)


def test_key_pairs_count_the_products_of_tokens_with_directions_and_the_sketch():
    """Three products of every token with a vector: in 9 halvings of 128 channels, and once of all.

    The sketch is a product that torch counts itself.
    """
    vectors = 3 * 2 * TOKENS * (9 * 128 + WIDTH)
    sketch = counted(lambda: KeyPairs().plan(tokens(TOKENS), TokenGrid(64, 64), MIDDLE, 0))
    assert sketch == 2 * TOKENS * WIDTH * 128
    assert KeyPairs().decision_flops(WIDTH, TokenGrid(64, 64)) == vectors + sketch


@pytest.mark.parametrize(
    "method", [SimilarityPruning(0.7), TokenMerging(0.7), CACHED, KeyMerging()]
)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (9, 7), (5, 12)])
def test_what_a_decision_multiplies_is_what_it_counts(method, height, width):
    """Of the real decision torch sees the matrix products, but no convolution in the Laplacian."""
    grid = TokenGrid(height, width)
    products = counted(lambda: method.plan(tokens(grid.tokens, 8), grid, MIDDLE, 0))
    laplacian = 18 * 8 * grid.tokens if isinstance(method, TokenMerging) else 0
    assert method.decision_flops(8, grid) == products + laplacian


def test_a_reused_assignment_costs_no_decision():
    decided = [True, False, True, False, False]
    spent = [record.flops_after for record in run(CACHED).layers.values()]
    decision = counted(slow_merging)
    assert [flops - min(spent) for flops in spent] == [decision * again for again in decided]
