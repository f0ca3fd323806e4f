"""Frames of a film that share keys, or merge: against loops, and clips that stand still."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from bigain_core.compression.report import report
from bigain_core.compression.rules import Rule
from bigain_core.compression.token_map import token_map
from bigain_core.methods import (
    KeyMerging,
    KVDownsampling,
    Protection,
    Sharing,
    TokenMerging,
)
from bigain_core.methods.base import random_bits
from bigain_core.placement import LayerId
from bigain_core.schedules import AlphaSchedule
from bigain_core.tokens.grid import TokenGrid, frame_runs
from bigain_core.tokens.matching import choose_destinations
from bigain_core.tokens.sequence import JointPlan
from tests.core.calls import MIDDLE, counted, network_call
from tests.core.loops import (
    cell_members,
    four_signs,
    pooled_windows,
    slow_choice,
    slow_matching,
    slow_scores,
)
from tests.core.test_key_merging import slow_sides

LAYER = LayerId(0, "transformer")
FILM = TokenGrid(4, 6, frames=6, prefix=3, suffix=2)
POOLING = [
    KVDownsampling(2, AlphaSchedule(0.4, 0.4), frames=2),
    KVDownsampling(2, AlphaSchedule(1.0, 1.0), frames=3),
    KVDownsampling(1, AlphaSchedule(0.0, 0.0), frames=4),
    KVDownsampling(2, AlphaSchedule(1.0, 1.0), random_places=True, frames=2),
    KVDownsampling(2, AlphaSchedule(1.0, 1.0), random_places=True, opposite=True, frames=2),
]
MERGING = [
    KeyMerging(window=4, frames=2),
    KeyMerging(0.0, cell=1, frames=3),
    TokenMerging(1.0, frames=2, proportional=True),
    TokenMerging(1.0, "random", frames=3, proportional=True),
    TokenMerging(1.0, "top-left", frames=2, proportional=True),
]
LOSSLESS = [
    KVDownsampling(1, frames=2),
    KeyMerging(0.0, cell=1, frames=2),
    TokenMerging(0.5, cell=1, frames=2, proportional=True),
]
every_method = pytest.mark.parametrize("method", POOLING + MERGING, ids=lambda m: m.name)


def slow_runs(frames, step):
    """Frames that share keys: the first alone, then `step` each, the last what is left."""
    runs, at = [[0]], 1
    while at < frames:
        runs.append(list(range(at, min(at + step, frames))))
        at += step
    return runs


@pytest.mark.parametrize("frames", range(1, 10))
@pytest.mark.parametrize("step", range(1, 5))
def test_the_first_frame_is_alone_and_the_last_run_has_what_is_left(frames, step):
    found = []
    for part, length in frame_runs(frames, step):
        inside = list(range(frames))[part]
        found += [inside[n : n + length] for n in range(0, len(inside), length)]
    assert found == slow_runs(frames, step)


def joint(method, x, grid, rotary=False, proportional=False):
    """The plan that a layer of a network gets; None where it stays plain."""
    decision = network_call(Rule(method)).visit(LAYER, x, grid)
    if decision is None:
        return None
    positions = decision.plan.unblended() if rotary else decision.plan
    return JointPlan(decision.grid, decision.plan, positions, proportional)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, 1.3])
@pytest.mark.parametrize(("frames", "step", "factor"), [(6, 2, 2), (5, 2, 3), (4, 5, 1), (2, 3, 2)])
def test_a_film_is_pooled_as_by_loops_over_boxes(randn, frames, step, factor, alpha):
    """Middle frame and nearest token of each box, and the mean of the whole box."""
    grid = TokenGrid(5, 7, frames, prefix=3, suffix=1)
    x = randn(2, grid.sequence_tokens, 4)
    plan = joint(KVDownsampling(factor, AlphaSchedule(alpha, alpha), frames=step), x, grid, True)
    keys, values = [x[:, n] for n in range(3)], [x[:, n] for n in range(3)]
    for run in slow_runs(frames, step):
        for window, nearest in pooled_windows(5, 7, factor):
            box = [3 + frame * 35 + token for frame in run for token in window]
            sampled = x[:, 3 + run[len(run) // 2] * 35 + nearest]
            keys.append(sampled)
            values.append(alpha * sampled + (1 - alpha) * x[:, box].mean(1))
    keys, values = (torch.stack([*rows, x[:, -1]], 1) for rows in (keys, values))
    assert torch.equal(plan.keys(x), keys)
    torch.testing.assert_close(plan.values(x), values)
    assert plan.queries(x) is x and plan.restore(x) is x


@settings(max_examples=40)
@given(
    frames=st.integers(1, 5),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    cell=st.integers(1, 2),
    step=st.integers(2, 3),
    ratio=st.sampled_from([0.0, 0.4, 0.75]),
    seed=st.integers(0, 9999),
)
def test_tokens_join_the_most_alike_destination_of_their_box(
    frames, height, width, cell, step, ratio, seed
):
    grid, window, area = TokenGrid(height, width, frames), 2 * cell, height * width
    metric = four_signs(2, grid.tokens, torch.Generator().manual_seed(seed))
    plan = KeyMerging(ratio, window, cell, seed, frames=step).plan(metric, grid, MIDDLE, 3)
    drawn = random_bits(grid.cells(cell).tokens, seed, MIDDLE, 3, metric.device)
    places = choose_destinations(metric[:1, :area, 0], grid.frame, cell, "random", drawn)[0]
    offsets = [n // cell**2 for n in drawn.tolist()]
    for sample in range(2):
        expected = {}
        for run in slow_runs(frames, step):
            removed = 1 - (1 - ratio) / len(run)
            chosen = {
                run[offset % len(run)] * area + place
                for place, offset in zip(places.tolist(), offsets, strict=True)
            }
            for top, bottom in slow_sides(height, window):
                for start, end in slow_sides(width, window):
                    inside = [
                        frame * area + y * width + x
                        for frame in run
                        for y in range(top, bottom)
                        for x in range(start, end)
                    ]
                    own = [inside.index(token) for token in inside if token in chosen]
                    most = int(len(inside) * removed + 1e-9)
                    count = min(most, len(inside) - len(own)) if own else 0
                    local = slow_matching([metric[sample, n].tolist() for n in inside], own, count)
                    expected |= {inside[s]: {inside[d] for d in to} for s, to in local.items()}
        assert plan.context_tokens == grid.tokens - len(expected)
        for token, goal in enumerate(plan.target[sample].tolist()):
            assert goal in expected.get(token, {token})


@pytest.mark.parametrize("rule", ["lowest", "random", "top-left"])
@settings(max_examples=40)
@given(
    frames=st.integers(3, 5),
    height=st.integers(2, 6),
    width=st.integers(1, 6),
    cell=st.integers(1, 2),
    step=st.integers(2, 3),
    ratio=st.sampled_from([0.75, 0.5, 1.0, 0.4, 0.6, 0.0]),
    share=st.sampled_from([0.0, 0.25]),
    seed=st.integers(0, 9999),
)
def test_tokens_merge_with_the_destinations_of_their_run(
    rule, frames, height, width, cell, step, ratio, share, seed
):
    """The share of tokens of each run; of a box the lowest of all frames, in raster order.

    A box is one place where a run has enough frames for the ratio.
    """
    grid, area = TokenGrid(height, width, frames), height * width
    metric = four_signs(2, grid.tokens, torch.Generator().manual_seed(seed))
    protection = Protection(share, "low")
    method = TokenMerging(ratio, rule, cell, seed, protection=protection, frames=step)
    plan = method.plan(metric, grid, MIDDLE, 3)
    for sample in range(2):
        expected = {}
        for run in slow_runs(frames, step):
            rows = metric[sample].view(frames, area, -1)[run]
            scores = [score for frame in rows for score in slow_scores(frame, height, width)]
            count = len(scores)
            closed = min(int(count * share), count - int(count * ratio))
            closed = slow_choice(scores, closed, "low")
            chosen, side = [], 1 if 0 < ratio <= (len(run) - 1) / len(run) else cell
            cells = cell_members(height, width, side)
            drawn = random_bits(len(cells), seed, MIDDLE, 3, metric.device).tolist()
            for members, number in zip(cells, drawn, strict=True):
                box = [n * area + token for n in range(len(run)) for token in members]
                at = number // side**2 % len(run) * side**2 + number % side**2
                order = {
                    "lowest": sorted(box, key=scores.__getitem__),
                    "random": box[at:] + box[:at],
                    "top-left": box,
                }[rule]
                chosen.append(next((n for n in order if n not in closed), order[0]))
            boxes = len(chosen) * side**2 * len(run)
            most = min(int(count * ratio), max(0, count - len(chosen) - len(closed)))
            most *= len(closed) < boxes  # there may be no destination left
            if chosen:
                local = slow_matching(rows.flatten(0, 1).tolist(), chosen, most, closed)
                begin = run[0] * area
                expected |= {begin + n: {begin + d for d in to} for n, to in local.items()}
        assert plan.query_tokens == plan.context_tokens == grid.tokens - len(expected)
        for token, goal in enumerate(plan.target[sample].tolist()):
            assert goal in expected.get(token, {token})


def attention(plan, x):
    """Without positions in time: what tells frames apart is their content alone."""
    if plan is None:
        return scaled_dot_product_attention(x, x, x)
    q, k, v = plan.queries(x), plan.keys(x), plan.values(x)
    bias = plan.key_bias(k)
    out = scaled_dot_product_attention(q, k, v, None if bias is None else bias[:, None])
    return plan.restore(out)


@pytest.mark.parametrize("rotary", [False, True])
@every_method
def test_a_still_clip_stands_still_and_costs_once(randn, method, rotary):
    """Every frame gets what the method gives for that frame as an image."""
    image, grid = randn(2, 24, 8), TokenGrid(4, 6, frames=6)
    film = image.repeat(1, 6, 1)
    plan = joint(method, film, grid, rotary)
    assert plan.keys(film).shape[1] <= 24 * len(slow_runs(6, method.frames))
    found = attention(plan, film).unflatten(1, (6, 24))
    of_image = attention(joint(method, image, TokenGrid(4, 6), rotary), image)
    expected = of_image[:, None].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", [FILM, TokenGrid(4, 6, frames=6)])
@pytest.mark.parametrize("method", LOSSLESS, ids=lambda m: m.name)
def test_runs_of_equal_frames_lose_nothing(randn, method, grid):
    """A run of one frame, two of two and one of one, each of another image."""
    x, images = randn(2, grid.sequence_tokens, 8), randn(2, 4, 24, 8, seed=1)
    film = images[:, [0, 1, 1, 2, 2, 3]].flatten(1, 2)
    x = torch.cat([x[:, : grid.prefix], film, x[:, x.shape[1] - grid.suffix :]], 1)
    plan = joint(method, x, grid, proportional=True)
    assert plan.keys(x).shape[1] == grid.text_tokens + 4 * 24
    plain = scaled_dot_product_attention(x, x, x)
    torch.testing.assert_close(attention(plan, x), plain, rtol=1e-5, atol=1e-5)


def test_pooled_keys_of_a_shorter_run_weigh_less_even_where_nothing_is_weighed(randn):
    """Otherwise the first frame would count as much as the frames of a whole run together."""
    x = randn(2, FILM.sequence_tokens, 8)
    plan = joint(KVDownsampling(2, frames=2), x, FILM)
    runs = [0.5] * 6 + [1.0] * 12 + [0.5] * 6
    weights = torch.tensor([1.0] * 3 + runs + [1.0] * 2).expand(2, -1)
    torch.testing.assert_close(plan.key_bias(plan.keys(x)).exp(), weights)
    even = TokenGrid(4, 6, frames=3, prefix=3)
    x = randn(1, even.sequence_tokens, 8)
    assert joint(KVDownsampling(2, frames=1), x, even).key_bias(x) is None


def test_decisions_are_the_same_in_all_runs(randn):
    """Otherwise what is drawn would flicker: keys of equal frames are equal tokens."""
    image, grid = randn(1, 24, 8), TokenGrid(4, 6, frames=7)
    merging = TokenMerging(1.0, "random", frames=2)
    for method in (POOLING[3], KeyMerging(frames=2), merging):
        plan = joint(method, image.repeat(1, 7, 1), grid, rotary=True)
        places = torch.arange(24.0).repeat(7)[None, :, None]
        runs = plan.keys(places).unflatten(1, (4, -1)).sort(2).values
        assert torch.equal(runs, runs[:, :1].expand_as(runs))


@every_method
def test_one_frame_is_an_image(randn, method):
    x, grid = randn(2, 63, 8), TokenGrid(9, 7)
    alone = type(method)(**vars(method) | {"frames": 1})
    plans = [joint(one, x, grid) for one in (method, alone)]
    if plans[0] is None:
        assert plans[1] is None or alone.is_identity
        return
    for step in ("keys", "values"):
        assert torch.equal(*(getattr(plan, step)(x) for plan in plans))
    assert plans[0].grid == grid


@every_method
def test_a_plan_depends_neither_on_the_batch_nor_on_values_in_its_shape(randn, method):
    grid = TokenGrid(5, 7, frames=6)
    x = randn(3, grid.tokens, 8)
    plan = joint(method, x, grid)
    for sample in range(3):
        row = x[sample : sample + 1]
        alone = joint(method, row, grid)
        for step in ("queries", "keys", "values"):
            assert torch.equal(getattr(alone, step)(row)[0], getattr(plan, step)(x)[sample])
    shapes = torch.empty(1, grid.tokens, 8, device="meta")
    counted = method.plan(shapes, grid, MIDDLE, 0)
    assert counted.context(shapes).shape[1] == counted.context_tokens == plan.keys(x).shape[1]
    blank = joint(method, torch.zeros(1, grid.tokens, 8), grid).keys(x[:1])
    assert blank.shape[1] == counted.context_tokens


@every_method
def test_a_film_in_parts_is_decided_as_at_once(randn, method, monkeypatch):
    """Windows or runs of a film are compared some at a time, as all would take too much memory."""
    grid = TokenGrid(8, 8, frames=5)
    x = randn(2, grid.tokens, 8)
    whole = joint(method, x, grid)
    monkeypatch.setattr("bigain_core.methods.key_merging.AT_ONCE", 1)
    monkeypatch.setattr("bigain_core.tokens.parts.AT_ONCE", 1)
    assert torch.equal(joint(method, x, grid).keys(x), whole.keys(x))


@pytest.mark.parametrize("kind", [KVDownsampling, KeyMerging, TokenMerging])
def test_frames_below_1_are_refused(kind):
    with pytest.raises(ValueError, match="at least 1 frame .* got 0"):
        kind(frames=0)
    assert not kind(frames=2).is_identity


def test_the_published_rule_is_for_images():
    with pytest.raises(ValueError, match=r"expected frames 1 .* got 2"):
        TokenMerging(0.7, "published", frames=2)


def test_a_ratio_is_the_share_of_a_film_whatever_its_runs(randn):
    """An image, too, merges as with frames 1."""
    for ratio in (0.3, 0.5, 0.7, 0.75):
        for frames in (1, 2, 3, 4, 6, 16):
            method = TokenMerging(ratio, frames=frames)
            plan = method.plan(randn(1, 7 * 80, 4), TokenGrid(8, 10, frames=7), MIDDLE, 0)
            assert plan.query_tokens == pytest.approx(7 * 80 * (1 - ratio), abs=7)
            x, grid = randn(2, 80, 4), TokenGrid(8, 10)
            alone = TokenMerging(ratio).plan(x, grid, MIDDLE, 0)
            assert torch.equal(method.plan(x, grid, MIDDLE, 0).target, alone.target)


def test_a_film_without_anything_to_merge_stays_as_it_is(randn):
    x = randn(2, FILM.sequence_tokens, 8)
    assert TokenMerging(0.0, frames=4).is_identity
    assert joint(TokenMerging(0.0, frames=4), x, FILM) is None


def test_merging_in_runs_counts_as_torch_does(randn):
    """The Laplacian of each frame; a first frame alone, two runs of two, one frame of its own."""

    def slow(of_run):
        kernel = torch.empty(8, 1, 3, 3, device="meta")
        frames = torch.empty(6, 8, 4, 6, device="meta")
        torch.nn.functional.conv2d(frames, kernel, groups=8, padding=1)
        for length, count in ((1, 6), (2, of_run), (2, of_run), (1, 6)):
            sources, destinations = (
                torch.empty(n, 8, device="meta") for n in (length * 24 - count, count)
            )
            sources @ destinations.mT

    grid = TokenGrid(4, 6, frames=6)
    assert TokenMerging(0.7, frames=2).decision_flops(8, grid) == counted(lambda: slow(6))
    assert TokenMerging(0.5, frames=2).decision_flops(8, grid) == counted(lambda: slow(24))


def test_layers_share_the_assignment_of_a_film(randn):
    grid = TokenGrid(4, 6, frames=6, prefix=2)
    call = network_call(Rule(TokenMerging(0.5, frames=2, sharing=Sharing("network"))))
    first, second = (
        call.visit(LayerId(n, "transformer"), randn(2, grid.sequence_tokens, 8, seed=n), grid)
        for n in range(2)
    )
    assert second.plan is first.plan and second.flops == 0 < first.flops


def test_the_report_names_the_frames(randn):
    call = network_call(Rule(TokenMerging(0.5, frames=4)))
    call.visit(LAYER, randn(1, 144, 8), TokenGrid(4, 6, frames=6))
    assert "L-GTM 0.5, over 4 frames, 144 tokens -> 72 queries, 72 keys" in report(call.log)


def test_a_token_map_is_that_of_the_first_frame(randn):
    method = TokenMerging(0.5, frames=2)
    x, grid, log = randn(2, 144, 8), TokenGrid(4, 6, frames=6), network_call(Rule(method))
    decision = log.visit(LAYER, x, grid)
    found = token_map(decision, decision)
    alone = method.plan(x[:1, :24], TokenGrid(4, 6), MIDDLE, 0)
    assert torch.equal(found.stand_in, alone.target[0]) and found.grid == TokenGrid(4, 6)
    assert found.scores.tolist() == pytest.approx(slow_scores(x[0, :24], 4, 6), abs=1e-5)
