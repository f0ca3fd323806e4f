"""Next to nodes that put other modules in the place of a network's blocks.

Packs compile a network block by block: each block is an object patch of the model or is exchanged
for the time of a call, and stands behind a wrapper that has it as `_orig_mod`.
"""

import re
from dataclasses import replace
from functools import partial

import comfy.utils
import pytest
import torch
from bigain.bigain_core.comfyui.patching.attach import compression_state
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED
from tests.host.families.case import sample
from tests.host.test_families import one_of_each_network

NETWORK = "diffusion_model"


class Wrapper(torch.nn.Module):
    """As torch.compile puts one around a module."""

    def __init__(self, inner):
        super().__init__()
        self._orig_mod = inner
        self.calls = 0

    def __getattr__(self, name):
        inner = self.__dict__["_modules"]["_orig_mod"]
        return inner if name == "_orig_mod" else getattr(inner, name)

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self._orig_mod(*args, **kwargs)


class Stranger(torch.nn.Module):
    """A block of another pack: does the same, but what is inside is its own business."""

    def __init__(self, inner):
        super().__init__()
        self.hidden = (inner,)

    def forward(self, *args, **kwargs):
        return self.hidden[0](*args, **kwargs)


def blocks_of(case):
    """The names of the blocks in which the layers of the case are: up to their last number."""
    patterns = "|".join(layer.modules.partition(":")[0] for layer in case.layers)
    names = (name for name, _ in case.model.model.diffusion_model.named_modules())
    found = (re.match(r".*\.\d+(?=\.|$)", name) for name in names if re.fullmatch(patterns, name))
    blocks = dict.fromkeys(block[0] for block in found)
    return [name for name in blocks if not any(name.startswith(f"{other}.") for other in blocks)]


def with_modules(kind, names, model):
    """A clone in which modules of that kind stand around those of these names."""
    model = model.clone()
    for name in names:
        key = f"{NETWORK}.{name}" if name else NETWORK
        model.add_object_patch(key, kind(model.get_model_object(key)))
    return model


def exchanged_in_calls(names, model):
    """As the host's own way to compile parts of a network: they are exchanged in every call."""
    model = model.clone()
    wrapped = {f"{NETWORK}.{name}": Wrapper(model.get_model_object(f"{NETWORK}.{name}"))
               for name in names}  # fmt: skip

    def exchange(executor, *args, **kwargs):
        originals = {}
        try:
            for key, module in wrapped.items():
                originals[key] = comfy.utils.get_attr(executor.class_obj, key)
                comfy.utils.set_attr(executor.class_obj, key, module)
            return executor(*args, **kwargs)
        finally:
            for key, module in originals.items():
                comfy.utils.set_attr(executor.class_obj, key, module)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", exchange)
    return model


def in_one_step(case, model):
    """What is sampled and what the report says of it."""
    return sample(case, model, steps=1), report(model)


def of_layers(text):
    """Without the whole network, whose operations are not counted behind wrappers."""
    first, *lines = text.splitlines()
    return [first.partition("% saved)")[0], *lines]


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    assert of_layers(found[1]) == of_layers(expected[1])


@one_of_each_network
def test_wrapped_blocks_are_compressed_as_bare_ones(case):
    """In both orders of the nodes, and with the other one switched on and off between runs."""
    names = blocks_of(case)
    ours = pool(case.model)
    expected = in_one_step(case, ours)
    assert "BiGain on " in expected[1]
    for wrap in (partial(with_modules, Wrapper), exchanged_in_calls):
        for model in (wrap(names, ours), ours, pool(wrap(names, case.model))):
            assert_same(in_one_step(case, model), expected)


@pytest.mark.parametrize("ours", [merge, pool])
@pytest.mark.parametrize("name", ["sd15", "dit", "pixart_sigma", "hunyuan_dit", "flux", "wan"])
def test_a_wrapped_network_and_wrapped_attention(name, ours):
    case = replace(NAMED[name])  # a model of its own
    expected = in_one_step(case, ours(case.model))
    networks = case.model.model.diffusion_model.named_modules()
    attention = [name for name, _ in networks if re.search(r"\.(attn1?|self_attn)$", name)]
    for names in ([""], attention):
        wrap = partial(with_modules, Wrapper, names)
        for model in (wrap(ours(case.model)), ours(wrap(case.model))):
            assert_same(in_one_step(case, model), expected)


@pytest.mark.parametrize("name", ["sd15", "dit", "pixart_sigma", "qwen_image", "wan"])
def test_blocks_of_another_kind_are_named_and_the_others_keep_their_numbers(name):
    case = replace(NAMED[name])  # a model of its own
    first, *others = blocks_of(case)
    before = pool(case.model, levels=2)
    in_one_step(case, before)
    records = compression_state(before).log.layers
    model = with_modules(Stranger, [first], before)
    image, text = in_one_step(case, model)
    assert image.isfinite().all()
    assert "1 layers: another node has put modules of its own in their place (0)" in text
    found = {layer_id.number: one.compressed for layer_id, one in records.items()}
    assert found == {number: int(number > 0) for number in range(len(others) + 1)}
    nothing, text = in_one_step(case, with_modules(Stranger, [first, *others], pool(case.model)))
    assert torch.equal(nothing, sample(case, case.model, steps=1))
    assert "CHANGED NOTHING" in text and "modules of its own" in text
    assert "no network call" not in text


def test_a_network_within_another_is_named_by_its_class():
    case = NAMED["flux"]
    model = with_modules(Stranger, [""], case.model)
    expected = r"got a Flux model whose network is a .*test_with_wrapped_blocks\.Stranger, which"
    with pytest.raises(ValueError, match=expected):
        pool(model)
