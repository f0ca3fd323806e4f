"""Attaching a compression to a loaded model, without editing the model itself.

    attach(model, rule) -> clone whose network calls are compressed

The clone carries an `Attached` object among its transformer options and two wrappers: one around
each network call, which swaps the attention forwards in and out again, and one around each sampling
run, which starts a fresh log. Nothing stays on the model between calls.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..compression import Compression, NetworkCall, Rule, RunLog, replaced_forwards
from ..report import summary
from .families import FAMILIES, Family, find_family
from .progress import moment_at_sigma

KEY = "bigain"


@dataclass
class Attached:
    """What the nodes ask for and what happened in the last sampling run."""

    family: Family
    compression: Compression
    log: RunLog = field(default_factory=RunLog)

    def __deepcopy__(self, memo):
        # Older hosts deep-copy model options in clone(); the report needs this very log.
        return self


def attached_to(model: ModelPatcher) -> Attached | None:
    return model.model_options.get("transformer_options", {}).get(KEY)


def attach(model: ModelPatcher, rule: Rule) -> ModelPatcher:
    """A clone of `model` that follows the rules it had and then this one.

    A rule that cannot change anything (ratio 0, factor 1) is not added.

    Raises ValueError for a model family that is not supported and for a placement without a layer.
    """
    family = _family_of(model)
    _check_placement(rule, family, model)
    clone = model.clone()
    if rule.method.is_identity:
        return clone
    before = attached_to(model)
    compression = before.compression if before else Compression()
    options = clone.model_options["transformer_options"]
    options[KEY] = Attached(family, compression.followed_by(rule))
    for kind, wrapper in _WRAPPERS.items():
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def _family_of(model: ModelPatcher) -> Family:
    family = find_family(model.get_model_object("diffusion_model"))
    if family is None:
        raise ValueError(
            f"BiGain: expected one of {[f.name for f in FAMILIES]}, got a "
            f"{type(model.model).__name__} model, which is not covered yet. Bypass this node for "
            "it."
        )
    return family


def _check_placement(rule: Rule, family: Family, model: ModelPatcher) -> None:
    present = [site for site, _ in family.sites(model.get_model_object("diffusion_model"))]
    if not any(rule.placement.covers(site) for site in present):
        stages = sorted({site.stage for site in present})
        raise ValueError(
            f"BiGain: expected a placement with layers in this model ({family.name}), which has "
            f"{len(present)} self-attention layers in {stages}; this placement covers none of "
            "them. Choose 'everywhere' or one of those stages."
        )


def compress_network_call(executor, x, t, *args, **kwargs):
    """APPLY_MODEL wrapper: x (B, C, H, W) is the noisy latent, t (B,) its sigma."""
    model = executor.class_obj
    attached = _attached_in(args, kwargs)
    network = getattr(model.diffusion_model, "_orig_mod", model.diffusion_model)
    if attached is None or not isinstance(network, attached.family.model_class):
        return executor(x, t, *args, **kwargs)
    moment = moment_at_sigma(model.model_sampling, float(t.flatten()[0]))
    after = attached.family.pools_after_projection
    call = NetworkCall(attached.compression, moment, attached.log, after)
    with replaced_forwards(attached.family.replacements(network, x, call)):
        return executor(x, t, *args, **kwargs)


def _attached_in(args, kwargs) -> Attached | None:
    """From transformer_options, the sixth positional argument of the host or a keyword."""
    options = kwargs.get("transformer_options", args[3] if len(args) > 3 else {})
    return options.get(KEY)


def log_sampling_run(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: a fresh log before the run, one line about it after."""
    attached = attached_to(executor.class_obj.model_patcher)
    if attached is None:
        return executor(*args, **kwargs)
    attached.log.clear()
    result = executor(*args, **kwargs)
    logging.info(summary(attached.log))
    return result


_WRAPPERS = {
    WrappersMP.APPLY_MODEL: compress_network_call,
    WrappersMP.OUTER_SAMPLE: log_sampling_run,
}
