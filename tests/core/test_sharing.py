"""Cached assignment: layers of one network call that share a decision."""

import gc
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kernels import LiveMemory
from bigain_core.compression.rules import Rule
from bigain_core.compression.run_log import RunLog
from bigain_core.methods import BlockMerging, Sharing, SimilarityPruning, TokenMerging
from bigain_core.placement import LayerId, Placement, named_placement
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import MIDDLE, network_call, planned

GRID = TokenGrid(8, 8)
UNET = [LayerId(n, stage) for n, stage in enumerate(["encoder"] * 2 + ["middle"] + ["decoder"] * 3)]
TRANSFORMER = [LayerId(n, "transformer") for n in range(28)]


def shared(scope, interval=5, ratio=0.5):
    return TokenMerging(ratio, sharing=Sharing(scope, interval))


def plans(call, layers, randn, grid=GRID, batch=1):
    """Plans of layers whose tokens all differ."""
    return {
        layer_id: planned(call, layer_id, randn(batch, grid.tokens, 8, seed=layer_id.number), grid)
        for layer_id in layers
    }


def deciders(found, method, randn):
    """The layer that decided for each: the one whose own tokens give the same plan, by number."""
    method = replace(method, sharing=None)  # cached assignment differs by reuse alone
    own = {
        layer_id: method.plan(randn(1, 64, 8, seed=layer_id.number), GRID, MIDDLE, layer_id.number)
        for layer_id in found
    }
    return {
        layer_id.number: next(s.number for s in own if torch.equal(own[s].target, plan.target))
        for layer_id, plan in found.items()
    }


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        (None, {n: n for n in range(6)}),
        (Sharing("stage"), {0: 0, 1: 0, 2: 2, 3: 3, 4: 3, 5: 3}),
        (Sharing("network"), dict.fromkeys(range(6), 0)),
        (Sharing("interval", 2), {0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 4}),
    ],
)
@pytest.mark.parametrize("rule", ["lowest", "published", "random"])
def test_layers_take_over_the_decision_of_their_scope(randn, rule, sharing, expected):
    method = TokenMerging(0.5, rule, sharing=sharing)
    assert deciders(plans(network_call(Rule(method)), UNET, randn), method, randn) == expected


def test_the_published_blocks_of_a_dit_decide_at_1_and_7(randn):
    method = shared("interval", 5)
    rule = Rule(method, named_placement("blocks 1-5 and 7-11 (published)"))
    found = plans(network_call(rule), TRANSFORMER, randn)
    found = {layer_id: plan for layer_id, plan in found.items() if plan.query_tokens < 64}
    expected = dict.fromkeys([1, 2, 3, 4, 5], 1) | dict.fromkeys([7, 8, 9, 10, 11], 7)
    assert deciders(found, method, randn) == expected


@given(numbers=st.sets(st.integers(0, 27), min_size=1), interval=st.integers(1, 12))
def test_an_interval_counts_from_the_last_decision(randn, numbers, interval):
    method, expected, last = shared("interval", interval), {}, None
    for number in sorted(numbers):
        if last is None or number - last >= interval:
            last = number
        expected[number] = last
    call = network_call(Rule(method, Placement(layers=tuple(numbers))))
    found = plans(call, [layer_id for layer_id in TRANSFORMER if layer_id.number in numbers], randn)
    first = {number: found[TRANSFORMER[number]] for number in expected}
    assert all(first[number] is first[decider] for number, decider in expected.items())
    assert len({id(plan) for plan in first.values()}) == len(set(expected.values()))


def test_nothing_is_carried_over_to_another_call(randn):
    log, rule = RunLog(), Rule(shared("network"))
    first = network_call(rule, log=log)
    second = network_call(rule, log=log)
    before = planned(first, UNET[0], randn(1, 64, 8), GRID)
    after = planned(second, UNET[0], randn(1, 64, 8, seed=1), GRID)
    assert not torch.equal(before.target, after.target)


@pytest.mark.parametrize(
    ("grid", "batch"), [(TokenGrid(4, 16), 1), (TokenGrid(16, 16), 1), (GRID, 2)]
)
def test_another_grid_or_batch_is_decided_anew(randn, grid, batch):
    method = shared("network")
    call = network_call(Rule(method))
    first = planned(call, UNET[0], randn(1, 64, 8), GRID)
    metric = randn(batch, grid.tokens, 8, seed=1)
    other = planned(call, UNET[1], metric, grid)
    assert torch.equal(other.target, method.plan(metric, grid, MIDDLE, 1).target)
    assert planned(call, UNET[2], randn(1, 64, 8, seed=2), GRID) is first


def test_stages_of_a_unet_share_on_each_resolution_of_their_own(randn):
    """Down 8 x 8 and 4 x 4, up 4 x 4 and 8 x 8, two layers each."""
    coarse, method = TokenGrid(4, 4), shared("stage")
    layout = [GRID, GRID, coarse, coarse, coarse, coarse, GRID, GRID]
    call, found = network_call(Rule(method, Placement(levels=2))), []
    for number, grid in enumerate(layout):
        layer_id = LayerId(number, "encoder" if number < 4 else "decoder", 1 if grid == GRID else 2)
        found.append(planned(call, layer_id, randn(1, grid.tokens, 8, seed=number), grid))
    for first, second in (found[0:2], found[2:4], found[4:6], found[6:8]):
        assert first is second
    assert len({id(plan) for plan in found}) == 4


def test_methods_of_other_settings_do_not_share(randn):
    half, most = shared("network"), shared("network", ratio=0.7)
    rules = Rule(half, named_placement("encoder")), Rule(most, named_placement("decoder"))
    found = plans(network_call(*rules), UNET, randn)
    assert [found[layer_id].query_tokens for layer_id in UNET] == [32, 32, 64, 20, 20, 20]
    assert found[UNET[0]] is found[UNET[1]] and found[UNET[3]] is found[UNET[5]]


@pytest.mark.parametrize("method", [BlockMerging(0.5), SimilarityPruning(0.5), TokenMerging(0.5)])
def test_methods_that_do_not_share_keep_no_assignment(randn, method):
    call = network_call(Rule(method))
    found = plans(call, UNET, randn)
    assert len({id(plan) for plan in found.values()}) == len(UNET)
    assert not call.assignments


@pytest.mark.parametrize(("scope", "interval"), [("image", 5), ("interval", 0)])
def test_an_unknown_scope_or_interval_is_refused(scope, interval):
    with pytest.raises(ValueError, match=f"BiGain: expected a scope of .*got '{scope}' and"):
        Sharing(scope, interval)


class Outside(LiveMemory):
    """Notes what is made outside of `pause`."""

    pauses, paused = 0, False

    @contextmanager
    def pause(self):
        self.pauses, self.paused = self.pauses + 1, True
        yield
        self.paused = False

    def _note(self, storage):
        if not self.paused:
            super()._note(storage)


@pytest.mark.parametrize("scope", [None, "network"])
def test_only_what_later_layers_reuse_is_made_to_outlive_its_layer(randn, scope):
    x, memory = randn(1, GRID.tokens, 8), Outside()
    rule = Rule(TokenMerging(0.5, sharing=Sharing(scope) if scope else None))
    call = network_call(rule, outliving=memory.pause)
    memory.known.add(x.untyped_storage()._cdata)
    with memory:
        planned(call, UNET[0], x, GRID)
    gc.collect()
    assert memory.live == 0 and memory.pauses == bool(scope)
    assert len(call.assignments) == bool(scope)
