"""Operations and memory of a network call that computes nothing: tensors have shapes but no data.

Both are of the call itself and the same on every machine: operations are those of matrix products
and convolutions, memory is the largest sum of tensors that are alive at once, without the weights
and without the working space inside an operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceilings import no_attention


@dataclass(frozen=True)
class Inputs:
    """Of a network: the shape of the latent, the text, and a further condition, if there is one."""

    latent: tuple[int, ...]
    text: Tensor | None
    condition: Tensor | None


@dataclass(frozen=True)
class Cost:
    flops: int
    peak_bytes: int


class LiveTensors(TorchDispatchMode):
    """The largest sum of bytes of the tensors that operators have made and that are still there."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self._alive[reference.cdata] = (reference, storage.nbytes())
        self._alive = {key: a for key, a in self._alive.items() if not a[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def dry_run(model, inputs: Inputs, overlay: Mapping[str, Any]) -> Cost:
    """Of a call of the host's model at rest with `overlay` on its transformer options."""
    import comfy.ops
    from comfy.patcher_extension import WrapperExecutor

    from bigain_core.comfyui.patching.attach import compress_network_call

    real = model.model
    config = {**real.model_config.unet_config, "dtype": torch.float32}
    layers = comfy.ops.disable_weight_init
    network = type(real.diffusion_model)(**config, device="meta", operations=layers)
    outline = SimpleNamespace(
        diffusion_model=network, model_sampling=real.model_sampling, current_patcher=None
    )

    def call(x, sigma, concat, context, control, transformer_options, **conditions):
        condition = {} if inputs.condition is None else {"y": inputs.condition.to("meta")}
        options = {"transformer_options": transformer_options}
        return network(x, sigma.to("meta"), context, **condition, **options)

    attention = _FusedAttention()
    options = {**overlay, "optimized_attention_override": attention}
    executor = WrapperExecutor.new_class_executor(call, outline, [compress_network_call])
    x = torch.empty(inputs.latent, device="meta")
    text = None if inputs.text is None else inputs.text.to("meta")
    with torch.inference_mode(), LiveTensors() as live, FlopCounterMode(display=False) as counter:
        executor.execute(x, torch.ones(1), None, text, None, options)
    return Cost(counter.get_total_flops() + attention.flops, live.peak)


class _FusedAttention:
    """An override of the host's attention that leaves no matrix of logits, as fused kernels do."""

    def __init__(self):
        self.flops = 0

    def __call__(self, function, q: Tensor, k: Tensor, v: Tensor, *args, **kwargs) -> Tensor:
        # (B, heads, N, D) or (B, N, heads * D); HyperTile's queries are in more rows than its keys
        width = q.shape[1] * q.shape[3] if kwargs.get("skip_reshape") else q.shape[2]
        self.flops += 4 * q.numel() * (k.numel() // (q.shape[0] * width))
        return no_attention(function, q, k, v, *args, **kwargs)
