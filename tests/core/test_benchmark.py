import pytest

from bigain_core.measure.benchmark import OFF, Benchmark, Measured
from bigain_core.measure.timing import Times
from tests.core.labelled import csv_rows


def measured(*seconds, flops=0, deviation=0.0, memory=None, layers=None):
    return Measured(Times(seconds), flops, deviation, memory, layers)


@pytest.fixture
def found():
    return Benchmark(
        {
            OFF: measured(1.0, 2.0, 3.0, flops=4 * 10**12, memory=3 * 2**20),
            "half": measured(0.5, 1.0, 1.5, flops=10**12, deviation=0.25, memory=2**21, layers=5),
            "slow": measured(2.0, 4.0, 6.0, flops=10**12, deviation=0.5, layers=5),
            "same": measured(1.0, 2.0, 3.0),
        },
        "a processor",
        (1, 4, 64, 64),
    )


def test_gain_and_ceiling(found):
    assert found.gain("half").median == 2
    assert found.ceiling("half") == 4
    assert found.share_of_ceiling("half") == pytest.approx(0.5 / 0.75), "of 3/4 of the time 1/2"
    assert found.share_of_ceiling("slow") == pytest.approx(-1 / 0.75)


def test_no_share_of_nothing(found):
    assert found.share_of_ceiling(OFF) is None
    assert found.ceiling("same") is None and found.share_of_ceiling("same") is None


def test_the_table_has_a_row_for_each_setting(found):
    rows = {row["setting"]: row for row in csv_rows(found.table())}
    assert list(rows) == list(found.measured)
    assert rows[OFF]["ms"] == "2000" and rows[OFF]["peak MB"] == "3"
    assert rows["half"] == {
        "setting": "half",
        "ms": "1000",
        "ms low": "750",
        "ms high": "1250",
        "times as fast": "2.00",
        "low": "2.00",
        "high": "2.00",
        "TFLOP": "1",
        "ceiling": "4.00",
        "share of ceiling": "67%",
        "deviation": "0.2500",
        "peak MB": "2",
        "layers": "5",
    }
    assert rows["same"]["TFLOP"] == rows["same"]["layers"] == rows["slow"]["peak MB"] == ""


def test_the_summary_names_the_fastest_and_the_slower_ones(found):
    assert found.summary() == (
        "BiGain on a processor, latent 1 x 4 x 64 x 64: half is the fastest, 2.00x as fast as off. "
        "Slower than off: slow."
    )


def test_the_summary_says_where_nothing_is_gained(found):
    without = {name: found.measured[name] for name in (OFF, "same")}
    text = Benchmark(without, "a processor", (1, 4, 8, 8)).summary()
    assert text.endswith("NOTHING here is faster than off.")


def test_long_and_short_times_have_the_digits_that_mean_something():
    one = {OFF: measured(12.3456), "half": measured(0.0123456)}
    rows = csv_rows(Benchmark(one, "a processor", (1,)).table())
    assert [row["ms"] for row in rows] == ["12346", "12.3"]


def test_the_summary_says_so_where_rounds_do_not_compare():
    """Half the time in most rounds, and nearly the same median."""
    found = {OFF: measured(1.0, 2.0, 3.0, 8.0, 9.0), "half": measured(2.5, 1.0, 1.5, 4.0, 4.5)}
    text = Benchmark(found, "a processor", (1,)).summary()
    assert text.endswith("take more rounds on an idle machine.") and "2.00x as fast" in text
