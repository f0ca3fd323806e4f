"""Intervals of measured shares, comparisons of two methods, precision of rankings."""

import random

import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from bigain_core.classification import average_precision, mcnemar, wilson_interval


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (1, 1), (7, 10), (10, 10), (431, 449)])
def test_the_interval_is_that_of_wilson(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert wilson_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_z_is_the_number_of_standard_deviations():
    expected = binomtest(30, 40).proportion_ci(0.99, "wilson")
    assert wilson_interval(30, 40, z=2.5758) == pytest.approx(tuple(expected), abs=1e-4)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 22)])
def test_mcnemar_is_the_sign_test_on_images_that_differ(wins, losses):
    first = [True] * wins + [False] * losses + [True, False] * 4
    second = [False] * wins + [True] * losses + [True, False] * 4
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == mcnemar(first, second)


def test_mcnemar_needs_the_same_images():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        mcnemar([True, False], [True])


def test_average_precision_is_that_of_scikit_learn():
    generator = random.Random(0)
    for _ in range(50):
        order = generator.sample(range(12), 12)
        labels = generator.sample(range(12), generator.randint(1, 6))
        scores = [-order.index(k) for k in range(12)]
        expected = average_precision_score([k in labels for k in range(12)], scores)
        assert average_precision(order, labels) == pytest.approx(expected)


def test_labels_that_are_not_ranked_are_misses():
    assert average_precision([3, 1], [3, 7]) == 0.5


def test_images_without_labels_have_no_average_precision():
    with pytest.raises(ValueError, match="at least one label"):
        average_precision([0, 1], [])
