"""Images of the panels in nodes, as a browser shows them after a run on a real server."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.server.conftest import EXAMPLES, FOLDER, PACK, booted, make_base
from tests.ui.browser import launched
from tests.ui.conftest import FrontEnd, open_page

COLOURS = 256
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


CHECKPOINT = "sd_xl_base_1.0.safetensors"
IN_PLACE = """() => {
    app.extensionManager.setting.set("Comfy.NodeBadge.NodeSourceBadgeMode", "None");
    app.graph.clear();
    const add = (type, x, size) => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        node.pos = [x, 40];
        node.setSize(size);
        return node;
    };
    const loader = add("CheckpointLoaderSimple", 20, [330, 130]);
    const auto = add("BiGainAuto", 400, [330, 180]);
    const sampler = add("KSampler", 780, [330, 270]);
    loader.connect(0, auto, 0);
    auto.connect(0, sampler, 0);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [100, 100];
    app.canvas.setDirty(true, true);
}"""
AROUND = {"x": 100, "y": 100, "width": 1130, "height": 350}  # those three nodes
MILLISECONDS_TO_DRAW = 1_000


def panels(host: Path) -> Iterator[Image.Image]:
    """BiGain (Auto) between its neighbours, the curve editor, the race and the report."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        base = make_base(Path(folder), [])
        (base / "custom_nodes" / FOLDER).symlink_to(PACK)
        (base / "models" / "checkpoints").mkdir()
        (base / "models" / "checkpoints" / CHECKPOINT).touch()  # the loader shows its name
        browser = launched(started.chromium)
        with booted(host, base) as server:
            shown = open_page(browser, server)
            yield in_place(shown)
            yield curve(shown)
            shown.load(json.loads(EXAMPLE.read_text("utf-8")))
            shown.run()
            for panel, (kind, size) in RUN.items():
                shown.page.evaluate(SET_APART, [kind, size])
                shown.look_at(kind)
                yield photographed(shown, panel)


def in_place(shown: FrontEnd) -> Image.Image:
    shown.page.evaluate(IN_PLACE)
    shown.page.wait_for_timeout(MILLISECONDS_TO_DRAW)
    drawing = Image.open(io.BytesIO(shown.page.screenshot(clip=AROUND)))
    return drawing.convert("RGB").quantize(COLOURS)


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
