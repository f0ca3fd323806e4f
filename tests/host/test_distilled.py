"""Models whose errors do not rank prompts are warned of."""

import comfy.supported_models
import comfy_extras.nodes_model_advanced as advanced
import pytest
from bigain.bigain_core.comfyui.classifying.latent_classifier import warnings_about
from comfy.model_sampling import EPS

from tests.host.families import NAMED


def test_distilled_models_are_warned_of(monkeypatch):
    assert warnings_about(NAMED["sd15"].model) == []
    (text,) = warnings_about(NAMED["flux"].model)
    assert "FluxGuidance" in text
    video = NAMED["hunyuan_video"].model
    params = video.get_model_object("diffusion_model").params
    for guided, steps, words in ((False, False, None), (True, False, "FluxGuidance"),
                                 (True, True, "few steps")):  # fmt: skip
        monkeypatch.setattr(params, "guidance_embed", guided)
        monkeypatch.setattr(params, "meanflow", steps, raising=False)
        found = warnings_about(video)
        assert (words in found[0]) if words else found == []


@pytest.mark.parametrize("name", ["FluxSchnell", "HunyuanVideo15_SR_Distilled", "PiD"])
def test_kinds_that_the_host_knows_as_distilled_are_warned_of(monkeypatch, name):
    """By their names: older hosts lack some of them."""
    model = NAMED["sd15"].model
    kind = getattr(comfy.supported_models, name, type(name, (), {}))
    monkeypatch.setattr(model.model, "model_config", object.__new__(type("Config", (kind,), {})))
    (text,) = warnings_about(model)
    assert "distilled to few steps" in text


def test_noise_levels_of_a_distilled_model_are_warned_of():
    model = NAMED["sd15"].model.clone()
    sampling = type("Sampling", (advanced.ModelSamplingDiscreteDistilled, EPS), {})
    model.add_object_patch("model_sampling", sampling(model.model.model_config))
    (text,) = warnings_about(model)
    assert "distilled to few steps" in text
