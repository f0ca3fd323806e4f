"""Where a user finds the nodes: in the menu, and by the words they search for."""

import asyncio

import pytest
from bigain.nodes import BiGainExtension
from comfy_api.latest import io

NODES = asyncio.run(BiGainExtension().get_node_list())
WANTED = {
    "faster": "BiGainAuto",
    "speed up": "BiGainAuto",
    "tome": "BiGainTokenMerging",
    "tag images": "BiGainTagFolder",
    "caption folder": "BiGainTagFolder",
    "interrogate": "BiGainDiffusionClassifier",
    "sort images": "BiGainRankImages",
    "tag a folder": "BiGainTagFolder",
}


@pytest.mark.parametrize("words", WANTED)
def test_the_words_of_users_find_a_node(words):
    """Hosts that know no other words search names alone."""
    schema = next(n.GET_SCHEMA() for n in NODES if n.GET_SCHEMA().node_id == WANTED[words])
    found = [schema.display_name.lower(), *getattr(schema, "search_aliases", [words])]
    assert any(words in one for one in found)


def test_the_menu_has_three_parts_and_none_is_long():
    parts = [node.GET_SCHEMA().category for node in NODES]
    assert set(parts) == {"BiGain/Speed", "BiGain/Recognise", "BiGain/Measure"}
    assert max(map(parts.count, parts)) <= 10


def test_no_tooltip_is_a_page():
    for node in NODES:
        for item in inputs(node.GET_SCHEMA().inputs):
            assert len(item.tooltip) <= 330, (node, item.id)


def inputs(items):
    for item in items:
        yield item
        for option in getattr(item, "options", None) or ():
            yield from inputs(option.inputs if isinstance(option, io.DynamicCombo.Option) else ())
