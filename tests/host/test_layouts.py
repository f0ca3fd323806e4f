"""Which sequences are compressed: those of which every token is accounted for."""

from dataclasses import replace

import pytest
import torch
from bigain.bigain_core.comfyui.patching.adapter import Inputs
from bigain.bigain_core.compression.network_call import NetworkCall
from bigain.bigain_core.compression.rules import Compression, Rule
from bigain.bigain_core.compression.run_log import RunLog
from bigain.bigain_core.methods import KVDownsampling
from bigain.bigain_core.placement import LayerId
from bigain.bigain_core.schedules import DenoisingProgress
from comfy.patcher_extension import WrappersMP
from comfy.utils import unpack_latents

from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED
from tests.host.families.case import POOLED, WIDTH, Case, image, padded_prompt, prompt
from tests.host.recording import OVERRIDE
from tests.host.test_families import (
    ALPHA,
    FACTOR,
    assert_equal_to,
    family_of,
    joint_case,
    one_step,
    pooled_by_loops,
)


@pytest.mark.parametrize("ours", [merge, pool])
def test_a_reference_beside_the_image_is_named_and_leaves_the_call_alone(ours):
    """HiDream-E1: rows of the sequence are those of image and reference, one behind the other."""
    entries = {**POOLED, "conditioning_llama3": (1, 4, 5, WIDTH)}
    beside = prompt(**entries, concat_latent_image=image(1, 16, 12, 20))
    case = replace(NAMED["hidream"], conditioning=beside)
    model = ours(case.model)
    assert torch.equal(one_step(case, model, None), one_step(case, case.model, None))
    text = report(model)
    assert "CHANGED NOTHING" in text and "a reference lies beside the image" in text
    assert "a sequence of 136 tokens, where an image of 1 x 6 x 10" in text


def assert_pooled_as_declared(case):
    """The image as the case declares it is pooled, all other tokens stay; returns the report."""
    model = pool(case.model, FACTOR, alpha_start=ALPHA, alpha_end=ALPHA)
    assert_equal_to(case, case.sizes[0], model, pooled_by_loops(rotary=True))
    return report(model)


class Guided(Case):
    """A guide frame stands behind the video in the latent."""

    def noise(self, size=None, batch=None):
        video = super().noise(size, batch)
        return torch.cat((video, video[:, :, :1]), dim=2)


def test_guide_frames_of_ltxv_stay_whole():
    plain = NAMED["ltxv"]
    patchifier = plain.model.model.diffusion_model.patchifier
    guide = patchifier.patchify(torch.zeros(1, 128, 1, *plain.sizes[0]))[1]
    fields = {field: getattr(plain, field) for field in plain.__dataclass_fields__}
    mask = torch.ones(1, 1, 3, *plain.sizes[0])
    guided = prompt(attention_mask=padded_prompt(), keyframe_idxs=guide, concat_mask=mask)
    text = assert_pooled_as_declared(Guided(**fields | {"conditioning": guided}))
    assert "120 tokens + 60 of text or references -> 120 queries, 30 keys" in text


def test_control_blocks_of_vace_stay_whole_and_are_counted():
    text = assert_pooled_as_declared(NAMED["wan_vace"])
    assert "2 of 3 self-attention layers compressed" in text
    assert "skipped 1 calls: control blocks stay whole" in text


def first_call(case):
    """What the network is called with."""
    seen = []

    def note(executor, x, t, c_concat, c_crossattn, control, transformer_options, **conditions):
        network, options = executor.class_obj.diffusion_model, transformer_options
        latent = unpack_latents(x, conditions.get("latent_shapes") or [x.shape])[0]
        seen.append(Inputs(network, latent, c_crossattn, conditions, options))
        return executor(x, t, c_concat, c_crossattn, control, options, **conditions)

    model = case.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", note)
    lengths = set()

    def kernel(function, q, k, v, heads, *args, **kwargs):
        lengths.add(k.shape[2 if kwargs.get("skip_reshape") else 1])
        return function(q, k, v, heads, *args, **kwargs)

    model.model_options["transformer_options"][OVERRIDE] = kernel
    one_step(case, model, None)
    return seen[0], lengths


@joint_case
def test_a_sequence_with_tokens_too_many_or_too_few_is_left_alone(case):
    """Every layer is asked with every length that the network has, and with others close to it."""
    inputs, lengths = first_call(case)
    adapter = family_of(case).adapter
    rules = Compression((Rule(KVDownsampling(2)),))
    call = NetworkCall(rules, lambda: DenoisingProgress(0.5), RunLog(), adapter.layer_flops)
    lengths_given = []

    def kernel(q, k, v, heads):
        lengths_given.append(k.shape[1])
        return q

    class Owner(torch.nn.Module):
        def forward(self, tokens):
            x = torch.randn(1, tokens, 8, generator=torch.Generator().manual_seed(tokens))
            return patches.options[OVERRIDE](kernel, x, x, x, 2)

    patches = adapter.intercept([(LayerId(0, "transformer"), Owner())], call, inputs)
    ((_, forward),) = patches.observing
    close = sorted({length + more for length in lengths for more in (-1, 0, 1, 7, 32)} - {0})
    for tokens in close:
        forward(tokens)
    pairs = zip(close, lengths_given, strict=True)
    shortened = {tokens for tokens, given in pairs if given < tokens}
    assert shortened and shortened <= lengths


@pytest.mark.parametrize(("hidden", "keys"), [(3, 6 + 6 + 4), (6 + 24 + 7, 6 + 6 + 20)])
def test_a_reference_stays_whole_where_a_mask_singles_out_a_token_of_it(hidden, keys):
    """A mask that hides a token of the text leaves both short: 4 x 6 tokens and 4 x 5 behind."""
    network = NAMED["flux"].model.model.diffusion_model
    adapter, seen = family_of(NAMED["flux"]).adapter, []
    rules = Compression((Rule(KVDownsampling(2), references=KVDownsampling(2)),))
    call = NetworkCall(rules, lambda: DenoisingProgress(0.5), RunLog(), adapter.layer_flops)
    conditions = {"ref_latents": [torch.empty(1, 16, 8, 10)]}
    inputs = Inputs(network, torch.empty(1, 16, 8, 12), torch.empty(1, 6, 8), conditions, {})

    def kernel(q, k, v, heads, mask):
        seen.append((k.shape[1], v.shape[1], mask.shape[-1], int((~mask).sum())))
        return q

    class Owner(torch.nn.Module):
        def forward(self, x):
            mask = (torch.arange(50) != hidden)[None]
            return patches.options[OVERRIDE](kernel, x, x, x, 2, mask)

    patches = adapter.intercept([(LayerId(0, "transformer"), Owner())], call, inputs)
    ((_, forward),) = patches.observing
    forward(torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(0)))
    assert seen == [(keys, keys, keys, 1)]
