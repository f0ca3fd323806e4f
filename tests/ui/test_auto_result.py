"""BiGain (Auto) tells in its own node what a run came to, as BiGain Report does."""

from tests.server.conftest import FEW_TOKENS
from tests.ui.conftest import one_front_end

KIND = "BiGainAuto"
PROMPT = {
    "1": {"class_type": "BiGainDiTLoader", "inputs": {"model_name": FEW_TOKENS}},
    "2": {
        "class_type": KIND,
        "inputs": {"model": ["1", 0], "preset": "paper: DiT: L-GTM 0.7, published blocks"},
    },
    "3": {"class_type": "BiGainDiTLabels", "inputs": {"model": ["1", 0], "labels": "rocket"}},
    "4": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "5": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
    "6": {"class_type": "VAEEncode", "inputs": {"pixels": ["4", 0], "vae": ["5", 0]}},
    "7": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["2", 0], "positive": ["3", 0], "negative": ["3", 1], "latent_image": ["6", 0],
            "seed": 0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal",
            "denoise": 1.0,
        },
    },
    "8": {"class_type": "BiGainReport", "inputs": {"model": ["2", 0], "after": ["7", 0]}},
}  # fmt: skip


def shown(front_end, kind, panel):
    """The first line of a panel."""
    front_end.look_at(kind)
    front_end.panel(panel).get_by_role("status").wait_for()
    return front_end.panel(panel).get_by_role("status").text_content()


@one_front_end
def test_it_says_what_each_run_came_to_also_when_the_node_itself_is_cached(front_end):
    front_end.page.evaluate("prompt => app.loadApiJson(prompt, 'auto')", PROMPT)
    front_end.look_at(KIND)
    front_end.panel("auto_result").get_by_text("After a run").wait_for()
    found = []
    for side in (64, 96):
        seed = 10 * front_end.place + side  # what ran before would be taken from the cache
        front_end.set("KSampler", seed=seed)
        front_end.set("EmptyImage", width=side, height=side)
        assert front_end.run() == "success"
        found.append(shown(front_end, KIND, "auto_result"))
        assert found[-1] == shown(front_end, "BiGainReport", "report_view")
        assert found[-1].endswith("x fewer operations5 of 6 layers")
    assert found[0] != found[1]


@one_front_end
def test_a_run_of_a_subgraph_is_told_where_it_was_asked_for(front_end):
    front_end.page.evaluate("prompt => app.loadApiJson(prompt, 'auto')", PROMPT)
    front_end.page.evaluate("() => app.graph.convertToSubgraph(new Set(app.graph.nodes)) && null")
    assert front_end.run() == "success"
    front_end.open_subgraph()
    found = shown(front_end, KIND, "auto_result")
    assert found == shown(front_end, "BiGainReport", "report_view")
    assert "x fewer operations" in found
