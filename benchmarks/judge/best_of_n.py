"""The best of several seeds without finishing all: how often judging all finds the same one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.dit_runner import DiTRunner, load_dit
from bigain_core.classification import (
    ErrorSource,
    SpreadGrid,
    TrialPlan,
    TrialSpec,
    wilson_interval,
)
from bigain_core.classification.elimination.elimination_rules import EliminationStep, Sequential
from bigain_core.classification.evidence.seed_selection import (
    DropRules,
    Prediction,
    best_first,
    expected_gains,
    gains_on_the_way,
    judge_finalists,
    time_shares,
)
from bigain_core.classification.trials.timesteps import spread_timesteps
from bigain_core.models.checkpoint import BUNDLED_MODEL, read_checkpoint

SEEDS, STEPS, TRIALS, GUIDANCE = 8, 20, 20, 2.5  # the first three are the node's defaults
SPECS = tuple(TrialSpec(*spread) for spread in spread_timesteps()[:TRIALS])

Markdown = Callable[[Sequence[str], object], None]
Design = Callable[["Run"], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Run:
    """Several seeds of one prompt, all of them finished and judged.

    on_the_way: after each step the gains (N, steps so far), as if its clean images came out.
    judged (N, T): gains in all trials.
    """

    timesteps: list[int]
    on_the_way: list[Tensor]
    judged: Tensor

    @property
    def scores(self) -> Tensor:
        return self.judged.mean(1)

    def on_the_way_scores(self, step: int, candidates: Sequence[int]) -> list[float]:
        gains = self.on_the_way[step - 1][list(candidates)]
        return (gains * time_shares(self.timesteps[:step])).sum(1).tolist()


def sampled(runner: DiTRunner, label: int, number: int) -> tuple[list[list[Prediction]], Tensor]:
    """Predictions of each step for each seed, and the images, by DDIM with guidance."""
    config = runner.model.config
    shape = (config.in_channels, config.input_size, config.input_size)
    seeds = (1_000_000 + 1000 * number + k for k in range(SEEDS))
    draws = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    x, found = torch.stack(draws), []
    both = torch.tensor([label] * SEEDS + [config.num_classes] * SEEDS)
    timesteps = torch.linspace(999, 0, STEPS + 1).round().long().tolist()
    for step, now in enumerate(timesteps[:-1]):
        level = runner.signal[now]
        noises = runner.predict_noise(x.repeat(2, 1, 1, 1), now, both).chunk(2)
        prompted, unprompted = ((x - (1 - level).sqrt() * e) / level.sqrt() for e in noises)
        found.append([Prediction(now, *pair) for pair in zip(prompted, unprompted, strict=True)])
        noise = noises[1] + GUIDANCE * (noises[0] - noises[1])
        clean = (x - (1 - level).sqrt() * noise) / level.sqrt()
        level = torch.tensor(1.0) if step == STEPS - 1 else runner.signal[timesteps[step + 1]]
        x = level.sqrt() * clean + (1 - level).sqrt() * noise
    return found, x


def measured(runner: DiTRunner, number: int) -> Run:
    """The prompt is drawn anew for each run."""
    classes = runner.model.config.num_classes
    draw = torch.Generator().manual_seed(9000 + number)
    label = int(torch.randint(classes, (1,), generator=draw))
    steps, images = sampled(runner, label, number)
    denoiser = runner.denoiser([label, classes])
    on_the_way = []
    for step, latest in enumerate(steps, 1):
        clean = [one.unprompted + GUIDANCE * (one.prompted - one.unprompted) for one in latest]
        histories = zip(*steps[:step], strict=True)
        rows = [
            gains_on_the_way(history, image, denoiser.schedule)
            for history, image in zip(histories, clean, strict=True)
        ]
        on_the_way.append(torch.stack(rows))
    plan = TrialPlan((TRIALS,), seed=number, sampler=SpreadGrid())
    sources = [ErrorSource(denoiser, image, ("prompt", "none"), plan) for image in images]
    errors = [[source.errors(spec, [1, 0]) for spec in SPECS] for source in sources]
    judged = torch.stack([torch.stack([one[0] - one[1] for one in row]) for row in errors])
    return Run([row[0].timestep for row in steps], on_the_way, judged.double())


def measurements(folder: Path, runs: int) -> list[Run]:
    """Kept in files; a measurement that was stopped goes on."""
    runner, found = DiTRunner(load_dit(read_checkpoint(BUNDLED_MODEL))), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(runs), desc="best of n", mininterval=30):
        path = folder / f"best-of-n-{BUNDLED_MODEL.stem}-{number}.pt"
        if not path.exists():
            torch.save(vars(measured(runner, number)), path)
        found.append(Run(**torch.load(path, weights_only=True)))
    return found


def finish_all(run: Run) -> tuple[int, int]:
    """All are finished and judged in all trials."""
    return int(run.scores.argmax()), SEEDS * 2 * (STEPS + TRIALS)


def predictions_alone(run: Run) -> tuple[int, int]:
    """All are finished, and the judge is what sampling itself said."""
    return best_first(run.on_the_way_scores(STEPS, range(SEEDS)))[0], SEEDS * 2 * STEPS


def sequential(run: Run) -> tuple[int, int]:
    """All are finished; the judge drops those that are worse by the rule for prompts."""
    alive, calls = list(range(SEEDS)), SEEDS * 2 * STEPS
    for count in range(1, TRIALS + 1):
        calls += 2 * len(alive)
        step = EliminationStep(
            -run.judged[alive, :count], SPECS[:count], SpreadGrid(), SEEDS, range(len(alive))
        )
        alive = [alive[row] for row in Sequential().keeps(step)]
        if len(alive) == 1:
            break
    return max(alive, key=lambda k: run.judged[k, :count].mean().item()), calls


def dropping(rules: DropRules) -> Design:
    """Candidates are dropped while they are sampled, then in the order of what sampling said."""

    def found(run: Run) -> tuple[int, int]:
        alive, done, calls = list(range(SEEDS)), 0, 0
        for timestep, share in rules.stages:
            step = 1 + next(k for k, time in enumerate(run.timesteps) if time <= timestep)
            calls, done = calls + 2 * (step - done) * len(alive), step
            chosen = best_first(run.on_the_way_scores(step, alive))
            alive = sorted(alive[row] for row in chosen[: rules.going_on(share, SEEDS, 1)])
        calls += 2 * (STEPS - done) * len(alive)
        times = [spec.timestep for spec in SPECS]
        gains = run.on_the_way[-1][alive]
        expected = torch.stack([expected_gains(run.timesteps, row, times) for row in gains])
        judged = judge_finalists(
            expected, lambda row, trial: run.judged[alive[row], trial].item(), 1, rules.delta
        )
        return alive[judged.alive[0]], calls + 2 * int(judged.trials.sum())

    return found


DESIGNS: dict[str, Design] = {
    "finish and judge all": finish_all,
    "what sampling said, no judge": predictions_alone,
    "finish all, drop by paired tests": sequential,
    "finish all, drop by what sampling said": dropping(DropRules(stages=())),
    "drop while sampling as well": dropping(DropRules()),
    "drop later while sampling": dropping(DropRules(stages=((150, 0.75),))),
    "drop more while sampling": dropping(DropRules(stages=((150, 0.5),))),
}


def rows(runs: Sequence[Run]) -> Iterator[list[str]]:
    """Of each design: how often its winner is the best, among the two best, and what it costs."""
    spreads = [run.scores.std().item() for run in runs]
    for name, design in DESIGNS.items():
        found = [design(run) for run in runs]
        pairs = [(run.scores, winner) for run, (winner, _) in zip(runs, found, strict=True)]
        ranks = [int((scores > scores[winner]).sum()) for scores, winner in pairs]
        missed = [(scores.max() - scores[winner]).item() for scores, winner in pairs]
        behind = [miss / spread for miss, spread in zip(missed, spreads, strict=True)]
        shares = torch.tensor([calls for _, calls in found]) / finish_all(runs[0])[1]
        low, high = wilson_interval(ranks.count(0), len(runs))
        yield [
            name,
            f"{ranks.count(0)} of {len(runs)} ({low:.3f} to {high:.3f})",
            f"{sum(rank < 2 for rank in ranks)} of {len(runs)}",
            f"{sum(behind) / len(runs):.3f}",
            f"{shares.mean():.2f} ({shares.min():.2f} to {shares.max():.2f})",
        ]


def agreement(runs: Sequence[Run]) -> Iterator[list]:
    """After each step: is the best one among the first half and the first three quarters?"""
    for step in range(4, STEPS + 1, 2):
        places = [
            best_first(run.on_the_way_scores(step, range(SEEDS))).index(int(run.scores.argmax()))
            for run in runs
        ]
        shares = [sum(place < limit for place in places) / len(runs) for limit in (1, 4, 6)]
        yield [step, runs[0].timesteps[step - 1], *(f"{share:.2f}" for share in shares)]


def report(folder: Path, count: int, markdown: Markdown) -> None:
    runs = measurements(folder, count)
    print(f"\nThe best of {SEEDS} seeds, {STEPS} steps, {TRIALS} trials: {count} runs.\n")
    head = ["design", "same winner", "among the two best", "behind the best", "share of calls"]
    markdown(head, rows(runs))
    print("\nWhere the best one stands on the way, by what sampling said so far:\n")
    markdown(["steps", "timestep", "first", "in the first 4", "in the first 6"], agreement(runs))
