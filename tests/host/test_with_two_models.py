"""Next to the host's guider that asks one model about the positive prompt, another about the other.

It hands the options of the first model on to the second and wraps the run of the first alone.
"""

import comfy.samplers
import comfy_extras.nodes_custom_sampler
import pytest
import torch

from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED
from tests.host.side_by_side import outputs

GUIDER = getattr(comfy_extras.nodes_custom_sampler, "DualModelGuider", None)

pytestmark = pytest.mark.skipif(GUIDER is None, reason="this host has no DualModelGuider")


@pytest.fixture(scope="module", params=["sd15", "flux"])
def case(request):
    return NAMED[request.param]


@pytest.fixture(scope="module")
def other(case):
    """The same network in another model, as a second checkpoint would be."""
    return case.build()


def guided(case, positive, negative, steps=2):
    (guider,) = outputs(GUIDER, positive, case.conditioning(0), 3.0, negative, case.conditioning(1))
    sampling = positive.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    sampler, noise = comfy.samplers.sampler_object("euler"), case.noise()
    return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=7)


@pytest.mark.parametrize("ours", [merge, pool])
def test_the_model_that_has_our_node_is_the_one_that_is_compressed(case, other, ours):
    plain = guided(case, case.model, other)
    on_positive, on_negative = ours(case.model), ours(other)
    images = {
        "positive": guided(case, on_positive, other),
        "negative": guided(case, case.model, on_negative),
        "both": guided(case, on_positive, on_negative),
    }
    for name, image in images.items():
        assert image.isfinite().all() and not torch.equal(image, plain), name
    assert not torch.equal(images["positive"], images["negative"])
    assert not torch.equal(images["both"], images["negative"])
    assert not torch.equal(images["both"], images["positive"])
    for model in (on_positive, on_negative):
        text = report(model)
        assert text.startswith("BiGain on ") and "in 2 of 2 calls" in text
    assert torch.equal(guided(case, case.model, other), plain)


def test_the_same_node_on_both_is_as_with_one_model(case, other):
    """The networks are the same, so it is ordinary guidance, one prompt in a call."""
    ours = pool(case.model)
    two, one = guided(case, ours, pool(other)), guided(case, ours, None)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-4 * float(one.abs().max()))


def test_the_report_of_the_second_model_is_of_its_last_run(case, other):
    ours = pool(other)
    guided(case, case.model, ours, steps=3)
    guided(case, case.model, ours)
    assert "in 2 of 2 calls" in report(ours)
    guided(case, pool(case.model), ours, steps=3)
    assert "in 3 of 3 calls" in report(ours)
