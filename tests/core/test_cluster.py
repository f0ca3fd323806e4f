"""Shards shared out among workers that fail, die and are slow."""

import os
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.cluster.evaluation import Task
from benchmarks.cluster.local_workers import LocalWorkers
from benchmarks.cluster.sharing import Progress, WorkersError, share_out

SILENT = SimpleNamespace(update=lambda: None)
SHARDS = 9


@pytest.fixture
def writing(monkeypatch):
    """The class of what workers do, in a module that other processes find as well."""
    folder = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
    from shard_writing import Writing

    return Writing


def done(folder):
    """{shard: numbers of the processes that did it}"""
    paths = (path for path in folder.iterdir() if path.name.isdigit())
    return {int(path.name): path.read_text().split() for path in paths}


def test_every_shard_is_done_once_and_the_first_again_at_the_end(writing, tmp_path):
    with LocalWorkers(partial(writing, tmp_path), 3, gpus=False) as workers:
        assert share_out(workers, SHARDS, SILENT) == "shard 1"
    found = done(tmp_path)
    assert {shard: len(by) for shard, by in found.items()} == {
        shard: 1 + (shard == 1) for shard in range(1, SHARDS + 1)
    }


def test_the_shard_of_a_killed_worker_is_done_by_another(writing, tmp_path):
    with LocalWorkers(partial(writing, tmp_path, fatal=4), 3, gpus=False) as workers:
        share_out(workers, SHARDS, SILENT)
        assert sum(process.is_alive() for process in workers.processes) == 2
    assert (tmp_path / "died").exists() and done(tmp_path).keys() == set(range(1, SHARDS + 1))


def test_a_worker_that_is_killed_while_it_waits_is_missed(writing, tmp_path):
    with LocalWorkers(partial(writing, tmp_path), 2, gpus=False) as workers:
        workers.processes[0].kill()
        workers.processes[0].join()
        share_out(workers, SHARDS, SILENT)
    assert done(tmp_path).keys() == set(range(1, SHARDS + 1))


def test_a_shard_that_always_fails_ends_it_and_says_why(writing, tmp_path):
    with LocalWorkers(partial(writing, tmp_path, failing=2), 2, gpus=False) as workers:
        with pytest.raises(WorkersError, match="Shard 2 failed 3 times: ValueError: no such shard"):
            share_out(workers, SHARDS, SILENT)


def test_without_workers_it_ends(writing, tmp_path):
    with LocalWorkers(partial(writing, tmp_path, fatal=1), 1, gpus=False) as workers:
        with pytest.raises(WorkersError, match="No worker is left, and 9 shards are not done"):
            share_out(workers, SHARDS, SILENT)


def test_workers_take_shards_as_they_get_free():
    """A slow worker does few of them."""

    class Fake:
        names = (0, 1)

        def __init__(self):
            self.given, self.count = {}, Counter()

        def give(self, worker, shard):
            self.given[worker] = shard
            self.count[worker] += 1

        def answers(self, seconds):
            for worker in [1] + [0] * (self.count[1] % 4 == 0):
                if worker in self.given:
                    yield worker, f"{self.given.pop(worker)}"

    workers = Fake()
    share_out(workers, 20, SILENT)
    assert workers.count[1] > 2 * workers.count[0] > 0


def test_progress_counts_what_is_in_the_files(tmp_path):
    (tmp_path / "set").mkdir()
    for n in range(7):
        (tmp_path / "set" / f"{n}.png").touch()
    workflow = tmp_path / "workflow.json"
    workflow.write_text('{"1": {"class_type": "BiGainEvaluate", "inputs": {"csv": ""}}}')
    out = tmp_path / "out" / "run.jsonl"
    task = Task(workflow, tmp_path, tmp_path / "set", out, shards=3)
    out.parent.mkdir()
    with Progress(task) as progress:
        assert (progress.total, progress.finished) == (7, 0)
        (out.parent / "run.1-of-3.jsonl").write_text("settings\na\nb\ntorn")
        (out.parent / "run.3-of-3.jsonl").write_text("settings\nc\n")
        progress.update()
        assert progress.bar.n == 3


def test_ray_does_the_same_and_survives_a_killed_actor(writing, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    from benchmarks.cluster.ray_workers import RayWorkers

    with RayWorkers(partial(writing, tmp_path, fatal=3), 2, gpus=False) as workers:
        assert share_out(workers, SHARDS, SILENT) == "shard 1"
    assert (tmp_path / "died").exists() and done(tmp_path).keys() == set(range(1, SHARDS + 1))
