"""Errors against operations, a panel for each measure."""

from __future__ import annotations

from math import floor, log10

from PIL import Image, ImageDraw

from benchmarks.demo_drawing import PAPER
from benchmarks.fidelity.intervals import Figure
from benchmarks.fidelity.page import MEASURES, Fidelity
from benchmarks.fidelity.settings import COLOURS, LINES
from benchmarks.paper.charts import HEIGHT, LEGEND, LINE, TOP, WIDTH, Panel, Point, draw_legend


def chart(found: Fidelity) -> Image.Image | None:
    """None where nothing was measured yet."""
    names = set(found.names)
    if not names:
        return None
    shown = {line: methods for line, methods in LINES.items() if names & set(methods)}
    colours = {line: COLOURS[line] for line in shown}
    height = max(HEIGHT, TOP + LINE * len(shown))
    sheet = Image.new("RGB", (len(MEASURES) * WIDTH + LEGEND, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (title, measure) in enumerate(MEASURES.items()):
        lines = {
            line: [
                Point(found.gflop(n), figure.value, figure.low, figure.high)
                for n in methods
                if n in names
                for figure in (Figure.of(measure(found, n)),)
            ]
            for line, methods in shown.items()
        }
        known = [point for line in lines.values() for point in line]
        step = line_step(max(point.high for point in known))
        panel = Panel.around(known, number * WIDTH, step)
        panel.draw(draw, f"error: {title}", lines, colours)
    draw_legend(draw, len(MEASURES) * WIDTH, colours)
    return sheet


def line_step(most: float) -> float:
    """Distance of the lines of a scale from 0 to `most`: 1, 2 or 5, four to nine lines."""
    power = 10.0 ** floor(log10(most / 4))
    return power * max(step for step in (1, 2, 5) if step * power <= most / 4)
