"""Choices whose options bring inputs of their own: all of those are read, others are not there."""

from dataclasses import replace

import pytest
import torch
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.bigain_core.comfyui.patching.attach import attach, compression_state
from bigain.nodes import kv_nodes, merging_node
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier
from bigain.nodes.kv_nodes import BiGainAlphaSchedule, BiGainKVDownsampling
from bigain.nodes.merging_node import BiGainTokenMerging
from comfy_api.latest import io

from tests.host.compressing import merge, pool
from tests.host.families import NAMED
from tests.host.families.case import sample

NODES = {"merging": (merge, merging_node.METHODS), "shrinking": (pool, kv_nodes.METHODS)}
CACHED = {"method": "cached assignment"}
USUAL = {"scorer": "laplacian-l1", "merge_mode": "mean", "cache_scope": "stage"}


def inputs_below(inputs, needed=()):
    """Inputs, and those of the options of choices among them: (input, what they need, each once)"""
    found = {}
    for own in inputs:
        found[own.id] = own, dict(needed)
        for option in own.options if isinstance(own, io.DynamicCombo.Input) else ():
            found = {**inputs_below(option.inputs, {own.id: option.key}), **found}
    return found


OWN = [
    pytest.param(kind, method, own, needed, id=f"{method}-{own.id}")
    for kind, (_, methods) in NODES.items()
    for method, option in methods.items()
    for own, needed in inputs_below(option.inputs).values()
]


def another(widget):
    """A value of an input that is not the usual one: what is on or off is off in `merge`."""
    if widget.id == "alpha":
        return BiGainAlphaSchedule.execute("999: 0.3\n0: 0.4").args[0]
    if isinstance(widget, io.DynamicCombo.Input):
        return widget.options[1].key
    if isinstance(widget.default, bool):
        return True
    if hasattr(widget, "options"):
        return next(option for option in widget.options if option != widget.default)
    return widget.default + widget.step if widget.step else widget.default + 1


@pytest.mark.parametrize(("kind", "method", "own", "needed"), OWN)
def test_every_input_of_a_method_changes_it(models, kind, method, own, needed):
    compress, _ = NODES[kind]
    # Which tokens are protected is of no account where none are.
    needed = {"protect": 0.5} if own.id == "protect_mode" else needed
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
        for own, _ in inputs_below(option.inputs).values():
            assert texts.setdefault(own.id, own.tooltip) == own.tooltip


def shown(inputs, chosen):
    """Names of the inputs that are there with these choices."""
    for own in inputs:
        yield own.id
        if isinstance(own, io.DynamicCombo.Input):
            (found,) = (o.inputs for o in own.options if o.key == chosen[own.id])
            yield from shown(found, chosen)


@pytest.mark.parametrize(
    ("node", "chosen", "own"),
    [
        *(
            (BiGainTokenMerging, {"method": "SiTo"}, own)
            for own in ("scorer", "padding", "merge_mode", "protect", "proportional", "aggregate")
        ),
        (BiGainTokenMerging, {"method": "SiTo"}, "blend_rotary"),
        (BiGainTokenMerging, {"method": "ToMe", "merge_mode": "prune"}, "blend_rotary"),
        (BiGainTokenMerging, {"method": "ToMe", "scorer": "variance"}, "padding"),
        (BiGainTokenMerging, {**CACHED, "cache_scope": "stage"}, "cache_interval"),
        (BiGainTokenMerging, {**CACHED, "cache_scope": "network"}, "cache_interval"),
        (BiGainKVDownsampling, {"method": "key merging"}, "proportional"),
        (BiGainKVDownsampling, {"method": "ToDo"}, "blend_rotary"),
        (BiGainKVDownsampling, {"method": "select high"}, "blend_rotary"),
    ],
)
def test_what_a_choice_does_not_read_is_not_there(node, chosen, own):
    assert own not in shown(node.define_schema().inputs, {**USUAL, **chosen})


@pytest.mark.parametrize("method", merging_node.METHODS)
def test_frames_reach_the_methods_that_merge_over_them(models, method):
    """Without them nothing changes; others say what to choose."""
    plain = compression_state(merge(models["sd15"], method=method)).compression
    assert compression_state(merge(models["sd15"], method=method, frames=1)).compression == plain
    if method not in ("L-GTM", "ToMe", "ToMe (top-left)", "cached assignment"):
        with pytest.raises(ValueError, match=r"expected one of L-GTM.* 4 frames, got .* to 1"):
            merge(models["sd15"], method=method, frames=4)
        return
    (rule,) = compression_state(merge(models["sd15"], method=method, frames=4)).compression.rules
    assert rule.method == replace(plain.rules[0].method, frames=4)


@pytest.mark.parametrize("own", ["blend_rotary", "proportional"])
@pytest.mark.parametrize(
    ("kind", "method"), [(kind, one) for kind, (_, methods) in NODES.items() for one in methods]
)
def test_rotary_positions_and_weights_are_read_where_they_are_there(kind, method, own):
    """By a model with rotary positions in which text and image share their attention."""
    case, (compress, methods) = NAMED["flux"], NODES[kind]
    model = compress(case.model, method=method)
    (rule,) = compression_state(model).compression.rules
    if own in shown(methods[method].inputs, USUAL):
        one = sample(case, model)
        other = sample(case, compress(case.model, method=method, **{own: True}))
        assert not torch.equal(one, other)
    elif own == "blend_rotary":
        other = attach(case.model, replace(rule, blends_rotary=True))
        assert torch.equal(sample(case, model), sample(case, other))


@pytest.mark.parametrize(
    ("node", "arguments", "message"),
    [
        (BiGainTokenMerging, (0.5,), "one of L-GTM, ToMe, .* in `method`"),
        (BiGainKVDownsampling, (2, 0, 1), "one of IE-KVD, ToDo, .* in `method`"),
        (
            BiGainDiffusionClassifier,
            (Prompts(("a", "b"), ()), None),
            "one of balanced, fast, .* in `preset`",
        ),
    ],
)
def test_an_option_that_is_missing_or_unknown_is_explained(node, arguments, message):
    """The host hands over nothing then."""
    with pytest.raises(ValueError, match=message):
        node.execute(None, *arguments)
