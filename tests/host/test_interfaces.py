"""No update scrambles a saved workflow: nodes offer what is written in tests/host/interfaces."""

import copy
import re

import pytest

from benchmarks.interfaces import BRANCHING, all_harm, harm, offered, written

NODE = {
    "inputs": [
        {"name": "model", "type": "MODEL", "optional": False},
        {
            "name": "ratio", "type": "FLOAT", "optional": False, "default": 0.5, "min": 0.0,
            "max": 1.0,
        },
        {"name": "mode", "type": "COMBO", "optional": True, "default": "a", "options": ["a", "b"]},
    ],
    "outputs": [{"name": "MODEL", "type": "MODEL"}, {"name": "report", "type": "STRING"}],
}  # fmt: skip
SEED = {"name": "seed", "type": "INT", "optional": True, "default": 0, "min": 0, "max": 9}


BRANCHING_NODE = {
    "inputs": [
        {
            "name": "method", "type": BRANCHING, "optional": False, "default": "a",
            "options": {"a": [], "b": copy.deepcopy(NODE["inputs"][1:2])},
        },
    ],
    "outputs": [],
}  # fmt: skip


def changed(change, node=NODE):
    node = copy.deepcopy(node)
    change(node)
    return node


HARMFUL = {
    "`ratio` is gone": lambda node: node["inputs"].pop(1),
    "`mode` was widget 1 and is widget 0": lambda node: node["inputs"].insert(
        1, node["inputs"].pop()
    ),
    "`ratio` was widget 0 and is widget 1": lambda node: node["inputs"].insert(1, SEED),
    "`ratio` took FLOAT and takes INT": lambda node: node["inputs"][1].update(type="INT"),
    "`ratio` had the default 0.5 and has 0.7": lambda node: node["inputs"][1].update(default=0.7),
    "`ratio` starts at 0.1": lambda node: node["inputs"][1].update(min=0.1),
    "`ratio` ends at 0.9": lambda node: node["inputs"][1].update(max=0.9),
    "`mode` has no option 'b'": lambda node: node["inputs"][2].update(options=["a", "c"]),
    "`mode` is required": lambda node: node["inputs"][2].update(optional=False),
    "`seed` is new and required": lambda node: node["inputs"].append({**SEED, "optional": False}),
    "`ratio` has forceInput True": lambda node: node["inputs"][1].update(forceInput=True),
    "`ratio` has control_after_generate True": lambda node: node["inputs"][1].update(
        control_after_generate=True
    ),
    "output 1 is no longer {'name': 'report'": lambda node: node["outputs"].pop(),
    "output 0 is no longer {'name': 'MODEL'": lambda node: node["outputs"].reverse(),
}
HARMFUL_IN_OPTIONS = {
    "`method` has no option 'b'": lambda options: options.pop("b"),
    "`method` 'b': `ratio` is gone": lambda options: options["b"].pop(),
    "`method` 'b': `ratio` ends at 0.9": lambda options: options["b"][0].update(max=0.9),
    "`method` 'a' has more inputs": lambda options: options["a"].append(SEED),
}
HARMLESS = {
    "an optional input at the end": lambda node: node["inputs"].append(SEED),
    "an output at the end": lambda node: node["outputs"].append({"name": "mask", "type": "MASK"}),
    "another option": lambda node: node["inputs"][2]["options"].insert(0, "c"),
    "a wider range": lambda node: node["inputs"][1].update(min=-1.0, max=2.0),
    "a link that comes later": lambda node: node["inputs"].append(node["inputs"].pop(0)),
    "a required input that becomes optional": lambda node: node["inputs"][1].update(optional=True),
}


@pytest.fixture(scope="module")
def now():
    return offered()


def test_nothing_that_saved_workflows_rely_on_has_changed(now):
    found = all_harm(written(), now)
    assert not found, "what this would do to saved workflows:\n" + "\n".join(found)


def test_what_was_added_is_written_down(now):
    assert now == written(), "only additions; write them down: python -m benchmarks.interfaces"


@pytest.mark.parametrize("text", HARMFUL)
def test_harm_is_found_and_named(text):
    found = list(harm(NODE, changed(HARMFUL[text])))
    assert any(line.startswith(text) for line in found), found


@pytest.mark.parametrize("text", HARMFUL_IN_OPTIONS)
def test_harm_to_inputs_of_an_option_is_found_and_named(text):
    change = HARMFUL_IN_OPTIONS[text]
    new = changed(lambda node: change(node["inputs"][0]["options"]), BRANCHING_NODE)
    assert any(line.startswith(text) for line in harm(BRANCHING_NODE, new))


def test_an_option_with_inputs_of_its_own_may_be_added():
    new = changed(lambda node: node["inputs"][0]["options"].update(c=[SEED]), BRANCHING_NODE)
    assert list(harm(BRANCHING_NODE, new)) == []


@pytest.mark.parametrize("change", HARMLESS)
def test_additions_do_no_harm(change):
    assert list(harm(NODE, changed(HARMLESS[change]))) == []


def test_a_node_that_is_gone_is_named_and_a_new_one_does_no_harm():
    (found,) = all_harm({"Old": NODE}, {"New": NODE})
    assert re.match("Old is gone", found)
