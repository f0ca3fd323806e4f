"""A real browser before a real server, with every front end that the host goes with."""

import itertools
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

from tests.conftest import HOST
from tests.server.conftest import FOLDER, Server
from tests.ui.browser import launched

PACKAGE = "comfyui-frontend-package"
FRONT_ENDS = Path(sys.prefix) / "front-ends"  # where dev.py puts those that are not installed
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
READY = (
    "() => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.BiGainReport"
)
WITH_NODES_2 = (1, 41)
WITHOUT_ANIMATIONS = "*, *::before, *::after { animation: none !important }"
OURS = f"/{FOLDER}/"  # in addresses
ROUNDING = 1  # pixel
MILLISECONDS = 15_000
MILLISECONDS_TO_OPEN = 90_000
MILLISECONDS_TO_SETTLE = 100
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
    "Attempted to cleanup event listeners for graph",  # of a subgraph that is left
)


def pytest_generate_tests(metafunc):
    given = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "front_end" in metafunc.fixturenames and "front_end" not in given:
        metafunc.parametrize("front_end", SHOWN, ids=" ".join, scope="session", indirect=True)


def front_ends() -> list[str]:
    """That which the host asks for; with the host that was installed also the newest."""
    if not HOST:  # imported for its pages alone
        return []
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


def in_order(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split(".")))


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        try:
            browser = launched(playwright.chromium)
        except FileNotFoundError as error:
            pytest.skip(f"no browser starts: {error}")
        yield browser
        browser.close()


# Front ends and renderers: the newest with both, older ones with the newer of those they offer.
# Before they were offered to users, Nodes 2.0 lay hidden in some front ends.
SHOWN = [
    (number, renderer)
    for number in front_ends()
    for renderer in ("classic", "nodes 2")
    if (in_order(number) >= WITH_NODES_2) == (renderer == "nodes 2")
    or (renderer == "classic" and number == front_ends()[-1])
]


def in_each(pairs: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("front_end", pairs, ids=" ".join, scope="session", indirect=True)


# What takes long is shown by each front end and by each renderer, not in all pairs of them. Where
# the renderer makes no difference each front end is shown once.
few_pairs = in_each(SHOWN[:2])
one_renderer = in_each(list({pair[0]: pair for pair in SHOWN}.values()))
# In older ones the nodes of a subgraph share the values of what is in it, and no inputs are folded.
TODAY = [pair for pair in SHOWN if in_order(pair[0]) >= WITH_NODES_2]
one_renderer_with_values_of_its_own = in_each(list({pair[0]: pair for pair in TODAY}.values()))
classic_that_folds = in_each([pair for pair in TODAY if pair[1] == "classic"])


def one_front_end(test):
    """Where neither front end nor renderer makes a difference: the newest, with one host."""
    return pytest.mark.once(in_each(SHOWN[-1:])(test))


@dataclass
class FrontEnd:
    """A page that shows the host, and what went wrong in it."""

    page: object
    server: Server
    renderer: str = ""
    place: int = 0  # among SHOWN
    complaints: list[str] = field(default_factory=list)
    shown: int = 1000  # number of the last node made by `show`

    def open(self) -> None:
        self.page.goto(self.server.url, wait_until="domcontentloaded", timeout=MILLISECONDS_TO_OPEN)
        self.page.wait_for_function(READY, timeout=MILLISECONDS_TO_OPEN)
        self.page.wait_for_function("() => app.graph?.nodes.length && !app.configuringGraph")
        self.page.wait_for_timeout(MILLISECONDS_TO_RESTORE)
        self.page.add_style_tag(content=WITHOUT_ANIMATIONS)

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
        """Move the canvas so that a node of the workflow or open subgraph lies in the middle."""
        self.page.evaluate(
            """kind => {
                const node = app.canvas.graph.nodes.find((node) => node.type === kind);
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

    def open_subgraph(self) -> None:
        """Of the only node, which stands for it."""
        self.page.evaluate(
            """() => {
                const [around] = app.graph.nodes;
                app.canvas.openSubgraph(around.subgraph, around);
            }"""
        )

    def close_subgraph(self) -> None:
        self.page.evaluate(
            """() => {
                const {graph, graph: {rootGraph}} = app.canvas;
                if (rootGraph && graph !== rootGraph) app.canvas.setGraph(rootGraph);
            }"""
        )

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


def overlaps(outlines: dict) -> list[tuple[int, int]]:
    """Numbers of the nodes of which one covers a part of the other."""
    return [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(outlines.items(), 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > ROUNDING
        and min(a[3], b[3]) - max(a[1], b[1]) > ROUNDING
    ]


@pytest.fixture(scope="session")
def opened(browser, server):
    """The page of a front end, which stays open."""

    @cache
    def page_of(number: str) -> FrontEnd:
        stored = stored_front_ends()
        if number not in stored and number != version(PACKAGE):
            pytest.skip(f"front end {number} is not installed; dev.py test does that")
        shown = open_page(browser, server, stored.get(number))
        assert shown.page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__") == number
        return shown

    return page_of


@pytest.fixture(scope="session")
def front_end(request, opened):
    number, renderer = request.param
    shown = opened(number)
    nodes_2 = renderer == "nodes 2"
    shown.page.evaluate(
        "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes_2
    )
    shown.renderer, shown.place = renderer, SHOWN.index(request.param)
    return shown


def open_page(browser, server: Server, static: Path | None = None) -> FrontEnd:
    """A page on a server, whose static files are those of a folder if one is given."""
    server.post("/settings", SETTINGS)
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
    page.set_default_timeout(MILLISECONDS)
    if static:
        page.route("**/*", lambda route: answer(route, static))
    shown = FrontEnd(page, server)
    page.on("console", lambda message: note(shown, message))
    page.on("pageerror", lambda error: note_error(shown, error))
    page.on("response", lambda response: note_answer(shown, response))
    shown.open()
    return shown


def answer(route, static: Path) -> None:
    file = static / (urlsplit(route.request.url).path.strip("/") or "index.html")
    if file.is_file():
        kind = "text/javascript" if file.suffix == ".js" else None  # Windows says it is plain text
        route.fulfill(path=file, content_type=kind)
    else:
        route.continue_()


def note(shown: FrontEnd, message) -> None:
    ours = "bigain" in message.text.lower() or OURS in message.location.get("url", "")
    severe = message.type == "error" and not message.text.startswith(OF_THE_HOST)
    if severe or (ours and message.type == "warning"):
        shown.complaints.append(f"{message.type}: {message.text} ({message.location})")


def note_error(shown: FrontEnd, error) -> None:
    """The oldest front end at times fails on its own when a page is loaded again."""
    if OURS in (error.stack or ""):
        shown.complaints.append(str(error))


def note_answer(shown: FrontEnd, response) -> None:
    ours = OURS in response.url and not TRANSLATED_HELP.search(response.url)
    if response.status >= 400 and ours:
        shown.complaints.append(f"{response.status} for {response.url}")


@pytest.fixture(autouse=True)
def subgraph_closed(front_end):
    """Some front ends find the way back to an open one while the next workflow is shown."""
    yield
    front_end.close_subgraph()


@pytest.fixture(autouse=True)
def without_complaints(front_end):
    """No test may leave an error on the console."""
    front_end.complaints.clear()
    yield
    assert front_end.complaints == []
