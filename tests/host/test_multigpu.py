"""Several GPUs in one process: the host gives each a network and a thread of its own.

The GPUs are CPUs by other names; what they run is the host's own code for several.
"""

import threading

import comfy.model_management
import comfy.samplers
import pytest
import torch
from bigain.bigain_core.classification import TrialPlan
from bigain.bigain_core.comfyui.classifying import denoiser
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents
from bigain.bigain_core.comfyui.dit_model import load_dit_model
from bigain.bigain_core.comfyui.patching.attach import compression_state
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED
from tests.host.families.case import guided, sample
from tests.host.ranking import some_latents, some_prompts

multigpu = pytest.importorskip("comfy.multigpu", reason="this host uses one GPU")

DEVICES = [torch.device("cpu"), torch.device("cpu", 1)]
FAMILIES = ["sd15", "flux", "pixart_alpha", "wan"]  # of every way to reach attention, and video
STEPS = 2


class Meeting:
    """Inside our wrapper: notes the calls of the networks, and lets as many in at once."""

    def __init__(self, parties=1):
        self.barrier = threading.Barrier(parties)
        self.calls = []  # (network, samples in the batch, number of the thread)

    def __call__(self, executor, x, *args, **kwargs):
        self.barrier.wait(timeout=30)
        self.calls.append((executor.class_obj, len(x), threading.get_ident()))
        return executor(x, *args, **kwargs)

    def on(self, model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "meeting", self)
        return model


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    def devices(exclude_current=False):
        return list(DEVICES)

    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", devices)


@pytest.fixture
def alone(monkeypatch):
    """One prompt in a call: then the sums of one device are those of two."""
    monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)


@pytest.fixture(params=FAMILIES)
def case(request):
    return NAMED[request.param]


# Merging and pooling, each in images and in a video or a DiT.
merged_or_pooled = pytest.mark.parametrize(
    ("case", "ours"),
    [("sd15", merge), ("flux", pool), ("pixart_alpha", merge), ("wan", pool)],
    indirect=["case"],
)


def loaded(case):
    """A model that the host can load once more."""
    model = case.build()
    model.cached_patcher_init = (case.build, ())
    return model


def split(model):
    return multigpu.create_multigpu_deepclones(model, len(DEVICES))


@merged_or_pooled
def test_the_image_is_that_of_one_device(case, alone, ours):
    model = loaded(case)
    plain, one = (sample(case, compressed, steps=STEPS) for compressed in (model, ours(model)))
    for two in (split(ours(model)), ours(split(model))):
        meeting = Meeting(parties=2)
        image = sample(case, meeting.on(two), steps=STEPS)
        assert torch.equal(image, one) and not torch.equal(image, plain)
        assert len({network for network, _, _ in meeting.calls}) == 2
        assert len({thread for _, _, thread in meeting.calls}) == 2


def test_our_own_loader_makes_the_second_network(alone, dit_checkpoint, conditioning):
    model = load_dit_model(dit_checkpoint)
    prompts = [conditioning("dit", model, number) for number in (0, 1)]
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    one, two = (guided(each, noise, *prompts) for each in (merge(model), split(merge(model))))
    assert torch.equal(one, two)


@merged_or_pooled
def test_the_log_loses_no_call(case, alone, ours):
    one = ours(loaded(case))
    sample(case, one, steps=STEPS)
    two = split(ours(loaded(case)))
    sample(case, Meeting(parties=2).on(two), steps=STEPS)
    logs = [compression_state(model).log for model in (one, two)]
    assert logs[0].network_calls == logs[1].network_calls == 2 * STEPS
    assert logs[0].network_flops == logs[1].network_flops > 0
    assert logs[0].layers == logs[1].layers and logs[0].layers_compressed
    assert report(one) == report(two)


def test_a_failure_on_one_device_leaves_both_networks_as_they_were(case):
    model = split(merge(loaded(case)))
    (second,) = model.get_additional_models_with_key("multigpu")
    before = [forwards(one) for one in (model.model, second.model)]

    def fail(module, inputs):
        raise RuntimeError("out of memory")

    *_, last = second.model.diffusion_model.modules()
    hook = last.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        sample(case, model, steps=STEPS)
    hook.remove()
    assert [forwards(one) for one in (model.model, second.model)] == before
    assert sample(case, model, steps=STEPS).isfinite().all()


def forwards(model):
    return {
        name: module.__dict__["forward"]
        for name, module in model.named_modules()
        if "forward" in module.__dict__
    }


def test_each_device_gets_its_share_of_the_prompts(monkeypatch):
    """The limit of prompts in a call is that of a device."""
    case = NAMED["sd15"]
    monkeypatch.setattr(denoiser, "PROMPTS_PER_CALL_ON_CPU", 3)
    meeting = Meeting(parties=2)
    model = meeting.on(split(loaded(case)))
    classify_latents(model, some_latents(case, 1), some_prompts(case, 6), TrialPlan((2,)))
    once_more = 1  # as layers are not watched on several devices
    assert [samples for _, samples, _ in meeting.calls] == [3, 3] * (2 + once_more)
    assert len({network for network, _, _ in meeting.calls[:2]}) == 2


def test_errors_are_those_of_one_device(case, alone):
    ranked = []
    for model in (merge(loaded(case)), split(merge(loaded(case)))):
        given = some_latents(case, 1), some_prompts(case, 5), TrialPlan((2,))
        ranked.append(classify_latents(model, *given).rankings[0].table.errors)
    assert torch.equal(*ranked)
