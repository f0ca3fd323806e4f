"""Images of the panels in nodes, as a browser shows them after a run on a real server."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.server.conftest import EXAMPLES, PACK, booted, make_base
from tests.ui.browser import launched
from tests.ui.conftest import FrontEnd, open_page

COLOURS = 64  # keep the files small
RUN = {  # panel: its node, and a size at which all of it is seen
    "race": ("BiGainDiffusionClassifier", (480, 790)),
    "report_view": ("BiGainReport", (640, 250)),
}
EXAMPLE = EXAMPLES / "bigain_classify_image.json"
SET_APART = """([kind, size]) => {
    const node = app.graph.nodes.find((node) => node.type === kind);
    node.setSize(size);
    node.pos = [0, -1000 * (1 + app.graph.nodes.indexOf(node))];
}"""


def panels(host: Path) -> Iterator[Image.Image]:
    """The curve editor, the race and the report."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        base = make_base(Path(folder), [])
        (base / "custom_nodes" / "bigain").symlink_to(PACK)
        browser = launched(started.chromium)
        with booted(host, base) as server:
            shown = open_page(browser, server)
            yield curve(shown)
            shown.load(json.loads(EXAMPLE.read_text("utf-8")))
            shown.run()
            for panel, (kind, size) in RUN.items():
                shown.page.evaluate(SET_APART, [kind, size])
                shown.look_at(kind)
                yield photographed(shown, panel)


def curve(shown: FrontEnd) -> Image.Image:
    """With a point that was added and moved."""
    shown.show("BiGainAlphaSchedule")
    editor = shown.panel("alpha_editor")
    editor.get_by_role("button", name="Add point").click()
    editor.get_by_role("slider").nth(1).press("Shift+ArrowDown")
    return photographed(shown, "alpha_editor")


def photographed(shown: FrontEnd, panel: str) -> Image.Image:
    drawing = Image.open(io.BytesIO(shown.panel(panel).screenshot()))
    return drawing.convert("RGB").quantize(COLOURS)
