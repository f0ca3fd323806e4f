"""An evaluation by several processes, one of them killed: the file that one process writes."""

import json
import threading
import time
from functools import partial
from pathlib import Path

import folder_paths
import numpy as np
import pytest
from bigain.nodes.dit_nodes import BiGainDiTLabels
from bigain.nodes.evaluation_node import BiGainEvaluate
from PIL import Image

from benchmarks.cluster.evaluation import Evaluation, Task
from benchmarks.cluster.local_workers import LocalWorkers
from benchmarks.cluster.sharing import Progress, share_out
from tests.host.drawn import LABELS

pytestmark = pytest.mark.once

WORKFLOW = Path(__file__).parents[1] / "server" / "workflows" / "evaluate_and_explain.json"
SHARDS = 6


@pytest.fixture
def folder(tmp_path, drawings):
    for number, (pixels, label) in enumerate(zip(*drawings, strict=True)):
        path = tmp_path / "images" / "drawn" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels.numpy() * 255).round().astype(np.uint8)).save(path)
    return tmp_path


@pytest.fixture
def alone(folder, monkeypatch, vae, shallow):
    """What BiGain Evaluate writes in this process, with the settings of the workflow."""
    monkeypatch.setattr(folder_paths, "input_directory", str(folder / "images"))
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    prompts = BiGainDiTLabels.execute(shallow, "\n".join(LABELS)).args[2]
    summary = BiGainEvaluate.execute(
        model=shallow, prompts=prompts, vae=vae, folder="drawn", csv="", output="alone",
        preset="fast", size=32, limit=0, shard=1, shards=1, compare_with="",
    ).args[0]  # fmt: skip
    return (folder / "alone.jsonl").read_bytes(), summary


@pytest.fixture
def workflow(folder):
    """The saved one without what BiGain Evaluate does not need, whose import takes long."""
    saved = json.loads(WORKFLOW.read_text("ascii"))
    kinds = ("BiGainDiTLoader", "VAELoader", "BiGainDiTLabels", "BiGainEvaluate")
    saved["nodes"] = [node for node in saved["nodes"] if node["type"] in kinds]
    kept = {node["id"] for node in saved["nodes"]}
    saved["links"] = [link for link in saved["links"] if {link[1], link[3]} <= kept]
    path = folder / "workflow.json"
    path.write_text(json.dumps(saved))
    return path


@pytest.mark.long
def test_two_workers_one_killed_write_what_one_process_writes(
    folder, comfyui, workflow, alone, shallow_file, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the workers: more would wait for each other
    labels, out = folder / "labels.txt", folder / "out" / "run.jsonl"
    labels.write_text("\n".join(LABELS))
    task = Task(
        workflow, comfyui, folder / "images" / "drawn", out, labels, shallow_file, SHARDS, cpu=True
    )
    with LocalWorkers(partial(Evaluation, task), 2, gpus=False) as workers:

        def kill_one_at_work():
            while not any(path.stat().st_size for path in out.parent.glob("run.*-of-*.jsonl")):
                time.sleep(0.02)
            workers.processes[0].kill()

        killer = threading.Thread(target=kill_one_at_work, daemon=True)
        with Progress(task) as progress:
            killer.start()
            summary = share_out(workers, SHARDS, progress)
            assert progress.finished == progress.total == 6
        killer.join()
        assert [process.is_alive() for process in workers.processes] == [False, True]
    expected, text = alone
    assert out.read_bytes() == expected
    assert summary == text
    assert out.with_suffix(".csv").exists()


def test_what_the_workflow_needs_comes_from_the_command_line(folder, comfyui):
    """An exported workflow as well as a saved one, with the class list of a file of its own."""
    saved = json.loads(WORKFLOW.read_text("ascii"))
    (node,) = (one for one in saved["nodes"] if one["type"] == "BiGainEvaluate")
    node["widgets_values"][1] = "labels.csv"
    changed = folder / "workflow.json"
    changed.write_text(json.dumps(saved))
    task = Task(changed, comfyui, folder / "images", folder / "x.jsonl")
    assert task.table == "labels.csv"
    changed.write_text('{"7": {"class_type": "BiGainEvaluate", "inputs": {"csv": "other.csv"}}}')
    assert task.table == "other.csv"
    with pytest.raises(ValueError, match="expected results in a file NAME.jsonl"):
        Task(changed, comfyui, folder / "images", folder / "x.csv")
