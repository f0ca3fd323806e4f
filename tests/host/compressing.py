"""The compressing nodes with the defaults of their schemas, as a user meets them."""

from bigain.bigain_core.comfyui.patching.attach import compression_state
from bigain.nodes.compression_nodes import BiGainAuto, BiGainReport
from bigain.nodes.kv_nodes import BiGainAlphaSchedule, BiGainKVDownsampling
from bigain.nodes.merging_node import BiGainTokenMerging
from comfy_api.latest import io


def with_defaults(node, model, **changes):
    """The first output of a node whose widgets are as in a fresh graph but for the changes."""
    fresh = {}
    for item in node.define_schema().inputs:
        if isinstance(item, io.DynamicCombo.Input):
            fresh[item.id] = choice(item, changes)
    return node.execute(model, **(defaults(node.define_schema().inputs) | fresh | changes)).args[0]


def choice(item, changes):
    """The value of a choice with inputs of its own, as the host hands it over; takes `changes`."""
    name = changes.pop(item.id, item.options[0].key)
    inputs = next(option.inputs for option in item.options if option.key == name)
    given = {item.id: name, **defaults(inputs)}
    for own in inputs:
        if isinstance(own, io.DynamicCombo.Input):
            given[own.id] = choice(own, changes)
        elif own.id in changes:
            given[own.id] = changes.pop(own.id)
    return given


def defaults(inputs):
    """The values of fresh widgets, but for those that a workflow may lack."""
    widgets = (item for item in inputs if hasattr(item, "default"))
    return {widget.id: widget.default for widget in widgets if not widget.optional}


def merge(model, ratio=0.7, method="L-GTM", **changes):
    """As in the paper, where keys weigh alike. SiTo has no such input."""
    paper = {} if method == "SiTo" else {"proportional": False}
    changes = {"ratio": ratio, "method": method} | paper | changes
    return with_defaults(BiGainTokenMerging, model, **changes)


def pool(model, factor=2, method="IE-KVD", **changes):
    return with_defaults(BiGainKVDownsampling, model, factor=factor, method=method, **changes)


def alpha_curve(text):
    return BiGainAlphaSchedule.execute(text).args[0]


def preset(model, name):
    return BiGainAuto.execute(model, name).args[0]


def report(model):
    return BiGainReport.execute(model, None).args[0]


def skipped(model):
    """How many layers of the last run were skipped, by the reason."""
    return compression_state(model).log.skipped
