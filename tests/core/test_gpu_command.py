"""The command for a machine with a GPU, tried on one without."""

import pytest
import torch

from benchmarks import gpu
from benchmarks.speed_blocks import CACHED, METHODS, OFF, Layer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts():
    return list(gpu.report(CPU, [torch.float32], quick=True))


def cells(part):
    """Rows of a Markdown table without its head."""
    lines = part.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_quick_report_names_the_machine_and_every_setting(parts):
    name, results, launches, _, speed = parts
    assert torch.__version__ in name
    assert [row[0] for row in cells(results)] == list(METHODS)
    assert [row[0] for row in cells(launches)] == list(METHODS)
    assert {OFF, CACHED, *METHODS, "tomesd 0.7"} <= {row[1] for row in cells(speed)}


def test_the_cpu_differs_from_itself_in_nothing(parts):
    assert all(float(row[1]) == 0 and row[2] in ("", "100.00%") for row in cells(parts[1]))


def test_a_device_that_computes_otherwise_is_told(monkeypatch):
    monkeypatch.setattr(Layer, "random", differing := _Differing(Layer.random))
    rows = list(gpu.result_rows(torch.device("cpu", 0)))
    assert differing.made == 2
    assert all(float(row[1].removesuffix(" TOO FAR")) > 0.1 for row in rows)
    assert all(row[1].endswith("TOO FAR") for row in rows)


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
    assert all("the time is up" in row[1] and len(row) == len(cells(parts[-1])[0]) for row in rows)


def test_break_even_stops_where_the_time_is_up(monkeypatch):
    monkeypatch.setattr(gpu, "points", lambda *given: iter([None]))
    rows = list(gpu.break_even_rows(CPU, torch.float32, 1, until=0))
    assert len(rows) == 1 and "the time is up" in rows[0][0]


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
