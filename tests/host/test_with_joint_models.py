"""Next to other nodes on Flux, whose attention is reached by the host's override."""

from dataclasses import replace

import comfy_extras.nodes_easycache
import comfy_extras.nodes_slg
import pytest
import torch

from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED
from tests.host.families.case import sample
from tests.host.recording import OVERRIDE
from tests.host.side_by_side import assert_differs, instance_forwards, outputs

OURS = {"merging": merge, "pooling": pool}
IMAGE, TEXT = 60, 6  # tokens of the case at 12 x 20
KEPT = {"merging": (18, 18), "pooling": (60, 15)}  # queries and keys of the image

every_order = pytest.mark.parametrize("order", ["before", "behind"])
both = pytest.mark.parametrize("ours", OURS)


@pytest.fixture
def flux():
    return NAMED["flux"]


def in_order(model, theirs, ours, order):
    return ours(theirs(model)) if order == "behind" else theirs(ours(model))


def with_kernel(seen):
    """Another attention kernel, as packs install one; it notes the lengths that it gets."""

    def install(model):
        def kernel(function, q, k, v, heads, *args, **kwargs):
            seen.append((q.shape[2], k.shape[2]))
            return function(q, k, v * 1.5, heads, *args, **kwargs)

        clone = model.clone()
        clone.model_options["transformer_options"][OVERRIDE] = kernel
        return clone

    return install


@both
@every_order
def test_another_attention_kernel_gets_the_shorter_sequences(flux, ours, order):
    seen = []
    model = in_order(flux.model, with_kernel(seen), OURS[ours], order)
    image = sample(flux, model)
    queries, keys = KEPT[ours]
    assert set(seen) == {(queries + TEXT, keys + TEXT)}
    assert_differs(image, sample(flux, OURS[ours](flux.model)), "their kernel did nothing")
    assert_differs(image, sample(flux, with_kernel([])(flux.model)), "ours did nothing")


def test_both_orders_of_nodes_give_the_same_image(flux):
    images = [
        sample(flux, in_order(flux.model, with_kernel([]), pool, order))
        for order in ("before", "behind")
    ]
    assert torch.equal(*images)


def skip_layers(model):
    where = {"double_layers": "1", "single_layers": "1", "start_percent": 0.0, "end_percent": 1.0}
    node = comfy_extras.nodes_slg.SkipLayerGuidanceDiT
    return outputs(node, model, scale=3.0, rescaling_scale=0.0, **where)[0]


def easy_cache(model):
    return outputs(comfy_extras.nodes_easycache.EasyCacheNode, model, 100.0, 0.0, 1.0, False)[0]


def lora(model):
    clone = model.clone()
    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    weight = model.model.state_dict()[key]
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    clone.add_patches({key: (change / weight.shape[1] ** 0.5,)}, 1.0)
    return clone


THEIRS = {"Skip Layer Guidance": skip_layers, "EasyCache": easy_cache, "LoRA": lora}


@both
@every_order
@pytest.mark.parametrize("theirs", THEIRS)
def test_both_act(flux, theirs, order, ours):
    model = in_order(flux.model, THEIRS[theirs], OURS[ours], order)
    image = sample(flux, model, steps=4)
    assert image.isfinite().all()
    theirs_alone = sample(flux, THEIRS[theirs](flux.model), steps=4)
    assert_differs(image, theirs_alone, "ours did nothing")
    assert_differs(image, sample(flux, OURS[ours](flux.model), steps=4), "theirs did nothing")
    assert "4 of 4 self-attention layers compressed" in report(model)
    assert not instance_forwards(flux.model)


def test_calls_that_easycache_leaves_out_are_not_counted(flux):
    model = pool(easy_cache(flux.model))
    sample(flux, model, steps=6)
    (calls,) = {line.rpartition(" of ")[2] for line in report(model).splitlines()[1:]}
    assert calls in {f"{number} calls" for number in range(1, 6)}


@both
def test_an_exception_in_a_block_leaves_nothing_behind(flux, ours):
    case = replace(flux)

    def fail(*args, **kwargs):
        raise RuntimeError("stop")

    model = OURS[ours](case.model)
    model.model_options["transformer_options"][OVERRIDE] = fail
    with pytest.raises(RuntimeError, match="stop"):
        sample(case, model)
    assert not instance_forwards(case.model)
    assert torch.equal(sample(case, case.model), sample(flux, flux.model))


def test_pooling_hands_queries_on_as_they_lie_in_memory(flux):
    def seen(ours):
        strides, model = [], flux.model.clone()

        def kernel(function, q, k, v, heads, *args, **kwargs):
            strides.append(q.stride())
            return function(q, k, v, heads, *args, **kwargs)

        model.model_options["transformer_options"][OVERRIDE] = kernel
        sample(flux, ours(model), steps=1)
        return strides

    plain = seen(lambda model: model)
    assert plain and seen(pool) == plain
    assert seen(merge) != plain
