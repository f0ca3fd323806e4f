"""Moments of the denoising process, alpha schedules and active ranges."""

import pytest

from bigain_core.schedules import ActiveRange, AlphaSchedule, Moment


@pytest.mark.parametrize(("timestep", "progress"), [(999, 0.0), (0, 1.0), (499.5, 0.5)])
def test_progress_runs_from_noise_to_clean(timestep, progress):
    assert Moment.at_timestep(timestep).progress == progress
    assert Moment(progress).timestep == timestep


@pytest.mark.parametrize("timestep", range(0, 1000, 27))
def test_timestep_survives_the_round_trip(timestep):
    assert Moment.at_timestep(timestep).timestep == pytest.approx(timestep, abs=1e-9)


def test_alpha_starts_at_noise_and_ends_at_the_clean_image():
    schedule = AlphaSchedule(0.8, 1.2)
    assert schedule.at(999) == pytest.approx(0.8)
    assert schedule.at(0) == pytest.approx(1.2)
    assert schedule.at(499.5) == pytest.approx(1.0)


@pytest.mark.parametrize("timestep", [0, 1, 250, 333, 725.5, 999])
@pytest.mark.parametrize(("start", "end"), [(0.8, 1.2), (0.0, 1.2), (1.0, 0.5)])
def test_alpha_is_linear_in_the_timestep(timestep, start, end):
    expected = start * timestep / 999 + end * (1 - timestep / 999)
    assert AlphaSchedule(start, end).at(timestep) == pytest.approx(expected)


@pytest.mark.parametrize("timestep", [0, 0.1, 333, 998.7, 999])
def test_equal_ends_are_exactly_constant(timestep):
    assert AlphaSchedule(0.9, 0.9).at(timestep) == 0.9


@pytest.mark.parametrize(
    ("start", "end", "inside", "outside"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0], []),
        (0.25, 0.75, [0.25, 0.5, 0.75], [0.0, 0.2499, 0.7501, 1.0]),
        (0.5, 0.5, [0.5], [0.4999, 0.5001]),
        (0.0, 0.0, [0.0], [0.001]),
    ],
)
def test_both_ends_of_the_active_range_belong_to_it(start, end, inside, outside):
    active = ActiveRange(start, end)
    assert all(active.contains(Moment(progress)) for progress in inside)
    assert not any(active.contains(Moment(progress)) for progress in outside)


def test_the_default_range_holds_the_first_and_last_timestep():
    assert ActiveRange().contains(Moment.at_timestep(999))
    assert ActiveRange().contains(Moment.at_timestep(0))


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.4), (-0.1, 1), (0, 1.1), (float("nan"), 1)])
def test_a_range_that_is_reversed_or_outside_0_to_1_is_refused(start, end):
    with pytest.raises(
        ValueError, match=f"0 <= start <= end <= 1.*got start {start} and end {end}"
    ):
        ActiveRange(start, end)
