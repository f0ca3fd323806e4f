"""Every family on a device that is not the CPU, beside the plain model there."""

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from tests.devices import DEVICE, StandIn, moved
from tests.host.compressing import merge, pool
from tests.host.families import NAMED, for_cases
from tests.host.families.case import sample

WAYS = {
    "L-GTM": lambda model: merge(model, 0.5),
    "ToMe": lambda model: merge(model, 0.5, method="ToMe"),
    "SiTo": lambda model: merge(model, 0.5, method="SiTo"),
    "IE-KVD": pool,
}


FAMILIES = (  # whose attention has no mask, which would have to be looked at
    "sd15", "sdxl", "dit", "pixart_alpha", "hunyuan_dit", "wan", "flux", "chroma",
    "hunyuan_video", "sd3", "auraflow", "qwen_image", "lumina2", "z_image",
)  # fmt: skip


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


@for_cases(NAMED[name] for name in FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_a_network_call_waits_once_for_its_noise_level(case, way, monkeypatch):
    """The host itself may wait as it likes, and make 64-bit floats where it knows the device."""
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", plenty)
    call = first_call(case)
    with StandIn(refuses_doubles=False):
        network = moved(case.build().model)
        plain, without = on_device(call, case.model, network)
        compressed, found = on_device(call, WAYS[way](case.model), network)
        assert not torch.equal(plain, compressed)
    assert len(found.waits) == len(without.waits) + 1
    assert found.doubles == without.doubles
