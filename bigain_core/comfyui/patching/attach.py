"""Attaching a compression to a loaded model, without editing the model itself.

    attach(model, rule) -> clone whose network calls are compressed

The clone carries a `CompressionState` among its transformer options and two wrappers: one around
each network call, which swaps the attention forwards in and out, and one around each sampling
run, which starts a fresh log. Nothing stays on the model between calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy.utils import unpack_latents
from torch import nn

from ...compression.decisions import Decision
from ...compression.forwards import Replacement, replaced_forwards
from ...compression.network_call import CAPTURED, NetworkCall, captured
from ...compression.report import summary
from ...compression.rules import Compression, Rule
from ...compression.run_log import RunLog
from ...measure.counting import counted_layers
from ...placement import LayerId, block_ranges, unwrapped
from .adapter import WHOLE, Inputs
from .compiled import (
    DisabledCallables,
    is_compiled,
    is_recorded,
    may_compile,
    needs_one_graph,
    outside_graph,
)
from .families import FAMILIES, Family, find_family
from .fused_layers import counted_past_forwards
from .progress import NoiseLevel

KEY = "bigain"
FOR_ONE_CALL = "bigain_call"  # a state that takes the place of the model's own
JOINED = "bigain_joined"  # states whose models are called in a run
ONE_GRAPH = (
    "torch.compile was asked for one full graph, which BiGain has to break; compile without "
    "fullgraph, or bypass the BiGain node"
)


@dataclass
class PatchedNetwork:
    """What is kept about a network: functions that a compiler knows, and the forwards that calls
    under way replaced. Not its layers: other nodes replace blocks from run to run."""

    disabled: DisabledCallables = field(default_factory=DisabledCallables)
    originals: list[list[Replacement]] = field(default_factory=list)


@dataclass
class CompressionState:
    """What the nodes request and what happened in the last sampling run.

    `on_end` hears of the log after each sampling run, also of nodes behind the one that asked.
    """

    family: Family
    compression: Compression
    log: RunLog
    on_decision: Callable[[Decision], object] | None = None
    on_end: Callable[[RunLog], object] | None = None
    networks: WeakKeyDictionary[nn.Module, PatchedNetwork] = field(
        default_factory=WeakKeyDictionary
    )

    def __deepcopy__(self, memo):
        # Older hosts deep-copy model options in clone(); the report needs this very log.
        return self

    def patched(self, network: nn.Module) -> PatchedNetwork:
        """Made once for each network: the host may have one for every device, each in a thread."""
        if network not in self.networks:
            self.networks[network] = PatchedNetwork()
        return self.networks[network]


def compression_state(model: ModelPatcher) -> CompressionState | None:
    return model.model_options.get("transformer_options", {}).get(KEY)


def attach(model: ModelPatcher, rule: Rule) -> ModelPatcher:
    """A clone of `model` that follows the rules it had and then this one.

    A rule that cannot change anything (ratio 0, factor 1) switches off earlier ones where it acts;
    the first one is not added.

    Raises ValueError for a model family that is not supported and for a placement without a layer.
    """
    before = compression_state(model)
    compression = before.compression if before else Compression()
    state, clone = build_state(model, compression.followed_by(rule)), model.clone()
    state.on_end = before.on_end if before else None
    if rule.is_identity and not compression.rules:
        return clone
    clone.model_options["transformer_options"][KEY] = state
    for kind, wrapper in _WRAPPERS.items():
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    clone.remove_callbacks_with_key(CallbacksMP.ON_PREPARE_STATE, KEY)
    clone.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, KEY, join_run)
    return clone


def observed(model: ModelPatcher, on_decision: Callable[[Decision], object]) -> ModelPatcher:
    """A clone of a compressed model that tells its decisions and writes a log of its own."""
    clone, state = model.clone(), compression_state(model)
    changes = {"on_decision": on_decision, "log": RunLog(state.family.name), "on_end": None}
    clone.model_options["transformer_options"][KEY] = replace(state, **changes)
    return clone


def build_state(model: ModelPatcher, compression: Compression) -> CompressionState:
    """What to put among the transformer options of a model with our wrappers, checked against it.

    Raises ValueError as `attach` does.
    """
    family, present = resolve(model)
    present = [layer_id for layer_id in present if layer_id.stage != WHOLE]
    for rule in compression.rules:
        if not any(rule.placement.covers(layer_id) for layer_id in present):
            numbers = [layer_id.number for layer_id in present]
            asked = rule.placement.layers
            if asked and not set(asked) & set(numbers):
                raise ValueError(
                    f"BiGain: expected attention layers from {min(numbers)} to {max(numbers)} of "
                    f"this model ({family.name}), got {block_ranges(asked)}. Change `blocks`, or "
                    "choose a placement for such a model."
                )
            stages = sorted({layer_id.stage for layer_id in present})
            raise ValueError(
                f"BiGain: expected a placement with layers in this model ({family.name}), which "
                f"has {len(present)} self-attention layers in {stages}; this placement covers none "
                "of them. Choose 'everywhere' or one of those stages."
            )
    return CompressionState(family, compression, RunLog(family.name))


def resolve(model: ModelPatcher) -> tuple[Family, list[LayerId]]:
    """The family of a model and its self-attention layers.

    Raises ValueError for a model family that is not supported.
    """
    network = unwrapped(model.get_model_object("diffusion_model"))
    family = find_family(network)
    if family is None:
        covered, kind = "; ".join(family.name for family in FAMILIES), type(network)
        raise ValueError(
            f"BiGain: expected a model of one of these families: {covered}; got a "
            f"{type(model.model).__name__} model whose network is a {kind.__module__}."
            f"{kind.__qualname__}, which is not covered. Bypass this node for it, or the node that "
            "has wrapped its network."
        )
    return family, [layer_id for layer_id, _ in family.adapter.layers(network)]


def compress_network_call(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None,
    **conditions,
):  # fmt: skip
    """APPLY_MODEL wrapper: x (B, C, [T,] H, W) is the noisy latent, t (B,) its sigma.

    Where video and sound are denoised together, x (B, 1, n) holds both, one behind the other.
    """

    def run(options):
        return executor(x, t, c_concat, c_crossattn, control, options, **conditions)

    model, options = executor.class_obj, {} if transformer_options is None else transformer_options
    # The options may be those of another model, see `join_run`.
    patcher, network = model.current_patcher, unwrapped(model.diffusion_model)
    own = compression_state(patcher) if patcher else options.get(KEY)
    state = options.get(FOR_ONE_CALL, own)
    if state is None:
        return run(options)
    for reason, holds in ((ONE_GRAPH, ONE_GRAPH in state.log.skipped), (CAPTURED, captured())):
        if holds:  # the first one was found in an earlier call of the run
            state.log.add_reason(reason)
            return run(options)
    latent = unpack_latents(x, conditions.get("latent_shapes") or [x.shape])[0]  # of the video
    if not state.family.has(network) or latent.ndim not in (4, 5):
        kind = f"a {type(network).__name__} called with a latent of {latent.ndim} dimensions"
        state.log.add_reason(f"{kind} is not a {state.family.name} with 4 or 5")
        return run(options)
    level = NoiseLevel(model.model_sampling, t)
    if not any("mask" in name for name in conditions):  # else it can wait for a look at a mask
        level.progress()
    kept = is_compiled(model.diffusion_model, options) or is_recorded(network, x.device)
    copies = 1 if kept else len(options.get("cond_or_uncond", (0,)))
    call = NetworkCall(
        state.compression, level.progress, state.log, state.family.adapter.layer_flops,
        copies=copies, on_decision=state.on_decision, confirms=level.confirms,
        outliving=outside_graph,
    )  # fmt: skip
    inputs = Inputs(network, latent, c_crossattn, conditions, options)
    counted = nullcontext() if kept else _counted(call, inputs)
    try:
        with _intercepted(state, call, inputs) as changes, counted:
            return run({**options, **changes})
    except Exception as error:
        if not needs_one_graph(error):
            raise
    state.log.add_reason(ONE_GRAPH)
    return run(options)


@contextmanager
def _intercepted(
    state: CompressionState, call: NetworkCall, inputs: Inputs
) -> Iterator[Mapping[str, Callable]]:
    """Forwards are replaced within; yields the options to change.

    If a wrapper calls the model again within a call, the layers are first restored to what they
    were before the outer call, so that each call is compressed by itself.
    """
    patched, layers = state.patched(inputs.network), []
    for layer_id, module in state.family.adapter.layers(inputs.network):
        call.log.expect(layer_id, call.compression.covers(layer_id), module is not None)
        if module is not None:
            layers.append((layer_id, module))
    outer = patched.originals[-1] if patched.originals else []
    disabled = DisabledCallables() if patched.originals else patched.disabled
    with replaced_forwards(outer):
        found = state.family.adapter.intercept(layers, call, inputs)
        patched.originals.append([(module, module.forward) for module, _ in found.forwards])
        try:
            with disabled.graph_breaks(found) if may_compile() else nullcontext(found) as patches:
                with replaced_forwards(patches.forwards):
                    yield patches.options
        finally:
            patched.originals.pop()


@contextmanager
def _counted(call: NetworkCall, inputs: Inputs) -> Iterator[None]:
    """Note the work of an uncompressed call, which is counted once per latent."""
    batch, *shape = inputs.latent.shape
    log, latent = call.log, tuple(shape)
    if latent in log.networks:
        log.add_call(latent)
        yield
    else:
        with counted_layers(inputs.network) as count, counted_past_forwards(inputs.network, count):
            yield
        log.add_call(latent, count.flops // batch + call.unseen)


def join_run(patcher, timestep, model_options=None):
    """ON_PREPARE_STATE callback, before the calls of this model in a step.

    A guider of two models hands the options of the first on to the second, without our wrapper if
    only the second has one, and wraps the run of the first alone: our log is cleared here.
    """
    if model_options is None:  # older hosts, which have no such guider
        return
    options = model_options.setdefault("transformer_options", {})
    state = compression_state(patcher)
    joined = options.get(JOINED, (options.get(KEY),))
    if any(state is other for other in joined):
        return
    options[JOINED] = (*joined, state)
    wrappers = options.setdefault("wrappers", {}).setdefault(WrappersMP.APPLY_MODEL, {})
    wrappers[KEY] = [compress_network_call]
    state.log.clear()


def log_sampling_run(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: a fresh log before the run, one line after, loud if in vain."""
    state = compression_state(executor.class_obj.model_patcher)
    if state is None:
        return executor(*args, **kwargs)
    state.log.clear()
    result = executor(*args, **kwargs)
    level = logging.INFO if state.log.layers_compressed else logging.WARNING
    logging.log(level, summary(state.log))
    if state.on_end:
        state.on_end(state.log)
    return result


_WRAPPERS = {
    WrappersMP.APPLY_MODEL: compress_network_call,
    WrappersMP.OUTER_SAMPLE: log_sampling_run,
}
