"""The bar chart of a ranking."""

import torch
from bigain.bigain_core.classification import Classification
from bigain.bigain_core.comfyui.classifying.chart import ALIVE, BEST, FAINT, bar_chart

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
