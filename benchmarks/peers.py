"""What others offer for this job, as patches of the host's UNet that a setting puts on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RATIO = 0.7
HOST_TOME, HOST_HYPERTILE = f"host ToMe node {RATIO}", "host HyperTile node"


def peers(model) -> dict[str, Mapping[str, Any]]:
    """Transformer options by the name of the peer; tomesd is there if it can be imported."""
    found = {name: _patches(patched) for name, patched in patched_by_host(model)}
    return found | dict(_tomesd(model))


def patched_by_host(model) -> Iterator[tuple[str, Any]]:
    """What the host's own nodes make of a model, by name."""
    from comfy_extras.nodes_hypertile import HyperTile
    from comfy_extras.nodes_tomesd import TomePatchModel

    yield HOST_TOME, _run(TomePatchModel, model, RATIO)
    yield HOST_HYPERTILE, _run(HyperTile, model, 256, 2, 0, False)  # its defaults


def _run(node, *values):
    """The model of a host node, whichever style it is written in on this version."""
    run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
    result = run(*values)
    return getattr(result, "args", result)[0]


def _patches(model) -> Mapping[str, Any]:
    return {"patches": model.model_options["transformer_options"]["patches"]}


def _tomesd(model) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The published package around the host's self-attention, with its own defaults but the ratio.

    It patches blocks of other frameworks; the host has none, but lets a patch in where they would
    act. Similarity is taken of the normed state instead of the block's input; the work is the same.
    """
    try:
        from tomesd.patch import compute_merge
    except ImportError:
        return
    settings = {
        "ratio": RATIO,
        "max_downsample": 1,
        "sx": 2,
        "sy": 2,
        "use_rand": True,
        "generator": None,
        "merge_attn": True,
        "merge_crossattn": False,
        "merge_mlp": False,
    }
    latest = {}

    def merge(x, context, value, options):
        size = options["original_shape"][-2:]
        forth, _, _, latest["back"], *_ = compute_merge(x, {"size": size, "args": settings})
        merged = forth(x)
        return merged, merged, merged

    def unmerge(x, options):
        return latest["back"](x)

    patched = model.clone()
    patched.set_model_attn1_patch(merge)
    patched.set_model_attn1_output_patch(unmerge)
    yield f"tomesd {RATIO}", _patches(patched)
