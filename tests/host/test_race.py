"""What the browser is told of a classification: seldom, briefly, in valid JSON."""

import json
from dataclasses import replace

import pytest
import torch
from bigain.bigain_core.classification import (
    Screening,
    Snapshot,
    TrialPlan,
    TrialTable,
    classify,
)
from bigain.nodes import _race
from bigain.nodes._race import MAX_ROWS, SECONDS_BETWEEN, Race, settled

from benchmarks.noise_schedules import alphas_cumprod, variance_preserving

PROMPTS = 30
LABELS = [f"label {number}" for number in range(PROMPTS)]
PLAN = TrialPlan((2, 4), keep=(5, 1))


class Off:
    """Noise that is off by more for every further prompt."""

    schedule = variance_preserving(alphas_cumprod("scaled-linear"))

    def __call__(self, latent, trial, prompts):
        off = 0.1 * (1 + torch.tensor(prompts)).view(-1, 1, 1, 1).expand(-1, *latent.shape)
        return latent - trial.level.noise / trial.level.signal * off


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(_race.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def told(monkeypatch):
    """Messages as a browser reads them."""
    messages = []
    monkeypatch.setattr(_race, "send", lambda _, content: messages.append(json.dumps(content)))
    return messages


def read(messages):
    return [json.loads(message, parse_constant=pytest.fail) for message in messages]


def snapshot(image=0, trials=1, alive=range(PROMPTS)):
    errors = torch.rand(PROMPTS, trials, generator=torch.Generator().manual_seed(0)).double()
    gone = [prompt for prompt in range(PROMPTS) if prompt not in alive]
    errors[gone] = torch.nan
    specs = tuple(PLAN.sampler.draw(PLAN.trials, _Progress(n)) for n in range(trials))
    return Snapshot(image, tuple(alive), TrialTable(errors, specs, PLAN.sampler), PLAN)


class _Progress:
    def __init__(self, count):
        self.specs = (None,) * count


def test_messages_keep_their_distance(clock, told):
    race = Race(LABELS, 1, PLAN.calls(PROMPTS), PLAN.calls(PROMPTS))
    for step in range(9):
        clock[0] = 100 + step * SECONDS_BETWEEN / 2
        race.on_trial(snapshot())
    assert len(told) == 5


def test_a_message_is_short_and_valid(clock, told):
    race = Race(LABELS, 1, PLAN.calls(PROMPTS), None)
    race.on_trial(snapshot(alive=range(3)))
    (message,) = read(told)
    assert len(message["rows"]) == MAX_ROWS
    assert (message["prompts"], message["alive"]) == (PROMPTS, 3)
    assert [row["dropped"] for row in message["rows"]] == [False] * 3 + [True] * (MAX_ROWS - 3)
    assert [row["behind"] is None for row in message["rows"]][2:4] == [False, True]


def test_the_pace_leaves_out_the_first_evaluations(clock, told):
    race = Race(LABELS, 1, PLAN.calls(PROMPTS), PLAN.calls(PROMPTS))
    clock[0] = 160  # a minute of loading
    race.on_calls(30)
    race.on_trial(snapshot())
    clock[0] = 170
    race.on_calls(20)
    race.on_trial(snapshot())
    first, second = read(told)
    assert (first["timed"], first["used"]) == (0, 30)
    assert (second["timed"], second["seconds"], second["used"]) == (20, 10, 50)


def test_what_is_left_counts_the_images_to_come(clock, told):
    each = PLAN.calls(PROMPTS)
    race = Race(LABELS, 3, 3 * each, each)
    race.on_calls(each)
    race.on_trial(snapshot(image=1, trials=2, alive=range(5)))
    assert read(told)[0]["left"] == 2 * 5 + each


def test_with_a_screening_model_the_announced_number_bounds_what_is_left(clock, told):
    race = Race(LABELS, 3, 500, None)
    race.on_calls(120)
    race.on_trial(snapshot())
    assert read(told)[0]["left"] == 380


@pytest.mark.parametrize("screened", [False, True])
def test_the_end_is_that_of_the_result(screened):
    images = torch.zeros(2, 1, 4, 4)
    quick = classify(Off(), images, LABELS, PLAN.screening(2))
    screening = Screening(quick, keep=4) if screened else None
    result = classify(Off(), images, LABELS, PLAN, screening=screening)
    races = read([json.dumps(race) for race in settled(result, result)])
    assert [race["image"] for race in races] == [0, 1]
    for race, ranking in zip(races, result.rankings, strict=True):
        assert [row["label"] for row in race["rows"]] == [LABELS[k] for k in range(MAX_ROWS)]
        assert race["rows"][0] == {
            "label": LABELS[0], "behind": 0, "dropped": False, "chance": ranking.confidence,
        }  # fmt: skip
        assert race["rows"][1]["chance"] == pytest.approx(ranking.best_lead.worse)
        assert (race["alone"], race["none"]) == (False, False)
        assert race["rows"][1]["behind"] == pytest.approx(ranking.margin)
        assert race["alive"] == (4 if screened else 5)
        assert (race["used"], race["saved"]) == (ranking.spent, ranking.saved)


def test_bars_come_in_order_behind_the_winner():
    """Errors of prompts that were dropped are over other trials, and may come in any order."""
    images = torch.zeros(1, 1, 4, 4)
    result = classify(Off(), images, LABELS, PLAN)
    ranking = result.rankings[0]
    errors = ranking.table.errors.clone()
    errors[6] -= 0.004  # as if it was lucky before it was dropped
    swapped = replace(ranking, table=replace(ranking.table, errors=errors))
    race = settled(replace(result, rankings=(swapped,)), result)[0]
    _, *others = ((row["dropped"], row["behind"]) for row in race["rows"])
    assert others == sorted(others)
