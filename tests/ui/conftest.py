"""A real browser before a real server, once for every front end that the host goes with."""

import itertools
import re
import shutil
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import HOST
from tests.server.conftest import Server, booted, make_base

PACKAGE = "comfyui-frontend-package"
FRONT_ENDS = Path(sys.prefix) / "front-ends"  # where dev.py puts those that are not installed
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
READY = (
    "() => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.BiGainReport"
)
WITH_NODES_2 = (1, 41)
ROUNDING = 1  # pixel
MILLISECONDS = 15_000
MILLISECONDS_TO_OPEN = 90_000
MILLISECONDS_TO_SETTLE = 250
MILLISECONDS_TO_RESTORE = 1_000  # the workflow that was open before, which nothing announces
TRANSLATED_HELP = re.compile(r"/docs/\w+/[\w-]+\.md$")  # asked for before the page that is there
# A node of Nodes 2.0 is an element, whose size the graph is told of later; others are drawn.
OUTLINES = """() => app.graph.nodes.map(({id, pos, size}) => {
    const element = document.querySelector(`[data-node-id="${id}"]`);
    const [x, y] = [pos[0], pos[1] - LiteGraph.NODE_TITLE_HEIGHT];
    if (!element) return [id, x, y, pos[0] + size[0], pos[1] + size[1]];
    const {scale, offset} = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const {left, top, right, bottom} = element.getBoundingClientRect();
    return [id, ...[left, top, right, bottom].map((place, k) =>
        (place - (k % 2 ? canvas.top : canvas.left)) / scale - offset[k % 2])];
})"""
SETTLED = f"""() => {{
    const before = window.bigainOutlines;
    window.bigainOutlines = JSON.stringify(({OUTLINES})());
    return before === window.bigainOutlines;
}}"""
OF_THE_HOST = (  # complaints that a page without our pack has as well
    "Failed to load resource",
    "ComfyApp graph accessed before initialization",
    "Connecting to ",  # pages elsewhere, which its own policy forbids
    "Fetch API cannot load ",
)


def pytest_generate_tests(metafunc):
    """The front end that the host asks for; with the host that was installed also the newest."""
    if "front_end" in metafunc.fixturenames:
        metafunc.parametrize("front_end", front_ends(), scope="session", indirect=True)
    given = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "renderer" in metafunc.fixturenames and "renderer" not in given:
        metafunc.parametrize("renderer", renderers(), scope="session", indirect=True)


def front_ends() -> list[str]:
    text = (Path(HOST) / "requirements.txt").read_text("utf-8")
    asked = re.search(r"^comfyui-frontend-package==(\S+)", text, re.MULTILINE)[1]
    others = stored_front_ends() if asked == version(PACKAGE) else []
    return sorted({asked, max([asked, *others], key=in_order)}, key=in_order)


def stored_front_ends() -> dict[str, Path]:
    """Folders of static files by version, of those that lie beside the installed one."""
    found = FRONT_ENDS.glob("*/comfyui_frontend_package-*.dist-info")
    return {
        info.stem.rpartition("-")[2]: info.parent / "comfyui_frontend_package" / "static"
        for info in found
    }


def renderers() -> list[str]:
    """Before they were offered to users, Nodes 2.0 lay hidden in some front ends."""
    both = in_order(front_ends()[0]) >= WITH_NODES_2
    return ["classic", "nodes 2"] if both else ["classic"]


def in_order(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split(".")))


def chromium() -> str | None:
    """The browser of this system."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = chromium()
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class FrontEnd:
    """A page that shows the host, and what went wrong in it."""

    page: object
    server: Server
    complaints: list[str] = field(default_factory=list)
    shown: int = 1000  # number of the last node made by `show`

    def open(self) -> None:
        self.page.goto(self.server.url, wait_until="domcontentloaded", timeout=MILLISECONDS_TO_OPEN)
        self.page.wait_for_function(READY, timeout=MILLISECONDS_TO_OPEN)
        self.page.wait_for_function("() => app.graph?.nodes.length && !app.configuringGraph")
        self.page.wait_for_timeout(MILLISECONDS_TO_RESTORE)

    def load(self, workflow: dict) -> None:
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)

    def saved(self) -> dict:
        return self.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")

    def show(self, kind: str, size=(400, 300)) -> None:
        """A workflow of one fresh node; some front ends remember values by the number of a node."""
        self.shown += 1
        node = {"id": self.shown, "type": kind, "pos": [150, 150], "flags": {}, "mode": 0}
        node |= {"order": 0, "inputs": [], "outputs": [], "properties": {}, "size": [*size]}
        self.load({"version": 0.4, "nodes": [node], "links": [], "groups": [], "config": {}})
        self.look_at(kind)

    def look_at(self, kind: str) -> None:
        """Move the canvas so that a node of the workflow lies in the middle."""
        self.page.evaluate(
            """kind => {
                const node = app.graph.nodes.find((node) => node.type === kind);
                app.canvas.ds.scale = 1;
                app.canvas.ds.offset = [200 - node.pos[0], 150 - node.pos[1]];
                app.canvas.setDirty(true, true);
            }""",
            kind,
        )

    def outlines(self) -> dict[int, tuple[float, float, float, float]]:
        """(left, top, right, bottom) of every node as it is drawn, title included."""
        self.page.evaluate(
            """() => {
                const ends = app.graph.nodes.map(({pos, size}) =>
                    [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]]);
                const [left, top] = [0, 1].map((k) => Math.min(...ends.map((end) => end[k])));
                const [right, bottom] = [2, 3].map((k) => Math.max(...ends.map((end) => end[k])));
                const {width, height} = app.canvas.canvas.getBoundingClientRect();
                const scale = Math.min(width / (right - left), height / (bottom - top)) * 0.8;
                app.canvas.ds.scale = scale;
                app.canvas.ds.offset = [width * 0.1 / scale - left, height * 0.1 / scale - top];
                app.canvas.setDirty(true, true);
            }"""
        )
        self.page.wait_for_function(SETTLED, polling=MILLISECONDS_TO_SETTLE)
        return {int(number): tuple(outline) for number, *outline in self.page.evaluate(OUTLINES)}

    def overlaps(self) -> list[tuple[int, int]]:
        """Numbers of the nodes of which one covers a part of the other."""
        return [
            (one, other)
            for (one, a), (other, b) in itertools.combinations(self.outlines().items(), 2)
            if min(a[2], b[2]) - max(a[0], b[0]) > ROUNDING
            and min(a[3], b[3]) - max(a[1], b[1]) > ROUNDING
        ]

    def widget(self, kind: str, name: str):
        """The value of a widget of the only node of a kind."""
        return self.page.evaluate(
            """([kind, name]) => app.graph.nodes.find((node) => node.type === kind)
                .widgets.find((widget) => widget.name === name).value""",
            [kind, name],
        )

    def set(self, kind: str, **values) -> None:
        """Set widgets of the only node of a kind."""
        self.page.evaluate(
            """([kind, values]) => {
                const node = app.graph.nodes.find((node) => node.type === kind);
                for (const widget of node.widgets)
                    if (widget.name in values) widget.value = values[widget.name];
            }""",
            [kind, values],
        )

    def run(self) -> str:
        """Queue the workflow as it stands: how it ended."""
        return self.page.evaluate(
            """() => new Promise((resolve) => {
                for (const end of ["success", "error", "interrupted"])
                    app.api.addEventListener(`execution_${end}`, () => resolve(end), {once: true});
                app.queuePrompt(0);
            })"""
        )

    def panel(self, name: str):
        return self.page.locator(f'[data-bigain="{name}"]')


@pytest.fixture(scope="session")
def front_end(request, comfyui, shipped_files, tmp_path_factory, browser):
    asked = request.param
    folder = make_base(tmp_path_factory.mktemp("ui"), shipped_files)
    stored = stored_front_ends()
    options = ["--front-end-root", str(stored[asked])] if asked in stored else []
    if not options and asked != version(PACKAGE):
        pytest.skip(f"front end {asked} is not installed; dev.py test does that")
    with booted(comfyui, folder, *options) as server:
        shown = opened(browser, server)
        assert shown.page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__") == asked
        yield shown
        shown.page.close()


def opened(browser, server: Server) -> FrontEnd:
    """A page of its own on a server."""
    server.post("/settings", SETTINGS)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(MILLISECONDS)
    shown = FrontEnd(page, server)
    page.on("console", lambda message: note(shown, message))
    page.on("pageerror", lambda error: note_error(shown, error))
    page.on("response", lambda answer: note_answer(shown, answer))
    shown.open()
    return shown


def note(shown: FrontEnd, message) -> None:
    ours = "bigain" in message.text.lower() or "/bigain/" in message.location.get("url", "")
    severe = message.type == "error" and not message.text.startswith(OF_THE_HOST)
    if severe or (ours and message.type == "warning"):
        shown.complaints.append(f"{message.type}: {message.text} ({message.location})")


def note_error(shown: FrontEnd, error) -> None:
    """The oldest front end at times fails on its own when a page is loaded again."""
    if "/bigain/" in (error.stack or ""):
        shown.complaints.append(str(error))


def note_answer(shown: FrontEnd, answer) -> None:
    ours = "/bigain/" in answer.url and not TRANSLATED_HELP.search(answer.url)
    if answer.status >= 400 and ours:
        shown.complaints.append(f"{answer.status} for {answer.url}")


@pytest.fixture(scope="session")
def renderer(request, front_end) -> str:
    front_end.page.evaluate(
        "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)",
        request.param == "nodes 2",
    )
    return request.param


@pytest.fixture(autouse=True)
def without_complaints(front_end):
    """No test may leave an error on the console."""
    front_end.complaints.clear()
    yield
    assert front_end.complaints == []
