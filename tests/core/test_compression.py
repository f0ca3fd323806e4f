"""Rules, the log of a network call and replaced forwards."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.network_call import NetworkCall
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
from bigain_core.tokens.plans import IdentityPlan, MergePlan, PoolPlan

ENCODER, DECODER = LayerId(0, "encoder"), LayerId(1, "decoder")
GRID = TokenGrid(8, 8)
MERGING, POOLING = TokenMerging(0.5), KVDownsampling(2)


@dataclass(frozen=True)
class Named:
    """A method that does nothing but be told apart."""

    name: str


def network_call(*rules, progress=0.5, layer_flops=input_shortened):
    return NetworkCall(Compression(rules), DenoisingProgress(progress), RunLog(), layer_flops)


def test_without_rules_nothing_acts():
    assert Compression().rule_at(ENCODER, DenoisingProgress(0.5)) is None


def test_the_last_rule_that_matches_decides():
    a, b, c = (Named(name) for name in "abc")
    compression = Compression((Rule(a),))
    compression = compression.followed_by(Rule(b, named_placement("encoder")))
    compression = compression.followed_by(Rule(c, active=ActiveRange(0.5, 1)))
    assert compression.rule_at(ENCODER, DenoisingProgress(0.2)).method is b
    assert compression.rule_at(DECODER, DenoisingProgress(0.2)).method is a
    assert compression.rule_at(ENCODER, DenoisingProgress(0.5)).method is c
    assert compression.rule_at(DECODER, DenoisingProgress(1.0)).method is c


def test_following_leaves_the_original_alone():
    first = Compression((Rule(MERGING),))
    second = first.followed_by(Rule(POOLING))
    assert first.rules == (Rule(MERGING),)
    assert second.rules == (Rule(MERGING), Rule(POOLING))


def test_each_stage_can_have_its_own_operator(randn):
    call = network_call(
        Rule(MERGING, named_placement("encoder")), Rule(POOLING, named_placement("decoder"))
    )
    metric = randn(2, 64, 16)
    assert isinstance(call.plan(ENCODER, metric, GRID), MergePlan)
    assert isinstance(call.plan(DECODER, metric, GRID), PoolPlan)
    assert isinstance(call.plan(LayerId(2, "middle"), metric, GRID), IdentityPlan)
    assert call.log.layers_compressed == 2
    assert [record.calls for record in call.log.layers.values()] == [1, 1, 1]


def test_the_log_holds_the_closed_form_of_merging(randn):
    call = network_call(Rule(MERGING))
    call.plan(ENCODER, randn(2, 64, 16), GRID)
    before = 4 * 64 * 64 * 16 + 8 * 64 * 16**2
    after = 4 * 32 * 32 * 16 + 8 * 32 * 16**2  # half of the tokens are left
    decision = 2 * 48 * 16 * 16 + 18 * 64 * 16  # 16 destinations, one per 2 x 2 cell
    assert call.log.layers == {
        ENCODER: LayerRecord("L-GTM 0.5", 1, 1, 64, 32, 32, before, after + decision)
    }


@pytest.mark.parametrize(
    ("layer_flops", "projected"), [(input_shortened, 16), (projections_shortened, 64)]
)
def test_the_log_holds_the_closed_form_of_pooling(randn, layer_flops, projected):
    call = network_call(Rule(POOLING), layer_flops=layer_flops)
    call.plan(ENCODER, randn(2, 64, 16), GRID)
    before = 4 * 64 * 64 * 16 + 8 * 64 * 16**2
    after = 4 * 64 * 16 * 16 + 4 * 64 * 16**2 + 4 * projected * 16**2
    assert call.log.layers == {
        ENCODER: LayerRecord("IE-KVD factor 2, alpha 0.9", 1, 1, 64, 64, 16, before, after)
    }


def test_the_log_adds_up_the_calls_of_a_run(randn):
    log, compression = RunLog(), Compression((Rule(POOLING, active=ActiveRange(0.5, 1)),))
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        call = NetworkCall(
            compression, DenoisingProgress(progress), log, layer_flops=projections_shortened
        )
        call.plan(ENCODER, randn(1, 64, 16), GRID)
    record = log.layers[ENCODER]
    assert (record.calls, record.compressed) == (5, 3)
    assert log.flops_saved == 3 * 4 * 64 * (64 - 16) * 16
    log.clear()
    assert log == RunLog()


@pytest.mark.parametrize("method", [MERGING, POOLING])
def test_an_unexpected_token_count_is_left_alone_and_logged(randn, method):
    call = network_call(Rule(method))
    x = randn(1, 65, 16)
    for _ in range(2):
        plan = call.plan(ENCODER, x, GRID)
        assert plan.queries(x) is x and plan.context(x) is x and plan.restore(x) is x
    assert call.log.skipped == {"65 tokens where the image has 8 x 8": 2}
    plain = 2 * self_attention_flops(16, 65, 65, 65)
    untouched = LayerRecord(calls=2, flops_before=plain, flops_after=plain)
    assert call.log.layers == {ENCODER: untouched}
    assert call.log.flops_saved == call.log.layers_compressed == 0


def test_an_unexpected_token_count_does_not_matter_where_no_rule_acts(randn):
    call = network_call(Rule(MERGING, Placement(stages=("decoder",))))
    assert call.plan(ENCODER, randn(1, 65, 16), GRID) == IdentityPlan(65)
    assert not call.log.skipped


@pytest.mark.parametrize(("least", "acts"), [(0, True), (64, True), (65, False), (4096, False)])
def test_a_layer_of_too_few_tokens_is_left_alone_and_logged(randn, least, acts):
    call = network_call(Rule(POOLING, Placement(min_tokens=least)))
    x = randn(1, 64, 16)
    plan = call.plan(ENCODER, x, GRID)
    assert isinstance(plan, PoolPlan if acts else IdentityPlan)
    reason = f"64 tokens, fewer than the {least} asked for"
    assert call.log.skipped == ({} if acts else {reason: 1})


@pytest.mark.parametrize(
    ("method", "side"),
    [
        (MERGING, 1),
        (TokenMerging(0.05), 4),
        (TokenMerging(0.5, cell=5), 4),
        (BlockMerging(0.1), 5),
        (SimilarityPruning(0.7), 1),
        (KVDownsampling(4), 1),
        (KVSelection("low", 0.0), 4),
        (KVCellSelection("low", 1), 4),
    ],
)
def test_a_plan_that_keeps_every_token_is_logged_as_left_alone(randn, method, side):
    call = network_call(Rule(method))
    x = randn(1, side**2, 16)
    assert call.plan(ENCODER, x, TokenGrid(side, side)) == IdentityPlan(side**2)
    assert call.log.skipped == {f"{method.name} keeps every token of {side} x {side}": 1}
    plain = self_attention_flops(16, side**2, side**2, side**2)
    untouched = LayerRecord(calls=1, flops_before=plain, flops_after=plain)
    assert call.log.layers == {ENCODER: untouched}


SCORED = [TokenMerging, BlockMerging, SimilarityPruning, KVSelection, KVCellSelection]


def same(plan, other, x):
    """Whether two plans shorten x alike."""
    return torch.equal(plan.queries(x), other.queries(x)) and torch.equal(
        plan.context(x), other.context(x)
    )


@pytest.mark.parametrize("method", SCORED)
def test_the_normed_state_is_for_methods_that_ask_for_it(randn, method):
    block_input, normed = randn(2, 64, 16), randn(2, 64, 16, seed=1)
    for metric, wanted in {"block input": block_input, "normed": normed}.items():
        asking = method(metric=metric)
        plan = network_call(Rule(asking)).plan(ENCODER, block_input, GRID, normed)
        assert same(plan, asking.plan(wanted, GRID, DenoisingProgress(0.5), 0), normed)


@pytest.mark.parametrize("method", SCORED)
def test_without_a_normed_state_of_its_own_the_metric_is_it(randn, method):
    metric = randn(2, 64, 16)
    asking = method(metric="normed")
    plan = network_call(Rule(asking)).plan(ENCODER, metric, GRID)
    assert same(plan, asking.plan(metric, GRID, DenoisingProgress(0.5), 0), metric)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [(MERGING, POOLING), (POOLING, MERGING), (BlockMerging(0.7), KVSelection())],
)
def test_a_hybrid_is_each_operator_alone_on_its_half(randn, encoder, decoder):
    layers = [LayerId(n, "encoder" if n < 2 else "decoder") for n in range(5)]
    hybrid = network_call(
        Rule(encoder, named_placement("encoder")), Rule(decoder, named_placement("decoder"))
    )
    alone = {"encoder": network_call(Rule(encoder)), "decoder": network_call(Rule(decoder))}
    for layer_id in layers:
        x = randn(2, 64, 16, seed=layer_id.number)
        expected = {stage: call.plan(layer_id, x, GRID) for stage, call in alone.items()}
        assert same(hybrid.plan(layer_id, x, GRID), expected[layer_id.stage], x)
        assert hybrid.log.layers[layer_id] == alone[layer_id.stage].log.layers[layer_id]


def test_forwards_are_replaced_and_restored():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    before = layer(x)
    with replaced_forwards([(layer, lambda x: x + 1)]):
        assert torch.equal(layer(x), x + 1)
        assert set(layer.state_dict()) == {"weight", "bias"}
    assert torch.equal(layer(x), before)
    assert "forward" not in layer.__dict__


def test_forwards_are_restored_after_an_exception():
    first, second = nn.Identity(), nn.Identity()
    with pytest.raises(RuntimeError, match="interrupted"):
        with replaced_forwards([(first, abs), (second, abs)]):
            raise RuntimeError("interrupted")
    assert "forward" not in first.__dict__ and "forward" not in second.__dict__


def test_forwards_are_restored_when_a_later_replacement_cannot_be_made():
    layer = nn.Identity()

    def replacements():
        yield layer, abs
        raise RuntimeError("no second layer")

    with pytest.raises(RuntimeError, match="no second layer"):
        with replaced_forwards(replacements()):
            raise AssertionError("the block ran")
    assert "forward" not in layer.__dict__


def test_a_foreign_forward_is_wrapped_and_kept():
    layer, x = nn.Identity(), torch.ones(2)

    def foreign(x):
        return 10 * x

    layer.forward = foreign

    def replacements():
        original = layer.forward
        yield layer, lambda x: original(x) + 1

    with replaced_forwards(replacements()):
        assert torch.equal(layer(x), 10 * x + 1)
    assert layer.__dict__["forward"] is foreign


def test_a_module_may_be_replaced_twice():
    layer = nn.Identity()
    with replaced_forwards([(layer, lambda x: 1), (layer, lambda x: 2)]):
        assert layer(torch.ones(1)) == 2
    assert "forward" not in layer.__dict__
