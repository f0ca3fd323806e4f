"""BiGain Rank Images alone in a prompt: its images are in the node, best first, with scores."""

from tests.server.conftest import FEW_TOKENS
from tests.ui.conftest import one_front_end

KIND = "BiGainRankImages"
PROMPT = {
    "1": {"class_type": "BiGainDiTLoader", "inputs": {"model_name": FEW_TOKENS}},
    "2": {
        "class_type": "BiGainDiTLabels",
        "inputs": {"model": ["1", 0], "labels": "penguin"},
    },
    "3": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
    "4": {"class_type": "BiGainSampleImages", "inputs": {"images": "penguin"}},
    "5": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 16711680}},
    "6": {"class_type": "ImageBatch", "inputs": {"image1": ["5", 0], "image2": ["4", 0]}},
    "7": {
        "class_type": KIND,
        "inputs": {
            "model": ["1", 0], "prompt": ["2", 0], "empty_prompt": ["2", 1], "image": ["6", 0],
            "vae": ["3", 0], "trials": 4, "trial_seed": 0,
        },
    },
}  # fmt: skip


@one_front_end
def test_the_images_are_shown_best_first(front_end):
    front_end.page.evaluate("prompt => app.loadApiJson(prompt, 'ranked')", PROMPT)
    front_end.page.evaluate(
        """() => {
            const node = app.graph.nodes.find((node) => node.type === "BiGainRankImages");
            const before = node.onExecuted;
            node.onExecuted = function (output) {
                window.ranked = output.bigain_ranked[0].rows;
                return before?.apply(this, arguments);
            };
        }"""
    )
    front_end.set(KIND, trial_seed=front_end.place)
    assert front_end.run() == "success"
    front_end.look_at(KIND)
    panel = front_end.panel("ranked_images")
    panel.get_by_role("figure").nth(1).wait_for()
    ranked = front_end.page.evaluate("() => ranked")
    shown = panel.get_by_role("figure").all_text_contents()
    for place, (row, text) in enumerate(zip(ranked, shown, strict=True), 1):
        assert text.startswith(f"{place}. image {row['image']}score ")
        assert float(text.split("score ")[1].split()[0]) - row["score"] < 1e-3
    assert ranked[0]["score"] > ranked[1]["score"]
    front_end.page.wait_for_function(
        """() => [...document.querySelector('[data-bigain="ranked_images"]').shadowRoot
            .querySelectorAll("img")].every((image) => image.naturalWidth === 64)"""
    )
