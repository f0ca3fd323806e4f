"""Progress of denoising, alpha schedules and active ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.schedules import ActiveRange, AlphaCurve, AlphaSchedule, DenoisingProgress

alphas = st.floats(-2, 2)
points = st.dictionaries(st.integers(0, 999), alphas, min_size=1, max_size=6).map(
    lambda curve: list(curve.items())
)


@pytest.mark.parametrize(("timestep", "progress"), [(999, 0.0), (0, 1.0), (499.5, 0.5)])
def test_progress_runs_from_noise_to_clean(timestep, progress):
    assert DenoisingProgress(progress).timestep == timestep


@pytest.mark.parametrize("timestep", range(0, 1000, 27))
def test_timestep_survives_the_round_trip(timestep):
    assert DenoisingProgress(1 - timestep / 999).timestep == pytest.approx(timestep, abs=1e-9)


@pytest.mark.parametrize("timestep", [0, 1, 250, 333, 499.5, 725.5, 999])
@pytest.mark.parametrize(("start", "end"), [(0.8, 1.2), (0.0, 1.2), (1.0, 0.5)])
def test_alpha_is_linear_in_the_timestep(timestep, start, end):
    expected = start * timestep / 999 + end * (1 - timestep / 999)
    assert AlphaSchedule(start, end).at(timestep) == pytest.approx(expected)


@pytest.mark.parametrize("timestep", [0, 0.1, 333, 998.7, 999])
def test_equal_ends_are_exactly_constant(timestep):
    assert AlphaSchedule(0.9, 0.9).at(timestep) == 0.9


@pytest.mark.parametrize(
    ("timestep", "alpha"),
    [(999, 0.8), (900, 0.8), (800, 0.8), (600, 0.9), (400, 1.0), (300, 0.75), (200, 0.5), (0, 0.5)],
)
def test_worked_curve(timestep, alpha):
    curve = AlphaCurve(((400, 1.0), (800, 0.8), (200, 0.5)))
    assert curve.at(timestep) == pytest.approx(alpha)


def slow_curve(points, timestep):
    """The nearest point on either side, if there is one."""
    below = max((p for p in points if p[0] <= timestep), default=None)
    above = min((p for p in points if p[0] >= timestep), default=None)
    if below is None or above is None or below == above:
        return (below or above)[1]
    share = (timestep - below[0]) / (above[0] - below[0])
    return (1 - share) * below[1] + share * above[1]


@given(points=points, timestep=st.floats(0, 999), data=st.data())
def test_a_curve_is_straight_between_points_in_any_order(points, timestep, data):
    shuffled = data.draw(st.permutations(points))
    expected = slow_curve(points, timestep)
    assert AlphaCurve(tuple(shuffled)).at(timestep) == pytest.approx(expected, abs=1e-9)


@given(points=points)
def test_a_curve_goes_through_its_points_exactly_at_the_ends(points):
    curve = AlphaCurve(tuple(points))
    for timestep, alpha in points:
        assert curve.at(timestep) == pytest.approx(alpha, abs=1e-12)
    (first, low), (last, high) = min(points), max(points)
    assert curve.at(0) == curve.at(first) == low
    assert curve.at(999) == pytest.approx(high)
    assert curve.at((last + 999) / 2) == pytest.approx(high)


@given(start=alphas, end=alphas, timestep=st.floats(0, 999))
def test_a_curve_of_its_two_ends_is_the_schedule(start, end, timestep):
    curve = AlphaCurve(((999, start), (0, end)))
    assert curve.at(timestep) == pytest.approx(AlphaSchedule(start, end).at(timestep), abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "999: 0.8, 400: 1, 0: 1.2",
        "0:1.2,400:1,999:0.8",
        "999: 0.8\n400: 1\n0: 1.2\n",
        "  999 :0.8 ,\r\n400 : 1.0,\n\n, 0: 1.2,",
        "9.99e2: 8e-1, 400: 1, 0: 1.2",
    ],
)
def test_a_curve_is_read_from_text(text):
    curve = AlphaCurve.from_text(text)
    assert sorted(curve.points) == [(0, 1.2), (400, 1.0), (999, 0.8)]
    assert str(curve) == "curve of 3 points"


@pytest.mark.parametrize(
    "text", ["0.9", "999: 0.8; 0: 1.2", "999: high", "999 0.8", "999: 0.8: 1", ": 0.8", "999:"]
)
def test_text_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match="BiGain: expected .*`timestep: alpha` points") as error:
        AlphaCurve.from_text(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", " , \n", "1000: 1", "-1: 1", "nan: 1", "5: inf", "5: nan", "5: 1, 5: 2", "5: 1, 5.0: 1"],
)
def test_points_that_make_no_curve_are_refused(text):
    with pytest.raises(ValueError, match="at least one point, timesteps from 0 to 999, none twice"):
        AlphaCurve.from_text(text)


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
    assert all(active.contains(DenoisingProgress(progress)) for progress in inside)
    assert not any(active.contains(DenoisingProgress(progress)) for progress in outside)


@pytest.mark.parametrize("timestep", [*range(0, 20), 500, 998, 999])
def test_a_strict_end_skips_timestep_0_alone_as_the_published_cutoff(timestep):
    """The published cutoff lets pass what is above its stop, by default t / 1000 > 0."""
    progress = DenoisingProgress(1 - timestep / 999)
    assert ActiveRange(strict_end=True).contains(progress) is (timestep / 1000 > 0)
    assert ActiveRange().contains(progress)


def test_a_strict_end_leaves_the_start_in_the_range():
    active = ActiveRange(0.25, 0.75, strict_end=True)
    inside = [n for n in range(101) if active.contains(DenoisingProgress(n / 100))]
    assert inside == list(range(25, 75))
    assert not ActiveRange(0.5, 0.5, strict_end=True).contains(DenoisingProgress(0.5))


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.4), (-0.1, 1), (0, 1.1), (float("nan"), 1)])
def test_a_range_that_is_reversed_or_outside_0_to_1_is_refused(start, end):
    with pytest.raises(
        ValueError, match=f"0 <= start <= end <= 1.*got start {start} and end {end}"
    ):
        ActiveRange(start, end)
