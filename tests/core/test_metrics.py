"""Intervals of measured shares."""

import pytest
from scipy.stats import binomtest

from bigain_core.classification import wilson_interval


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (1, 1), (7, 10), (10, 10), (431, 449)])
def test_the_interval_is_that_of_wilson(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert wilson_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_more_evidence_narrows_the_interval():
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


def test_z_is_the_number_of_standard_deviations():
    expected = binomtest(30, 40).proportion_ci(0.99, "wilson")
    assert wilson_interval(30, 40, z=2.5758) == pytest.approx(tuple(expected), abs=1e-4)
