"""Hosts that record what a forward allocates, to replay it (emulated).

What outlives the forward has to be made in a pause of the recording, and nothing may be read in it.
"""

import gc
import sys
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from bigain.bigain_core.comfyui.model_token_map import FIRST, map_tokens
from bigain.bigain_core.measure.counting import LayerCount
from comfy.patcher_extension import WrappersMP
from torch.utils._pytree import tree_leaves

from benchmarks.kernels import CountedKernels, LiveMemory
from tests.host.compressing import merge, pool
from tests.host.families import NAMED, for_cases
from tests.host.families.case import sample

CASES = [NAMED[name] for name in ("sd15", "flux", "wan", "hunyuan_video_padded")]


class Recorder:
    """Stands in for the module of the host that records."""

    def __init__(self):
        self.paused = False
        self.memories = []
        self.outlived = []  # bytes, after each call
        self.reads = 0

    @contextmanager
    def pause_malloc_graph(self):
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def around(self, model):
        """A clone whose forwards are recorded."""

        def forward(executor, *args, **kwargs):
            with Recording(self) as memory:
                self.memories.append(memory)
                return executor(*args, **kwargs)

        def call(apply_model, args):
            found = apply_model(args["input"], args["timestep"], **args["c"])
            gc.collect()
            self.outlived.append(sum(memory.live for memory in self.memories))
            return found

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "recorded", forward)
        model.set_model_unet_function_wrapper(call)
        return model


class Recording(LiveMemory):
    """Of tensors made in a forward, not of weights and inputs that are looked at in it."""

    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder
        self.older = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if self.recorder.paused:
            return operator(*args, **(kwargs or {}))
        self.recorder.reads += operator.overloadpacket is torch.ops.aten._local_scalar_dense
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known | self.older:
                    self.older.add(storage._cdata)
                    weakref.finalize(storage, self.older.discard, storage._cdata)
        return super().__torch_dispatch__(operator, types, args, kwargs)

    def _note(self, storage):
        if storage._cdata not in self.older:
            super()._note(storage)


@pytest.fixture
def recorder(monkeypatch):
    gc.freeze()  # what was there before is not searched through in every call
    found = Recorder()
    stand_in = SimpleNamespace(**vars(sys.modules.get("comfy.model_prefetch", found)))
    stand_in.pause_malloc_graph = found.pause_malloc_graph
    monkeypatch.setitem(sys.modules, "comfy.model_prefetch", stand_in)
    yield found
    gc.unfreeze()


def of_a_run(recorder, case, model):
    """Bytes that outlived each call, and what was read in them."""
    recorder.outlived, recorder.reads = [], 0
    sample(case, recorder.around(model))
    return recorder.outlived, recorder.reads


@for_cases(CASES)
def test_a_run_leaves_as_little_and_reads_as_little_as_a_plain_one(case, recorder):
    plain = of_a_run(recorder, case, case.model)
    assert len(plain[0]) >= 2
    for compressed in (merge(case.model, 0.5), merge(case.model, 0.5, method="ToMe"), pool):
        model = compressed(case.model) if compressed is pool else compressed
        assert of_a_run(recorder, case, model) == plain


@pytest.mark.parametrize("name", ["sd15", "flux"])
@pytest.mark.parametrize("way", [merge, pool])
def test_the_token_map_keeps_copies_made_in_a_pause(recorder, name, way):
    case = NAMED[name]
    model = recorder.around(way(case.model))
    maps = map_tokens(model, case.noise(), case.conditioning(0), FIRST, 500, 0)
    assert len(maps) == 1 and recorder.outlived == [0]


def test_counting_operations_makes_no_tensor():
    count, layer = LayerCount(), torch.nn.Linear(3, 5)
    inputs, output = torch.zeros(2, 3), torch.zeros(2, 5)
    with CountedKernels() as kernels:
        count.add(layer, (inputs,), output)
    assert count.flops == 2 * 2 * 3 * 5 and kernels.count == 0
