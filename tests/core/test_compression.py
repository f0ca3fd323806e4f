"""Rules, the log of a network call and replaced forwards."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.rules import Compression, Rule
from bigain_core.compression.run_log import LayerRecord, RunLog
from bigain_core.measure.flops import input_shortened, projections_shortened, self_attention_flops
from bigain_core.methods import (
    BlockMerging,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    SimilarityPruning,
    TokenMerging,
)
from bigain_core.placement import LayerId, Placement, named_placement
from bigain_core.schedules import ActiveRange, DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import IdentityPlan, PoolPlan
from tests.core.calls import MIDDLE, network_call, planned

ENCODER, DECODER = LayerId(0, "encoder"), LayerId(1, "decoder")
GRID = TokenGrid(8, 8)
MERGING, POOLING = TokenMerging(0.5), KVDownsampling(2)


class Slow(int):
    """Another thread gets its turn while this is added to a number."""

    def __radd__(self, other):
        time.sleep(1e-3)
        return int(other) + int(self)


@dataclass(frozen=True)
class Named:
    """A method that does nothing but be told apart."""

    name: str


KEEPING_EVERY_TOKEN = {
    MERGING: 1,
    TokenMerging(0.05): 4,
    TokenMerging(0.5, cell=5): 4,
    BlockMerging(0.1): 5,
    SimilarityPruning(0.7): 1,
    KVDownsampling(4): 1,
    KVSelection("low", 0.0): 4,
    KVCellSelection("low", 1): 4,
}


def same(plan, other, x):
    """Whether two plans shorten x alike."""
    return torch.equal(plan.queries(x), other.queries(x)) and torch.equal(
        plan.context(x), other.context(x)
    )


def test_the_last_rule_that_matches_decides():
    a, b, c = (Named(name) for name in "abc")
    compression = Compression((Rule(a),))
    compression = compression.followed_by(Rule(b, named_placement("encoder")))
    compression = compression.followed_by(Rule(c, active=ActiveRange(0.5, 1)))
    assert compression.rule_at(ENCODER, DenoisingProgress(0.2)).method is b
    assert compression.rule_at(DECODER, DenoisingProgress(0.2)).method is a
    assert compression.rule_at(ENCODER, MIDDLE).method is c
    assert compression.rule_at(DECODER, DenoisingProgress(1.0)).method is c
    assert Compression().rule_at(ENCODER, MIDDLE) is None


def test_following_leaves_the_original_alone():
    first = Compression((Rule(MERGING),))
    second = first.followed_by(Rule(POOLING))
    assert first.rules == (Rule(MERGING),)
    assert second.rules == (Rule(MERGING), Rule(POOLING))


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [(MERGING, POOLING), (POOLING, MERGING), (BlockMerging(0.7), KVSelection())],
)
def test_each_stage_can_have_its_own_operator(randn, encoder, decoder):
    """A hybrid is each operator alone on its half."""
    hybrid = network_call(
        Rule(encoder, named_placement("encoder")), Rule(decoder, named_placement("decoder"))
    )
    alone = {"encoder": network_call(Rule(encoder)), "decoder": network_call(Rule(decoder))}
    for number, stage in enumerate(["encoder"] * 2 + ["middle"] + ["decoder"] * 3):
        layer_id, x = LayerId(number, stage), randn(2, 64, 16, seed=number)
        found = planned(hybrid, layer_id, x, GRID)
        expected = {stage: planned(call, layer_id, x, GRID) for stage, call in alone.items()}
        if stage == "middle":
            assert found == IdentityPlan(64)
        else:
            assert type(found) is type(expected[stage]) and same(found, expected[stage], x)
            assert hybrid.log.layers[layer_id] == alone[stage].log.layers[layer_id]
    assert hybrid.log.layers_compressed == 5
    assert [record.calls for record in hybrid.log.layers.values()] == [1] * 6


@pytest.mark.parametrize(
    ("method", "layer_flops", "left", "after"),
    [
        (
            MERGING,
            input_shortened,
            (32, 32),
            4 * 32 * 32 * 16 + 8 * 32 * 16**2 + 2 * 48 * 16 * 16 + 18 * 64 * 16,
        ),  # half of the tokens; their 16 destinations are one per 2 x 2 cell
        (POOLING, input_shortened, (64, 16), 4 * 64 * 16 * 16 + (4 * 64 + 4 * 16) * 16**2),
        (POOLING, projections_shortened, (64, 16), 4 * 64 * 16 * 16 + (4 * 64 + 4 * 64) * 16**2),
    ],
)
def test_the_log_holds_the_closed_form(randn, method, layer_flops, left, after):
    call = network_call(Rule(method), layer_flops=layer_flops)
    planned(call, ENCODER, randn(2, 64, 16), GRID)
    before = 4 * 64 * 64 * 16 + 8 * 64 * 16**2
    assert call.log.layers == {ENCODER: LayerRecord(method.name, 1, 1, 64, *left, before, after)}


def test_the_log_adds_up_the_calls_of_a_run(randn):
    log, rule = RunLog(), Rule(POOLING, active=ActiveRange(0.5, 1))
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        call = network_call(rule, progress=progress, log=log, layer_flops=projections_shortened)
        call.visit(ENCODER, randn(1, 64, 16), GRID)
    record = log.layers[ENCODER]
    assert (record.calls, record.compressed) == (5, 3)
    assert log.flops_saved == 3 * 4 * 64 * (64 - 16) * 16
    log.clear()
    assert log == RunLog()


def test_no_call_is_lost_where_devices_write_at_once():
    log, devices, calls = RunLog(), 4, 5

    def run(device):
        for _ in range(calls):
            log.add_skipped(ENCODER, 64, 16, lambda *_: Slow(10), "no grid")
            log.add_call((4, 8, 8), 100)

    with ThreadPoolExecutor(devices) as pool:
        list(pool.map(run, range(devices)))
    count = devices * calls
    assert log.layers[ENCODER].calls == log.network_calls == log.skipped["no grid"] == count
    assert log.flops_before == log.flops_fixed == 10 * count and log.network_flops == 100 * count


def test_an_unexpected_token_count_does_not_matter_where_no_rule_acts(randn):
    call = network_call(Rule(MERGING, Placement(stages=("decoder",))))
    assert planned(call, ENCODER, randn(1, 65, 16), GRID) == IdentityPlan(65)
    assert not call.log.skipped


@pytest.mark.parametrize(
    ("rule", "side", "tokens", "reason"),
    [
        *(
            (Rule(method), side, side**2, f"{method.name} keeps every token of {side} x {side}")
            for method, side in KEEPING_EVERY_TOKEN.items()
        ),
        *(
            (Rule(method), 8, 65, "65 tokens where the image has 8 x 8")
            for method in (MERGING, POOLING)
        ),
        *(
            (Rule(POOLING, Placement(min_tokens=n)), 8, 64, f"64 tokens, below the minimum of {n}")
            for n in (65, 4096)
        ),
    ],
)
def test_a_layer_that_is_skipped_is_logged_with_the_reason(randn, rule, side, tokens, reason):
    call = network_call(rule)
    for _ in range(2):
        x = randn(1, tokens, 16)
        assert planned(call, ENCODER, x, TokenGrid(side, side)) == IdentityPlan(tokens)
    assert call.log.skipped == {reason: 2}
    plain = 2 * self_attention_flops(16, tokens, tokens, tokens)
    untouched = LayerRecord(calls=2, flops_before=plain, flops_after=plain)
    assert call.log.layers == {ENCODER: untouched}
    assert call.log.flops_saved == call.log.layers_compressed == 0


@pytest.mark.parametrize("least", [0, 64])
def test_a_layer_of_the_least_number_of_tokens_is_compressed(randn, least):
    call = network_call(Rule(POOLING, Placement(min_tokens=least)))
    assert isinstance(planned(call, ENCODER, randn(1, 64, 16), GRID), PoolPlan)
    assert not call.log.skipped


@pytest.mark.parametrize(
    "method", [TokenMerging, BlockMerging, SimilarityPruning, KVSelection, KVCellSelection]
)
def test_the_normed_state_is_for_methods_that_ask_for_it(randn, method):
    """Where a layer has none of its own, its input is it."""
    x, normed = randn(2, 64, 16), randn(2, 64, 16, seed=1)
    for metric, given, wanted in (
        ("block input", (x, GRID, normed), x),
        ("normed", (x, GRID, normed), normed),
        ("normed", (x, GRID), x),
    ):
        asking = method(metric=metric)
        plan = network_call(Rule(asking)).visit(ENCODER, *given).plan
        assert same(plan, asking.plan(wanted, GRID, MIDDLE, 0), normed)


def test_forwards_are_replaced_and_restored():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    before = layer(x)
    with replaced_forwards([(layer, lambda x: x), (layer, lambda x: x + 1)]):
        assert torch.equal(layer(x), x + 1)
        assert set(layer.state_dict()) == {"weight", "bias"}
    assert torch.equal(layer(x), before)
    assert "forward" not in layer.__dict__


@pytest.mark.parametrize("layers", [1, 2])
def test_forwards_are_restored_after_an_exception(layers):
    """In the block, or where the second replacement cannot be made."""
    first, second = nn.Identity(), nn.Identity()

    def replacements():
        yield from [(first, abs), (second, abs)][:layers]
        if layers == 1:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        with replaced_forwards(replacements()):
            assert layers == 2, "the block ran"
            raise RuntimeError("interrupted")
    assert "forward" not in first.__dict__ and "forward" not in second.__dict__
