"""Evaluate a folder on all GPUs of a machine, or of a cluster through Ray.

    python -m benchmarks.cluster WORKFLOW --host COMFYUI --folder DIR --out FILE.jsonl
        [--prompts FILE] [--checkpoint FILE] [--workers N] [--cpu] [--ray [ADDRESS]]

WORKFLOW is saved from ComfyUI, with one BiGain Evaluate node in it. What the options name takes
the place of what the workflow says: the folder of images, where results go, a file with a label on
each line, the file that the loaders load. The images are cut into shards, which workers take as
they get free; a shard whose worker died is done by another one. Stop it at any time, and run it
again to continue. FILE.jsonl comes out as if one process had written it.

With --ray the workers are placed on the GPUs of a Ray cluster (python -m pip install ray; ADDRESS
as of `ray start`, by default one that runs here or a new one). ComfyUI, this repository, the images
and the folder of FILE must have the same paths on all machines.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks.cluster.evaluation import Evaluation, Task
from benchmarks.cluster.local_workers import LocalWorkers
from benchmarks.cluster.sharing import Progress, WorkersError, share_out

SHARDS_PER_WORKER = 8  # the last of them end at nearly the same time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workflow", type=Path)
    parser.add_argument("--host", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--folder", type=Path, required=True, help="images to evaluate")
    parser.add_argument("--out", type=Path, required=True, help="results, NAME.jsonl")
    parser.add_argument("--prompts", type=Path, help="a label on each line, or CSV")
    parser.add_argument("--checkpoint", type=Path, help="a file for the loaders")
    parser.add_argument("--workers", type=int, default=max(torch.cuda.device_count(), 1))
    parser.add_argument("--shards", type=int, help="8 for each worker; must stay to continue")
    parser.add_argument("--cpu", action="store_true", help="workers on the CPU")
    parser.add_argument("--ray", nargs="?", const="auto", metavar="ADDRESS")
    args = parser.parse_args()
    shards = args.shards or SHARDS_PER_WORKER * args.workers
    paths = (args.workflow, args.host, args.folder, args.out, args.prompts, args.checkpoint)
    task = Task(*(path and path.resolve() for path in paths), shards, args.cpu)
    build = partial(Evaluation, task)
    try:
        if args.ray:
            from benchmarks.cluster.ray_workers import RayWorkers

            workers = RayWorkers(build, args.workers, args.ray, gpus=not args.cpu)
        else:
            workers = LocalWorkers(build, args.workers, gpus=not args.cpu)
        with workers, Progress(task) as progress:
            print(share_out(workers, shards, progress))
    except WorkersError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
