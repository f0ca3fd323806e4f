"""BiGain Evaluate in the browser: how far it is, what it found, and where its file is."""

import json

from tests.server.conftest import EXAMPLES, FEW_TOKENS
from tests.ui.conftest import few_pairs, one_front_end, overlaps

KIND = "BiGainEvaluate"
LABELS = "pizza\npenguin\nrocket"
TAGGED, CAPTIONED = 4, 2  # images


def rows(panel):
    table = panel.get_by_role("table", name="Images, least sure first")
    return [row.get_by_role("cell").all_text_contents() for row in table.locator("tbody tr").all()]


@few_pairs
def test_tags_are_shown_with_their_images_and_the_place_of_the_file(front_end):
    front_end.load(json.loads((EXAMPLES / "bigain_tag_dataset.json").read_text("utf-8")))
    front_end.set("BiGainDiTLoader", model_name=FEW_TOKENS)
    front_end.set("BiGainDiTLabels", labels=LABELS)
    output = f"shown/{front_end.place}"
    front_end.set(KIND, output=output, preset="fast", limit=TAGGED)
    front_end.set("BiGainTagFolder", output=f"{output}-captions", limit=CAPTIONED)
    assert front_end.run() == "success"
    front_end.look_at(KIND)
    panel = front_end.panel("evaluation_result")
    panel.get_by_role("status").wait_for()
    assert panel.get_by_text(f"{TAGGED} tagged -> output/{output}.csv").is_visible()
    found = rows(panel)
    folder = front_end.server.folder / "input" / "bigain_samples"
    files = sorted(path.name for path in folder.glob("*.png"))
    files = files[:: len(files) // TAGGED]  # evenly spread
    assert sorted(row[1] for row in found) == files
    preview = front_end.page.evaluate(
        """() => app.graph.nodes.find(({title}) => title === "Tags")
            .widgets.map(({value}) => String(value)).join()"""
    )
    assert all(file in preview for file in files)
    sure = [float(row[3].strip("<> %")) for row in found]
    assert sure == sorted(sure)
    marked = [
        bool(text.count())
        for text in map(lambda row: row.locator(".doubt"), panel.locator("tbody tr").all())
    ]
    assert marked == [value < 90 for value in sure]
    panel.locator("img").first.scroll_into_view_if_needed()
    front_end.page.wait_for_function(
        """() => document.querySelector('[data-bigain="evaluation_result"]').shadowRoot
            .querySelector("img").naturalWidth > 0"""
    )
    file = (front_end.server.folder / "output" / f"{output}.csv").read_text("utf-8")
    confidences = [line.split(",")[4] for line in file.splitlines()[1:]]
    assert len(confidences) == TAGGED and all(len(text) <= 7 for text in confidences)
    assert overlaps(front_end.outlines()) == []
    tagged = front_end.panel("tagged_folder")
    assert tagged.get_by_text(f"{CAPTIONED} images tagged -> output/{output}-captions").is_visible()
    table = tagged.get_by_role("table", name="Images and their tags, those without first")
    for row in table.locator("tbody tr").all():
        _, file, tags = row.get_by_role("cell").all_text_contents()
        text = front_end.server.folder / "output" / f"{output}-captions" / file
        _, *written = text.with_suffix(".txt").read_text("utf-8").split(", ")
        assert [tag.rsplit(" (", 1)[0] for tag in tags.split(", ")] == (
            written or ["none of these"]
        )


@one_front_end
def test_folders_of_the_input_are_offered_and_chosen(front_end):
    front_end.show(KIND)
    front_end.look_at(KIND)
    panel = front_end.panel("evaluation_result")
    panel.get_by_role("button", name="my images").click()
    assert front_end.widget(KIND, "folder") == "my images"


@one_front_end
def test_progress_has_the_time_that_is_left(front_end):
    front_end.show(KIND)
    front_end.page.evaluate(
        """() => {
            const detail = {node: String(app.graph.nodes[0].id), done: 20, left: 60, seconds: 40};
            app.api.dispatchEvent(new CustomEvent("bigain.evaluation", {detail}));
        }"""
    )
    panel = front_end.panel("evaluation_result")
    panel.get_by_text("20 of 80 images, about 2 min 0 s to go").wait_for()
    assert panel.locator("progress").evaluate("bar => bar.position") == 0.25
