"""Workers as processes of this machine, one for each GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

Work = Callable[[int], str]


class LocalWorkers:
    """`build` makes what does a shard, in each process anew; it is pickled."""

    def __init__(self, build: Callable[[], Work], count: int, gpus: bool):
        spawning, self.processes, self.pipes = get_context("spawn"), [], {}
        for worker in range(count):
            ours, theirs = spawning.Pipe()
            gpu = worker if gpus else None
            process = spawning.Process(target=_serve, args=(theirs, build, gpu), daemon=True)
            process.start()
            theirs.close()  # or its end would never be noticed
            self.processes.append(process)
            self.pipes[worker] = ours

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *exception) -> None:
        for process in self.processes:
            process.kill()  # whatever is finished is in the files
            process.join()

    @property
    def names(self) -> list[int]:
        return list(self.pipes)

    def give(self, worker: int, shard: int) -> None:
        try:
            self.pipes[worker].send(shard)
        except OSError:  # it died while it was idle, and `answers` will say so
            pass

    def answers(self, seconds: float) -> Iterator[tuple[int, str | Exception | None]]:
        by_pipe = {pipe: worker for worker, pipe in self.pipes.items()}
        for pipe in wait(list(by_pipe), seconds):
            worker = by_pipe[pipe]
            try:
                yield worker, pipe.recv()
            except (EOFError, OSError):
                del self.pipes[worker]
                yield worker, None


def _serve(pipe: Connection, build: Callable[[], Work], gpu: int | None) -> None:
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    work = None
    while True:
        shard = pipe.recv()
        try:
            work = work or build()
            pipe.send(work(shard))
        except Exception as error:  # whatever it is, another worker may do better
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
