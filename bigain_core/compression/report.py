"""What a compression did in a run, in words."""

from __future__ import annotations

from ..placement import LayerId
from .run_log import LayerRecord, RunLog

NOTICEABLE = 1.05  # a gain in operations below this is lost in what deciding and moving data cost


def summary(log: RunLog) -> str:
    """One line: layers compressed of those present, operations saved, and what that can gain."""
    if not log.layers and not log.skipped:
        return "BiGain: no network call was seen; connect the report behind the sampler."
    if not log.layers_compressed:
        return (
            f"BiGain CHANGED NOTHING on {log.family}: 0 of {len(log.layers)} self-attention layers "
            f"compressed. {_main_reason(log)}"
        ).rstrip()
    after = log.flops_before - log.flops_saved
    return (
        f"BiGain on {log.family}: {log.layers_compressed} of {len(log.layers)} self-attention "
        f"layers compressed, {_tokens(log)}; {_flops(log.flops_before)} -> {_flops(after)} in all "
        f"of them per sample of the run ({1 - after / log.flops_before:.0%} saved). {_gain(log)}"
    ).rstrip() + _expectation(log)


def _main_reason(log: RunLog) -> str:
    if log.skipped:
        return f"Reason: {log.skipped.most_common(1)[0][0]}."
    unseen = _never_reached(log)
    return f"Another patch computes the attention of {unseen} of them." if unseen else ""


def _never_reached(log: RunLog) -> int:
    return sum(not record.calls for record in log.layers.values())


def _tokens(log: RunLog) -> str:
    """Of the layer with the most tokens; the report has a line for each."""
    largest = max(log.layers.values(), key=lambda record: record.tokens)
    return (
        f"{largest.tokens} tokens -> {largest.query_tokens} queries and {largest.context_tokens} "
        "keys"
    )


def _flops(flops: int) -> str:
    return f"{flops / 1e12:.4g} TFLOP" if flops >= 1e12 else f"{flops / 1e9:.4g} GFLOP"


def _gain(log: RunLog) -> str:
    """The bound that the saved operations set, beside that of layers without any token."""
    if not log.network_flops:
        return ""
    whole = log.network_flops
    gain = whole / (whole - log.flops_saved)
    ceiling = whole / (whole - log.flops_before + log.flops_fixed)
    text = (
        f"Of about {_flops(whole)} for the whole network this leaves {1 / gain:.0%}: at most "
        f"{gain:.2f}x as fast; the ceiling, all of them shortened to nothing, is {ceiling:.2f}x."
    )
    if gain < NOTICEABLE:
        text += " At this size NO GAIN in time can be expected."
    return text


def _expectation(log: RunLog) -> str:
    """Whether the compressed layers take less time, as far as that was measured."""
    slower = [reason for reason in log.slower.values() if reason]
    if slower:
        return (
            f" SLOWER than off in {len(slower)} of {len(log.slower)} layers is to be expected: "
            f"{slower[0]}. only_where_faster leaves such layers alone."
        )
    if None in log.slower.values():
        return f" Whether that pays on {log.device} was not measured."
    return f" Each of these layers pays on {log.device}." if log.slower else ""


def report(log: RunLog) -> str:
    """The summary, a line per compressed layer, and what was skipped and why."""
    lines = [summary(log)]
    lines += [
        _layer_line(layer_id, record)
        for layer_id, record in log.layers.items()
        if record.compressed
    ]
    lines += [f"left alone {count} times: {reason}" for reason, count in log.skipped.items()]
    if unseen := _never_reached(log):
        lines.append(f"never reached {unseen} layers: another patch computes their attention")
    return "\n".join(lines)


def _layer_line(layer_id: LayerId, record: LayerRecord) -> str:
    others = f" beside {record.others} of text or references" if record.others else ""
    return (
        f"layer {layer_id.number} ({layer_id.stage}, level {layer_id.level}): {record.method}, "
        f"{record.tokens} tokens{others} -> {record.query_tokens} queries, {record.context_tokens} "
        f"keys, in {record.compressed} of {record.calls} calls"
    )


def report_data(log: RunLog) -> dict:
    """The same as plain values: `summary`, a row per compressed `layers` and what was `left`."""
    compressed = [
        (layer_id, record) for layer_id, record in log.layers.items() if record.compressed
    ]
    left = [{"reason": reason, "calls": count} for reason, count in log.skipped.items()]
    if unseen := _never_reached(log):
        left.append({"reason": "another patch computes their attention", "layers": unseen})
    return {
        "summary": summary(log),
        "layers": [_layer_data(layer_id, record) for layer_id, record in compressed],
        "left": left,
    }


def _layer_data(layer_id: LayerId, record: LayerRecord) -> dict:
    return {
        "layer": layer_id.number,
        "stage": layer_id.stage,
        "level": layer_id.level,
        "method": record.method,
        "tokens": record.tokens,
        "others": record.others,
        "queries": record.query_tokens,
        "keys": record.context_tokens,
        "compressed": record.compressed,
        "calls": record.calls,
    }
