"""What users connect by mistake: every node says what it expected; nothing raw comes through."""

import pytest
import torch
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.nodes.benchmark_node import ALL, BiGainBenchmark
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier
from bigain.nodes.evidence_nodes import BiGainEvidenceMap, BiGainRankImages
from bigain.nodes.token_map_node import BiGainTokenMap

from tests.host.compressing import merge

pytestmark = pytest.mark.once

PRESET = {"preset": "custom", "trials": "1", "keep": "auto"}
NUMBERS = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def nodes(bundled, drawn_prompts, vae):
    """Every node that takes an image, by the name of the node; they get what a test changes."""
    one, other = drawn_prompts.conditionings[:2]

    def classify(image, vae=vae, prompts=drawn_prompts):
        return BiGainDiffusionClassifier.execute(
            bundled, prompts, image=image, vae=vae, preset=PRESET, loss="l2", trial_seed=0
        )

    def evidence(image, vae=vae, prompts=drawn_prompts):
        return BiGainEvidenceMap.execute(bundled, prompts, image, vae, "", "", "fast", 1, 0)

    def rank(image, vae=vae, prompts=None):
        first = prompts.conditionings[0] if prompts else one
        return BiGainRankImages.execute(bundled, image, vae, 1, 0, first, other)

    def token_map(image, vae=vae, prompts=None):
        first = prompts.conditionings[0] if prompts else one
        return BiGainTokenMap.execute(merge(bundled), first, image, vae, -1, 500, 0)

    return {"classifier": classify, "evidence": evidence, "rank": rank, "token map": token_map}


EVERY = pytest.mark.parametrize("name", ["classifier", "evidence", "rank", "token map"])


@EVERY
def test_images_as_they_should_be_go_through(nodes, name):
    for channels in (3, 4):
        alpha = torch.ones(2, 32, 32, channels - 3)
        assert nodes[name](torch.cat([NUMBERS, alpha], -1)).args


@EVERY
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (NUMBERS[:0], r"images of shape \(batch, height, width, 3\), got \(0, 32, 32, 3\)"),
        (NUMBERS[..., :1], r".*width, 3\), got \(2, 32, 32, 1\).*three channels"),
        (NUMBERS[..., :2], r".*width, 3\), got \(2, 32, 32, 2\)"),
        (NUMBERS[0], r".*width, 3\), got \(32, 32, 3\)"),
        (NUMBERS[:, :0], r".*width, 3\), got \(2, 0, 32, 3\)"),
        (NUMBERS.where(NUMBERS < 0.9, torch.nan), "a latent of numbers, got NaN or infinity"),
    ],
)
def test_images_of_another_shape_are_explained(nodes, name, image, message):
    with pytest.raises(ValueError, match=f"BiGain: expected {message}"):
        nodes[name](image)


@EVERY
def test_a_missing_vae_is_explained(nodes, name):
    with pytest.raises(ValueError, match="BiGain: expected .*VAE"):
        nodes[name](NUMBERS, vae=None)


@EVERY
def test_an_empty_conditioning_is_explained(nodes, name, drawn_prompts):
    empty = Prompts(drawn_prompts.labels, ([], *drawn_prompts.conditionings[1:]))
    with pytest.raises(ValueError, match="BiGain: expected a conditioning for .*, got an empty"):
        nodes[name](NUMBERS, prompts=empty)


@EVERY
def test_an_image_smaller_than_a_place_of_the_latent_is_explained(nodes, name):
    class Shrinking:
        def encode(self, image):
            return image.movedim(-1, 1)[..., :0, :0]

    with pytest.raises(ValueError, match=r"expected a latent .* got .*, 0, 0\).*too small"):
        nodes[name](NUMBERS, vae=Shrinking())


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(0, 3, 32, 32), r"got \(0, 3, 32, 32\)"),
        (torch.zeros(1, 3, 0, 32), r"got \(1, 3, 0, 32\)"),
        (torch.ones(1, 5, 32, 32), r"got \(1, 5, 32, 32\)"),
        (torch.ones(3, 32, 32), r"got \(3, 32, 32\)"),
        (torch.full((1, 3, 32, 32), torch.inf), "a latent of numbers, got NaN or infinity"),
    ],
)
def test_latents_of_another_shape_are_explained(bundled, drawn_prompts, samples, message):
    latent = {"samples": samples}
    with pytest.raises(ValueError, match=f"BiGain: expected .*{message}"):
        BiGainDiffusionClassifier.execute(
            bundled, drawn_prompts, latent=latent, preset=PRESET, loss="l2", trial_seed=0
        )
    with pytest.raises(ValueError, match=f"BiGain: expected .*{message}"):
        BiGainBenchmark.execute(merge(bundled), latent, ALL, 1, 0.5)
