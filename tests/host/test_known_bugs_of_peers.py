"""What users report of other packs for this job, so that it does not happen here.

Numbers are of issues on GitHub; "ComfyUI ToMe" and "HyperTile" are the nodes that come with it.
"""

import random
from functools import partial
from unittest.mock import patch

import comfy.model_management
import numpy as np
import pytest
import torch
from bigain.nodes.merging_node import BiGainTokenMerging
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool, report, skipped
from tests.host.families import NAMED
from tests.host.families.case import sample
from tests.host.side_by_side import (
    OURS,
    assert_differs,
    assert_same_image,
    no_memory,
    on_model,
    with_kernel,
)

DRAWING = {method: partial(merge, method=method) for method in ("ToMe", "SiTo")}


@pytest.mark.parametrize("ours", OURS)
def test_silent_no_op_on_sdxl(start, ours):
    """AUTOMATIC1111/stable-diffusion-webui#16870, dbolya/tomesd#50; ComfyUI ToMe does it as well.

    SDXL has no attention at the resolution of the latent, the only one that they look for.
    """
    run = start("sdxl").with_model(OURS[ours].finest)
    assert_differs(run.image(), start("sdxl").image(), "no effect")
    assert "3 of 7 self-attention layers compressed" in report(run.model)


def test_no_effect_without_a_word(start):
    """Comfy-Org/ComfyUI#2560, welltop-cn/ComfyUI-TeaCache#61, chengzeyi/Comfy-WaveSpeed#11."""
    run = start().with_model(lambda model: merge(model, min_tokens=1000))
    assert torch.equal(run.image(), start().image())
    text = report(run.model)
    assert text.startswith("BiGain CHANGED NOTHING")
    assert "192 tokens, below the minimum of 1000" in text


@pytest.mark.parametrize("ours", OURS)
def test_only_queries_are_merged(start, ours):
    """Comfy-Org/ComfyUI#2560: ComfyUI ToMe keeps every key and value, so little is saved."""
    lengths = set()

    def kernel(inner, q, k, v, *args, **kwargs):
        if k.shape[1] != 6:  # not the text
            lengths.add((q.shape[1], k.shape[1], v.shape[1]))
        return inner(q, k, v, *args, **kwargs)

    with_kernel(kernel)(start()).with_model(OURS[ours].on).image()
    expected = {
        "merging": {(96, 96, 96), (24, 24, 24)},
        "pooling": {(192, 48, 48), (48, 12, 12)},
    }
    assert lengths == expected[ours]


@pytest.mark.parametrize("way", DRAWING)
def test_the_global_random_state_is_moved(models, sample, way):
    """dbolya/tomesd#25, still so in ComfyUI ToMe and HyperTile."""
    np.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    sample("sd15", DRAWING[way](models["sd15"]))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


@pytest.mark.parametrize("way", DRAWING)
def test_the_image_depends_on_how_often_the_network_was_called(start, way):
    """ComfyUI ToMe draws anew in each call: PAG, hooks or a skipped step change what follows."""
    run = start().with_model(DRAWING[way])

    def twice(executor, *args, **kwargs):
        executor(*args, **kwargs)
        return executor(*args, **kwargs)

    def install(model):
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", twice)

    assert torch.equal(on_model(install)(run).image(), run.image())


@pytest.mark.parametrize("way", DRAWING)
def test_the_image_depends_on_the_free_memory(start, monkeypatch, way):
    """ComfyUI ToMe draws once for both texts, or twice where they do not fit into one call."""
    run = start().with_model(DRAWING[way])
    together = run.image()
    monkeypatch.setattr(comfy.model_management, "get_free_memory", no_memory)
    assert_same_image(run.image(), together, tolerance=1e-5)


@pytest.mark.parametrize("size", [(12, 16), (16, 12), (8, 24)])
def test_pixels_attend_to_strips_instead_of_neighbourhoods(start, size):
    """HyperTile's tiles attend to strips of rows, and it swaps the sides of an image.

    Where every square of 2 x 2 tokens is of one colour, pooling by 2 loses nothing. It would with
    keys from anywhere else, as every square has a colour of its own.
    """

    def flat_squares(n, context, value, options):
        height, width = options["activations_shape"][-2:]
        corners = n.unflatten(1, (height, width))[:, ::2, ::2]
        flat = corners.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
        return flat, flat, flat

    run = on_model(lambda model: model.set_model_attn1_patch(flat_squares))(start(size=size))
    pooled = run.with_model(OURS["pooling"].on)
    assert_same_image(pooled.image(), run.image(), tolerance=1e-4)
    assert "7 of 7 self-attention layers compressed" in report(pooled.model)


def test_crash_at_1080_x_1920(start):
    """comfy-todo, at depth 2, for sides that the network rounds up and it rounds down.

    Here at a quarter of the size; test_with_sizes.py has others that it crashes at.
    """
    run = start(size=(33, 60)).but(steps=1)
    run = run.with_model(lambda model: pool(model, method="ToDo", levels=2))
    assert run.image().isfinite().all()
    assert "7 of 7 self-attention layers compressed" in report(run.model)


@pytest.mark.parametrize("ours", OURS)
def test_stale_state_after_an_interruption(start, ours, monkeypatch):
    """welltop-cn/ComfyUI-TeaCache#7 and #15, chengzeyi/Comfy-WaveSpeed pull 81.

    The run after it has another size, number of steps and batch.
    """
    run = start().with_model(OURS[ours].on)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("comfy.utils.PROGRESS_BAR_HOOK", interrupt)
        run.but(steps=5).image()
    following = start(size=(10, 8), batch=2).but(steps=3)
    again = following.but(model=run.model)
    fresh = following.with_model(OURS[ours].on)
    assert torch.equal(again.image(), fresh.image())
    assert report(again.model) == report(fresh.model)


def interrupt(done, total, *args, **kwargs):
    """Of a progress bar; the first step is always shown, later ones not if they come too fast."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("ours", OURS)
def test_active_after_the_node_was_removed(start, ours):
    """welltop-cn/ComfyUI-TeaCache#11, kijai/ComfyUI-KJNodes#173 and #269, with the model loaded."""
    plain = start().image()
    run = start().with_model(OURS[ours].on)
    run.image()
    assert torch.equal(start().image(), plain)
    assert torch.equal(start().with_model(lambda model: model.clone()).image(), plain)


@pytest.mark.parametrize("ours", OURS)
def test_the_second_prompt_is_not_accelerated(start, ours):
    """H3-TeaCache#1: a MODEL kept from the first prompt was spent."""
    run = start().with_model(OURS[ours].on)
    texts = []
    for _ in range(3):
        run.image()
        texts.append(report(run.model))
    assert texts[0] == texts[1] == texts[2] and "in 2 of 2 calls" in texts[0]


def test_a_ratio_that_is_capped_without_a_word(start):
    """ComfyUI ToMe offers ratios up to 1 and merges no more than three quarters."""
    inputs = BiGainTokenMerging.define_schema().inputs
    (ratio,) = (one for one in inputs if one.id == "ratio")
    assert ratio.max == 0.75
    run = start().with_model(lambda model: merge(model, ratio.max))
    run.image()
    assert "192 tokens -> 48 queries, 48 keys" in report(run.model)


@pytest.mark.parametrize("ours", OURS)
def test_an_argument_of_a_newer_host_is_not_expected(start, ours):
    """kijai/ComfyUI-KJNodes#385 and #424: ComfyUI began to pass something on to attention."""
    run = start().with_model(OURS[ours].finest)
    layer = run.model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1
    seen = []

    def newer(x, *args, brand_new=None, **kwargs):
        seen.append((x.shape[1], brand_new))
        return type(layer).forward(layer, x, *args, **kwargs)

    def pass_it(executor, *args, **kwargs):
        with patch.object(layer, "forward", partial(layer.forward, brand_new="here")):
            return executor(*args, **kwargs)

    def install(model):
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", pass_it)

    expected = run.image()
    with patch.object(layer, "forward", newer):
        assert torch.equal(on_model(install)(run).image(), expected)
    assert seen == [({"merging": 96, "pooling": 192}[ours], "here")] * 2


@pytest.mark.parametrize("ours", OURS)
def test_state_shared_with_a_call_within_the_call(start, ours):
    """ComfyUI ToMe keeps what it has to undo in one variable for all layers and calls.

    Reference packs run the network on another image in the middle of a call.
    """
    run = start().with_model(OURS[ours].on)
    expected = run.image()
    results = []

    def call(sigmas, wrappers=run.model.wrappers):
        options = {**run.model.model_options["transformer_options"], "wrappers": wrappers}
        latent, text = torch.linspace(-9, 9, 240).reshape(1, 4, 6, 10), run.positive[0][0]
        return run.model.model.apply_model(
            latent, sigmas, c_crossattn=text, transformer_options=options | {"sigmas": sigmas}
        )

    def call_within(x, options):
        if options["block"][0] == "middle":
            results.append((options["sigmas"], call(options["sigmas"])))
        return x

    nested = on_model(lambda model: model.set_model_patch(call_within, "middle_patch"))(run)
    assert torch.equal(nested.image(), expected)
    assert "in 4 of 4 calls" in report(run.model) and not skipped(run.model)
    assert len(results) == 2
    for sigmas, result in results:
        assert torch.equal(result, call(sigmas))
        assert not torch.equal(result, call(sigmas, wrappers={})), "compressed as well"


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("name", ["flux", "qwen_image"])
def test_crash_on_flux_with_a_newer_host(name, ours):
    """ComfyUI's ToMe and HyperTile and comfy-todo hang UNet patches on any model.

    Newer hosts call patches of that name on a Flux, with other arguments: a TypeError.
    """
    case = NAMED[name]
    model = OURS[ours].finest(case.model)
    patches = model.model_options["transformer_options"].get("patches", {})
    assert not {"attn1_patch", "attn1_output_patch"} & patches.keys()
    image = sample(case, model)
    assert_differs(image, sample(case, case.model), "ours did nothing")
