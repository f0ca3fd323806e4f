"""Who is dropped when, and the estimates that it rests on."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from scipy.stats import t as student

from bigain_core.classification import (
    Blocks,
    Budget,
    Certified,
    Sequential,
    SpreadGrid,
    Staged,
    TrialPlan,
    TrialSpec,
    UniformTimes,
)
from bigain_core.classification.elimination.elimination_rules import EliminationStep, log_evidence
from bigain_core.classification.elimination.estimates import (
    Differences,
    paired_differences,
    shrunken_tail,
)
from tests.core.classifying import slow_tails

DRAWS = tuple(TrialSpec(t, n) for n, t in enumerate([500, 100, 900, 300, 700]))


def look_at(errors, sampler=None, classes=None):
    errors = torch.as_tensor(errors, dtype=torch.float64)
    specs = tuple(TrialSpec(10 * n, n) for n in range(errors.shape[1]))
    count = len(errors)
    return EliminationStep(errors, specs, sampler or SpreadGrid(), count, classes or range(count))


def test_tails_equal_those_written_out(randn):
    errors = (randn(4, 5).double() * 0.2 + torch.tensor([[0.0], [0.1], [0.3], [0.6]])).tolist()
    found = paired_differences(torch.tensor(errors, dtype=torch.float64), DRAWS, 0, SpreadGrid())
    expected = slow_tails(errors, 0, (1, 2, 3), [spec.timestep for spec in DRAWS])
    assert found.tail()[1:].tolist() == pytest.approx([expected[k] for k in (1, 2, 3)], rel=1e-9)
    assert found.dof == 12


def test_two_prompts_need_no_others():
    errors = torch.tensor([[0.1, 0.2, 0.1], [0.3, 0.5, 0.4]], dtype=torch.float64)
    found = paired_differences(errors, DRAWS[:3], 0, SpreadGrid())
    differences = torch.tensor([0.3, 0.2, 0.3])  # in order of time
    assert found.variance[1].item() == pytest.approx(float(differences.var()) / 3, rel=1e-5)


def test_one_trial_tells_nothing():
    found = paired_differences(torch.tensor([[0.1], [0.9]]).double(), DRAWS[:1], 0, SpreadGrid())
    assert found.tail().tolist() == [0.5, 0.5]


def test_equal_prompts_are_never_dropped():
    step = look_at([[0.5] * 6] * 4)
    assert Sequential(0.4).keeps(step) == [0, 1, 2, 3]


def test_a_constant_difference_is_sure():
    step = look_at([[0.5] * 6, [0.6] * 6, [0.5] * 6])
    assert Sequential(0.05).keeps(step) == [0, 2]


@pytest.mark.parametrize(
    ("prompts", "caps"),
    [
        (15, (15, 15, 15, 15, 15)),
        (16, (12, 12, 10, 8, 5)),
        (37, (19, 13, 10, 8, 5)),
        (100, (50, 34, 25, 13, 5)),
        (1000, (500, 334, 250, 125, 42)),
    ],
)
def test_many_prompts_are_capped(prompts, caps):
    plan = TrialPlan((2, 3, 4, 5, 9), sampler=SpreadGrid(), rule=Sequential())
    assert plan.kept(prompts) == caps


def mixture_of_bets(total, square, scale):
    """Mean of exp(lambda S - lambda^2 V / 2) over half-normal lambda, by numerical integration."""

    def bet(size):
        return 2 * norm.pdf(size, scale=scale**-0.5) * math.exp(size * total - size**2 * square / 2)

    return quad(bet, 0, 40, limit=200)[0]


def test_evidence_is_a_mixture_of_bets(randn):
    differences = randn(5, 12).double() + torch.tensor([[0.0], [0.5], [1.0], [-0.5], [2.0]])
    for row, evidence in zip(differences, log_evidence(differences), strict=True):
        scale = row[:3].square().mean().item()
        expected = mixture_of_bets(row.sum().item(), row.square().sum().item(), scale)
        assert evidence.item() == pytest.approx(math.log(expected), abs=1e-6)


def test_certified_waits_for_proof():
    """One-sided blocks of equal size prove least: the e-process grows with their number alone."""
    rule, kept = Certified(0.05), []
    for blocks in range(1, 30):
        errors = torch.zeros(2, 4 * blocks)
        errors[1] = 0.3
        kept.append(len(rule.keeps(look_at(errors, Blocks(4)))))
    needed = next(n for n in range(1, 99) if _constant_evidence(n) >= math.log(1 / 0.05))
    assert kept == [2] * (needed - 1) + [1] * (30 - needed)


def _constant_evidence(n):
    return (
        math.log(2 * norm.cdf(n / math.sqrt(n + 1)))
        + 0.5 * math.log(1 / (n + 1))
        + n * n / (2 * (n + 1))
    )


def test_equal_prompts_prove_nothing():
    errors = torch.zeros(2, 400)
    assert Certified().keeps(look_at(errors, Blocks(4))) == [0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sequential(delta=0), "a delta between 0 and 1, got 0"),
        (lambda: Certified(delta=1.5), "a delta between 0 and 1, got 1.5"),
        (lambda: Budget(calls=0), "a budget above 0 calls"),
        (lambda: Budget(seconds=-1.0), "a budget above 0 calls"),
        (lambda: TrialPlan((8,), rule=Certified()), "trials in Blocks .* got PublishedGrid"),
        (lambda: TrialPlan((8,), rule=Certified(), sampler=UniformTimes()), "got UniformTimes"),
        (
            lambda: TrialPlan((8, 10), rule=Certified(), sampler=Blocks(4)),
            r"whole blocks of 4 trials .* got \[8, 10\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=f"BiGain: expected .*{message}"):
        make()


def test_stages_drop_by_their_lists_alone():
    step = look_at([[0.0] * 5, [9.0] * 5])
    assert Staged().keeps(step) == [0, 1]


@pytest.mark.parametrize("noise", [0.05, 0.5, 2.0])
def test_a_crowd_tells_how_many_of_the_others_are_better(randn, noise):
    """Beside a prompt that is known; the tails by themselves count the lucky ones in."""
    true = randn(600, 40).double()
    seen = true + noise**0.5 * randn(600, 40, seed=1).double()
    leader = -1.5
    expected = (true[:, 1:] < leader).double().sum(1).mean().item()
    variances = torch.full((40,), 2 * noise, dtype=torch.float64)
    alone = judged = 0.0
    for row in seen - leader:
        found = Differences(torch.cat([torch.zeros(1), row[1:]]).double(), variances, 10)
        alone += found.tail()[1:].sum().item() / 600
        judged += shrunken_tail(found, 0, 1e-9)[1:].sum().item() / 600
    assert judged == pytest.approx(expected, rel=0.15)
    assert abs(judged - expected) < abs(alone - expected) / 2


def test_noise_is_no_more_than_the_crowd_scatters(randn):
    """All are equal and their noise is said to be nine times what it is: doubt stays, and ends."""
    seen = randn(60).double().sort().values
    found = Differences(seen - seen[0], torch.full_like(seen, 18.0), 10)
    tail = shrunken_tail(found, 0, 1.0)[1:]
    assert torch.equal(tail, tail[:1].expand(59)), "nothing tells them apart"
    gap = (seen[1:].mean() - seen[0]) / seen[1:].std()
    assert tail[0].item() == pytest.approx(student.sf(gap.item(), 10 + 59))
    assert found.tail()[1:].sum() > 10 * tail.sum()
    assert 0 < shrunken_tail(found, 0, 0.1)[1:].sum() < tail.sum(), "the leader is better known"


def test_a_few_are_no_crowd_and_constants_are_sure(randn):
    seen = randn(8).double().sort().values
    few = Differences(seen - seen[0], torch.ones_like(seen), 10)
    assert torch.equal(shrunken_tail(few, 0, 1.0), few.tail())
    unknown = Differences(torch.arange(20.0).double(), torch.full((20,), torch.inf).double(), 8)
    assert shrunken_tail(unknown, 0, 1.0).tolist() == [0.5] * 20
    constant = Differences(torch.tensor([0.0] + [0.3] * 20).double(), torch.zeros(21).double(), 10)
    assert shrunken_tail(constant, 0, 1.0)[1:].sum() == 0


def test_prompts_of_the_leaders_class_hold_nobody_back(randn):
    """What rivals lose by is judged as if the leader stood alone for its class."""
    errors = randn(9, 8).double() * 0.3 + torch.linspace(0, 0.8, 9)[:, None]
    classes = [0, 0, 0, 1, 2, 2, 3, 3, 3]
    step = look_at(errors, classes=classes)
    assert step.leader in (0, 1, 2)
    alone = [step.leader, *range(3, 9)]
    for delta in (0.02, 0.1, 0.3):
        kept = Sequential(delta).keeps(step)
        without = Sequential(delta).keeps(look_at(errors[alone]))
        assert [k for k in kept if k > 2] == [alone[row] for row in without[1:]]
        same_class = Sequential(delta).keeps(look_at(errors[:3]))
        assert [k for k in kept if k < 3] == same_class
