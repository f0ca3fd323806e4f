"""Next to guidance, which calls the network once more or replaces its attention."""

from importlib.util import find_spec

import comfy_extras.nodes_apg
import comfy_extras.nodes_model_advanced
import comfy_extras.nodes_pag
import comfy_extras.nodes_perpneg
import comfy_extras.nodes_sag
import comfy_extras.nodes_tcfg
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention

from tests.host.side_by_side import (
    OURS,
    Scenario,
    check,
    in_both_orders,
    middle_block,
    on_model,
    patched_by,
)

BLURRED = (("middle", 0), ("input", 1), ("output", 3))


def seg(model):
    """Attention with queries blurred over the whole layer, as in SEG, in three blocks."""

    def blurred(q, k, v, options):
        q = q.mean(dim=1, keepdim=True).expand_as(q)
        return optimized_attention(q, k, v, options["n_heads"])

    for stage, number in BLURRED:
        model.set_model_attn1_replace(blurred, stage, number)


def nag(model):
    """Results of self-attention pushed away from those of the negative text, as in NAG."""

    def push(result, options):
        assert sorted(options["cond_or_uncond"]) == [0, 1]
        order = options["cond_or_uncond"]
        chunks = result.chunk(2)
        positive, negative = chunks[order.index(0)], chunks[order.index(1)]
        guided = positive * 3 - negative * 2
        guided = guided * (positive.norm(p=1, dim=-1) / guided.norm(p=1, dim=-1))[..., None]
        return torch.cat([guided if index == 0 else negative for index in order])

    model.set_model_attn1_output_patch(push)


def perp_neg(run):
    empty = [[tokens * 0, extra] for tokens, extra in run.negative]
    return patched_by(comfy_extras.nodes_perpneg.PerpNeg, empty, 1.0)(run)


def perturbed_call(options):
    """The middle block in the extra call of PAG, which has no negative text."""
    return middle_block(options) and options["cond_or_uncond"] == [0]


SCENARIOS = {
    "PAG": Scenario(
        patched_by(comfy_extras.nodes_pag.PerturbedAttentionGuidance, 3.0), taken=perturbed_call
    ),
    "SAG": Scenario(
        patched_by(comfy_extras.nodes_sag.SelfAttentionGuidance, 0.5, 2.0), taken=middle_block
    ),
    "SEG": Scenario(on_model(seg), taken=lambda options: options["block"] in BLURRED),
    "NAG": Scenario(on_model(nag), works_on_results=True),
    "RescaleCFG": Scenario(patched_by(comfy_extras.nodes_model_advanced.RescaleCFG, 0.7)),
    "APG": Scenario(patched_by(comfy_extras.nodes_apg.APG, 1.0, 15.0, 0.0)),
    "TCFG": Scenario(patched_by(comfy_extras.nodes_tcfg.TCFG)),
    "Perp-Neg": Scenario(perp_neg),
    "no guidance (CFG 1)": Scenario(lambda run: run.but(cfg=1.0)),
}
if find_spec("comfy_extras.nodes_nag"):  # not in older hosts
    from comfy_extras.nodes_nag import NAGuidance

    SCENARIOS["NAG of ComfyUI"] = Scenario(
        patched_by(NAGuidance, 5.0, 0.5, 1.5), works_on_results=True
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_act(start, scenario):
    check(SCENARIOS[scenario], start())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_act_on_sdxl(start, scenario):
    check(SCENARIOS[scenario], start("sdxl"))


def replace_all(model):
    def averaging(q, k, v, options):
        assert q.shape == k.shape == v.shape
        return v.mean(dim=1, keepdim=True).expand_as(q)

    for stage, count in (("input", 4), ("middle", 1), ("output", 4)):
        for number in range(count):
            model.set_model_attn1_replace(averaging, stage, number)


@pytest.mark.parametrize("ours", OURS)
def test_where_another_replaces_all_attention_its_image_stays(start, ours):
    theirs_alone = on_model(replace_all)(start()).image()
    for mixed in in_both_orders(on_model(replace_all), start(), OURS[ours].on):
        assert torch.equal(mixed.image(), theirs_alone)
