"""BiGain Token Map run in the browser: its image is in the node."""

from tests.server.conftest import FEW_TOKENS

KIND = "BiGainTokenMap"
PROMPT = {
    "1": {"class_type": "BiGainDiTLoader", "inputs": {"model_name": FEW_TOKENS}},
    "2": {"class_type": "BiGainTokenMerging", "inputs": {"model": ["1", 0]}},
    "3": {"class_type": "BiGainDiTLabels", "inputs": {"model": ["1", 0], "labels": "rocket"}},
    "4": {"class_type": "BiGainSampleImages", "inputs": {"images": "bee"}},
    "5": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
    "6": {
        "class_type": KIND,
        "inputs": {"model": ["2", 0], "positive": ["3", 0], "image": ["4", 0], "vae": ["5", 0]},
    },
}
# The classic renderer draws images on its canvas, the other one puts them into the page.
IMAGE = """classic => {
    const node = app.graph.nodes.find((node) => node.type === "BiGainTokenMap");
    const inNode = document.querySelectorAll(`[data-node-id="${node.id}"] img`);
    const image = [...(classic ? node.imgs ?? [] : inNode)].find((image) => image.naturalWidth);
    return image && [image.naturalWidth, image.naturalHeight];
}"""


def test_the_groups_are_shown_in_the_node(front_end):
    front_end.page.evaluate("prompt => app.loadApiJson(prompt, 'token map')", PROMPT)
    front_end.look_at(KIND)
    assert front_end.run() == "success"
    classic = front_end.renderer == "classic"
    assert front_end.page.wait_for_function(IMAGE, arg=classic).json_value() == [64, 64]
