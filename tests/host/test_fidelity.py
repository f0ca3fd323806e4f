"""The yardstick on a few images, in this process."""

import json

import pytest
import torch

from benchmarks.fidelity import settings as compared_methods
from benchmarks.fidelity import work
from benchmarks.fidelity.__main__ import main
from benchmarks.fidelity.measuring import result_files
from benchmarks.fidelity.settings import METHODS
from bigain_core.methods import TokenMerging

FEW = ("IE-KVD 2", "key merging 2")


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Two methods of the table, and one that changes nothing."""
    methods = {name: METHODS[name] for name in FEW}
    measured = methods | {"off": TokenMerging(0.0)}
    monkeypatch.setattr(compared_methods, "METHODS", measured)
    monkeypatch.setattr("benchmarks.fidelity.page.METHODS", methods)
    return lambda model, images=2: work.Work(model, None, tmp_path, images, 2, 1)


def records(work, kind):
    return {
        path.stem: [json.loads(line) for line in path.read_text("ascii").splitlines()[1:]]
        for path in (work.folder / kind).glob("*.jsonl")
    }


@pytest.mark.parametrize("model", ["small-dit", "small-unet"])
def test_a_tiny_run_goes_on_and_is_reported(few, model, monkeypatch, capsys):
    first, both = few(model, 1), few(model)
    first.measure()
    before = {path: path.read_text("ascii") for path in first.folder.rglob("*.jsonl")}
    both.measure()
    for path, text in before.items():
        assert path.read_text("ascii").startswith(text), "what is finished is not done again"
    predictions, generation = records(both, "predictions"), records(both, "generation")
    assert len(predictions) == len(generation) == 3
    assert all(len(rows) == 2 for rows in [*predictions.values(), *generation.values()])
    for row in predictions["off-seed-0"]:
        assert not any(row["error"]) and row["same"] and row["ranks"] == pytest.approx(1)
    for row in generation["off-seed-0"]:
        assert row["square"] == 0
    pooled, keys = (
        torch.tensor([r["error"] for r in predictions[f"{name}-seed-0"]]).sum()
        for name in ("ie-kvd-2", "key-merging-2")
    )
    assert 0 < keys < pooled
    main(["--report", "--models", model, "--out", str(both.out)])
    text = capsys.readouterr().out
    assert "2 images, 2 generated" in text and text.count("| key merging 2") == 2
    assert (both.folder / "curves.png").exists()


def test_results_of_another_setting_are_not_mixed(few, tmp_path):
    one = compared_methods.Setting("L-GTM 0.7", TokenMerging(0.7))
    other = compared_methods.Setting("L-GTM 0.7", TokenMerging(0.6))
    with result_files(tmp_path, [one]):
        pass
    with (
        pytest.raises(ValueError, match="results of the same method"),
        result_files(tmp_path, [other]),
    ):
        pass
