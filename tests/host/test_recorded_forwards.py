"""Hosts that record what a forward allocates, to replay it, and CUDA graphs (both emulated).

What outlives the forward has to be made in a pause of the recording, and nothing may be read or
counted in it.
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.kernels import CountedKernels, LiveMemory
from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED, for_cases
from tests.host.families.case import sample

READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal)
CASES = [NAMED[name] for name in ("sd15", "flux", "wan", "hunyuan_video_padded")]


class Recorder:
    """Stands in for the module of the host that records, where the forward of a network asks it."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.paused = False
        self.memories = []
        self.outlived = []  # bytes, after each call
        self.reads = 0
        self.hooks = 0

    def malloc_graph_enabled(self, device):
        return True

    def malloc_graph_begin(self, network):
        self.hooks += sum(len(module._forward_hooks) for module in network.modules())
        self.memories.append(Recording(self))
        self.memories[-1].__enter__()

    def malloc_graph_end(self):
        self.memories[-1].__exit__(None, None, None)

    @contextmanager
    def pause_malloc_graph(self):
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def around(self, model):
        """A clone whose forwards are recorded."""
        network, recorder = model.model.diffusion_model, self
        kind = type(network)

        class Recorded(kind):
            def forward(self, *args, **kwargs):
                recorder.malloc_graph_begin(self)
                try:
                    return super().forward(*args, **kwargs)
                finally:
                    recorder.malloc_graph_end()

        Recorded.__module__ = kind.__module__
        if kind.__name__ != "Recorded":
            self.monkeypatch.setattr(network, "__class__", Recorded)

        def call(apply_model, args):
            found = apply_model(args["input"], args["timestep"], **args["c"])
            gc.collect()
            self.outlived.append(sum(memory.live for memory in self.memories))
            return found

        model = model.clone()
        model.set_model_unet_function_wrapper(call)
        return model


class CountedReads(TorchDispatchMode):
    def __init__(self, reads):
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.overloadpacket in READS:
            self.reads.append(operator)
        return operator(*args, **(kwargs or {}))


class Recording(LiveMemory):
    """Of tensors made in a forward, not of weights and inputs that are looked at in it."""

    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder
        self.older = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if self.recorder.paused:
            return operator(*args, **(kwargs or {}))
        self.recorder.reads += operator.overloadpacket in READS
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
    found = Recorder(monkeypatch)
    stand_in = SimpleNamespace(**vars(sys.modules.get("comfy.model_prefetch", found)))
    stand_in.pause_malloc_graph = found.pause_malloc_graph
    stand_in.malloc_graph_enabled = found.malloc_graph_enabled
    monkeypatch.setitem(sys.modules, "comfy.model_prefetch", stand_in)
    yield found
    gc.unfreeze()


def of_a_run(recorder, case, model):
    """Bytes that outlived each call, what was read in them, and the hooks that were there."""
    recorder.outlived, recorder.reads, recorder.hooks = [], 0, 0
    sample(case, recorder.around(model))
    return recorder.outlived, recorder.reads, recorder.hooks


@for_cases(CASES)
def test_a_run_leaves_reads_and_counts_as_little_as_a_plain_one(case, recorder):
    plain = of_a_run(recorder, case, case.model)
    assert len(plain[0]) >= 2
    for model in (merge(case.model, 0.5), merge(case.model, 0.5, method="ToMe"), pool(case.model)):
        assert of_a_run(recorder, case, model) == plain
        assert "compressed" in report(model) and "whole network" not in report(model)


def test_a_network_that_is_not_recorded_is_counted_beside_others_that_are(recorder):
    model = pool(NAMED["flux"].model)
    sample(NAMED["flux"], model)
    assert "whole network" in report(model)


@pytest.mark.parametrize("kind", [WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL])
@for_cases([NAMED["sd15"], NAMED["hunyuan_video_padded"]])
def test_what_goes_into_a_cuda_graph_is_plain_and_the_report_says_so(case, kind, monkeypatch):
    """A decision would be repeated in every step, and nothing can be read while it is recorded."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    reads = []

    def captured(executor, *args, **kwargs):
        with monkeypatch.context() as capture, CountedReads(reads):
            capture.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            return executor(*args, **kwargs)

    def through_graph(model):
        model = model.clone()
        model.add_wrapper_with_key(kind, "captured", captured)
        model.wrappers[kind] = dict(reversed(model.wrappers[kind].items()))  # around ours
        return model

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    plain = sample(case, through_graph(case.model))
    of_plain = len(reads)
    model = through_graph(pool(case.model))
    assert torch.equal(sample(case, model), plain) and len(reads) == 2 * of_plain
    assert "CUDA graph" in report(model) and "CHANGED NOTHING" in report(model)


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
