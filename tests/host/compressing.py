"""The compressing nodes with the defaults of their schemas, as a user meets them."""

from bigain.bigain_core.comfyui.patching.attach import compression_state
from bigain.nodes.compression_nodes import BiGainAuto, BiGainReport
from bigain.nodes.kv_nodes import BiGainAlphaSchedule, BiGainKVDownsampling
from bigain.nodes.merging_node import BiGainTokenMerging


def with_defaults(node, model, **changes):
    """The first output of a node whose widgets are as in a fresh graph but for the changes."""
    widgets = (item for item in node.define_schema().inputs if hasattr(item, "default"))
    fresh = {widget.id: widget.default for widget in widgets if not widget.optional}
    return node.execute(model, **(fresh | changes)).args[0]


def merge(model, ratio=0.7, method="L-GTM", **changes):
    return with_defaults(BiGainTokenMerging, model, ratio=ratio, method=method, **changes)


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
