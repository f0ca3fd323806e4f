"""Order, margin and table of a classification."""

import math

import pytest
import torch

from bigain_core.classification import Classification
from bigain_core.classification.results.result_table import result_table
from tests.core.classifying import ranking as made
from tests.core.labelled import csv_rows

OUT, LOG2, TIMES = float("nan"), math.log(2), [250, 750, 125, 875]
ERRORS = torch.tensor(
    [
        [0.5, 0.5, OUT, OUT],
        [0.3, 0.1, 0.9, 0.7],  # the winner, with the largest mean of all
        [0.4, 0.2, 0.9, 0.9],
        [0.45, 0.4, OUT, OUT],
    ]
)


@pytest.fixture
def ranking():
    return made(ERRORS, [0, 2, 1, 0], TIMES)


def test_means_are_taken_over_the_trials_that_each_prompt_had(ranking):
    torch.testing.assert_close(ranking.table.mean_errors, torch.tensor([0.5, 0.5, 0.6, 0.425]))


def test_survivors_come_before_prompts_that_were_out_earlier(ranking):
    assert ranking.order == [1, 2, 3, 0]
    assert ranking.best == 1


def test_equal_prompts_stay_in_order():
    ranking = made(torch.full((3, 2), 0.5), [0, 0, 0])
    assert ranking.order == [0, 1, 2]


def test_the_margin_is_paired_over_all_common_trials(ranking):
    assert ranking.margin == pytest.approx((0.1 + 0.1 + 0.0 + 0.2) / 4)


def test_the_margin_ignores_trials_that_the_runner_up_did_not_have():
    errors = torch.tensor([[0.2, 0.3, 5.0], [0.3, 0.6, OUT]])
    ranking = made(errors, [2, 0], [250, 750, 500])
    assert ranking.margin == pytest.approx((0.1 + 0.3) / 2)


def test_a_single_prompt_has_no_margin():
    ranking = made([[0.4]])
    assert ranking.margin == 0.0
    assert ranking.order == [0]


def test_calls_are_the_trials_that_took_place(ranking):
    assert ranking.calls == 12
    assert Classification(tuple("abcd"), (ranking, ranking)).calls == 24


def test_the_table_is_csv_with_a_row_per_image_and_prompt(ranking):
    labels = ("plain", "a cat, sleeping", 'the "cat"', "grey")
    other = made(ERRORS[[1, 0, 3, 2]], [2, 0, 0, 1], TIMES)
    found = Classification(labels, (ranking, other))
    rows = csv_rows(result_table(found))
    assert [list(row.values())[:6] for row in rows[:4]] == [
        ["0", "1", "a cat, sleeping", "0.5", "4", "2"],
        ["0", "2", 'the "cat"', "0.6", "4", "1"],
        ["0", "3", "grey", "0.425", "2", "0"],
        ["0", "4", "plain", "0.5", "2", "0"],
    ]
    first = ["image", "rank", "label", "mean_error", "trials", "stages_survived"]
    assert list(rows[0])[:6] == first, "columns are appended"
    assert [row["image"] for row in rows[4:]] == ["1"] * 4
    assert rows[4]["label"] == "plain"
    assert found.best == [1, 0]
    assert list(rows[0])[-1] == "posterior_bits" and {row["posterior_bits"] for row in rows} == {""}


def test_the_table_has_leads_and_posteriors_of_every_prompt():
    """Written out: 2, 3 or 4 trials, evenly weighted, and 0.5, 1, 2 and 4 nats for an error."""
    nats = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    errors = ERRORS.double()
    errors[2, 3] = OUT
    ranking = made(errors, [0, 2, 1, 0], TIMES, nats)
    found = Classification(("p", "q", "r", "s"), (ranking,))
    for temperature in (1.0, 0.25):
        rows = {row["label"]: row for row in csv_rows(result_table(found, temperature))}
        likelihoods = {}
        for k, label in enumerate("pqrs"):
            count = int(errors[k].isfinite().sum())
            behind = (errors[k] - errors[1])[:count]
            likelihoods[label] = 2 ** (-temperature * (behind * nats[:count]).mean().item() / LOG2)
            if k != 1:
                lead, row = ranking.lead(1, k), rows[label]
                expected = behind.mean().item(), lead.standard_error, lead.worse
                columns = ("behind_best", "standard_error", "better_with_probability")
                assert [float(row[name]) for name in columns] == pytest.approx(expected, rel=1e-3)
        total = sum(likelihoods.values())
        for label, value in likelihoods.items():
            bits = math.log2(value / total)
            assert float(rows[label]["posterior_bits"]) == pytest.approx(bits, abs=2e-3)


def test_leads_are_the_single_ones(ranking):
    alone = [ranking.lead(1, k) for k in (3, 0, 2)]
    for one, two in zip(ranking.leads(1, [3, 0, 2]), alone, strict=True):
        assert (one.margin, one.variance, one.won) == (two.margin, two.variance, two.won)
    assert [lead.won for lead in alone] == [1.0, 1.0, 0.875]
    assert ranking.leads(1, []) == []
