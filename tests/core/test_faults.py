"""Random files, interruptions and options, a few of each kind; `benchmarks.faults` does more."""

import pytest

from benchmarks import faults


def test_no_fault_is_found(capsys):
    assert faults.main(["--cases", "25", "--seconds", "0.5", "--seed", "7"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {kind}" for kind in faults.KINDS]
    assert all(row.endswith("| none |") and int(row.split(" | ")[1]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("images", {"read_image": lambda path, size: {}[path]}),
        ("tables", {"read_folder": lambda root, folder, table="": LookupError}),
        ("truncations", {"_write": lambda path, records: path.open("ab").write(b"{}\n")}),
        ("damaged_results", {"read_results": lambda path: int(path.read_bytes())}),
        ("options", {"read_labels": lambda text: text.encode("ascii")}),
    ],
)
def test_a_fault_ends_with_the_command_that_repeats_it(kind, broken, monkeypatch, capsys):
    for name, function in broken.items():
        monkeypatch.setattr(faults, name, function)
    assert faults.main(["--kinds", kind, "--cases", "60", "--seed", "3"]) == 1
    repeating = capsys.readouterr().out.splitlines()[-1].split()
    assert repeating[:3] == ["python", "-m", "benchmarks.faults"]
    assert faults.main(repeating[3:]) == 1
    monkeypatch.undo()
    assert faults.main(repeating[3:]) == 0
