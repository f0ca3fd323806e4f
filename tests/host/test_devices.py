"""Every family on a device that is not the CPU, beside the plain model there."""

from functools import cache
from unittest.mock import patch

import comfy.model_management
import pytest
import torch
from bigain.bigain_core.comfyui.patching.attach import compression_state
from comfy.ldm.qwen_image import model as qwen_image
from comfy.patcher_extension import WrappersMP
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from tests.devices import DEVICE, StandIn, moved
from tests.host.compressing import merge, pool
from tests.host.families import NAMED, for_cases, parametrized
from tests.host.families.case import sample

pytestmark = pytest.mark.once

WAYS = {
    "L-GTM": lambda model: merge(model, 0.5),
    "ToMe": lambda model: merge(model, 0.5, method="ToMe"),
    "SiTo": lambda model: merge(model, 0.5, method="SiTo"),
    "IE-KVD": pool,
}


# Each family merges, each way to attention takes every method, and each mask is pooled, too.
REACH = ("sd15", "pixart_alpha", "flux")
MASKED = ("hunyuan_video_padded", "ideogram4", "lens", "qwen_image_padded")
PRECISION = {"lens": (torch.bfloat16,)}  # in fp32 all layers get one mask
FAMILIES = (
    "sd15", "dit", "pixart_alpha", "hunyuan_dit", "wan", "flux", "hunyuan_video", "sd3", "auraflow",
    "qwen_image", "lumina2", *MASKED,
)  # fmt: skip
CHOSEN = [("L-GTM", name) for name in FAMILIES] + [("IE-KVD", name) for name in MASKED]
CHOSEN += [(way, name) for way in WAYS if way != "L-GTM" for name in REACH]


def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **kwargs):
    """Written out, as torch asks the driver of a device which kernel it has."""
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        logits = logits + attn_mask
    return logits.softmax(-1) @ v


def plenty(device=None, torch_free_too=False):
    return (2**40, 2**40) if torch_free_too else 2**40


def first_call(case):
    """What the host gives the network in the first call of a run, by position and by name."""
    calls = []

    def noted(executor, x, t, concat, text, control, options, **conds):
        calls.append(((x, t, concat, text, control), options, conds))
        return x

    model = case.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "noted", noted)
    sample(case, model, steps=1)
    return calls[0]


def on_device(call, model, network):
    """The prediction of a second call, as a first one may prepare something, and what it did."""
    inputs, options, conds = call
    options = {**options, **model.model_options["transformer_options"], "wrappers": model.wrappers}
    inputs, conds = tree_map_only(torch.Tensor, lambda t: t.to(DEVICE), (inputs, conds))
    for _ in range(2):
        with StandIn(refuses_doubles=False) as stand_in:
            prediction = network.apply_model(*inputs, options, **conds)
    return prediction, stand_in


@cache
def plain_call(case):
    """What the network is given, the network on the device, and what it does without us."""
    call = first_call(case)
    with StandIn(refuses_doubles=False):
        network = moved(case.build(*PRECISION.get(case.name, ())).model)
        return call, network, *on_device(call, case.model, network)


@parametrized("case, way", {f"{way}-{name}": (NAMED[name], way) for way, name in CHOSEN})
def test_a_network_call_waits_once_for_its_noise_level_and_its_mask(case, way, monkeypatch):
    """The host itself may wait as it likes, and make 64-bit floats where it knows the device."""
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", plenty)
    call, network, plain, without = plain_call(case)
    with StandIn(refuses_doubles=False):
        compressed, found = on_device(call, WAYS[way](case.model), network)
        assert not torch.equal(plain, compressed)
    assert len(found.waits) == len(without.waits) + 1
    assert found.doubles == without.doubles


@for_cases([NAMED["qwen_image_padded"]])
def test_a_call_whose_mask_is_uneven_is_skipped_and_others_are_not(case, monkeypatch):
    whole, calls = qwen_image.optimized_attention_masked, []

    def uneven_in_the_second(q, k, v, heads, mask, **kwargs):
        calls.append(mask)
        mask = q.new_zeros(len(q), 1, k.shape[2]) if mask is None else mask.clone()  # older hosts
        mask[..., -1:] = -1e9 * (len(calls) in (3, 4))  # of two layers each
        return whole(q, k, v, heads, mask, **kwargs)

    monkeypatch.setattr(qwen_image, "optimized_attention_masked", uneven_in_the_second)
    compressed = pool(case.model)
    sample(case, compressed, steps=3)
    log = compression_state(compressed).log
    assert len(calls) == 6
    assert [record.compressed for record in log.layers.values()] == [2, 2]
    assert dict(log.skipped) == {"an attention mask differs between image tokens": 2}


@for_cases([NAMED["qwen_image_padded"]])
def test_a_layer_of_another_pack_whose_mask_is_uneven_is_skipped(case):
    """Whose mask it makes of the same prompt as the host's layer in front of it."""
    model, whole = case.build(), qwen_image.optimized_attention_masked

    def half(q, k, v, heads, mask, **kwargs):
        tokens = k.shape[2]
        hidden = q.new_zeros(len(q), 1, tokens) if mask is None else mask.clone()  # older hosts
        hidden[..., -tokens // 2 :] = -1e9
        return whole(q, k, v, heads, hidden, **kwargs)

    layer, name = model.model.diffusion_model.transformer_blocks[1].attn, "transformer_blocks.1"

    def replaced(*args, **kwargs):
        with patch.object(qwen_image, "optimized_attention_masked", half):
            return type(layer).forward(layer, *args, **kwargs)

    model.add_object_patch(f"diffusion_model.{name}.attn.forward", replaced)
    compressed = pool(model)
    sample(case, compressed, steps=1)
    log = compression_state(compressed).log
    assert [record.compressed for record in log.layers.values()] == [1, 0]
    assert dict(log.skipped) == {"an attention mask differs between image tokens": 1}
