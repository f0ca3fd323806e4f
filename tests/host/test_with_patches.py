"""Next to nodes and packs that patch the UNet or its attention."""

from collections import Counter
from contextlib import ExitStack
from functools import cache
from unittest.mock import patch

import comfy_extras.nodes_context_windows
import comfy_extras.nodes_easycache
import comfy_extras.nodes_freelunch
import comfy_extras.nodes_hypernetwork
import comfy_extras.nodes_hypertile
import comfy_extras.nodes_model_downscale
import comfy_extras.nodes_tomesd
import folder_paths
import pytest
import torch
from comfy.context_windows import ContextFuseMethods, ContextSchedules
from comfy.ldm.modules.attention import BasicTransformerBlock, optimized_attention
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import report, with_defaults
from tests.host.side_by_side import (
    OURS,
    Scenario,
    check,
    finest_level,
    in_both_orders,
    on_model,
    patched_by,
    with_kernel,
)


@cache
def six_steps(run):
    return run.but(steps=6)


def ip_adapter(model):
    """Attention to an image beside the one to the text, as IPAdapter adds it."""

    def attend_to_both(q, k, v, options):
        generator = torch.Generator().manual_seed(q.shape[-1])
        image = torch.randn(2, 4, q.shape[-1], generator=generator)
        keys, values = (part.expand(q.shape[0], -1, -1) for part in image)
        text = optimized_attention(q, k, v, options["n_heads"])
        return text + optimized_attention(q, keys, values, options["n_heads"])

    for stage, count in (("input", 6), ("middle", 1), ("output", 6)):
        for number in range(count):
            model.set_model_attn2_replace(attend_to_both, stage, number)


def comfy_todo(model):
    """Keys and values from every second pixel of the finest layers, as comfy-todo does it."""

    def every_second(n, context, value, options):
        if not finest_level(options):
            return n, context, value
        image = n.unflatten(1, tuple(options["activations_shape"][-2:]))
        shorter = image[:, ::2, ::2].flatten(1, 2)
        return n, shorter, shorter

    model.set_model_attn1_patch(every_second)


def style_aligned(model):
    """Every image also attends to the first one, as StyleAligned does it: 2 N keys."""

    def with_the_first(n, context, value, options):
        context, value = (torch.cat((t, t[:1].expand_as(t)), dim=1) for t in (context, value))
        return n, context, value

    model.set_model_attn1_patch(with_the_first)


def windowed_attention(model):
    """Attention within four quarters of the image, as MSW-MSA of HiDiffusion does it."""

    def split(tokens, options):
        image = tokens.unflatten(1, tuple(options["activations_shape"][-2:]))
        rows = [half for part in image.chunk(2, dim=1) for half in part.chunk(2, dim=2)]
        return torch.cat(rows).flatten(1, 2)

    def into_windows(n, context, value, options):
        return tuple(split(tokens, options) for tokens in (n, context, value))

    def join(n, options):
        height, width = options["activations_shape"][-2:]
        corners = n.unflatten(1, (height // 2, width // 2)).chunk(4)
        rows = [torch.cat(corners[i : i + 2], dim=2) for i in (0, 2)]
        return torch.cat(rows, dim=1).flatten(1, 2)

    model.set_model_attn1_patch(into_windows)
    model.set_model_attn1_output_patch(join)


def attention_mask(model):
    """No token attends to the last one of its layer."""

    def masked(inner):
        def forward(x, **options):
            seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
            seen[:, -1] = False
            return inner(x, **{**options, "mask": seen})

        return forward

    def add_mask(executor, *args, **kwargs):
        blocks = (m for m in executor.class_obj.modules() if isinstance(m, BasicTransformerBlock))
        with ExitStack() as stack:
            for block in blocks:
                forward = masked(block.attn1.forward)
                stack.enter_context(patch.object(block.attn1, "forward", forward))
            return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", add_mask)


def attention_backend(model):
    """A kernel of another pack in the host's slot for one; it keeps what was in the slot."""
    options = model.model_options["transformer_options"]
    previous = options.get("optimized_attention_override")

    def softer(kernel, q, *args, **kwargs):
        if previous:
            return previous(kernel, q * 0.5, *args, **kwargs)
        return kernel(q * 0.5, *args, **kwargs)

    options["optimized_attention_override"] = softer


def tiled_diffusion(model):
    """The network runs on overlapping tiles of different widths, as in TiledDiffusion."""

    def on_tiles(apply_model, call):
        x = call["input"]
        result, count = torch.zeros_like(x), torch.zeros_like(x)
        for columns in (slice(0, 9), slice(4, None)):
            tile = apply_model(x[..., columns], call["timestep"], **call["c"])
            result[..., columns] += tile
            count[..., columns] += 1
        return result / count

    model.set_model_unet_function_wrapper(on_tiles)


TOME = patched_by(comfy_extras.nodes_tomesd.TomePatchModel, 0.3)
HYPERTILE = patched_by(comfy_extras.nodes_hypertile.HyperTile, 32, 2, 0, False)
FREEU = patched_by(comfy_extras.nodes_freelunch.FreeU, 1.1, 1.2, 0.9, 0.2)
FREEU_V2 = patched_by(comfy_extras.nodes_freelunch.FreeU_V2, 1.3, 1.4, 0.9, 0.2)
EASY_CACHE = patched_by(comfy_extras.nodes_easycache.EasyCacheNode, 3.0, 0.1, 0.95, False)
LAZY_CACHE = patched_by(comfy_extras.nodes_easycache.LazyCacheNode, 3.0, 0.1, 0.95, False)
HYPERNETWORK = patched_by(
    comfy_extras.nodes_hypernetwork.HypernetworkLoader, "hypernetwork.pt", 1.0
)
DEEP_SHRINK = patched_by(
    comfy_extras.nodes_model_downscale.PatchModelAddDownscale,
    1, 2.0, 0.0, 1.0, True, "bicubic", "bicubic",
)  # fmt: skip


def context_windows(run):
    """Two overlapping windows along the width of the image."""
    windows = comfy_extras.nodes_context_windows.ContextWindowsManualNode
    kinds = {
        "context_schedule": ContextSchedules.STATIC_STANDARD,
        "fuse_method": ContextFuseMethods.PYRAMID,
    }
    return run.with_model(
        lambda model: with_defaults(
            windows, model, context_length=10, context_overlap=4, dim=3, **kinds
        )
    )


SCENARIOS = {
    "FreeU": Scenario(FREEU),
    "FreeU V2": Scenario(FREEU_V2),
    "hypernetwork": Scenario(HYPERNETWORK),
    "IPAdapter": Scenario(on_model(ip_adapter)),
    "Kohya Deep Shrink": Scenario(DEEP_SHRINK),
    "EasyCache": Scenario(EASY_CACHE, base=six_steps),
    "LazyCache": Scenario(LAZY_CACHE, base=six_steps),
    "another attention kernel": Scenario(on_model(attention_backend)),
    "TiledDiffusion": Scenario(on_model(tiled_diffusion)),
    "context windows": Scenario(context_windows),
    "ToMe of ComfyUI": Scenario(TOME, taken=finest_level),
    "HyperTile": Scenario(HYPERTILE, taken=finest_level),
    "comfy-todo": Scenario(on_model(comfy_todo), taken=finest_level),
}


@pytest.fixture(scope="module", autouse=True)
def hypernetwork_file(tmp_path_factory):
    """Two linear layers for keys and values of each width, in the format of the host's loader."""
    folder = tmp_path_factory.mktemp("hypernetworks")
    generator = torch.Generator().manual_seed(3)

    def layer(width):
        weight = torch.randn(width, width, generator=generator) / width**0.5
        return {"linear.0.weight": weight, "linear.0.bias": torch.zeros(width)}

    widths = {width: [layer(width), layer(width)] for width in (24, 32, 64)}
    torch.save(widths, folder / "hypernetwork.pt")
    folder_paths.add_model_folder_path("hypernetworks", str(folder))


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # context windows
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_act(start, scenario):
    check(SCENARIOS[scenario], start())


# Those that look for attention at the resolution of the latent do nothing on SDXL.
ON_SDXL = [name for name, scenario in SCENARIOS.items() if scenario.taken is not finest_level]


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("scenario", ON_SDXL)
def test_both_act_on_sdxl(start, scenario):
    check(SCENARIOS[scenario], start("sdxl"))


MADE_SHORTER = "another patch changed the number of tokens"
STEPS_ASIDE = {
    "ToMe of ComfyUI": (TOME, MADE_SHORTER),
    "HyperTile": (HYPERTILE, MADE_SHORTER),
    "comfy-todo": (on_model(comfy_todo), MADE_SHORTER),
    "HiDiffusion": (on_model(windowed_attention), MADE_SHORTER),
    "StyleAligned": (on_model(style_aligned), MADE_SHORTER),
    "attention mask": (on_model(attention_mask), "an attention mask is in use"),
}


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("scenario", STEPS_ASIDE)
def test_layers_that_another_changes_are_left_to_it_and_named(start, scenario, ours):
    add, reason = STEPS_ASIDE[scenario]
    base = start(batch=2)
    theirs_alone = add(base).image()
    assert not torch.equal(theirs_alone, base.image())
    for mixed in in_both_orders(add, base, OURS[ours].finest):
        assert torch.equal(mixed.image(), theirs_alone)
        assert reason in report(mixed.model)


KERNEL_LENGTHS = {"merging": (96, 96), "pooling": (192, 48)}


@pytest.mark.parametrize("ours", OURS)
def test_a_kernel_of_another_pack_gets_the_shorter_layers(start, ours):
    """Called for all 14 attention layers: those to the text are as ever."""
    lengths = Counter()

    def kernel(inner, q, k, *args, **kwargs):
        lengths[q.shape[1], k.shape[1]] += 1
        return inner(q, k, *args, **kwargs)

    for mixed in in_both_orders(with_kernel(kernel), start().but(steps=1), OURS[ours].finest):
        lengths.clear()
        mixed.image()
        assert lengths == {KERNEL_LENGTHS[ours]: 3, (48, 48): 4, (192, 6): 3, (48, 6): 4}


def test_a_forward_that_another_pack_put_on_a_layer_stays_in_use(start):
    run = start().but(steps=1)
    layer = run.model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1
    lengths = []

    def theirs(*args, **kwargs):
        lengths.append(args[0].shape[1])
        return type(layer).forward(layer, *args, **kwargs)

    with patch.object(layer, "forward", theirs):
        run.with_model(OURS["merging"].finest).image()
        assert lengths == [96]
        assert layer.__dict__["forward"] is theirs


def test_a_forward_installed_as_an_object_patch_stays_in_use(start, own_sd15):
    """KJNodes and others replace a forward in this way."""
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1"
    lengths = []

    def install(model):
        layer = model.get_model_object(name)
        forward = type(layer).forward

        def theirs(x, *args, **kwargs):
            lengths.append(x.shape[1])
            return forward(layer, x, *args, **kwargs)

        model.add_object_patch(f"{name}.forward", theirs)

    base = start(model=own_sd15).but(steps=1)
    for mixed in in_both_orders(on_model(install), base, OURS["merging"].finest):
        lengths.clear()
        mixed.image()
        assert lengths == [96]
