"""Layers in which a method takes more time than it saves are named, and skipped on request."""

import pytest
import torch

from bigain_core.compression import break_even
from bigain_core.compression.automatic import AUTO, automatic_rules
from bigain_core.compression.break_even import least_tokens, saved_flops, why_slower
from bigain_core.compression.report import summary
from bigain_core.compression.rules import Rule
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import attention_shortened, input_shortened, projections_shortened
from bigain_core.methods import KVDownsampling, TokenMerging
from bigain_core.placement import LayerId, Placement
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import IdentityPlan, PoolPlan
from tests.core.calls import network_call, planned

FIRST, POOLING = LayerId(0, "encoder"), KVDownsampling(2)
WIDTH = 16


def saved_by_pooling(tokens, width=WIDTH):
    """3/4 of keys and values: attention, and their two projections."""
    return 3 * tokens**2 * width + 3 * tokens * width**2


@pytest.fixture
def pays_from(monkeypatch):
    """Sets the threshold of pooling on the CPU; of nothing else is anything known."""

    def fix(threshold):
        monkeypatch.setattr(break_even, "BREAK_EVEN", {"cpu": {KVDownsampling: threshold}})

    return fix


def call_of(x, grid, *, rule=Rule(POOLING), log=None, layer_id=FIRST):  # noqa: B008
    call = network_call(rule, log=log)
    return planned(call, layer_id, x, grid), call.log


@pytest.mark.parametrize("side", [4, 8, 20])
def test_savings_are_those_of_the_closed_form(side):
    found = saved_flops(POOLING, TokenGrid(side, side), WIDTH, input_shortened)
    assert found == saved_by_pooling(side**2)


def test_merging_pays_for_its_decision():
    saved = saved_flops(TokenMerging(0.5), TokenGrid(8, 8), WIDTH, input_shortened)
    plain = 4 * 64**2 * WIDTH + 8 * 64 * WIDTH**2
    left = 4 * 32**2 * WIDTH + 8 * 32 * WIDTH**2 + 2 * 48 * 16 * WIDTH + 18 * 64 * WIDTH
    assert saved == plain - left


def test_text_and_frames_count():
    """Text is attended to by the image and keeps its own keys; frames are compressed one by one."""
    grid = TokenGrid(4, 4, frames=2, prefix=5)
    found = saved_flops(POOLING, grid, WIDTH, attention_shortened)
    keys_saved = 2 * (16 - 4)
    assert found == 4 * 37 * keys_saved * WIDTH


@pytest.mark.parametrize(("above", "slower"), [(-1, False), (0, False), (1, True)])
def test_the_threshold_itself_pays(pays_from, above, slower):
    pays_from(saved_by_pooling(64) + above)
    reason = why_slower(POOLING, TokenGrid(8, 8), WIDTH, input_shortened, "cpu")
    assert bool(reason) == slower


def test_the_reason_names_a_size_that_pays(pays_from):
    pays_from(saved_by_pooling(24**2))
    reason = why_slower(POOLING, TokenGrid(8, 8), WIDTH, input_shortened, "cpu")
    assert reason == (
        "64 tokens of 16 channels, where IE-KVD factor 2, alpha 0.9 breaks even at about 576 "
        "tokens on cpu"
    )
    assert not why_slower(POOLING, TokenGrid(24, 24), WIDTH, input_shortened, "cpu")
    assert why_slower(POOLING, TokenGrid(23, 23), WIDTH, input_shortened, "cpu")


def test_what_pays_at_no_size_is_called_so():
    assert least_tokens(POOLING, WIDTH, input_shortened, 10**15) is None


@pytest.mark.parametrize(("method", "device"), [(TokenMerging(0.5), "cpu"), (POOLING, "cuda")])
def test_what_nobody_has_measured_is_not_judged(pays_from, method, device):
    pays_from(10**15)
    assert why_slower(method, TokenGrid(8, 8), WIDTH, input_shortened, device) is None


def test_a_gpu_is_known_by_its_name(monkeypatch):
    gpu = torch.device("cuda", 3)
    break_even.kind_of.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    try:
        assert break_even.kind_of(gpu) == "GPU 3"
        assert break_even.kind_of(torch.device("cpu")) == "cpu"
    finally:
        break_even.kind_of.cache_clear()


@pytest.mark.parametrize(("side", "compressed"), [(32, False), (64, False), (128, True)])
def test_auto_compresses_dit_xl_on_an_h200_only_at_the_size_where_it_was_faster(side, compressed):
    """Pooled so, with fewer pairs, it was 0.44, 0.69 and 1.77 times as fast."""
    (rule,) = automatic_rules(AUTO, projections_shortened, 28)
    reason = why_slower(
        rule.method, TokenGrid(side, side), 1152, projections_shortened, "NVIDIA H200"
    )
    assert (not reason) == compressed


@pytest.mark.parametrize(
    ("threshold", "only_where_faster", "plan", "told"),
    [
        (10**15, False, PoolPlan, "1 of 1 layers are expected to run slower than uncompressed: 64"),
        (10**15, False, PoolPlan, "does not break even on cpu"),
        (10**15, True, IdentityPlan, "64 tokens of 16 channels"),
        (1, False, PoolPlan, "All of these layers are expected to run faster on cpu."),
        (1, True, PoolPlan, "All of these layers are expected to run faster on cpu."),
        (
            *(None, True, PoolPlan),
            "Whether these layers run faster on cpu has not been measured, so none was skipped for "
            "its speed.",
        ),
    ],
)
def test_a_layer_that_does_not_pay_is_named_and_skipped_on_request(
    monkeypatch, pays_from, randn, threshold, only_where_faster, plan, told
):
    pays_from(threshold)
    if threshold is None:
        monkeypatch.setattr(break_even, "BREAK_EVEN", {})
    rule = Rule(POOLING, only_where_faster=only_where_faster)
    found, log = call_of(randn(1, 64, WIDTH), TokenGrid(8, 8), rule=rule)
    assert isinstance(found, plan)
    assert told in summary(log)
    if plan is IdentityPlan:
        (reason,) = log.skipped
        assert reason.startswith(told) and reason in summary(log)
        assert log.flops_saved == 0
    elif threshold != 10**15:
        assert summary(log).endswith(told)


def test_one_small_layer_among_large_ones_is_told(pays_from, randn):
    pays_from(saved_by_pooling(144))
    log = RunLog()
    for number, side in enumerate((16, 8, 12)):
        x, grid = randn(1, side**2, WIDTH), TokenGrid(side, side)
        call_of(x, grid, log=log, layer_id=LayerId(number, "encoder"))
    assert "1 of 3 layers are expected to run slower than uncompressed: 64 tokens" in summary(log)
    log.clear()
    assert log == RunLog()


def test_a_placement_still_decides_first(randn):
    rule = Rule(POOLING, Placement(min_tokens=65), only_where_faster=True)
    _, log = call_of(randn(1, 64, WIDTH), TokenGrid(8, 8), rule=rule)
    assert list(log.skipped) == ["64 tokens, below the minimum of 65"]


def test_every_method_was_measured_on_the_processor():
    import bigain_core.methods as methods

    kinds = {kind for kind in vars(methods).values() if isinstance(kind, type)}
    concrete = {k for k in kinds if issubclass(k, methods.Method) and k is not methods.Method}
    assert set(break_even.BREAK_EVEN["cpu"]) == concrete


def test_the_expectation_is_cheap_to_ask_for_again():
    """It is asked for in every layer of every step: the plan is made once for each shape."""
    grid, method = TokenGrid(32, 32), TokenMerging(0.31)
    first = why_slower(method, grid, 64, input_shortened, "cpu")
    before = saved_flops.cache_info().misses
    assert why_slower(method, grid, 64, input_shortened, "cpu") == first
    assert saved_flops.cache_info().misses == before
