"""Attaching a compression to a loaded model, without editing the model itself.

    attach(model, rule) -> clone whose network calls are compressed

The clone carries an `Attached` object among its transformer options and two wrappers: one around
each network call, which swaps the attention forwards in and out again, and one around each sampling
run, which starts a fresh log. Nothing stays on the model between calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...compression.forwards import Replacement, replaced_forwards
from ...compression.network_call import Decision, NetworkCall
from ...compression.report import summary
from ...compression.rules import Compression, Rule
from ...compression.run_log import LayerRecord, RunLog
from ...measure.counting import counted_layers
from ...placement import LayerId
from .adapter import Inputs, Layers
from .compiled import Doors, may_compile
from .families import FAMILIES, Family, find_family, plain
from .progress import progress_at_sigma

KEY = "bigain"
COMPILED = "torch.compile"  # the host's key for its own wrapper


@dataclass
class PatchedNetwork:
    """What is kept about a network: its layers, and the forwards that calls under way replaced."""

    layers: Layers
    doors: Doors = field(default_factory=Doors)
    originals: list[list[Replacement]] = field(default_factory=list)


@dataclass
class CompressionState:
    """What the nodes ask for and what happened in the last sampling run."""

    family: Family
    compression: Compression
    log: RunLog
    on_plan: Callable[[Decision], object] | None = None
    networks: WeakKeyDictionary[nn.Module, PatchedNetwork] = field(
        default_factory=WeakKeyDictionary
    )

    def __deepcopy__(self, memo):
        # Older hosts deep-copy model options in clone(); the report needs this very log.
        return self

    def wired(self, network: nn.Module) -> PatchedNetwork:
        """Made once for each network: the host may have one for every device, each in a thread."""
        if network not in self.networks:
            self.networks[network] = PatchedNetwork(self.family.adapter.layers(network))
        return self.networks[network]


def compression_state(model: ModelPatcher) -> CompressionState | None:
    return model.model_options.get("transformer_options", {}).get(KEY)


def attach(model: ModelPatcher, rule: Rule) -> ModelPatcher:
    """A clone of `model` that follows the rules it had and then this one.

    A rule that cannot change anything (ratio 0, factor 1) is not added.

    Raises ValueError for a model family that is not supported and for a placement without a layer.
    """
    family, present = resolve(model)
    _check_placement(rule, family, present)
    clone = model.clone()
    if rule.method.is_identity:
        return clone
    before = compression_state(model)
    compression = before.compression if before else Compression()
    options = clone.model_options["transformer_options"]
    options[KEY] = CompressionState(family, compression.followed_by(rule), RunLog(family.name))
    for kind, wrapper in _WRAPPERS.items():
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def observed(model: ModelPatcher, on_plan: Callable[[Decision], object]) -> ModelPatcher:
    """A clone of a compressed model that tells its decisions and writes a log of its own."""
    clone, state = model.clone(), compression_state(model)
    changes = {"on_plan": on_plan, "log": RunLog(state.family.name)}
    clone.model_options["transformer_options"][KEY] = replace(state, **changes)
    return clone


def build_state(model: ModelPatcher, compression: Compression) -> CompressionState:
    """What to put among the transformer options of a model with our wrappers, checked against it.

    Raises ValueError as `attach` does.
    """
    family, present = resolve(model)
    for rule in compression.rules:
        _check_placement(rule, family, present)
    return CompressionState(family, compression, RunLog(family.name))


def resolve(model: ModelPatcher) -> tuple[Family, list[LayerId]]:
    """The family of a model and its self-attention layers.

    Raises ValueError for a model family that is not supported.
    """
    network = plain(model.get_model_object("diffusion_model"))
    family = find_family(network)
    if family is None:
        covered = "; ".join(family.name for family in FAMILIES)
        raise ValueError(
            f"BiGain: expected a model of one of these families: {covered}; got a "
            f"{type(model.model).__name__} model, which is not covered. Bypass this node for it."
        )
    return family, [layer_id for layer_id, _ in family.adapter.layers(network)]


def _check_placement(rule: Rule, family: Family, present: list[LayerId]) -> None:
    if not any(rule.placement.covers(layer_id) for layer_id in present):
        stages = sorted({layer_id.stage for layer_id in present})
        raise ValueError(
            f"BiGain: expected a placement with layers in this model ({family.name}), which has "
            f"{len(present)} self-attention layers in {stages}; this placement covers none of "
            "them. Choose 'everywhere' or one of those stages."
        )


def compress_network_call(executor, x, t, *args, **kwargs):
    """APPLY_MODEL wrapper: x (B, C, [T,] H, W) is the noisy latent, t (B,) its sigma."""
    model, given = executor.class_obj, _Arguments(args, kwargs)
    state = given["transformer_options"].get(KEY)
    network = plain(model.diffusion_model)
    if state is None:
        return executor(x, t, *args, **kwargs)
    if not state.family.has(network) or x.ndim not in (4, 5):
        kind = f"a {type(network).__name__} called with a latent of {x.ndim} dimensions"
        state.log.skipped[f"{kind} is not a {state.family.name} with 4 or 5"] += 1
        return executor(x, t, *args, **kwargs)
    progress = progress_at_sigma(model.model_sampling, float(t.flatten()[0]))
    options = given["transformer_options"]
    call = NetworkCall(
        state.compression, progress, state.log, state.family.adapter.layer_flops,
        copies=len(options.get("cond_or_uncond", (0,))), on_plan=state.on_plan,
    )  # fmt: skip
    inputs = Inputs(x, given["c_crossattn"], kwargs, options)
    with _intercepted(state, network, call, inputs) as changes:
        given["transformer_options"] = {**options, **changes}
        with _counted(network, call, x, options):
            return executor(x, t, *given.args, **given.kwargs)


@contextmanager
def _intercepted(
    state: CompressionState, network: nn.Module, call: NetworkCall, inputs: Inputs
) -> Iterator[Mapping]:
    """Forwards are replaced within; yields the options to change.

    In a call inside a call (of a wrapper that asks the model once more) the layers are first as
    they were before the outer one, so that both are compressed alone.
    """
    wired = state.wired(network)
    for layer_id, _ in wired.layers:
        call.log.layers.setdefault(layer_id, LayerRecord())
    outer = wired.originals[-1] if wired.originals else []
    doors = Doors() if wired.originals else wired.doors
    with replaced_forwards(outer):
        found = state.family.adapter.intercept(network, wired.layers, call, inputs)
        wired.originals.append([(module, module.forward) for module, _ in found.replacements])
        try:
            with doors.hidden(found) if may_compile() else nullcontext(found) as intercepted:
                with replaced_forwards(intercepted.replacements):
                    yield intercepted.options
        finally:
            wired.originals.pop()


class _Arguments:
    """The arguments of a network call behind x and t, by name, however they were passed."""

    NAMES = ("c_concat", "c_crossattn", "control", "transformer_options")

    def __init__(self, args, kwargs):
        self.args, self.kwargs = list(args), dict(kwargs)

    def __getitem__(self, name: str):
        position = self.NAMES.index(name)
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, {} if name == "transformer_options" else None)

    def __setitem__(self, name: str, value) -> None:
        position = self.NAMES.index(name)
        if position < len(self.args):
            self.args[position] = value
        else:
            self.kwargs[name] = value


@contextmanager
def _counted(network: nn.Module, call: NetworkCall, x: Tensor, options) -> Iterator[None]:
    """Note the work of a plain call with such a latent; counted once, and not when compiled."""
    shape, networks = tuple(x.shape[1:]), call.log.networks
    if shape in networks:
        flops, calls = networks[shape]
        networks[shape] = (flops, calls + 1)
        yield
    elif COMPILED in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
        yield
    else:
        with counted_layers(network) as count:
            yield
        networks[shape] = (count.flops // x.shape[0] + call.products + call.saved, 1)


def log_sampling_run(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: a fresh log before the run, one line after, loud if in vain."""
    state = compression_state(executor.class_obj.model_patcher)
    if state is None:
        return executor(*args, **kwargs)
    state.log.clear()
    result = executor(*args, **kwargs)
    level = logging.INFO if state.log.layers_compressed else logging.WARNING
    logging.log(level, summary(state.log))
    return result


_WRAPPERS = {
    WrappersMP.APPLY_MODEL: compress_network_call,
    WrappersMP.OUTER_SAMPLE: log_sampling_run,
}
