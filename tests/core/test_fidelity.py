"""What the yardstick computes: against scipy, slow loops and worked examples."""

import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.fidelity.__main__ import FULL, HOUR
from benchmarks.fidelity.drawing import chart, line_step
from benchmarks.fidelity.intervals import RESAMPLES, Figure, mean, relative, resamples
from benchmarks.fidelity.measuring import compared, flip, images_compared, rank_correlation
from benchmarks.fidelity.page import Fidelity, Kind, of_model, verdict
from benchmarks.fidelity.photos import PHOTOS, read_photo
from benchmarks.fidelity.settings import (
    CANDIDATE,
    COLOURS,
    FEW,
    LINES,
    METHODS,
    RIVAL,
    SEEDS,
    sd_layer_gflop,
    settings,
)
from benchmarks.fidelity.work import COSTLY, GENERATION, MODELS, PREDICTIONS, Work
from benchmarks.paper.charts import Panel, Point
from bigain_core.classification.datasets.result_files import SUFFIX, ResultFile


def test_every_method_is_a_setting_and_those_that_draw_have_seeds():
    found = {}
    for setting in settings(len(SEEDS)):
        found.setdefault(setting.name, []).append(setting.method)
    assert found.keys() == METHODS.keys() and COLOURS.keys() == LINES.keys()
    drawing = {name for name, methods in found.items() if len(methods) == len(SEEDS)}
    expected = {
        name
        for name in METHODS
        if name.startswith(("ToMe", "SiTo", "key merging")) or name.endswith("random places")
    }
    assert drawing == expected
    assert all(len(set(methods)) == len(methods) for methods in found.values())


def works(out, size, **others):
    return [Work(model, None, out, **vars(size), **others) for model in MODELS]


def test_what_is_measured_by_default_takes_less_than_an_hour_of_two_cores(tmp_path):
    hour, full = (
        sum(
            work.seconds(part)
            for work in works(tmp_path, size, full=size is FULL)
            for part in work.parts
        )
        for size in (HOUR, FULL)
    )
    assert 3000 < hour < 6000 and full > 5 * hour
    for work in works(tmp_path, HOUR, full=False):
        assert {PREDICTIONS, GENERATION} < set(work.parts)
        assert max(map(work.seconds, work.parts)) < 1800, "two cores end at about the same time"


def test_costly_parts_take_few_methods_unless_told_otherwise(tmp_path):
    def names(work, part):
        return [setting.name for setting in work.settings(part) if not setting.seed]

    for work in works(tmp_path, HOUR, full=False):
        for part in work.parts:
            costly = work.seconds_each(part) > COSTLY
            assert names(work, part) == [n for n in METHODS if n in FEW or not costly]
    bundled = works(tmp_path, HOUR, full=True)[-1]
    assert names(bundled, PREDICTIONS) == list(METHODS)
    (*_, one) = works(tmp_path, HOUR, names=["SiTo 0.7"], full=False)
    assert names(one, PREDICTIONS) == ["SiTo 0.7"]


def test_what_is_done_is_not_counted_again(tmp_path):
    work = works(tmp_path, HOUR, names=[RIVAL], full=False)[0]
    before, each = work.seconds(PREDICTIONS), work.seconds_each(PREDICTIONS)
    assert before == pytest.approx(HOUR.images * each)
    path = work.folder / PREDICTIONS / f"ie-kvd-2-seed-0{SUFFIX}"
    with ResultFile(path, {"method": repr(METHODS[RIVAL])}) as results:
        for number in range(3):
            results.add({"file": f"{number}.png"})
    assert work.seconds(PREDICTIONS) == pytest.approx(before - 3 * each)


def test_operations_of_a_layer_are_those_known_for_stable_diffusion():
    found = {name: sd_layer_gflop(METHODS[name]) for name in METHODS}
    assert found["L-GTM 0.7"] == pytest.approx(4.98, abs=0.005)
    assert found["IE-KVD 2"] == pytest.approx(7.47, abs=0.005)
    assert found["key merging 2"] == pytest.approx(7.59, abs=0.005)
    assert found["IE-KVD 2"] < found["key pairs 2"] < 1.06 * found["IE-KVD 2"]


def test_ranks_correlate_as_in_scipy(randn):
    one, other = randn(2, 3, 10)
    found = rank_correlation(one, other)
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert found.tolist() == pytest.approx(expected)


def test_images_are_compared_one_by_one():
    plain = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    found = plain.clone()
    found[1] += 0.1
    same, apart = images_compared(plain, found)
    assert same == {"square": 0, "ssim": pytest.approx(1), "flip": 0}
    assert apart["square"] == pytest.approx(0.01) and apart["ssim"] < 1
    assert 0 < apart["flip"] < flip(plain[1], 1 - plain[1])


def test_a_prediction_beside_the_plain_one(randn):
    plain, noise = randn(2, 3, 1, 2, 2), randn(2, 1, 2, 2, seed=1)
    assert compared(plain, plain, noise, 0)["same"]
    shifted = plain + 0.5  # the same for all prompts
    found = compared(plain, shifted, noise, 0)
    assert found["error"] == pytest.approx([3 * 4 * 0.25] * 2)
    assert found["size"] == pytest.approx([x.square().sum().item() for x in plain])
    assert found["difference"] == pytest.approx(0, abs=1e-9)
    centred = plain - plain.mean(1, keepdim=True)
    assert found["of"] == pytest.approx(centred.square().sum().item(), rel=1e-5)
    errors = ((plain - noise[:, None]) ** 2).flatten(2).mean(-1)
    best = int(errors.mean(0).argmin())
    for right in range(3):
        assert compared(plain, plain, noise, right)["plain_right"] == (right == best)
    swapped = compared(plain, plain[:, [1, 2, 0]], noise, best)
    assert not swapped["same"] and not swapped["right"]


def test_intervals_are_those_of_the_mean_and_pairs_stay_together(randn):
    values = randn(400).double()
    weights = resamples(400)
    assert weights.shape == (1 + RESAMPLES, 400) and set(weights.sum(1).tolist()) == {400}
    figure = Figure.of(mean(weights, values))
    reach = 1.96 * values.std().item() / 20
    assert figure.value == pytest.approx(values.mean().item())
    assert [figure.low, figure.high] == pytest.approx(
        [figure.value - reach, figure.value + reach], abs=0.02
    )
    error = relative(weights, values**2, torch.ones(400))
    twice = relative(weights, (2 * values) ** 2, torch.ones(400))
    ratio = Figure.of(error / twice)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("figure", "word"),
    [
        (Figure(0.8, 0.7, 0.9), "wins"),
        (Figure(0.8, 0.7, 1.1), "ties"),
        (Figure(1.5, 1.1, 1.9), "loses"),
    ],
)
def test_a_verdict_needs_the_whole_interval(figure, word):
    assert verdict(figure) == word


def made_up(error, square):
    """Records of three images, each a bit harder than the one before."""
    predictions = {
        n: {
            "image": n, "error": [error * (n + 1)] * 5, "size": [1.0] * 5, "difference": error,
            "of": 1.0, "ranks": 0.9, "same": True, "right": True, "plain_right": n < 2,
            "flops": 10**9 - int(1e8 * error), "plain_flops": 2 * 10**9,
        }
        for n in range(3)
    }  # fmt: skip
    generation = {n: {"image": n, "square": square, "ssim": 0.9, "flip": 0.05} for n in range(3)}
    return predictions, generation


def with_every_method(records):
    return Fidelity(*(Kind({name: [records[k]] for name in METHODS}) for k in (0, 1)))


def test_the_page_takes_images_that_all_have_and_pairs_them():
    strong, weak = made_up(0.01, 0.01), made_up(0.04, 0.01)
    del weak[0][2]
    records = {RIVAL: weak, CANDIDATE: strong}
    found = Fidelity(*(Kind({n: [r[k]] for n, r in records.items()}) for k in (0, 1)))
    assert found.predictions.images == [0, 1] and found.generation.images == [0, 1, 2]
    text = of_model(found)
    assert "2 images, 3 generated, seeds of methods that draw: 1. The plain model: 2 G" in text
    assert "2 of 2 right." in text
    assert "0.5 (0.5 to 0.5), wins" in text and "1 (1 to 1), ties" in text
    few, dozens = chart(found), chart(with_every_method(strong))
    assert few.width > few.height
    assert few.width == dozens.width and few.height < dozens.height, "the legend has room"


def test_weighing_is_held_against_the_same_method_without():
    names = {"ToMe 0.7": made_up(0.04, 0.04), "ToMe 0.7, weighed": made_up(0.01, 0.01)}
    found = Fidelity(*(Kind({n: [r[k]] for n, r in names.items()}) for k in (0, 1)))
    text = of_model(found)
    assert text.count("0.5 (0.5 to 0.5), wins") == 3 and "without:" in text
    alone = Fidelity(*(Kind({"ToMe 0.7, weighed": [made_up(0.01, 0.01)[k]]}) for k in (0, 1)))
    assert "without:" not in of_model(alone)


@pytest.mark.parametrize("name", PHOTOS)
def test_photographs_are_squares_in_colour(name):
    photo = read_photo(name, 64)
    assert photo.shape == (1, 64, 64, 3) and 0 <= photo.min() < photo.max() <= 1
    assert photo.std() > 0.03


def test_the_page_holds_the_candidate_against_all_on_photographs():
    rows = {n: {"file": n, "error": [0.01, 0.03], "size": [1.0, 3.0]} for n in "abc"}
    kinds = {
        CANDIDATE: {n: {**row, "attention": 0.01} for n, row in rows.items()},
        RIVAL: {n: {**row, "attention": 0.04} for n, row in rows.items()},
    }
    empty = Kind({})
    found = Fidelity(empty, empty, {64: Kind({n: [rows] for n, rows in kinds.items()})})
    text = of_model(found)
    assert "3 photographs, 64 tokens" in text
    shares = "1 (1 to 1), ties | 0.5 (0.5 to 0.5), wins"
    assert f"| {RIVAL} | 0.1 (0.1 to 0.1) | 0.2 (0.2 to 0.2) | {shares} |" in " ".join(text.split())


@pytest.mark.parametrize(("most", "step"), [(0.021, 0.005), (0.4, 0.1), (0.36, 0.05), (9, 2)])
def test_scales_have_round_steps(most, step):
    assert line_step(most) == pytest.approx(step)


def test_a_panel_holds_every_interval():
    """Also of errors above 1, where shares end."""
    points = [Point(1.0, 0.5, 0.41, 0.6), Point(2.0, 1.08, 1.01, 1.14)]
    panel = Panel.around(points, 0, step=0.2)
    assert (panel.bottom, panel.top) == (pytest.approx(0.4), pytest.approx(1.2))
