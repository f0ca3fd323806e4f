"""The classifier on every prediction type of the host, against plain calls of the networks."""

import math

import comfy.model_base
import comfy.model_sampling
import comfy.samplers
import comfy_extras.nodes_model_advanced as advanced
import pytest
import torch
from bigain.bigain_core.classification import SpreadGrid, TrialPlan, trial_noise
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents
from bigain.bigain_core.comfyui.classifying.noise_levels import host_levels
from bigain.bigain_core.comfyui.classifying.prompts import Prompts

from tests.host.families import NAMED
from tests.host.families.case import prompt
from tests.host.ranking import some_latents, some_prompts

PLAN = TrialPlan((1, 3), (3, 1), sampler=SpreadGrid())
FLOW_TIMES = {  # what a network is told at noise level 1
    "sd3": 1000,
    "flux": 1,
    "auraflow": 1,
    "lumina2": 1,
    "qwen_image": 1,
    "wan": 1000,
}
NAMES = ("sd15", "sd2v", "sdxl", "pixart_alpha", "dit", *FLOW_TIMES)


def call(model, inputs, time, conditioning):
    """The network's answer (1, C, ...), without the host's sampling."""
    [[tokens, entries]] = conditioning
    base = model.model
    sides = {"width": inputs.shape[-1] * 8, "height": inputs.shape[-2] * 8}
    conds = base.extra_conds(
        cross_attn=tokens, noise=inputs, device=inputs.device, **{**sides, **entries}
    )
    values = {key: value.cond for key, value in conds.items()}
    context = values.pop("c_crossattn", None)
    times = torch.tensor([time], dtype=torch.float32)
    return base.diffusion_model(
        inputs, times, context=context, control=None, transformer_options={}, **values
    ).float()


def direct_error(name, model, conditioning, latent, timestep, noise):
    """Mean squared error of what the network predicts."""
    clean = model.model.process_latent_in(latent)
    if name in FLOW_TIMES:
        level = (timestep + 0.5) / 1000
        noisy = (1 - level) * clean + level * noise
        predicted = call(model, noisy, level * FLOW_TIMES[name], conditioning)
        return (predicted - (noise - clean)).double().square().mean().item()
    sigma = model.model.model_sampling.sigmas.double()[timestep].item()
    signal, amount = 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
    predicted = call(model, signal * clean + amount * noise, timestep, conditioning)
    target = signal * noise - amount * clean if name == "sd2v" else noise
    return (predicted - target).double().square().mean().item()


def dimensions(model, latents):
    dims = model.get_model_object("latent_format").latent_dimensions
    return latents[:, :, None] if dims == 3 and latents.ndim == 4 else latents


@pytest.mark.parametrize("name", NAMES)
def test_errors_equal_plain_calls_of_the_network(name):
    case = NAMED[name]
    model, latents, prompts = case.model, some_latents(case), some_prompts(case)
    result = classify_latents(model, latents, prompts, PLAN)
    latents = dimensions(model, latents)
    for image, ranking in enumerate(result.rankings):
        for trial, spec in enumerate(ranking.table.specs):
            noise = trial_noise(tuple(latents.shape[1:]), PLAN.seed, image, spec.noise)[None]
            expected = [
                direct_error(name, model, c, latents[image : image + 1], spec.timestep, noise)
                for c in prompts.conditionings
            ]
            found = ranking.table.errors[:, trial].tolist()
            assert found == pytest.approx(expected, rel=1e-6)
            assert len({f"{error:.5g}" for error in found}) == 3, "prompts make a difference"


def test_a_sample_for_a_video_model_is_one_frame():
    case = NAMED["wan"]
    sample = some_latents(NAMED["lumina2"], 1)
    assert sample.ndim == 4 and sample.shape[1] == 16
    still = classify_latents(case.model, sample, some_prompts(case), PLAN)
    film = classify_latents(case.model, sample[:, :, None], some_prompts(case), PLAN)
    assert torch.equal(still.rankings[0].table.errors, film.rankings[0].table.errors)


# Kinds of sampling that users choose by nodes


class Linear(torch.nn.Module):
    """Stands for a network: the same answer whatever the prompt, and a note of what it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, t, **kwargs):
        self.seen.append((x.clone(), t.clone()))
        return 0.3 * x + 0.1


def with_linear(model, monkeypatch):
    network = Linear()
    network.dtype = torch.float32
    monkeypatch.setitem(model.model._modules, "diffusion_model", network)
    return network


def edm_target(sampling, x, clean, sigma, scale):
    """What a network gives that predicts `clean` from `x` without error (Karras et al. 2022)."""
    spread = math.hypot(sigma, scale)
    skip, out = scale**2 / spread**2, sigma * scale / spread
    return (clean - skip * x) / (out if sampling == "edm" else -out)


def check_linear(model, monkeypatch, expected, tolerance=1e-4):
    """Errors of a linear network against expected(spec, clean, noise), an (output, target)."""
    network, latents = with_linear(model, monkeypatch), some_latents(NAMED["sd15"], 1)
    result = classify_latents(model, latents, some_prompts(NAMED["sd15"]), TrialPlan((3,)))
    clean, table = model.model.process_latent_in(latents), result.rankings[0].table
    for trial, spec in enumerate(table.specs):
        noise = trial_noise(tuple(latents.shape[1:]), 0, 0, spec.noise)
        predicted, target = expected(spec, clean, noise)
        error = (predicted - target).double().square().mean().item()
        assert table.errors[:, trial].tolist() == pytest.approx([error] * 3, rel=tolerance)
    return network


@pytest.mark.parametrize(("sampling", "scale"), [("edm", 0.5), ("v_prediction", 1.0)])
def test_edm_networks_are_scored_by_what_they_predict(monkeypatch, sampling, scale):
    node = advanced.ModelSamplingContinuousEDM()
    (model,) = node.patch(NAMED["sd15"].model, sampling, sigma_max=80.0, sigma_min=0.02)

    def expected(spec, clean, noise):
        sigma = 0.02 * (80 / 0.02) ** ((spec.timestep + 0.5) / 1000)
        noisy = clean + sigma * noise
        predicted = 0.3 * noisy / math.hypot(sigma, scale) + 0.1
        return predicted, edm_target(sampling, noisy, clean, sigma, scale)

    check_linear(model, monkeypatch, expected)


def test_networks_that_give_the_clean_image_are_scored_by_it(monkeypatch):
    (model,) = advanced.ModelSamplingDiscrete().patch(NAMED["sd15"].model, "x0", zsnr=False)

    def expected(spec, clean, noise):
        sigma = model.model.model_sampling.sigmas[spec.timestep].item()
        return 0.3 * (clean + sigma * noise) / math.hypot(sigma, 1) + 0.1, clean

    check_linear(model, monkeypatch, expected, 1e-5)


def test_a_rectified_flow_counted_in_edm_units_is_scored_as_a_flow(monkeypatch):
    node, inputs = advanced.ModelSamplingContinuousEDM(), []
    (model,) = node.patch(NAMED["sd15"].model, "cosmos_rflow", sigma_max=80.0, sigma_min=0.002)

    def expected(spec, clean, noise):
        level = (spec.timestep + 0.5) / 1000
        inputs.append(((1 - level) * clean + level * noise, level))
        return 0.3 * inputs[-1][0] + 0.1, noise - clean

    first, _, *others = check_linear(model, monkeypatch, expected).seen  # the first is made twice
    for (x, t), (noisy, level) in zip([first, *others], inputs, strict=True):
        torch.testing.assert_close(x[:1], noisy)
        assert t[0].item() == pytest.approx(level)


def test_a_flow_is_tried_at_even_times_whatever_its_shift():
    case = NAMED["sd3"]
    shifted = [advanced.ModelSamplingSD3().patch(case.model, shift)[0] for shift in (1.0, 7.0)]
    sigmas = [host_levels(model)[0] for model in shifted]
    assert torch.equal(*sigmas)
    assert sigmas[0][[0, 125, 999]].tolist() == pytest.approx([0.0005, 0.1255, 0.9995])
    flux = advanced.ModelSamplingFlux().patch(NAMED["flux"].model, 1.15, 0.5, 1024, 1024)[0]
    assert torch.equal(host_levels(flux)[0], sigmas[0])


def test_patches_are_told_every_noise_level_in_falling_order():
    case, seen = NAMED["sd3"], []
    model = case.model.clone()

    def step(apply, arguments):
        seen.append(arguments["c"]["transformer_options"]["sample_sigmas"])
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(step)
    classify_latents(model, some_latents(case, 1), some_prompts(case), PLAN)
    timesteps = sorted(PLAN.timesteps, reverse=True)
    wanted = [(timestep + 0.5) / 1000 for timestep in timesteps] + [0]
    assert seen and seen[0].tolist() == pytest.approx(wanted)


class Cascade(comfy.model_sampling.StableCascadeSampling, comfy.model_sampling.EPS):
    pass


def test_a_kind_of_model_without_a_prompt_to_find_is_refused(monkeypatch):
    case = NAMED["sd15"]
    kinds = ["IMG_TO_IMG", "IMG_TO_IMG_FLOW", "V_PREDICTION_DDPM"]
    for name in (kind for kind in kinds if hasattr(comfy.model_sampling, kind)):
        kind = getattr(comfy.model_sampling, name)
        sampling = type("Sampling", (comfy.model_sampling.ModelSamplingDiscrete, kind), {})
        model = case.model.clone()
        model.add_object_patch("model_sampling", sampling())
        with pytest.raises(ValueError, match=f"got BaseModel with {name} sampling"):
            classify_latents(model, some_latents(case, 1), some_prompts(case), PLAN)
    (distilled,) = advanced.ModelSamplingDiscrete().patch(case.model, "lcm", zsnr=False)
    with pytest.raises(ValueError, match="LCM sampling"):
        host_levels(distilled)
    stage_b = case.model.clone()
    monkeypatch.setattr(stage_b, "model", object.__new__(comfy.model_base.StableCascade_B))
    stage_b.add_object_patch("model_sampling", Cascade())
    with pytest.raises(ValueError, match="got StableCascade_B"):
        host_levels(stage_b)


def test_stage_c_of_cascade_is_scored():
    case = NAMED["stable_cascade"]
    latents = case.noise((6, 10), 1)
    result = classify_latents(case.model, latents, some_prompts(case), PLAN)
    errors = result.rankings[0].table.errors
    assert errors.isfinite().all() and len(set(errors[:, 0].tolist())) == 3


# What must not matter


def assert_same(found, wanted, rows=slice(None)):
    for ours, theirs in zip(found.rankings, wanted.rankings, strict=True):
        torch.testing.assert_close(
            ours.table.errors[rows], theirs.table.errors, rtol=1e-6, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_free_memory_does_not_change_a_result(monkeypatch, name):
    case = NAMED[name]
    latents, prompts = some_latents(case), some_prompts(case, 5)
    wanted = classify_latents(case.model, latents, prompts, PLAN)
    batches = []
    model = case.model.clone()

    def step(apply, arguments):
        batches.append(len(arguments["input"]))
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(step)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *args, **kw: float("inf"))
    found = classify_latents(model, latents, prompts, PLAN)
    assert set(batches) == {1}
    assert_same(found, wanted)


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_the_order_of_prompts_and_images_does_not_matter(name):
    case = NAMED[name]
    latents, prompts = some_latents(case), some_prompts(case, 4)
    wanted = classify_latents(case.model, latents, prompts, PLAN)
    order = [2, 0, 3, 1]
    turned = Prompts(
        tuple(prompts.labels[k] for k in order), tuple(prompts.conditionings[k] for k in order)
    )
    found = classify_latents(case.model, latents, turned, PLAN)
    assert_same(found, wanted, [order.index(k) for k in range(4)])
    alone = classify_latents(case.model, latents[:1], prompts, PLAN)
    assert torch.equal(
        alone.rankings[0].table.errors.nan_to_num(), wanted.rankings[0].table.errors.nan_to_num()
    )


@pytest.mark.parametrize("name", ["sd15", "flux", "sd3"])
def test_prompts_of_other_lengths_do_not_change_a_prompt(name):
    """The host would repeat the tokens of the short ones to the length of the long ones."""
    case = NAMED[name]
    [[tokens, entries]] = case.conditioning(0)
    pooled = {key: tuple(value.shape) for key, value in entries.items()}
    long = prompt(tokens.shape[2], 2 * tokens.shape[1], **pooled)
    mixed = Prompts(("a", "b", "c"), (case.conditioning(0), long(1), case.conditioning(2)))
    plan, latents = TrialPlan((2,)), some_latents(case, 1)
    together = classify_latents(case.model, latents, mixed, plan)
    for k, conditioning in enumerate(mixed.conditionings):
        alone = Prompts(("x",), (conditioning,))
        result = classify_latents(case.model, latents, alone, plan)
        found = together.rankings[0].table.errors[k].tolist()
        assert found == pytest.approx(result.rankings[0].table.errors[0].tolist(), rel=1e-6)


def test_hundreds_of_prompts_are_prepared_call_by_call(monkeypatch):
    """The host would compare all with all, and keep what it made of them."""
    case, prepared = NAMED["sdxl"], []
    whole = comfy.samplers.process_conds

    def counted(model, noise, conds, *args, **options):
        prepared.append(len(conds))
        return whole(model, noise, conds, *args, **options)

    monkeypatch.setattr(comfy.samplers, "process_conds", counted)
    prompts, latents = some_prompts(case, 150), some_latents(case, 1)
    plan = TrialPlan((2, 4), (40, 1), sampler=SpreadGrid())
    found = classify_latents(case.model, latents, prompts, plan).rankings[0]
    assert max(prepared) <= 32
    assert 150 <= sum(prepared) <= 2 * 150 + 40, "in the end those that are left are kept"
    for k in [0, 40, 149]:
        alone = Prompts(("x",), (prompts.conditionings[k],))
        result = classify_latents(case.model, latents, alone, TrialPlan((2,), (1,),
                                  sampler=SpreadGrid()))  # fmt: skip
        wanted = result.rankings[0].table.errors[0].tolist()
        assert found.table.errors[k, :2].tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_model_that_answers_nan_is_named_and_stops(monkeypatch):
    case, calls = NAMED["sd15"], []
    prompts = some_prompts(case)
    model = case.model.clone()

    def broken(apply, arguments):
        result = apply(arguments["input"], arguments["timestep"], **arguments["c"])
        calls.append(len(result))
        result[1] = torch.nan
        return result

    model.set_model_unet_function_wrapper(broken)
    with pytest.raises(ValueError, match="BaseModel, got NaN or infinity for the prompt 'label"):
        classify_latents(model, some_latents(case, 1), prompts, PLAN)
    assert calls == [3], "it goes on after the first trial"


# Masks


def test_a_mask_says_where_errors_count():
    case = NAMED["sd15"]
    latents, prompts = some_latents(case, 1), some_prompts(case)
    mask = torch.zeros(1, 64, 96)
    mask[:, :32] = 1
    masked = classify_latents(case.model, latents, prompts, TrialPlan((1,)), mask=mask)
    spec = masked.rankings[0].table.specs[0]
    clean = case.model.model.process_latent_in(latents)
    noise = trial_noise(tuple(latents.shape[1:]), 0, 0, spec.noise)[None]
    sigma = case.model.model.model_sampling.sigmas[spec.timestep].item()
    noisy = (clean + sigma * noise) / math.hypot(1, sigma)
    for k, conditioning in enumerate(prompts.conditionings):
        error = call(case.model, noisy, spec.timestep, conditioning) - noise
        expected = error[..., :4, :].square().mean().item()
        assert masked.rankings[0].table.errors[k, 0].item() == pytest.approx(expected, rel=1e-5)


def test_one_mask_serves_every_image_and_frame():
    case = NAMED["wan"]
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., :48] = 1
    plan, latents = TrialPlan((1,)), some_latents(case)
    half = classify_latents(case.model, latents, some_prompts(case), plan, mask=mask)
    rest = classify_latents(case.model, latents, some_prompts(case), plan, mask=1 - mask)
    whole = classify_latents(case.model, latents, some_prompts(case), plan)
    for rankings in zip(half.rankings, rest.rankings, whole.rankings, strict=True):
        a, b, both = (ranking.table.errors for ranking in rankings)
        torch.testing.assert_close((a + b) / 2, both, rtol=1e-5, atol=0)
        assert not torch.allclose(a, b, rtol=1e-3)
