"""Everything that our nodes show lies within them, however small they were saved."""

import pytest

from tests.server.conftest import PACK
from tests.ui.conftest import few_pairs

KINDS = sorted(path.stem for path in (PACK / "tests" / "host" / "interfaces").glob("*.json"))
FRAMES = 10  # to draw until heights have settled
# Names of widgets and panels that reach over an end of the only node. The classic renderer keeps
# places of widgets, but for panels, in the node; the other one has elements for all of them.
OUTSIDE = """async ([classic, frames]) => {
    for (let frame = 0; frame < frames; frame++)
        await new Promise((done) => requestAnimationFrame(done));
    const node = app.graph.nodes[0];
    const parts = [];
    let box = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    if (classic) {
        const {ds: {scale, offset}, canvas} = app.canvas;
        const top = (node.pos[1] + offset[1]) * scale + canvas.getBoundingClientRect().top;
        box = {top, bottom: top + node.size[1] * scale};
        for (const widget of node.widgets.filter((one) => node.isWidgetVisible?.(one) ?? true))
            parts.push([widget.name, top + widget.y * scale,
                top + (widget.y + (widget.computedHeight ?? 20)) * scale]);
    }
    for (const part of document.querySelectorAll('[data-testid="node-widget"], [data-bigain]')) {
        const {top, bottom} = part.getBoundingClientRect();
        parts.push([part.dataset.bigain ?? part.textContent, top, bottom]);
    }
    if (!parts.length) return ["nothing is shown"];
    return parts.filter(([, top, bottom]) =>
        top < box.top - 1 || bottom > box.bottom + 1 || bottom < top + 1);
}"""
UNFOLD = """classic => classic ? app.graph.nodes[0].toggleAdvanced?.()
    : document.querySelector('[data-testid="advanced-inputs-button"]')?.click()"""


@few_pairs
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off(front_end, kind):
    front_end.show(kind, size=[200, 40])
    given = [front_end.renderer == "classic", FRAMES]
    assert front_end.page.evaluate(OUTSIDE, given) == []
    front_end.page.evaluate(UNFOLD, given[0])
    assert front_end.page.evaluate(OUTSIDE, given) == []
