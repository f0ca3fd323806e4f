"""Nothing that we keep grows with the number of steps."""

import gc

import pytest
import torch
from bigain.bigain_core.comfyui.patching.attach import compression_state
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool
from tests.host.families import NAMED
from tests.host.families.case import sample


def cached(model):
    return merge(model, method="cached assignment")


def by_schedule(model):
    return pool(model, alpha_start=0.8, alpha_end=1.2)


def tensors():
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


@pytest.fixture(autouse=True)
def nothing_older():
    """Only what is made in the test is counted, and searched through."""
    gc.freeze()
    yield
    gc.unfreeze()


# Each way to attention and each method once; the compression is one object everywhere.
varied = pytest.mark.parametrize(
    ("name", "ours"), [("sd15", merge), ("pixart_sigma", cached), ("flux", by_schedule)]
)


@varied
def test_as_many_tensors_live_in_the_twelfth_call_as_in_the_third(name, ours):
    case, calls, live = NAMED[name], [], {}
    model = ours(case.model)

    def note(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) in (3, 12):
            live[len(calls)] = tensors()
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", note)
    sample(case, model, steps=12)
    assert live[3] == live[12]


@varied
def test_the_log_is_as_long_after_twelve_steps_as_after_three(name, ours):
    case, sizes = NAMED[name], []
    model = ours(case.model)
    for steps in (3, 12):
        sample(case, model, steps=steps)
        state = compression_state(model)
        parts = state.log.layers, state.log.skipped, state.log.networks
        sizes.append([*map(len, (*parts, state.log.slower)), len(state.networks)])
    assert sizes[0] == sizes[1]
