"""Choices whose options bring inputs of their own: all of those are read, others are not there."""

import pytest
from bigain.bigain_core.comfyui.patching.attach import compression_state
from bigain.nodes import kv_nodes, merging_node
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier
from bigain.nodes.kv_nodes import BiGainAlphaSchedule, BiGainKVDownsampling
from bigain.nodes.merging_node import BiGainTokenMerging

from tests.host.compressing import merge, pool

NODES = {"merging": (merge, merging_node.METHODS), "shrinking": (pool, kv_nodes.METHODS)}
OWN = [
    pytest.param(kind, method, own, id=f"{method}-{own.id}")
    for kind, (_, methods) in NODES.items()
    for method, option in methods.items()
    for own in option.inputs
]


def another(widget):
    """A value of an input that is not the usual one: what is on or off is off in `merge`."""
    if widget.id == "alpha":
        return BiGainAlphaSchedule.execute("999: 0.3\n0: 0.4").args[0]
    if isinstance(widget.default, bool):
        return True
    if hasattr(widget, "options"):
        return next(option for option in widget.options if option != widget.default)
    return widget.default + widget.step if widget.step else widget.default + 1


@pytest.mark.parametrize(("kind", "method", "own"), OWN)
def test_every_input_of_a_method_changes_it(models, kind, method, own):
    compress, _ = NODES[kind]
    # Which tokens are protected is of no account where none are.
    needed = {"protect": 0.5} if own.id in ("protect_mode",) else {}
    usual, changed = (
        compression_state(compress(models["sd15"], method=method, **needed, **changes)).compression
        for changes in ({}, {own.id: another(own)})
    )
    assert usual != changed


@pytest.mark.parametrize("methods", [methods for _, methods in NODES.values()])
def test_what_has_one_name_has_one_text(methods):
    """The front end translates both alike."""
    texts = {}
    for option in methods.values():
        for own in option.inputs:
            assert texts.setdefault(own.id, own.tooltip) == own.tooltip


@pytest.mark.parametrize("own", ["scorer", "merge_mode", "protect", "proportional", "aggregate"])
def test_what_a_method_does_not_read_is_refused(models, own):
    with pytest.raises(TypeError, match=own):
        merge(models["sd15"], method="SiTo", **{own: 0})


@pytest.mark.parametrize(
    ("node", "arguments", "message"),
    [
        (BiGainTokenMerging, (0.5,), "one of L-GTM, ToMe, .* in `method`"),
        (BiGainKVDownsampling, (2, 0, 1, False), "one of IE-KVD, ToDo, .* in `method`"),
        (BiGainDiffusionClassifier, (None,), "one of custom, fast, .* in `preset`"),
    ],
)
def test_an_option_that_is_missing_or_unknown_is_explained(node, arguments, message):
    """The host hands over nothing then."""
    with pytest.raises(ValueError, match=message):
        node.execute(None, *arguments)
