"""What a compression did in a run, in words and as plain values."""

from __future__ import annotations

from ..placement import LayerId, block_ranges
from .run_log import LayerRecord, RunLog

NOT_CALLED = (
    "another node computes their attention or leaves out their blocks, as caches (TeaCache, "
    "WaveSpeed), guidance (PAG, SAG, SEG, Skip Layer Guidance) and sparse attention do"
)
NOT_FOUND = "another node has put modules of its own in their place"
NOTICEABLE = 1.05  # a smaller gain in operations is lost to deciding and moving data


def summary(log: RunLog) -> str:
    """One line: layers compressed of those present, operations saved, and what that can gain."""
    if not log.layers and not log.skipped:
        return "BiGain: no network call was seen. Connect `after` to an output of the sampler."
    compressed = (
        f"on {log.family}: {log.layers_compressed} of {len(log.layers)} self-attention layers "
        "compressed"
    )
    if not log.layers_compressed:
        return f"BiGain CHANGED NOTHING {compressed}. {_main_reason(log)}".rstrip()
    largest = max(log.layers.values(), key=lambda record: record.tokens)
    after = log.flops_before - log.flops_saved
    sentences = [
        f"BiGain {compressed}, {largest.tokens} tokens -> {largest.query_tokens} queries and "
        f"{largest.context_tokens} keys.",
        f"Self-attention in this run: {_flops(log.flops_before)} -> {_flops(after)} per sample "
        f"({1 - after / log.flops_before:.0%} saved).",
        *_gain(log),
        _expectation(log),
        _beside_sparse(log),
    ]
    return " ".join(filter(None, sentences))


def headline_data(log: RunLog) -> dict:
    """What a node has room for: `headline`, `badge`, `note` and how good it is, `verdict`.

    The verdict is "good", "poor" (no gain in speed is to be expected) or "none".
    """
    badge = f"{log.layers_compressed} of {len(log.layers)} layers"
    if not log.layers_compressed:
        note = _main_reason(log)
        return {"headline": "nothing changed", "badge": badge, "note": note, "verdict": "none"}
    whole, kind = log.network_flops or log.flops_before, "operations"
    if not log.network_flops:
        kind += " in self-attention"
    gain, slower = whole / (whole - log.flops_saved), sum(map(bool, log.slower.values()))
    note = f"{slower} of these layers expected to run slower." if slower else ""
    if gain < NOTICEABLE:
        note = "Expect no gain in speed at this size."
    verdict = "poor" if note else "good"
    words = f"{gain:.2f}x fewer {kind}"
    return {"headline": words, "badge": badge, "note": note, "verdict": verdict}


def _main_reason(log: RunLog) -> str:
    if log.skipped:
        return f"Reason: {log.skipped.most_common(1)[0][0]}."
    return " ".join(f"Reason: {reason}." for reason, _ in _never_called(log))


def _never_called(log: RunLog) -> list[tuple[str, int]]:
    """Why layers that were to be compressed were not called, and how many."""
    reasons = []
    for found, reason in ((True, NOT_CALLED), (False, NOT_FOUND)):
        numbers = [
            layer_id.number
            for layer_id, present in log.expected.items()
            if present == found and not log.layers[layer_id].calls
        ]
        if numbers:
            reasons.append((f"{reason} ({block_ranges(numbers)})", len(numbers)))
    return reasons


def _flops(flops: int) -> str:
    return f"{flops / 1e12:.4g} TFLOP" if flops >= 1e12 else f"{flops / 1e9:.4g} GFLOP"


def _gain(log: RunLog) -> list[str]:
    """The bound that the saved operations set, beside that of layers without any token."""
    if not log.network_flops:
        return []
    whole = log.network_flops
    gain = whole / (whole - log.flops_saved)
    ceiling = whole / (whole - log.flops_before + log.flops_fixed)
    bound = (
        f"The whole network needs about {_flops(whole)}, of which {1 / gain:.0%} remain: at most "
        f"{gain:.2f}x as fast. Ceiling, with no tokens left in self-attention: {ceiling:.2f}x."
    )
    return [bound] if gain >= NOTICEABLE else [bound, "Expect NO GAIN in speed at this size."]


def _expectation(log: RunLog) -> str:
    """Whether the compressed layers take less time, as far as that was measured."""
    slower = [reason for reason in log.slower.values() if reason]
    if slower:
        return (
            f"{len(slower)} of {len(log.slower)} layers are expected to run slower than "
            f"uncompressed: {slower[0]}. Turn on only_where_faster to skip such layers."
        )
    if None in log.slower.values():
        return (
            f"Whether these layers run faster on {log.device} has not been measured, so none was "
            "skipped for its speed."
        )
    return f"All of these layers are expected to run faster on {log.device}." if log.slower else ""


def _beside_sparse(log: RunLog) -> str:
    if not log.dense:
        return ""
    numbers = block_ranges([layer_id.number for layer_id in log.dense])
    return (
        f"Sparse attention of another node cannot be sparse in layers {numbers}, in the calls "
        "where BiGain leaves fewer keys than queries or weighs them. Token Merging without "
        "proportional leaves it sparse, as do layers and steps without BiGain (start_percent, "
        "end_percent); the order of the two nodes makes no difference."
    )


def report(log: RunLog) -> str:
    """The summary, a line per compressed layer, and what was skipped and why."""
    data = report_data(log)
    lines = [data["summary"]]
    for layer in data["layers"]:
        text = f" + {layer['text_tokens']} of text or references" if layer["text_tokens"] else ""
        lines.append(
            f"layer {layer['layer']} ({layer['stage']}, level {layer['level']}): "
            f"{layer['method']}, {layer['tokens']} tokens{text} -> {layer['queries']} queries, "
            f"{layer['keys']} keys, in {layer['compressed']} of {layer['calls']} calls"
        )
    for skipped in data["skipped"]:
        unit = "calls" if "calls" in skipped else "layers"
        lines.append(f"skipped {skipped[unit]} {unit}: {skipped['reason']}")
    return "\n".join(lines)


def report_data(log: RunLog) -> dict:
    """The same as plain values: `summary`, a row per compressed `layers` and what was `skipped`.

    What `headline_data` gives comes with it.
    """
    layers = (pair for pair in log.layers.items() if pair[1].compressed)
    skipped = [{"reason": reason, "calls": count} for reason, count in log.skipped.items()]
    skipped += [{"reason": reason, "layers": count} for reason, count in _never_called(log)]
    rows = [_layer_data(layer_id, record) for layer_id, record in layers]
    return {**headline_data(log), "summary": summary(log), "layers": rows, "skipped": skipped}


def _layer_data(layer_id: LayerId, record: LayerRecord) -> dict:
    return {
        "layer": layer_id.number,
        "stage": layer_id.stage,
        "level": layer_id.level,
        "method": record.method,
        "tokens": record.tokens,
        "text_tokens": record.text_tokens,
        "queries": record.query_tokens,
        "keys": record.context_tokens,
        "compressed": record.compressed,
        "calls": record.calls,
    }
