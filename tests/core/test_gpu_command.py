"""The command for a machine with a GPU, tried on one without."""

from contextlib import contextmanager
from itertools import count
from time import monotonic

import pytest
import torch

from benchmarks import gpu
from benchmarks.joint_layer import JointLayer
from benchmarks.speed_blocks import CACHED, METHODS, OFF, Layer
from benchmarks.timing import clock_of
from bigain_core.measure.timing import by_clock
from bigain_core.methods import TokenMerging

CPU = torch.device("cpu")


@contextmanager
def smaller_layers():
    """Of a quarter of the tokens, where nothing depends on how many there are."""
    make = Layer.random
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layer, "random", lambda tokens, *others: make(tokens // 4, *others))
        yield


@pytest.fixture(scope="module")
def parts():
    with smaller_layers():
        return list(gpu.report(CPU, [torch.float32], quick=True))


def cells(part):
    """Rows of a Markdown table without its head."""
    lines = part.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_quick_report_names_the_machine_and_every_setting(parts):
    name, launches, _, speed, results = parts
    assert torch.__version__ in name
    assert [row[0] for row in cells(results)] == [f"{name}, float32" for name in METHODS]
    assert [row[0] for row in cells(launches)] == list(METHODS)
    of_sizes = {size: {r[1] for r in cells(speed) if r[0] == size} for size, *_ in cells(speed)}
    assert list(of_sizes) == [*gpu.QUICK, *gpu.QUICK_JOINT]
    alone, with_text = of_sizes.values()
    assert {OFF, CACHED, *METHODS, "tomesd 0.7"} <= alone
    assert {OFF, *METHODS} == with_text
    assert {"key merging 0.75", "key pairs 0.75", "IE-KVD factor 2, random places"} <= with_text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_cpu_differs_from_itself_in_nothing(dtype):
    with smaller_layers():
        rows = list(gpu.result_rows(CPU, dtype, monotonic() + 600))
    assert all(float(row[1]) == float(row[3]) == 0 for row in rows)
    assert all(row[2] in ("", "100.00%") for row in rows)


def test_a_device_that_computes_otherwise_is_told(monkeypatch):
    monkeypatch.setattr(Layer, "random", differing := _Differing(Layer.random))
    with smaller_layers():
        rows = list(gpu.result_rows(torch.device("cpu", 0), torch.float32, monotonic() + 600))
    assert differing.made == 4
    for row in rows:
        assert row[1].endswith("TOO FAR") and row[3].endswith("TOO FAR")
        assert all(float(row[n].removesuffix(" TOO FAR")) > 0.1 for n in (1, 3))


class _Differing:
    """Another input for every layer made."""

    def __init__(self, make):
        self.make, self.made = make, 0

    def __call__(self, *args):
        self.made += 1
        layer = self.make(*args)
        layer.x.mul_(torch.linspace(1, self.made, layer.x.shape[1])[:, None]).cos_()
        return layer


def test_layers_beyond_the_time_are_named(parts):
    rows = list(gpu.speed_rows(CPU, torch.float32, gpu.SIZES, 1, until=0))
    assert [row[0] for row in rows] == list(gpu.SIZES)
    assert all("the time is up" in row[1] and len(row) == len(cells(parts[3])[0]) for row in rows)


def test_break_even_stops_where_the_time_is_up(monkeypatch):
    monkeypatch.setattr(gpu, "points", lambda *given: iter([None]))
    rows = gpu.break_even_rows(CPU, torch.float32, 1, until=0)
    assert list(gpu.until_time_is_up(rows, 2)) == [[gpu.TIME_UP, ""]]


def test_a_table_ends_with_what_there_was_time_for(monkeypatch):
    layer = Layer.random(256, 320, 1, CPU, torch.float32)
    for rows, columns in (
        (gpu.result_rows(CPU, torch.float32, until=2), 4),
        (gpu.launch_rows(CPU, layer, until=2), 4),
    ):
        monkeypatch.setattr(gpu, "monotonic", count(1).__next__)
        first, *_, last = gpu.until_time_is_up(rows, columns)
        assert next(iter(METHODS)) in first[0] and last == [gpu.TIME_UP, "", "", ""]


def test_a_layer_in_which_the_time_ends_is_left_out(monkeypatch):
    """After eight calls of a slow card, the first of which is before the layer."""
    monkeypatch.setattr(gpu, "monotonic", count(1).__next__)
    rows = list(gpu.speed_rows(CPU, torch.float32, gpu.QUICK | gpu.QUICK_JOINT, 1, until=8))
    assert [row[:2] for row in rows] == [[n, gpu.TIME_UP] for n in (*gpu.QUICK, *gpu.QUICK_JOINT)]
    assert next(gpu.monotonic.__self__) == 11, "nothing is begun after the eighth"


class Event:
    """A CUDA event on a clock that only works move."""

    now = 0

    def __init__(self, enable_timing):
        assert enable_timing
        self.at, self.waited = None, False

    def record(self):
        self.at = Event.now

    def synchronize(self):
        self.waited = True

    def elapsed_time(self, end):
        assert end.waited
        return end.at - self.at


def test_a_cuda_device_tells_the_time_itself(monkeypatch):
    def work():
        Event.now += 250  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert clock_of(torch.device("cuda"))(work) == 0.25
    assert clock_of(CPU) is by_clock


@pytest.fixture(scope="module")
def joint():
    return JointLayer.random(7, 64, 320, 2, CPU, torch.float32)


def test_text_and_image_attend_to_each_other_as_in_torch(joint):
    *inputs, out = joint.layer.projections
    normed = joint.layer.norm(joint.layer.x).transpose(0, 1)
    expected, _ = torch.nn.functional.multi_head_attention_forward(
        *(normed, normed, normed, 320, 8, torch.cat(inputs), None, None, None, False, 0.0),
        *(out, None),
    )
    torch.testing.assert_close(joint.run(None), expected.transpose(0, 1), atol=1e-5, rtol=1e-4)


def test_with_text_a_method_gives_the_plain_layer_or_another(joint):
    plain = joint.run(None)
    for name, method in METHODS.items():
        assert joint.run(method).shape == plain.shape
        assert not torch.allclose(joint.run(method), plain, atol=1e-3), name
    same = joint.run(TokenMerging(0.001))
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=1e-4)


def test_a_result_that_is_too_far_ends_the_command_with_an_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--quick"])
    monkeypatch.setattr(gpu, "report", lambda *given: iter(["| L-GTM | 3.0e-02 TOO FAR |"]))
    with pytest.raises(SystemExit, match="2%"):
        gpu.main()
    assert "TOO FAR" in capsys.readouterr().out


def test_every_layer_can_be_built():
    for _, width, _ in gpu.SIZES.values():
        layer = Layer.random(16, width, 1, CPU, torch.float32)
        assert layer.shortened(16, 4).shape == (1, 16, width)
