"""Weights of keys where the kernel takes no mask."""

from functools import partial, wraps

import comfy.ldm.flux.math as flux
import comfy.ldm.modules.attention as host
import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
import pytest
from bigain.bigain_core.comfyui import key_weights
from bigain.bigain_core.comfyui.patching import unet

from tests.host.compressing import merge, pool
from tests.host.families import NAMED
from tests.host.families.case import sample as sample_case
from tests.host.recording import OVERRIDE

WEIGHED = {
    "key merging": partial(pool, method="key merging"),
    "key pairs": partial(pool, method="key pairs"),
    "merging": partial(merge, proportional=True),
}
JOINT = {**WEIGHED, "pooling": partial(pool, proportional=True)}


class Maskless:
    """Attention of the host that refuses masks; `keys` notes how many there were."""

    def __init__(self):
        self.keys = []

    def flash(self):
        """As the host's function of that name."""

        @wraps(host.attention_flash)
        def attention_flash(q, k, v, heads, mask=None, **kwargs):
            assert mask is None
            self.keys.append(k.shape[-2])
            return host.attention_pytorch(q, k, v, heads, **kwargs)

        return attention_flash


@pytest.fixture
def flash(monkeypatch):
    kernel = Maskless()
    function = host.wrap_attn(kernel.flash())
    for module in (host, unet, key_weights, flux, mmdit):
        monkeypatch.setattr(module, "optimized_attention", function)
    return kernel


def assert_weighed(found, expected, plain):
    """Equal but for rounding, which is far less than what compression does."""
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert (found - expected).norm() < 0.01 * (plain - expected).norm()


@pytest.mark.parametrize("name", ["sd15", "sd2v", "dit"])
@pytest.mark.parametrize("ours", WEIGHED)
def test_the_hosts_flash_attention_gets_no_mask(models, sample, name, ours, request):
    model = WEIGHED[ours](models[name])
    expected = sample(name, model, steps=1)
    plain = sample(name, models[name], steps=1)
    kernel = request.getfixturevalue("flash")
    found = sample(name, model, steps=1)
    assert kernel.keys
    assert_weighed(found, expected, plain)


@pytest.mark.parametrize("name", ["flux", "sd3"])
@pytest.mark.parametrize("ours", JOINT)
@pytest.mark.parametrize("overridden", [False, True])
def test_joint_attention_weighs_by_a_channel_too(name, ours, overridden, request):
    """Also where an override of another pack calls that kernel in the end."""
    case, calls = NAMED[name], []

    def override(function, *args, **kwargs):
        calls.append(kwargs.get("mask"))
        return function(*args, **kwargs)

    expected = sample_case(case, JOINT[ours](case.model), steps=1)
    model = case.model.clone()
    if overridden:
        model.model_options["transformer_options"][OVERRIDE] = override
    kernel = request.getfixturevalue("flash")
    found = sample_case(case, JOINT[ours](model), steps=1)
    assert kernel.keys and calls == [None] * len(calls) and bool(calls) == overridden
    assert_weighed(found, expected, sample_case(case, case.model, steps=1))


def test_heads_that_leave_no_room_keep_the_mask():
    def attention_sage():
        """As the host's kernel is called, which takes up to 128 channels."""

    wants = [key_weights.wants_channel(attention_sage, d) for d in (64, 120, 128)]
    assert wants == [True, True, False]
    assert not key_weights.wants_channel(host.attention_pytorch, 64)
