"""One patched MODEL in graphs: several samplers, prompts queued again, interruptions, branches."""

import comfy.model_management
import comfy.utils
import pytest
import torch

import nodes
from tests.host.compressing import merge, pool, report
from tests.host.side_by_side import OURS, instance_forwards, on_model, outputs


def enlarged(run, image, factor=2):
    """The second pass of a hires fix."""
    height, width = (side * 8 * factor for side in image.shape[-2:])
    latent = outputs(
        nodes.LatentUpscale, {"samples": image}, "bilinear", width, height, "disabled"
    )[0]
    return run.but(latent=latent, denoise=0.5)


@pytest.mark.parametrize("ours", OURS)
def test_hires_fix_is_two_samplers_behind_one_model(start, ours):
    shared = start(size=(6, 8)).with_model(OURS[ours].on)
    first = shared.image()
    second = enlarged(shared, first).image()
    text = report(shared.model)
    fresh = start(size=(6, 8)).with_model(OURS[ours].on)
    assert torch.equal(second, enlarged(fresh, first).image())
    assert "192 tokens" in text and text == report(fresh.model), "of the last run alone"
    assert torch.equal(shared.image(), first)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("ours", OURS)
def test_a_model_kept_between_prompts_gives_the_same_image_again(start, name, ours):
    """Other graphs, with other nodes and models, run in between."""
    kept = start(name).with_model(OURS[ours].on)
    image, text = kept.image(), report(kept.model)
    plain = start(name).image()
    other = start("sdxl" if name == "sd15" else "sd15")
    for between in (other, other.with_model(merge), start(name).with_model(pool)):
        between.image()
    assert torch.equal(start(name).image(), plain), "bypassed"
    assert torch.equal(kept.image(), image)
    assert torch.equal(start(name).with_model(OURS[ours].on).image(), image), "queued again"
    assert report(kept.model) == text


def test_branches_of_one_model_do_not_meet(start):
    branches = {key: start().with_model(ours.on) for key, ours in OURS.items()}
    images = {key: run.image() for key, run in branches.items()}
    texts = {key: report(run.model) for key, run in branches.items()}
    assert "L-GTM" in texts["merging"] and "IE-KVD" in texts["pooling"]
    for key in ("merging", "pooling", "pooling", "merging"):
        assert torch.equal(branches[key].image(), images[key])
        assert {key: report(run.model) for key, run in branches.items()} == texts


def interrupt_between_steps(run, monkeypatch):
    """As the host's server does it: the progress bar looks whether someone has pressed cancel."""

    def progress(done, total, *args, **kwargs):
        comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", progress)
    return run


def interrupt_inside_the_network(run, monkeypatch):
    calls = []

    def cancel(x, options):
        calls.append(x.shape)
        comfy.model_management.interrupt_current_processing(len(calls) == 2)
        comfy.model_management.throw_exception_if_processing_interrupted()
        return x

    return on_model(lambda model: model.set_model_patch(cancel, "middle_patch"))(run)


def out_of_memory(run, monkeypatch):
    def full(x, options):
        raise torch.cuda.OutOfMemoryError("no memory is left")

    return on_model(lambda model: model.set_model_attn1_output_patch(full))(run)


STOPS = {
    "cancelled between steps": interrupt_between_steps,
    "cancelled inside the network": interrupt_inside_the_network,
    "out of memory": out_of_memory,
}


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("stop", STOPS)
def test_a_run_that_was_stopped_leaves_nothing_behind(start, ours, stop, monkeypatch):
    run = start().with_model(OURS[ours].on)
    expected, plain = run.image(), start().image()
    text = report(run.model)
    expected_error = (
        comfy.model_management.InterruptProcessingException,
        torch.cuda.OutOfMemoryError,
    )
    with monkeypatch.context() as only_here, pytest.raises(expected_error):
        STOPS[stop](run.but(steps=4), only_here).image()
    assert not instance_forwards(run.model)
    assert torch.equal(start().image(), plain)
    assert torch.equal(run.image(), expected)
    assert report(run.model) == text
