"""What `benchmarks.speed` counts of a network, against closed forms."""

from dataclasses import replace

import pytest
import torch

from benchmarks import networks
from benchmarks.demo_whole import whole_call
from benchmarks.dry_run import dry_run
from benchmarks.speed import settings
from bigain_core.measure.flops import matching_flops, projections_shortened
from bigain_core.tokens.grid import TokenGrid
from tests.core.classifying import Calls

WIDTH = 64
DIT = replace(networks.DIT_XL_2, input_size=24, hidden_size=WIDTH, depth=3, num_heads=2)
GRID = TokenGrid(12, 12)


@pytest.fixture
def dit(monkeypatch):
    monkeypatch.setattr(networks, "DIT_XL_2", DIT)
    network = networks.networks()["DiT-XL/2"]
    return network, networks.load(network, torch.float32)


@pytest.mark.parametrize(
    ("name", "queries", "context", "deciding"),
    [
        ("L-GTM 0.7", 44, 44, matching_flops(WIDTH, GRID.tokens, GRID.tokens // 4)),
        ("IE-KVD factor 2", 144, 36, 0),
    ],
)
def test_a_dry_run_of_a_transformer_saves_what_its_layers_save(
    dit, name, queries, context, deciding
):
    network, model = dit
    inputs = network.inputs(24, 24)
    overlay = settings(model, network, [name])[name]
    plain, found = (dry_run(model, inputs, chosen).flops for chosen in ({}, overlay))
    before, after = (
        projections_shortened(WIDTH, GRID.tokens, *left)
        for left in ((GRID.tokens, GRID.tokens), (queries, context))
    )
    assert plain - found == DIT.depth * (before - after - deciding)


def test_the_call_of_the_demo_is_timed_off_and_on(monkeypatch):
    """On a network of the same kind that is smaller."""
    monkeypatch.setitem(networks.SD15, "model_channels", 32)
    calls = Calls()
    found = whole_call(pixels=384, rounds=1, listener=calls)
    assert list(found.measured) == ["off", "BiGain (Auto)"] and sum(calls.counts) == 4
    assert found.measured["BiGain (Auto)"].layers > 0 and found.ceiling("BiGain (Auto)") > 1
    assert found.gain("BiGain (Auto)").median > 0
