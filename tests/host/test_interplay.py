"""Next to patches that the host itself offers."""

import comfy_extras.nodes_hypertile
import comfy_extras.nodes_pag
import comfy_extras.nodes_tomesd
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool, report

OURS = {
    "merge": lambda model: merge(model, 0.5),
    "pool": pool,
}


def outputs(node, *args):
    """Results of a host node, whichever style it is written in on this version."""
    run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
    result = run(*args)
    return getattr(result, "args", result)[0]


THEIRS = {
    "ToMe": lambda m: outputs(comfy_extras.nodes_tomesd.TomePatchModel, m, 0.3),
    "HyperTile": lambda m: outputs(comfy_extras.nodes_hypertile.HyperTile, m, 128, 2, 0, False),
    "PAG": lambda m: outputs(comfy_extras.nodes_pag.PerturbedAttentionGuidance, m, 3.0),
}


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("theirs", THEIRS)
def test_runs_before_and_after_a_patch_of_the_host(models, sample, ours, theirs):
    model = models["sd15"]
    for mixed in (OURS[ours](THEIRS[theirs](model)), THEIRS[theirs](OURS[ours](model))):
        assert sample("sd15", mixed, size=(32, 32), batch=2).isfinite().all()


def test_layers_that_another_patch_shortened_are_left_alone_and_named(models, sample):
    mixed = OURS["merge"](THEIRS["ToMe"](models["sd15"]))
    torch.manual_seed(0)  # the host's ToMe draws from the global generator
    result = sample("sd15", mixed, size=(32, 32))
    torch.manual_seed(0)
    theirs_alone = sample("sd15", THEIRS["ToMe"](models["sd15"]), size=(32, 32))
    assert torch.equal(result, theirs_alone)
    text = report(mixed)
    assert "CHANGED NOTHING" in text
    assert "another patch changed the number of tokens" in text


def test_a_forward_that_another_pack_put_on_a_layer_stays_in_use(models, sample):
    attention = models["sd15"].model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1
    calls = []

    def theirs(*args, **kwargs):
        calls.append(args[0].shape[1])
        return type(attention).forward(attention, *args, **kwargs)

    attention.forward = theirs
    try:
        sample("sd15", OURS["merge"](models["sd15"]), steps=1)
        assert calls and set(calls) == {128}
        assert attention.__dict__["forward"] is theirs
    finally:
        del attention.forward


def test_an_attention_mask_is_respected(models, sample):
    """A layer called with a mask is left alone: the mask belongs to the full set of tokens."""
    attention = models["sd15"].model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1
    model = OURS["pool"](models["sd15"])

    def add_mask(executor, x, *args, **kwargs):
        inner = attention.forward

        def masked(x, **options):
            options["mask"] = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
            return inner(x, **options)

        attention.forward = masked
        try:
            return executor(x, *args, **kwargs)
        finally:
            attention.forward = inner

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", add_mask)
    assert sample("sd15", model, steps=1).isfinite().all()
    assert "1 times: an attention mask is in use" in report(model)
