"""Next to ComfyUI 0.40 and later, which lets a checkpoint choose the attention of each module."""

from functools import partial

import pytest
import torch
from bigain.bigain_core.comfyui.patching import unet
from bigain.bigain_core.comfyui.patching.attach import compression_state

from tests.host.compressing import merge, pool
from tests.host.families import for_cases
from tests.host.families.case import sample
from tests.host.newer_attention import newer_host
from tests.host.recording import OVERRIDE
from tests.host.test_families import COVERED, NAMED, family_of

pytestmark = pytest.mark.once

WAYS = {
    "pooling": pool,
    "weighed pools": partial(pool, proportional=True),
    "weighed groups": partial(merge, proportional=True),
    "one layer": partial(merge, blocks="0"),
    "key merging": partial(pool, method="key merging"),
}
OF_THE_HOST = [case for case in COVERED if case.missing or family_of(case).package == "comfy.ldm"]
ONE_OF_EACH_WAY = ("sd15", "pixart_sigma", "flux", "wan", "qwen_image")
one_of_each_way = for_cases(NAMED[name] for name in ONE_OF_EACH_WAY)


def calls(host, case, model):
    """The attention calls of a step, and how many layers our node has compressed in it."""
    host.calls = []
    sample(case, model, steps=1, cfg=1.0)
    state = compression_state(model)
    return host.calls, sum(r.compressed for r in state.log.layers.values()) if state else 0


def assert_same_functions(host, case, compressed, before):
    """The functions run in the order they would without us, on shorter tensors where we shorten."""
    after, shortened = calls(host, case, compressed)
    assert before and [kind for kind, _ in after] == [kind for kind, _ in before]
    changed = [(a, b) for (_, a), (_, b) in zip(before, after, strict=True) if a != b]
    assert all(sum(b) < sum(a) for a, b in changed)
    assert changed and len(changed) <= shortened


@for_cases(OF_THE_HOST)
def test_the_attention_that_a_checkpoint_has_chosen_runs_in_every_layer(case):
    """In those that are compressed, those left alone, and where the image attends to the text."""
    with newer_host(case.model.model.diffusion_model) as host:
        calls(host, case, case.model)
        host.choose()
        before, _ = calls(host, case, case.model)
        for way in WAYS.values() if case.name in ONE_OF_EACH_WAY else [pool]:
            assert_same_functions(host, case, way(case.model), before)


@for_cases(OF_THE_HOST)
def test_nothing_changes_where_no_checkpoint_has_chosen(case):
    """Compressed latents are those of a host that knows nothing of such a choice."""
    model = pool(case.model)
    expected = sample(case, model, steps=1)
    with newer_host(case.model.model.diffusion_model):
        assert torch.equal(sample(case, model, steps=1), expected)


@pytest.mark.parametrize("before", [True, False], ids=["before ours", "behind ours"])
@one_of_each_way
def test_an_attention_backend_gets_every_call_that_it_gets_without_us(case, before):
    """It takes boxes, and is called with tensors by us; a checkpoint's choice it overrules."""
    with newer_host(case.model.model.diffusion_model) as host:
        calls(host, case, case.model)
        host.choose()

        def with_backend(model):
            model = model.clone()
            model.model_options["transformer_options"][OVERRIDE] = host.backend()
            return model

        compressed = pool(with_backend(case.model)) if before else with_backend(pool(case.model))
        found, _ = calls(host, case, with_backend(case.model))
        assert any(kind == "backend" for kind, _ in found) or case.blind
        assert_same_functions(host, case, compressed, found)


def test_a_chosen_attention_runs_with_weighed_keys_where_the_default_takes_no_mask(monkeypatch):
    """The weights then go in by an override, which must not switch the choice off."""

    def attention_sage():
        raise AssertionError("only its name is asked for")

    monkeypatch.setattr(unet, "optimized_attention", attention_sage)
    case = NAMED["sd15"]
    with newer_host(case.model.model.diffusion_model) as host:
        calls(host, case, case.model)
        host.choose()
        before, _ = calls(host, case, case.model)
        for way in ("weighed groups", "key merging"):
            assert_same_functions(host, case, WAYS[way](case.model), before)
