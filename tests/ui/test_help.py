"""The help of a node in the browser, which finds the images beside its page."""

import pytest

from tests.server.conftest import FOLDER
from tests.ui.conftest import one_renderer

KIND, IMAGE = "BiGainTokenMerging", f"/extensions/{FOLDER}/docs/token_merging.png"
SELECT = "() => app.canvas.selectNode(app.graph.nodes[0])"
LOADED = "address => document.querySelector(`img[src$='${address}']`)?.naturalWidth > 0"
# The oldest front end shows help in the sidebar, the others in a panel on the right.
CLOSE = """() => {
    app.extensionManager.sidebarTab.activeSidebarTabId = null;
    app.extensionManager.setting.set("Comfy.RightSidePanel.IsOpen", false);
}"""


@pytest.fixture
def help_opened(front_end):
    front_end.show(KIND)
    front_end.page.evaluate(SELECT)
    front_end.page.get_by_test_id("info-button").click()
    yield
    front_end.page.evaluate(CLOSE)


@one_renderer
def test_a_help_page_is_shown_with_its_image(front_end, help_opened):
    front_end.page.wait_for_function(LOADED, arg=IMAGE)
