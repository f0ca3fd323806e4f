"""Block-sparse attention of the yardstick: operations counted by hand, blocks by loops."""

import pytest
import torch
from torch.nn import functional

from benchmarks.fidelity.layers import Tokens
from benchmarks.fidelity.settings import CANDIDATE, RIVAL
from benchmarks.fidelity.sparse import (
    BLOCK,
    exact_blocks,
    rows,
    share_of_keys,
    sparse,
    squares,
)
from bigain_core.tokens.grid import TokenGrid


def layer(randn, side, width, heads, rotary=False):
    x = randn(1, side**2, width)
    weights = [0.3 * randn(width, width, seed=n) for n in (1, 2, 3)]
    return Tokens(x, x, weights, heads, rotary)


@pytest.mark.parametrize("blocks", [16, 64, 256])
@pytest.mark.parametrize("share", [0.1, 0.197, 0.25])
def test_blocks_leave_as_many_keys_as_the_share(share, blocks):
    exact = exact_blocks(share, blocks)
    keys = exact * BLOCK + (blocks - exact)
    assert abs(keys - share * blocks * BLOCK) <= BLOCK / 2


def test_the_share_leaves_the_operations_of_key_merging(randn):
    tokens, width = layer(randn, 64, 320, 8), 320
    attention, projections = 4 * 4096**2 * width, 8 * 4096 * width**2
    left = projections + share_of_keys(tokens) * attention
    assert left / 1e9 == pytest.approx(7.59, abs=0.005), "as in the tables, at this size"
    assert share_of_keys(layer(randn, 8, 16, 2, rotary=True)) == 0.25


def test_squares_are_squares():
    grid = TokenGrid(16, 24)
    found = squares(grid).view(-1, 8, 8)
    number = 0
    for top in range(0, 16, 8):
        for left in range(0, 24, 8):
            expected = [[(top + i) * 24 + left + j for j in range(8)] for i in range(8)]
            assert found[number].tolist() == expected
            number += 1
    assert number == len(found)


@pytest.mark.parametrize("rotary", [False, True])
def test_with_plain_attention_in_any_order_nothing_is_off(randn, rotary):
    tokens, seen = layer(randn, 16, 32, 2, rotary), []

    def attend(q, k, v, ratio):
        seen.append((tuple(q.shape), ratio))
        out = functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        return out.transpose(1, 2)

    for order in (torch.arange(256), squares(tokens.grid)):
        found = sparse(tokens, attend, order)
        torch.testing.assert_close(found, tokens.attention(), atol=1e-5, rtol=1e-5)
    exact = exact_blocks(share_of_keys(tokens), 4)
    assert seen == [((1, 256, 1, 16), exact / 4)] * 4


def test_errors_are_relative_and_shares_are_those_of_the_candidates():
    sums = {RIVAL: [[0.04, 1.0], [0.08, 2.0]], "key merging 2": [[0.01, 1.0], [0.02, 2.0]]}
    sums[CANDIDATE] = [[0.0025, 1.0], [0.005, 2.0]]
    found = rows({name: torch.tensor(pairs).double() for name, pairs in sums.items()})
    assert [row[0] for row in found] == list(sums)
    assert found[0][1:] == ["0.2 (0.2 to 0.2)", "0.5 (0.5 to 0.5)", "0.25 (0.25 to 0.25)"]
