"""Workers as actors of a Ray cluster, which puts them where a GPU is free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
from ray.exceptions import RayActorError

from benchmarks.cluster.local_workers import Work

PACK = Path(__file__).resolve().parents[2]


class RayWorkers:
    """`build` makes what does a shard, in each actor anew."""

    def __init__(
        self, build: Callable[[], Work], count: int, address: str = "auto", gpus: bool = True
    ):
        if not ray.is_initialized():
            found = [str(PACK), *filter(None, [os.environ.get("PYTHONPATH")])]
            variables = {"PYTHONPATH": os.pathsep.join(found)}
            options = {"runtime_env": {"env_vars": variables}, "log_to_driver": False}
            try:
                ray.init(address, **options)
            except ConnectionError:
                if address != "auto":
                    raise
                ray.init(include_dashboard=False, **options)
        kind = ray.remote(num_cpus=1, num_gpus=int(gpus))(_Actor)
        self.names = list(range(count))
        self.actors = [kind.remote(build) for _ in self.names]
        self.pending: dict[ray.ObjectRef, int] = {}

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *exception) -> None:
        ray.shutdown()

    def give(self, worker: int, shard: int) -> None:
        self.pending[self.actors[worker].run.remote(shard)] = worker

    def answers(self, seconds: float) -> Iterator[tuple[int, str | Exception | None]]:
        done, _ = ray.wait(list(self.pending), num_returns=1, timeout=seconds)
        for answer in done:
            worker = self.pending.pop(answer)
            try:
                yield worker, ray.get(answer)
            except RayActorError:
                self.names.remove(worker)
                yield worker, None
            except Exception as error:  # whatever it is, another worker may do better
                yield worker, error


class _Actor:
    def __init__(self, build: Callable[[], Work]):
        self.build, self.work = build, None

    def run(self, shard: int) -> str:
        self.work = self.work or self.build()
        return self.work(shard)
