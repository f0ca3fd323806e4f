"""The bar chart of a ranking."""

from itertools import combinations

import pytest
import torch
from bigain.bigain_core.classification import Classification
from bigain.bigain_core.classification.datasets.held_out_comparison import ModelComparison
from bigain.bigain_core.comfyui.classifying import fonts
from bigain.bigain_core.comfyui.classifying.chart import (
    ALIVE,
    BEST,
    DROPPED,
    EDGE,
    FAINT,
    NAMES,
    ROW,
    bar_chart,
    comparison_chart,
)
from bigain.bigain_core.comfyui.classifying.fonts import font_with

from tests.host.ranking import ranking


def pixels(chart, colour):
    wanted = torch.tensor(colour) / 255
    return ((chart - wanted).abs() < 1e-3).all(-1)


def test_the_chart_draws_bars_as_long_as_the_labels_are_behind():
    errors = torch.tensor([[1.0, 1.0, 1.0], [1.1, 1.1, 1.1], [1.4, 1.4, 1.4]]).double()
    found = ranking(errors)
    chart = bar_chart(Classification(("best", "near", "x" * 99), (found,)))
    assert chart.shape[0] == 1 and chart.shape[-1] == 3 and 0 <= chart.min() <= chart.max() <= 1
    bars = pixels(chart[0], ALIVE).sum(1)
    rows = bars[bars > 20]
    assert sorted({round(row / rows.max().item() * 4) for row in rows.tolist()}) == [1, 4]
    assert pixels(chart[0], BEST).any()


def test_the_chart_takes_one_label_and_very_many():
    one = ranking(torch.ones(1, 2))
    assert bar_chart(Classification(("only",), (one,))).shape[0] == 1
    many = ranking(torch.arange(200.0).reshape(100, 2))
    chart = bar_chart(Classification(tuple(map(str, range(100))), (many, many)))
    assert chart.shape[0] == 2 and chart.shape[1] < 800


def test_the_chart_says_how_many_are_left_out():
    """The line is there with many labels and not with few."""
    heights = []
    for count in (20, 21, 3000):
        found = ranking(torch.arange(2.0 * count).view(count, 2))
        chart = bar_chart(Classification(tuple(map(str, range(count))), (found,)))[0]
        heights.append(len(chart))
        last = pixels(chart[-46:-16, :200], FAINT).any()
        assert last == (count > 20)
    assert heights[0] + 30 == heights[1] == heights[2]


def test_the_chart_of_models_puts_dots_where_their_differences_are():
    means = torch.tensor([0.0, 0.1, 0.4])
    spread = torch.linspace(-1, 1, 8)
    errors = 1 + means[:, None] + 0.02 * torch.stack([spread, spread.flip(0), spread.roll(3)])
    found = ModelComparison(("a", "b", "c"), errors.double(), (0, 1))
    chart = comparison_chart(found)
    assert chart.shape[0] == 1 and chart.shape[-1] == 3
    middles = []
    for row, colour in enumerate((BEST, ALIVE, DROPPED)):
        line = chart[0, EDGE + ROW * (row + 1) + ROW // 2 + 4, NAMES:]
        middles.append(pixels(line[None], colour)[0].nonzero().double().mean().item())
    assert (middles[1] - middles[0]) / (middles[2] - middles[0]) == pytest.approx(0.25, abs=0.01)


SCRIPTS = {
    "ASCII": ("cat", "dog", "cow"),
    "accents": ("\u00e9t\u00e9", "\u00e8t\u00e9", "Gr\u00f6\u00dfe"),
    "Cyrillic": ("\u043a\u043e\u0442", "\u043a\u0438\u0442", "\u043f\u0451\u0441"),
    "Arabic": ("\u0642\u0637\u0629", "\u0643\u0644\u0628", "\u0628\u0642\u0631"),
    "Chinese": ("\u732b", "\u72d7", "\u725b"),
    "Japanese": ("\u306d\u3053", "\u30a4\u30cc", "\u725b"),
    "Korean": ("\uace0\uc591\uc774", "\uac1c", "\uc18c"),
    "a noncharacter": ("\ufdd0", "\ufdd1", "\ufdd0\ufdd0"),
}


def names_drawn(labels):
    """The pictures of the names of a chart, in its order."""
    errors = torch.arange(len(labels)).double()[:, None].expand(-1, 3) + 1
    chart = bar_chart(Classification(labels, (ranking(errors),)))[0]
    top = EDGE + ROW
    dark = chart[top : top + ROW * len(labels), : EDGE + NAMES - 4].amin(2) < 0.7
    return dark.unflatten(0, (len(labels), ROW))


@pytest.mark.parametrize("script", SCRIPTS)
def test_names_in_any_script_are_told_apart(script):
    """Letters that no font has would all be the same box."""
    found = names_drawn(SCRIPTS[script])
    assert all(name.any() for name in found)
    assert all(not torch.equal(one, other) for one, other in combinations(found, 2))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_name_without_a_font_is_named_by_its_rank(script):
    readable = [font_with(name) is not None for name in SCRIPTS[script]]
    ranks = names_drawn(("rank 1", "rank 2", "rank 3"))
    for shown, number, has_font in zip(names_drawn(SCRIPTS[script]), ranks, readable, strict=True):
        assert torch.equal(shown, number) == (not has_font)
    if script == "ASCII":
        assert all(readable)
    if script == "a noncharacter":
        assert not any(readable)


def test_a_font_is_taken_only_if_it_has_every_letter(monkeypatch):
    """With Pillow's own font alone, which has hardly more than ASCII."""
    monkeypatch.setattr(fonts, "SYSTEM_FONTS", ("no such font.ttf",))
    assert font_with("a photo of a cat, 100 %") is not None
    assert font_with("cat \u732b") is None
    assert torch.equal(names_drawn(("\u732b", "cat")), names_drawn(("rank 1", "cat")))
