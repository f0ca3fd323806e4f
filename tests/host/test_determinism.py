"""The same image whatever the memory, the batch and the other draws of random numbers."""

from functools import partial

import comfy.k_diffusion.sampling
import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import nodes
from tests.host.compressing import merge, pool
from tests.host.side_by_side import assert_same_image, no_memory, on_model, outputs

pytestmark = pytest.mark.filterwarnings("ignore:Should have t")  # of dpmpp_2m_sde
# Methods that draw random numbers are among them.
WAYS = {method: partial(merge, method=method) for method in ("L-GTM", "ToMe", "SiTo")}
WAYS["IE-KVD"] = pool


def watching_batches(batches):
    def watch(executor, x, *args, **kwargs):
        batches.append(x.shape[0])
        return executor(x, *args, **kwargs)

    return on_model(lambda model: model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", watch))


@pytest.mark.parametrize("way", WAYS)
def test_little_memory_gives_the_same_image(start, monkeypatch, way):
    """Both texts in one call or in two: equal up to rounding, 1e-5 of the largest value.

    A batch of another size may round differently, and two tokens that are alike up to rounding may
    then find another partner; with these weights none does.
    """
    batches = []
    run = watching_batches(batches)(start(batch=2).with_model(WAYS[way]))
    together = run.image()
    monkeypatch.setattr(comfy.model_management, "get_free_memory", no_memory)
    apart = run.image()
    assert batches == [4, 4, 2, 2, 2, 2]
    assert_same_image(apart, together, tolerance=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_an_image_of_a_batch_is_the_image_alone(start, way):
    run = start(batch=5).with_model(WAYS[way])
    batch = run.image()
    for first, count in ((0, 1), (1, 2), (2, 3), (1, 4), (4, 1)):
        part = outputs(nodes.LatentFromBatch, run.latent, first, count)[0]
        alone = run.but(latent=part).image()
        assert_same_image(alone, batch[first : first + count], tolerance=1e-5)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m_sde"])
@pytest.mark.parametrize("way", WAYS)
def test_the_global_random_state_is_as_without_our_node(start, way, sampler):
    run = start().but(sampler=sampler)
    run.image()
    expected = torch.get_rng_state()
    run.with_model(WAYS[way]).image()
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize("way", WAYS)
def test_noise_that_a_sampler_adds_is_as_without_our_node(start, monkeypatch, way):
    """The host's own generator of euler_ancestral, and the global one that s_churn takes from."""
    added = []
    sampling = comfy.k_diffusion.sampling
    host_noise = sampling.default_noise_sampler

    def noted(*args, **kwargs):
        draw = host_noise(*args, **kwargs)
        return lambda *sigmas: added.append(draw(*sigmas)) or added[-1]

    def noted_like(tensor, **kwargs):
        added.append(randn_like(tensor, **kwargs))
        return added[-1]

    randn_like = torch.randn_like
    monkeypatch.setattr(sampling, "default_noise_sampler", noted)
    monkeypatch.setattr(torch, "randn_like", noted_like)
    churned = partial(sampling.sample_euler, s_churn=5.0)
    monkeypatch.setattr(sampling, "sample_euler", churned)
    for sampler in ("euler_ancestral", "euler"):
        run = start().but(sampler=sampler, steps=3)
        streams = []
        for one in (run, run.with_model(WAYS[way])):
            added.clear()
            one.image()
            streams.append(torch.stack(added))
        assert torch.equal(*streams) and len(streams[0]) >= 2
