"""What the demo does: generate and rank under every setting in turn, and time it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from torch import Tensor
from tqdm import tqdm

from benchmarks.demo_backend import Backend, CallFlops
from benchmarks.demo_whole import NAME, PIXELS, SETTING, whole_call
from benchmarks.methods import OFF
from bigain_core.classification import Classification, TrialPlan
from bigain_core.compression.rules import Compression
from bigain_core.listener import Listener
from bigain_core.measure.benchmark import Benchmark

Found = TypeVar("Found")
Settings = Mapping[str, Compression]


@dataclass(frozen=True, eq=False)
class Question:
    """Images (B, S, S, 3) in [0, 1] with their names, to be ranked among the same prompts."""

    images: Tensor
    names: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """Prompts to generate, a question to answer, and how often the sampling is timed."""

    generated: tuple[str, ...]
    question: Question
    steps: int
    seed: int
    rounds: int

    @property
    def plan(self) -> TrialPlan:
        return TrialPlan(seed=self.seed)

    @property
    def calls(self) -> int:
        """Network evaluations of the question under one setting."""
        return len(self.question.names) * self.plan.calls(len(self.question.prompts))


@dataclass(frozen=True)
class Outcome:
    """What one setting gave: images (P, S, S, 3), a classification, seconds."""

    flops: CallFlops
    samples: Tensor
    sample_seconds: list[float]
    answer: Classification
    answer_seconds: float


def timed(action: Callable[..., Found], *arguments) -> tuple[Found, float]:
    """What the action returns, and the seconds it took."""
    start = perf_counter()
    found = action(*arguments)
    return found, perf_counter() - start


def stage(name: str, total: int, unit: str) -> tqdm:
    """A progress bar where a terminal listens; elsewhere a line when the stage begins."""
    bar = tqdm(total=total, desc=name, unit=unit, disable=None)  # None: disabled without a terminal
    if bar.disable:
        print(f"{name}: {total} {unit}s", file=sys.stderr, flush=True)
    return bar


def generate(
    backend: Backend, job: Job, settings: Settings
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Images and seconds per setting; in every round the settings take turns."""
    samples = {}
    seconds = {setting: [] for setting in settings}
    turns = [setting for _ in range(job.rounds) for setting in settings]
    with stage("sampling", len(turns) * job.steps, "step") as bar:
        for setting in turns:
            bar.set_postfix_str(setting)
            arguments = settings[setting], job.generated, job.steps, job.seed
            samples[setting], taken = timed(backend.samples, *arguments, lambda step: bar.update())
            seconds[setting].append(taken)
    return samples, seconds


@dataclass(frozen=True)
class _Bar(Listener):
    bar: tqdm

    def on_calls(self, calls: int) -> None:
        self.bar.update(calls)


def answer(
    backend: Backend, job: Job, settings: Settings
) -> dict[str, tuple[Classification, float]]:
    """A classification and seconds per setting."""
    answers, asked = {}, job.question
    with stage("ranking", len(settings) * job.calls, "call") as bar:
        for setting, compression in settings.items():
            bar.set_postfix_str(setting)
            arguments = compression, asked.images, asked.prompts, job.plan, _Bar(bar)
            answers[setting] = timed(backend.classify, *arguments)
    return answers


def run(backend: Backend, job: Job) -> dict[str, Outcome]:
    """Outcomes by setting, "off" first."""
    settings = {OFF: Compression(), SETTING: backend.automatic}
    flops = {setting: backend.flops(compression) for setting, compression in settings.items()}
    samples, sample_seconds = generate(backend, job, settings)
    answers = answer(backend, job, settings)
    return {
        setting: Outcome(
            flops[setting],
            samples[setting],
            sample_seconds[setting],
            *answers[setting],
        )
        for setting in settings
    }


def timed_whole_call() -> Benchmark:
    with stage(f"one call of {NAME} at {PIXELS} px, off and on", 4, "call") as bar:
        return whole_call(listener=_Bar(bar))
