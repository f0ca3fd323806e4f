"""The classifier beside nodes that keep something from one network call to the next.

The stand-ins behave as such packs do: they count conditions as 0 (positive) and 1 (negative).
"""

import comfy.model_management
import comfy_extras.nodes_easycache as core
import pytest
import torch
from bigain.bigain_core.classification import TrialPlan
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.nodes.benchmark_node import ALL, BiGainBenchmark
from comfy.patcher_extension import WrappersMP

PLAN = TrialPlan((2, 3), (2, 1))
LATENT = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
PACK = "/mnt/cache/ComfyUI/custom_nodes/"  # hosts name modules of packs by their paths


@pytest.fixture(scope="module")
def sd15(models):
    return models["sd15"]


@pytest.fixture(scope="module")
def prompts(sd15, conditioning):
    return Prompts(tuple("abcd"), tuple(conditioning("sd15", sd15, k) for k in range(4)))


def wrapped(model, function, module):
    function.__module__ = PACK + module
    model = model.clone()
    model.set_model_unet_function_wrapper(function)
    return model


def errors(model, prompts):
    return classify_latents(model, LATENT, prompts, PLAN).rankings[0].table.errors.nan_to_num(-1)


def test_a_node_with_state_for_two_conditions_goes_on(sd15, prompts):
    """welltop-cn/ComfyUI-TeaCache keeps a state for 0 and 1; the fourth prompt was KeyError: 3."""
    state = {0: [], 1: []}

    def function(apply_model, args):
        found = apply_model(args["input"], args["timestep"], **args["c"])
        seen = args["c"]["transformer_options"]["cond_or_uncond"]
        assert seen == args["cond_or_uncond"]
        for number, part in zip(seen, found.chunk(len(seen)), strict=True):
            state[number].append(part)
        return found

    found = errors(wrapped(sd15, function, "SomePack.nodes"), prompts)
    assert torch.equal(found, errors(sd15, prompts))
    assert len(state[0]) == 2 * 4 + 2 and not state[1], "no prompt is a negative one"


def test_a_node_that_tells_positive_from_negative_treats_all_prompts_alike(sd15, prompts):
    def moves(every):
        def function(apply_model, args):
            found = apply_model(args["input"], args["timestep"], **args["c"])
            parts = found.chunk(len(args["cond_or_uncond"]))
            moved = zip(args["cond_or_uncond"], parts, strict=True)
            return torch.cat([part + 0.1 * (every or k == 0) for k, part in moved])

        return wrapped(sd15, function, "SomePack.nodes")

    assert torch.equal(errors(moves(False), prompts), errors(moves(True), prompts))
    assert not torch.equal(errors(moves(True), prompts), errors(sd15, prompts))


def caching():
    kept = []

    def unet_wrapper_function(apply_model, args):
        kept.append(kept[0] if kept else apply_model(args["input"], args["timestep"], **args["c"]))
        return kept[0]

    return unet_wrapper_function


def by_function(model, module):
    return wrapped(model, caching(), module)


def by_wrapper(model, module):
    def around(executor, *args, **options):
        return executor(*args, **options)

    around.__module__ = PACK + module
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "first block", around)
    return model


def by_object(model, module):
    cls = type("Cached", (torch.nn.Module,), {"__module__": PACK + module})
    model = model.clone()
    model.add_object_patch("diffusion_model.time_embed", cls())
    return model


@pytest.mark.parametrize("kind", [by_function, by_wrapper, by_object])
@pytest.mark.parametrize("pack", ["ComfyUI-TeaCache.nodes", "Comfy-WaveSpeed.fbcache_nodes"])
def test_a_cache_is_refused_by_name(sd15, prompts, kind, pack):
    model = kind(sd15, pack)
    with pytest.raises(ValueError, match=f"no cache between evaluations, got {pack}.*bypass"):
        errors(model, prompts)
    with pytest.raises(ValueError, match=f"got {pack}"):
        BiGainBenchmark.execute(model, {"samples": LATENT}, ALL, 1, 0.5)


def whole_calls(model):
    """Answers itself from the second call on."""
    return wrapped(model, caching(), "SomePack.nodes")


def blocks_of_a_call(model):
    """Calls the network each time, whose middle answers from what it gave before."""
    middle = model.model.diffusion_model.middle_block[1]
    kept = []

    def again(*args, **kwargs):
        kept.append(kept[0] if kept else type(middle).forward(middle, *args, **kwargs))
        return kept[0]

    again.__module__ = PACK + "SomePack.nodes"
    model = model.clone()
    model.add_object_patch("diffusion_model.middle_block.1.forward", again)
    return model


@pytest.mark.parametrize("kind", [whole_calls, blocks_of_a_call])
def test_a_cache_of_any_name_is_refused_by_what_it_does(sd15, prompts, kind):
    with pytest.raises(ValueError, match="every evaluation to run the same layers.* got one in wh"):
        errors(kind(sd15), prompts)
    network = sd15.model.diffusion_model
    assert not any(module._forward_pre_hooks for module in network.modules())
    comfy.model_management.unload_all_models()  # takes the patch off, but leaves a forward
    vars(network.middle_block[1]).pop("forward", None)


def passing(executor, *args, **kwargs):
    return executor(*args, **kwargs)


passing.__module__ = PACK + "SomePack.nodes"


def as_compiled(model):
    """With the key of the host's compiler, whose networks are not watched layer by layer."""
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "torch.compile", passing)
    return model


def test_a_cache_around_a_compiled_network_is_refused_by_answers_that_do_not_follow_the_prompt(
    sd15, prompts
):
    with pytest.raises(ValueError, match="predictions that follow their prompts.*bypass"):
        errors(as_compiled(whole_calls(sd15)), prompts)


def test_a_compiled_network_is_asked_once_more_and_ranks_as_ever(sd15, prompts):
    asked = []

    def counted(apply_model, args):
        asked.append(len(args["cond_or_uncond"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    plain = errors(wrapped(sd15, counted, "SomePack.nodes"), prompts)
    calls, asked[:] = list(asked), []
    assert torch.equal(
        errors(as_compiled(wrapped(sd15, counted, "SomePack.nodes")), prompts), plain
    )
    assert asked == [calls[0], *calls]


@pytest.mark.parametrize("node", [core.EasyCacheNode, core.LazyCacheNode])
def test_the_hosts_own_caches_are_taken_off(sd15, prompts, node):
    cached = node.execute(sd15, 10.0, 0.0, 1.0, False).args[0]
    assert torch.equal(errors(cached, prompts), errors(sd15, prompts))
    assert cached.wrappers, "the user's model keeps its cache"
