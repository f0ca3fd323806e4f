"""Compression of a video takes hardly more memory than the plain model."""

import comfy.ldm.wan.model
import comfy.ops
import pytest
import torch
from comfy.ldm.modules.attention import wrap_attn
from comfy.ldm.wan.model import WanModel
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.kernels import LiveMemory
from bigain_core.comfyui.patching.adapter import Inputs
from bigain_core.comfyui.patching.families import FAMILIES
from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.rules import Rule
from bigain_core.methods import KeyMerging, KVDownsampling, KVSelection, TokenMerging
from bigain_core.tokens import parts
from tests.core.calls import network_call

WAN = next(family.adapter for family in FAMILIES if family.name == "Wan")


@wrap_attn
def fused(q, k, v, heads, *args, **kwargs):
    """Takes memory for its result alone, as kernels that never hold all weights."""
    return torch.empty_like(q)


@pytest.fixture(autouse=True)
def fused_attention(monkeypatch):
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", fused)


def peak(*methods):
    """Bytes at the peak of self-attention in Wan 2.1 14B at 720p, 81 frames, without weights."""
    with FakeTensorMode(), torch.no_grad():
        place = {"device": "cuda", "dtype": torch.bfloat16}
        sizes = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 1}
        model = WanModel("t2v", **sizes, operations=comfy.ops.disable_weight_init, **place)
        latent, text = torch.empty(1, 16, 21, 90, 160, **place), torch.empty(1, 512, 4096, **place)
        call = network_call(*map(Rule, methods), layer_flops=WAN.layer_flops)
        found = WAN.intercept(WAN.layers(model), call, Inputs(model, latent, text, {}, {}))
        positions = model.rope_encode(21, 90, 160, **place)
        with LiveMemory() as memory, replaced_forwards(found.forwards):
            x = torch.empty(1, 21 * 45 * 80, 5120, **place)
            model.blocks[0].self_attn(x, positions, transformer_options=found.options)
    assert call.log.layers_compressed == len(methods)
    return memory.peak


METHODS = [
    TokenMerging(0.7),
    TokenMerging(0.7, frames=4),
    KVSelection(),
    KVDownsampling(2, frames=2),
    KeyMerging(frames=2),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_video_at_full_size_takes_a_tenth_more_at_most(method):
    plain = peak()
    assert plain > 5 * 2 * 21 * 45 * 80 * 5120  # tokens, queries, keys, values and the result
    assert peak(method) <= 1.1 * plain


def test_all_frames_at_once_would_take_more(monkeypatch):
    monkeypatch.setattr(parts, "AT_ONCE", 2**40)
    assert peak(TokenMerging(0.7)) > 1.1 * peak()
