"""Kernels beside attention itself, and the memory of tensors alive together."""

from dataclasses import replace

import pytest
import torch

from benchmarks.kernels import SHAPES, CountedKernels, LiveMemory, kernels
from bigain_core.methods import (
    KVDownsampling,
    KVSelection,
    Protection,
    SimilarityPruning,
    TokenMerging,
)
from bigain_core.tokens import parts
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.parts import plan_in_parts
from tests.core.calls import MIDDLE

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@every_shape
@pytest.mark.parametrize(
    ("method", "limit"),
    [
        (TokenMerging(0.7), 37),
        (TokenMerging(0.7, proportional=True), 40),
        (TokenMerging(0.7, protection=Protection(0.1)), 49),
        (TokenMerging(0.7, "random"), 46),
        (TokenMerging(0.7, "random", proportional=True), 49),
        (KVDownsampling(2), 11),
        (KVDownsampling(4), 11),
        (KVDownsampling(2, proportional=True), 13),
    ],
)
@pytest.mark.parametrize("longer", [0, 1], ids=["even", "odd"])
def test_a_layer_gets_few_kernels_more(method, limit, shape, longer):
    """Of a grid whose sides the factor divides, and of one whose sides it does not."""
    grid = replace(
        shape.grid, height=shape.grid.height + longer, width=shape.grid.width + 3 * longer
    )
    assert 0 < kernels(method, replace(shape, grid=grid)) <= limit


def test_what_makes_no_tensor_is_no_kernel():
    x = torch.ones(4, 6)
    with CountedKernels() as counted:
        x.view(6, 4).mT[:2].add(1).mul_(2).sum()
        torch.empty(3)
    assert counted.count == 3


def test_live_memory_is_that_of_the_tensors_alive_together():
    with LiveMemory() as memory:
        first = torch.ones(1000)
        second = first[:500] + 1
        del first
        third = second.view(5, 100) * 2
        del second
    assert (memory.live, memory.peak) == (third.numel() * 4, 4000 + 2000)


@pytest.mark.parametrize(
    "method",
    [TokenMerging(0.6), TokenMerging(0.6, "random"), SimilarityPruning(0.5), KVSelection()],
    ids=lambda method: method.name,
)
def test_parts_decide_as_the_whole(randn, monkeypatch, method):
    x, grid = randn(5, 48, 8), TokenGrid(6, 8)
    whole = method.plan(x, grid, MIDDLE, 0)
    monkeypatch.setattr(parts, "AT_ONCE", 2 * 48 * 8)
    in_parts = plan_in_parts(method, x, grid, MIDDLE, 0)
    assert torch.equal(in_parts.context(x), whole.context(x))
    assert torch.equal(in_parts.restore(in_parts.queries(x)), whole.restore(whole.queries(x)))
