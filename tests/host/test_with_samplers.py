"""With every kind of noise schedule and sampler, and runs that are a part of a whole one."""

from dataclasses import replace
from functools import cache

import comfy_extras.nodes_model_advanced
import pytest
import torch

import nodes
from tests.host.compressing import merge, report
from tests.host.side_by_side import (
    OURS,
    Scenario,
    assert_same_image,
    check,
    outputs,
    patched_by,
    through_the_hosts_patches,
)

pytestmark = pytest.mark.filterwarnings("ignore:Should have t")  # of dpmpp_2m_sde
DISCRETE = comfy_extras.nodes_model_advanced.ModelSamplingDiscrete
CONTINUOUS = comfy_extras.nodes_model_advanced.ModelSamplingContinuousEDM
SAMPLINGS = {
    "v-prediction": patched_by(DISCRETE, "v_prediction", False),
    "v-prediction with zero terminal SNR": patched_by(DISCRETE, "v_prediction", True),
    "LCM": patched_by(DISCRETE, "lcm", False),
    "EDM": patched_by(CONTINUOUS, "edm", 80.0, 0.002),
    "EDM with v-prediction": patched_by(CONTINUOUS, "v_prediction", 500.0, 0.03),
}
SAMPLERS = ("heun", "dpmpp_2s_ancestral", "uni_pc", "dpmpp_2m_sde", "euler_ancestral", "lcm")


@cache
def three_steps(run):
    return run.but(steps=3)


@cache
def from_an_image(run):
    generator = torch.Generator().manual_seed(4)
    image = torch.randn(run.latent["samples"].shape, generator=generator) * 5
    return run.but(latent={"samples": image}, steps=4)


SCENARIOS = {name: Scenario(sampling) for name, sampling in SAMPLINGS.items()}
SCENARIOS |= {
    f"sampler {name}": Scenario(lambda run, name=name: run.but(sampler=name), base=three_steps)
    for name in SAMPLERS
}
SCENARIOS["sampler ddim"] = Scenario(
    lambda run: run.but(sampler="ddim", scheduler="ddim_uniform"), base=three_steps
)
SCENARIOS["denoise 0.4"] = Scenario(lambda run: run.but(denoise=0.4), base=from_an_image)
SCENARIOS["sigmas that end above 0"] = Scenario(lambda run: run.but(sigmas=(9.0, 4.0, 1.5)))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_act(start, scenario):
    check(SCENARIOS[scenario], start())


@pytest.mark.parametrize(
    ("sampling", "part"), [*((name, (0.3, 0.7)) for name in SAMPLINGS), ("EDM", (0.0, 0.5))]
)
def test_start_and_end_mean_what_they_mean_in_the_host(start, sampling, part):
    """From the noise level of the start down to that of the end, as other nodes have it."""
    base = SAMPLINGS[sampling](start()).but(steps=5)
    high, low = map(base.model.get_model_object("model_sampling").percent_to_sigma, part)
    in_part = Scenario(
        lambda run: run, taken=lambda options: not low <= float(options["sigmas"][0]) <= high
    )
    ends = {"start_percent": part[0], "end_percent": part[1]}
    run = base.with_model(lambda model: merge(model, 0.5, levels=2, **ends))
    assert_same_image(run.image(), through_the_hosts_patches(in_part, base, OURS["merging"]))
    compressed, calls = calls_compressed(run.model)
    assert 0 < compressed < calls == 5


@pytest.mark.parametrize("sampler", ["euler", *SAMPLERS])
def test_two_parts_of_a_run_make_up_all_its_calls(start, sampler):
    """However often a sampler calls the network in a step."""
    run = start().but(steps=4, sampler=sampler)
    counts = []
    for part in ({"end_percent": 0.45}, {"start_percent": 0.45}):
        half = run.with_model(lambda model, part=part: merge(model, **part))
        half.image()
        counts.append(calls_compressed(half.model))
    (early, calls), (late, same_calls) = counts
    assert early > 0 and late > 0 and early + late == calls == same_calls


def calls_compressed(model):
    """(compressed, all) calls of the first layer."""
    line = next(line for line in report(model).splitlines() if line.startswith("layer 0"))
    words = line.split(" in ")[-1].split()
    return int(words[0]), int(words[2])


@pytest.mark.parametrize("edge", [{"end_percent": 0.0}, {"start_percent": 1.0}])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_range_that_is_one_end_is_one_call(start, sampling, edge):
    """The first, at pure noise, or the last, at the least noise the model knows."""
    base = SAMPLINGS[sampling](start()).but(steps=3, scheduler="normal")
    run = base.with_model(lambda model: merge(model, **edge))
    run.image()
    assert calls_compressed(run.model) == (1, 3)


def split(run, at):
    """The same run as two KSampler (Advanced) nodes, the second from where the first ended."""
    common = run.seed, run.steps, run.cfg, run.sampler, run.scheduler, run.positive, run.negative
    whole = 10000
    first = outputs(
        nodes.KSamplerAdvanced, run.model, "enable", *common, run.latent, 0, at, "enable"
    )[0]
    return outputs(
        nodes.KSamplerAdvanced, run.model, "disable", *common, first, at, whole, "disable"
    )[0]["samples"]


@pytest.mark.parametrize("ours", OURS)
def test_a_run_split_in_two_is_the_whole_run(start, ours, monkeypatch):
    """To the bit, once scaling the latent out and in again loses nothing: by a power of two."""
    run = start().but(steps=6).with_model(OURS[ours].on)
    monkeypatch.setattr(run.model.model.latent_format, "scale_factor", 0.25)
    assert torch.equal(split(run, at=3), run.image())


@pytest.mark.parametrize("ours", OURS)
def test_ranges_do_not_depend_on_how_a_run_is_split(start, ours, monkeypatch):
    """Percent of the denoising process, not of the steps of one sampler."""
    node = replace(OURS[ours], node=lambda model, **where: OURS[ours].node(model, end_percent=0.6))
    run = start().but(steps=6).with_model(node.finest)
    monkeypatch.setattr(run.model.model.latent_format, "scale_factor", 0.25)
    whole = run.image()
    in_first, in_all = calls_compressed(run.model)
    assert 3 < in_first < in_all == 6
    assert torch.equal(split(run, at=3), whole)
    assert calls_compressed(run.model) == (in_first - 3, 3)
