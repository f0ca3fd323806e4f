"""Images of another size than a model was made for are fitted to it, and the nodes say so."""

import numpy as np
import pytest
import torch
from bigain.bigain_core.comfyui.classifying.latent_classifier import encode_fitted, encode_images
from bigain.bigain_core.comfyui.image_files import read_image
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier
from bigain.nodes.evidence_nodes import BiGainEvidenceMap
from bigain.nodes.token_map_node import BiGainTokenMap
from PIL import Image

from tests.host.compressing import merge

SAID = "768 x 600 pixels were fitted to 32 x 32, which this model is made for."


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """(1, 600, 768, 3), and the file that it was read from."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 768, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photo") / "a.png"
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels / np.float32(255))[None], path


def test_a_photo_is_fitted_as_its_file_would_be(shallow, vae, photo):
    pixels, path = photo
    latents, shown, said = encode_fitted(shallow, vae, pixels)
    assert torch.equal(latents, encode_images(vae, read_image(path, 32)))
    torch.testing.assert_close(shown, pixels[:, :, 84:684], rtol=0, atol=1 / 255)
    assert said == SAID


def test_what_fits_already_is_as_it_was(shallow, vae, drawings):
    latents, shown, said = encode_fitted(shallow, vae, drawings[0])
    assert torch.equal(latents, encode_images(vae, drawings[0]))
    assert torch.equal(shown, drawings[0]) and not said


def test_a_model_for_many_sizes_sees_the_image_as_it_is(models, vae, photo):
    latents, shown, said = encode_fitted(models["sd15"], vae, photo[0])
    assert torch.equal(latents, encode_images(vae, photo[0]))
    assert torch.equal(shown, photo[0]) and not said


def test_a_latent_dit_is_made_for_eight_times_its_latent(models, vae, photo):
    assert "fitted to 64 x 64" in encode_fitted(models["dit"], vae, photo[0])[2]


def test_nodes_say_so(shallow, drawn_prompts, vae, photo):
    image = photo[0]
    one = {"loss": "l2", "trial_seed": 0}
    plan = {"preset": "custom", "trials": "1", "keep": "1"}
    shown = BiGainDiffusionClassifier.execute(
        shallow, drawn_prompts, preset=plan, image=image, vae=vae, **one
    ).ui["text"][0]
    assert f"Warning: {SAID}" in shown
    overlay, _, value = BiGainEvidenceMap.execute(
        shallow, drawn_prompts, image, vae, "", "", "fast", 3, 0
    ).args
    assert value.startswith(SAID) and overlay.shape == (1, 600, 600, 3)
    model, prompt = merge(shallow), drawn_prompts.conditionings[0]
    groups, *_, value = BiGainTokenMap.execute(model, prompt, image, vae, -1, 500, 0).args
    assert value.startswith(SAID) and groups.shape == (1, 600, 600, 3)
