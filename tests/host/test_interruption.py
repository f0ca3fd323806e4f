"""An interruption by the user ends a long network call between its layers, and leaves no trace."""

import comfy.model_management as management
import pytest
import torch
from bigain.bigain_core.classification import TrialPlan
from bigain.bigain_core.classification.results.fit import TRIALS
from bigain.bigain_core.comfyui.classifying import denoiser
from bigain.bigain_core.comfyui.classifying.denoiser import CallbackSampler
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents
from bigain.nodes.dit_nodes import BiGainDiTLabels

from tests.host.side_by_side import OURS

PLAN = TrialPlan((1,), keep=(1,))


def hooks(network):
    return sum(len(layer._forward_pre_hooks) for layer in network.modules())


@pytest.fixture
def interrupted():
    """Interrupts, and gives the names of layers that ran although it had."""
    management.interrupt_current_processing(False)
    yield management.interrupt_current_processing
    management.interrupt_current_processing(False)


@pytest.mark.parametrize("ours", [None, "merging"])
def test_no_layer_begins_after_it(models, interrupted, ours):
    model = OURS[ours].on(models["dit"]) if ours else models["dit"]
    network, after = model.model.diffusion_model, []
    found = [layer for layer in network.modules() if not list(layer.children())]
    second = network.blocks[1].norm2
    noting = [layer.register_forward_hook(lambda *_: after.append(1)) for layer in found]
    stop = second.register_forward_hook(lambda *_: (after.clear(), interrupted(True)) and None)
    latent = torch.zeros(1, 4, 8, 8)
    prompts = BiGainDiTLabels.execute(model, "ant\nbee").args[2]
    before = hooks(network)
    with pytest.raises(management.InterruptProcessingException):
        classify_latents(model, latent, prompts, PLAN)
    assert after == []
    for hook in (stop, *noting):
        hook.remove()
    assert hooks(network) == before
    assert classify_latents(model, latent, prompts, PLAN).rankings


def test_sampling_with_a_dit_ends_between_its_blocks(models, sample, interrupted):
    network, begun = models["dit"].model.diffusion_model, []
    stop = network.blocks[0].register_forward_hook(lambda *_: interrupted(True))
    noting = network.blocks[1].mlp.register_forward_pre_hook(lambda *_: begun.append(1))
    with pytest.raises(management.InterruptProcessingException):
        sample("dit", models["dit"])
    stop.remove(), noting.remove()
    assert begun == []


def test_a_large_latent_is_taken_prompt_by_prompt_on_a_cpu(models, monkeypatch):
    """So that no layer takes long."""
    sizes = []
    whole = CallbackSampler.sample

    def noting(self, model_wrap, *args, **kwargs):
        network = model_wrap.inner_model.diffusion_model
        hook = network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
        try:
            return whole(self, model_wrap, *args, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(CallbackSampler, "sample", noting)
    monkeypatch.setattr(denoiser, "PLACES_PER_CALL_ON_CPU", 8 * 8 * 8)
    prompts = BiGainDiTLabels.execute(models["dit"], "").args[2]
    for side in (8, 32):
        classify_latents(models["dit"], torch.zeros(1, 4, side, side), prompts, PLAN)
    assert sizes == [5] + [2] * TRIALS + [1] * 5 + [1] * 2 * TRIALS, "and whether the best fits"


def test_a_latent_far_beyond_what_a_dit_was_made_for_is_refused(models):
    prompts = BiGainDiTLabels.execute(models["dit"], "ant\nbee").args[2]
    with pytest.raises(ValueError, match="about 8 x 8, .* got 40 x 32. Connect the image and"):
        classify_latents(models["dit"], torch.zeros(1, 4, 32, 40), prompts, PLAN)
