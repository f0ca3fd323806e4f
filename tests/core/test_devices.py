"""On a device that is not the CPU: nothing is mixed, nobody waits, and the results are the same."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch._subclasses.fake_tensor import FakeTensorMode

from bigain_core.classification import TrialPlan, classify, evidence_map
from bigain_core.classification.errors import ErrorSource
from bigain_core.classification.trials.losses import LOSSES
from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.rules import Rule
from bigain_core.compression.token_map import token_map
from bigain_core.measure.flops import projections_shortened
from bigain_core.methods import (
    BlockMerging,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
from bigain_core.methods.base import random_bits, standard_normal
from bigain_core.models.compressed_dit import replacements
from bigain_core.placement import PLACEMENTS, LayerId, Placement, named_placement
from bigain_core.schedules import AlphaSchedule, DenoisingProgress
from bigain_core.tokens import plans
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.scoring import SCORERS
from tests.core.calls import MIDDLE, network_call
from tests.core.classifying import same
from tests.core.test_every_method import METHODS, carried_out
from tests.core.test_evidence import LABELS, LATENT, MASK, Blurry
from tests.devices import DEVICE, StandIn, moved

SCORED = [
    method(scorer=scorer)
    for method in (TokenMerging, BlockMerging, KVSelection, KVCellSelection)
    for scorer in SCORERS
]
SHARED = [TokenMerging(0.5, sharing=Sharing(scope, 2)) for scope in ("stage", "interval")]
GRID = TokenGrid(9, 7)
FIRST = [1690989050, 1795663954, 1121884253, 3030905843, 678475537]  # random numbers


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.zeros(3).to(x),
        lambda x: x.copy_(torch.zeros(3)),
    ],
)
def test_the_stand_in_notes_what_waits(wait):
    with StandIn() as stand_in:
        x = torch.arange(3.0, device=DEVICE)
        x + torch.zeros(3, device=x.device) * 2
        assert stand_in.waits == []
        wait(x)
        assert len(stand_in.waits) == 1


def test_the_stand_in_refuses_what_a_device_does():
    with StandIn():
        x = torch.arange(3.0, device=DEVICE)
        with pytest.raises(AssertionError, match="and on the CPU"):
            x + torch.zeros(3)
        with pytest.raises(AssertionError, match="from a list"):
            x + torch.tensor([1.0, 2.0, 3.0], device=DEVICE)
        for double in (x.double, lambda: torch.zeros(3, dtype=torch.float64).to(DEVICE)):
            with pytest.raises(TypeError, match="Metal"):
                double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS + SCORED, ids=repr)
def test_a_method_runs_on_its_device_alone_and_nobody_waits(randn, method, dtype):
    x = randn(2, 63, 8).to(dtype)
    expected = carried_out(method.plan(x, GRID, MIDDLE, 3), x)
    with StandIn() as stand_in:
        there = x.to(DEVICE)
        stand_in.waits.clear()
        found = carried_out(method.plan(there, GRID, MIDDLE, 3), there)
        assert not stand_in.waits
        for one, other in zip(found, expected, strict=True):
            assert one.device == DEVICE and torch.equal(one.cpu(), other)


@pytest.mark.parametrize("method", METHODS + SCORED, ids=repr)
def test_a_method_takes_operators_that_metal_has(randn, monkeypatch, method):
    x = randn(2, 63, 8)
    expected = carried_out(method.plan(x, GRID, MIDDLE, 3), x)
    monkeypatch.setattr(plans, "WITHOUT_BAGS", ("mps", DEVICE.type))
    with StandIn(as_metal=True):
        there = x.to(DEVICE)
        found = carried_out(method.plan(there, GRID, MIDDLE, 3), there)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.cpu(), other)


def test_the_stand_in_for_metal_refuses_what_has_no_kernel_there():
    with StandIn(as_metal=True):
        x = torch.ones(4, 3, device=DEVICE)
        places = torch.arange(4, device=DEVICE)
        with pytest.raises(NotImplementedError, match="2.10"):
            torch.nn.functional.embedding_bag(places, x, places[:2], mode="mean")
        with pytest.raises(NotImplementedError, match="mode"):
            x.mode(1)


@pytest.mark.parametrize("method", METHODS + SCORED, ids=repr)
def test_a_method_runs_on_tensors_that_cuda_would_have(method):
    """Without values: torch itself refuses to look at them, and to mix devices."""
    with FakeTensorMode():
        x = torch.empty(2, 63, 8, dtype=torch.float16, device="cuda")
        found = carried_out(method.plan(x, GRID, MIDDLE, 3), x)
        assert {out.device.type for out in found} == {"cuda"}


def attention(q, k, v, heads, mask=None):
    """Written out, as torch asks the driver of a device which kernel it has."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    logits = q @ k.mT * q.shape[-1] ** -0.5
    weights = (logits if mask is None else logits + mask[:, :, None]).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def compressed(model, inputs, rule):
    """Of two copies of each latent, one per prompt."""
    call = network_call(rule, layer_flops=projections_shortened, copies=2)
    with replaced_forwards(replacements(model, inputs[0], call)):
        return model(*inputs, attention)


@pytest.mark.parametrize(
    ("method", "placement"),
    [
        *((method, "everywhere") for method in [*METHODS, *SHARED]),
        *((TokenMerging(0.5, "random"), placement) for placement in PLACEMENTS),
    ],
)
def test_a_call_of_the_dit_waits_for_nothing(randn, make_dit, method, placement):
    model, rule = make_dit(), Rule(method, named_placement(placement))
    inputs = randn(1, 4, 10, 8).repeat(2, 1, 1, 1), torch.tensor([500, 500]), torch.tensor([1, 4])
    expected = compressed(model, inputs, rule)
    with StandIn() as stand_in:
        model, inputs = moved(model), [value.to(DEVICE) for value in inputs]
        stand_in.waits.clear()
        found = compressed(model, inputs, rule)
        assert not stand_in.waits
        torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        TokenMerging(0.5),
        SimilarityPruning(0.5),
        KVDownsampling(2, AlphaSchedule(0.9, 0.9)),
        KVSelection(),
        KVCellSelection(),
    ],
    ids=repr,
)
def test_a_token_map_is_the_one_of_the_cpu(randn, method):
    x, layer_id = randn(2, 63, 8), LayerId(0, "middle")
    expected = decided(method, layer_id, x)
    with StandIn():
        found = decided(method, layer_id, x.to(DEVICE))
    assert torch.equal(found.stand_in, expected.stand_in)
    assert str(found) == str(expected)


def decided(method, layer_id, x):
    decision = network_call(Rule(method, Placement())).visit(layer_id, x, GRID)
    return token_map(decision, decision)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_classification_is_the_one_of_the_cpu(loss, mask):
    plan = TrialPlan((3, 6), (3, 1), loss)

    def found(device):
        latent, part = (None if t is None else t.to(device) for t in (LATENT, mask))
        masks = None if part is None else part[None]
        result = classify(Blurry(), latent[None], LABELS, plan, masks=masks)
        again = classify(
            Blurry(), latent[None], LABELS, TrialPlan((3, 9), (3, 1), loss), masks=masks,
            previous=result,
        )  # fmt: skip
        source = ErrorSource(Blurry(), latent, LABELS, plan, mask=part)
        return result, again, evidence_map(source, result.rankings[0], 0, 1)

    expected = found("cpu")
    with StandIn():
        there = found(DEVICE)
    for one, other in zip(there[:2], expected[:2], strict=True):
        same(one, other)
        assert one.rankings[0].table.nats.tolist() == pytest.approx(
            other.rankings[0].table.nats.tolist(), nan_ok=True
        )
    assert torch.equal(there[2], expected[2])


def slow_bits(count, start, step):
    """One number after the other."""
    found = []
    for place in range(count):
        bits = place * (step | 1) + start
        for _ in range(2):
            bits = (bits // 2**16 ^ bits) % 2**32 * 0x45D9F3B
        found.append((bits // 2**16 ^ bits) % 2**32)
    return found


@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_random_numbers_are_the_same_on_every_device(device):
    """And on every machine, from now on: an image of ToMe or SiTo depends on them."""
    with StandIn():
        bits = random_bits(5, 7, DenoisingProgress(0.25), 3, torch.device(device)).tolist()
    key = np.random.SeedSequence([7, 3, 749250]).generate_state(2).tolist()
    assert bits == slow_bits(5, *key) == FIRST


def numbers(seed=0, layer_number=0, progress=MIDDLE, count=2**17):
    return random_bits(count, seed, progress, layer_number, torch.device("cpu"))


def test_random_numbers_are_even_and_normal_ones_are_normal():
    bits = numbers()
    assert kstest(bits.double() / 2**32, "uniform").pvalue > 0.01
    assert kstest(standard_normal(bits), "norm").pvalue > 0.01
    for bit in range(32):
        assert ((bits >> bit & 1).double().mean() - 0.5).abs() < 4 * 0.5 / len(bits) ** 0.5
    assert standard_normal(torch.tensor([0, 2**32 - 1, 0, 2**32 - 1])).isfinite().all()


@pytest.mark.parametrize("lag", [0, 1, 2, 64, 1000])
@pytest.mark.parametrize(
    "other", [{}, {"seed": 1}, {"layer_number": 1}, {"progress": DenoisingProgress(0.501)}]
)
def test_random_numbers_of_seeds_layers_timesteps_and_places_have_nothing_in_common(other, lag):
    if not other and not lag:
        lag = 3
    first, second = (n.double() / 2**32 - 0.5 for n in (numbers(), numbers(**other).roll(lag)))
    assert (12 * (first * second).mean()).abs() < 4 / len(first) ** 0.5


def test_fewer_random_numbers_are_the_first_ones():
    assert torch.equal(numbers(count=100), numbers()[:100])
