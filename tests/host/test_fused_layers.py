"""Operations of layers that the host computes without calling them: some of int8 weights."""

import comfy.ops
import pytest
import torch
from bigain.bigain_core.comfyui.patching import fused_layers
from bigain.bigain_core.comfyui.patching.attach import compression_state
from torch.nn import functional

from tests.host.compressing import pool
from tests.host.families import NAMED
from tests.host.families.case import sample


def operations(model):
    compressed = pool(model)
    sample(NAMED["wan"], compressed, steps=1)
    return compression_state(compressed).log.networks


@pytest.fixture
def past_forwards(monkeypatch):
    """A host that computes such layers of Wan past their forwards, whatever their weights."""
    called = []

    def fused(linear, x, input_act):
        called.append(linear)
        x = functional.gelu(x, approximate="tanh")
        return functional.linear(x, linear.weight, linear.bias)

    monkeypatch.setattr(comfy.ops, fused_layers.FUSED, fused)
    return called


@pytest.mark.skipif(
    not hasattr(comfy.ops, fused_layers.FUSED), reason="this ComfyUI calls every linear layer"
)
def test_layers_that_are_not_called_count_as_if_they_were(monkeypatch, request):
    model = NAMED["wan"].model
    expected = operations(model)
    called = request.getfixturevalue("past_forwards")
    stand_in = getattr(comfy.ops, fused_layers.FUSED)
    assert operations(model) == expected
    assert set(called) == {block.ffn[2] for block in model.model.diffusion_model.blocks}
    assert getattr(comfy.ops, fused_layers.FUSED) is stand_in
    monkeypatch.setattr(fused_layers, "FUSED", "of no host")
    assert operations(model) != expected, "the hooks alone do not see them"


def test_layers_of_another_network_do_not_count(monkeypatch):
    monkeypatch.setattr(
        comfy.ops, fused_layers.FUSED, lambda linear, x: x @ linear.weight.T, raising=False
    )
    ours, other = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    count = fused_layers.LayerCount()
    with fused_layers.counted_past_forwards(torch.nn.Sequential(ours), count):
        for layer in (ours, other):
            getattr(comfy.ops, fused_layers.FUSED)(layer, torch.ones(2, 3))
    assert count.flops == 2 * 2 * 3 * 5
