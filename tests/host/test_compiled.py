"""Next to torch.compile: nothing is traced again from step to step, and nothing changes."""

from dataclasses import replace

import comfy.model_management
import pytest
import torch
import torch._dynamo
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch._dynamo.utils import counters

from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED
from tests.host.families.case import sample
from tests.host.families.joint import SD3
from tests.host.families.streams import FLUX
from tests.host.families.unets import SD15

pytestmark = pytest.mark.long

ONE_LEVEL = {"channel_mult": [1], "num_res_blocks": [1], "transformer_depth": [1]}
# Tracing takes the time, so no network has more blocks than it needs.
SMALL = {
    "sd15": replace(NAMED["sd15"], build=SD15.but(**ONE_LEVEL, transformer_depth_output=[1, 1])),
    "pixart_sigma": NAMED["pixart_sigma"],
    "flux": replace(NAMED["flux"], build=FLUX.but(depth=1, depth_single_blocks=1)),
    "sd3": replace(NAMED["sd3"], build=SD3.but(num_blocks=1)),
}


def compiled(model, **options):
    """As the host's own node does it; the backend that runs what was traced is the quickest one."""
    model = model.clone()
    set_torch_compile_wrapper(model, backend="eager", **options)
    return model


def traced():
    """What the compiler has done so far: frames looked at, graphs made, breaks between them."""
    frames = counters["frames"]["total"]
    return frames, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def free_memory(device=None, torch_free_too=False):
    return (2**33, 2**33) if torch_free_too else 2**33


@pytest.fixture
def compiler(monkeypatch):
    """The host's attention reads the free memory; it is compiled once more when that changes."""
    monkeypatch.setattr(comfy.model_management, "get_free_memory", free_memory)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def by_schedule(model, **where):
    """Alpha changes in every step."""
    return pool(model, alpha_start=0.8, alpha_end=1.2, **where)


def both(model):
    return by_schedule(merge(model, placement="encoder"), placement="decoder")


# One family for each way to attention: its own forward in a UNet and a DiT, the host's override.
@pytest.mark.parametrize(
    ("name", "ours", "behind"),
    [("sd15", both, False), ("pixart_sigma", merge, True), ("sd3", by_schedule, False)],
)
def test_nothing_is_compiled_again_from_step_to_step(name, ours, behind, compiler):
    """With ours behind the compiling node and before it."""
    case, before_calls = SMALL[name], []
    model = ours(compiled(case.model)) if behind else compiled(ours(case.model))

    def note(executor, *args, **kwargs):
        before_calls.append(traced())
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", note)
    image = sample(case, model, steps=5)
    assert len(before_calls) == 5
    assert set(before_calls[2:]) == {traced()}, "all is compiled in the first two steps"
    assert torch.equal(image, sample(case, ours(case.model), steps=5))
    assert "compressed" in report(model)


def block_by_block(model):
    """As packs compile: every block is an object patch of the model."""
    model = model.clone()
    for name in BLOCKS:
        model.add_object_patch(name, torch.compile(model.get_model_object(name), backend="eager"))
    return model


BLOCKS = [f"diffusion_model.{kind}_blocks.0" for kind in ("double", "single")]
WAYS = {"object patches": block_by_block, "keys": lambda model: compiled(model, keys=BLOCKS)}


def test_blocks_compiled_one_by_one_are_not_compiled_again(compiler):
    """Nor does the first call count operations, whose hooks would be compiled with the blocks."""
    case, before_calls = SMALL["flux"], []
    model = block_by_block(pool(case.model))

    def note(executor, *args, **kwargs):
        before_calls.append(traced())
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", note)
    image = sample(case, model, steps=3)
    assert before_calls[1:] == [traced()] * 2
    assert torch.equal(image, sample(case, pool(case.model), steps=3))
    assert "2 of 2 self-attention layers compressed" in report(model)
    assert "whole network" not in report(model)


@pytest.mark.parametrize("way", WAYS)
def test_blocks_compiled_one_by_one_are_compressed(way, compiler):
    """Compiled before our node; above after it."""
    case = SMALL["flux"]
    model = pool(WAYS[way](case.model))
    assert torch.equal(sample(case, model), sample(case, pool(case.model)))
    assert "2 of 2 self-attention layers compressed" in report(model)


@pytest.mark.parametrize(
    ("name", "both"),
    [
        ("pixart_sigma", lambda model: pool(compiled(model, fullgraph=True))),
        ("sd3", lambda model: compiled(pool(model), fullgraph=True)),
    ],
    ids=["pixart_sigma", "sd3"],
)
def test_one_full_graph_cannot_be_had_and_the_report_says_so(name, both, compiler):
    """An order of the nodes each; the image is that of the plain model, compiled as asked for."""
    case = SMALL[name]
    plain = sample(case, compiled(case.model, fullgraph=True))
    model = both(case.model)
    assert torch.equal(sample(case, model), plain)
    text = report(model)
    assert "CHANGED NOTHING" in text and "compile without fullgraph" in text
    again = pool(case.model)
    assert not torch.equal(sample(case, again), plain)
    assert "compressed" in report(again) and "fullgraph" not in report(again)


def test_an_error_of_the_network_stays_what_it_is(compiler):
    case = SMALL["flux"]

    def fail(*args, **kwargs):
        raise RuntimeError("stop")

    model = compiled(pool(case.model), fullgraph=True)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", fail)
    with pytest.raises(RuntimeError, match="stop"):
        sample(case, model)
