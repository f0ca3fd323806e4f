"""One decision for all copies of a latent in a batch, where nothing tells them apart yet."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from bigain_core.compression.rules import Rule
from bigain_core.methods import Sharing, TokenMerging
from bigain_core.placement import LayerId
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import MIDDLE, network_call, planned
from tests.core.test_every_method import every_method, on_grid

GRID = TokenGrid(6, 8)
FIRST, SECOND = LayerId(0, "encoder"), LayerId(1, "encoder")


@pytest.fixture
def decided(monkeypatch):
    """Numbers of rows that merging decided for, one decision after the other.

    Those on the meta device only count what a decision saves.
    """
    rows, plan = [], TokenMerging.plan

    def noted(self, metric, *args):
        if not metric.is_meta:
            rows.append(metric.shape[0])
        return plan(self, metric, *args)

    monkeypatch.setattr(TokenMerging, "plan", noted)
    return rows


def plan_for(method, copies, layer_id, x, grid=GRID):
    return planned(network_call(Rule(method), copies=copies), layer_id, x, grid)


def rows_of(plan):
    found = ((field.name, getattr(plan, field.name)) for field in fields(plan))
    return {name: value for name, value in found if isinstance(value, Tensor)}


@every_method
@pytest.mark.parametrize("images", [1, 3])
def test_a_plan_for_copies_is_what_each_row_decides(randn, method, images):
    grid = on_grid(method, 6, 8)
    x = randn(images, grid.tokens, 8).repeat(2, 1, 1)
    found = plan_for(method, 2, FIRST, x, grid)
    expected = method.plan(x, grid, MIDDLE, 0)
    assert rows_of(found).keys() == rows_of(expected).keys()
    for name, row in rows_of(found).items():
        assert torch.equal(row, rows_of(expected)[name]), name
    assert torch.equal(found.context(x), expected.context(x))
    assert torch.equal(found.restore(found.queries(x)), expected.restore(expected.queries(x)))


@pytest.mark.parametrize(("images", "copies"), [(1, 2), (1, 7), (3, 2), (2, 1)])
def test_copies_are_decided_once(randn, decided, images, copies):
    x = randn(images, GRID.tokens, 8).repeat(copies, 1, 1)
    plan = plan_for(TokenMerging(0.5), copies, FIRST, x)
    assert decided == [images]
    assert plan.target.shape == (images * copies, GRID.tokens)


def changed(x):
    """One number of the last row a little larger."""
    x = x.clone()
    x[-1, -1, -1] += 1e-6
    return x


OTHERS = {
    "a row that differs": (4, FIRST, changed),
    "the same rows in another order": (2, FIRST, lambda x: x[[0, 1, 1, 0]]),
    "a later layer": (4, SECOND, lambda x: x),
    "a batch of another size": (3, FIRST, lambda x: x),
    "no prompts named": (0, FIRST, lambda x: x),
    "no numbers": (4, FIRST, lambda x: x * torch.nan),
}


@pytest.mark.parametrize("other", OTHERS)
def test_otherwise_every_row_decides(randn, decided, other):
    copies, layer_id, change = OTHERS[other]
    same = randn(1, GRID.tokens, 8).repeat(4, 1, 1)
    if other == "the same rows in another order":
        same = randn(4, GRID.tokens, 8)
    plan_for(TokenMerging(0.5), copies, layer_id, change(same))
    assert decided == [4]


def test_a_cached_assignment_serves_later_layers_of_the_whole_batch(randn, decided):
    call = network_call(Rule(TokenMerging(0.5, sharing=Sharing("network"))), copies=4)
    first = planned(call, FIRST, randn(1, GRID.tokens, 8).repeat(4, 1, 1), GRID)
    later = planned(call, SECOND, randn(4, GRID.tokens, 8), GRID)
    assert later is first and decided == [1]
    assert later.queries(randn(4, GRID.tokens, 8)).shape[0] == 4


def test_frames_of_a_film_are_not_taken_for_copies(randn, decided):
    film = TokenGrid(6, 8, frames=3, prefix=2)
    x = randn(1, 2 + film.tokens, 8).repeat(2, 1, 1)
    plan_for(TokenMerging(0.5), 2, FIRST, x, film)
    assert decided == [3]
