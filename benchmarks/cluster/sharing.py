"""Shards for workers that may die."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from tqdm import tqdm

from benchmarks.cluster.evaluation import Task
from bigain_core.classification.datasets.image_folder import read_folder
from bigain_core.classification.datasets.result_files import shard_name

TRIES = 3
SECONDS = 2.0  # between two looks at how far the workers are


class WorkersError(Exception):
    """Why not all was done."""


class Workers(Protocol):
    """Processes that do one shard at a time; `names` are the numbers of those that live."""

    names: Sequence[int]

    def give(self, worker: int, shard: int) -> None: ...

    def answers(self, seconds: float) -> Iterator[tuple[int, str | Exception | None]]:
        """Who is done, and with what: a text, an error, or nothing from one that died.

        Ends after so many seconds at the latest.
        """
        ...


class Progress:
    """A bar of the images that have a result, with the time that is left."""

    def __init__(self, task: Task):
        self.paths = [
            task.out.with_name(shard_name(task.name, shard, task.shards))
            for shard in range(task.shards)
        ]
        self.total = len(read_folder(task.folder.parent, task.folder.name, task.table).images)

    def __enter__(self) -> Progress:
        self.bar = tqdm(total=self.total, initial=self.finished, unit="image")
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    @property
    def finished(self) -> int:
        """Lines of all shards but the first of each, which has the settings."""
        files = (path.read_bytes().count(b"\n") for path in self.paths if path.exists())
        return sum(max(lines - 1, 0) for lines in files)

    def update(self) -> None:
        self.bar.update(self.finished - self.bar.n)


def share_out(workers: Workers, shards: int, progress: Progress) -> str:
    """Have all shards done, and the first once more at the end, whose run combines them.

    A shard whose worker died or failed is tried again, by another worker where there is one. What
    the last run says is returned.

    Raises WorkersError when a shard fails three times or no worker is left.
    """
    _all_done(workers, range(1, shards + 1), progress)
    return _all_done(workers, [1], progress)


def _all_done(workers: Workers, shards: Sequence[int], progress: Progress) -> str:
    waiting, tries, busy, text = deque(shards), Counter(), {}, ""
    idle = deque(workers.names)
    while waiting or busy:
        while waiting and idle:
            worker, shard = idle.popleft(), waiting.popleft()
            workers.give(worker, shard)
            busy[worker] = shard
        if not busy:
            raise WorkersError(
                f"No worker is left, and {len(waiting)} shards are not done. Run it again to "
                "continue."
            )
        for worker, answer in workers.answers(SECONDS):
            shard = busy.pop(worker)
            if isinstance(answer, str):
                text = answer
                idle.append(worker)
                continue
            tries[shard] += 1
            if answer is not None:
                idle.append(worker)
                if tries[shard] == TRIES:
                    raise WorkersError(f"Shard {shard} failed {TRIES} times: {answer}")
            elif tries[shard] == TRIES:
                raise WorkersError(f"{TRIES} workers died of shard {shard}.")
            waiting.append(shard)
        progress.update()
    return text
