import pytest
import torch

from bigain_core.measure import timing
from bigain_core.measure.timing import Spread, Times, take_turns


class Clock:
    """A clock that only goes on when a work takes its time."""

    def __init__(self):
        self.now = 0.0
        self.runs = []

    def __call__(self):
        return self.now

    def work(self, name, *seconds):
        left = iter(seconds)

        def run():
            self.runs.append(name)
            self.now += next(left)
            return torch.zeros(2, 3).mT

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


def test_each_work_is_timed_by_itself_and_the_first_round_is_not(clock):
    works = {"plain": clock.work("plain", 99, 4, 6), "ours": clock.work("ours", 88, 1, 3)}
    found = take_turns(works, rounds=2)
    assert {name: times.seconds for name, times in found.items()} == {
        "plain": (4, 6),
        "ours": (1, 3),
    }


def test_works_take_turns_forth_and_back(clock):
    take_turns({name: clock.work(name, *[1] * 4) for name in "abc"}, rounds=3)
    assert "".join(clock.runs) == "abccbaabccba"


def test_what_comes_before_a_work_is_not_timed(clock):
    def prepare(name):
        clock.runs.append(f"before {name}")
        clock.now += 1000

    found = take_turns({"a": clock.work("a", 2)}, 1, warm_up=0, before_each=prepare)
    assert clock.runs == ["before a", "a"]
    assert found["a"].seconds == (2,)


def test_spread_is_the_median_between_the_quartiles():
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(2, 3, 4)
    assert Times((7.0,)).spread == Spread(7, 7, 7)


def test_gain_compares_within_rounds():
    plain, ours = Times((2.0, 20.0, 6.0)), Times((1.0, 5.0, 2.0))
    assert ours.gain_over(plain) == Spread(2.5, 3.0, 3.5)
    assert plain.gain_over(plain) == Spread(1, 1, 1)
