"""Our nodes next to another feature of the host or of another pack, and what has to hold then.

What they should give together is known without our nodes: the host's own attention patches can
compress too, and `through_the_hosts_patches` does it with them. They are not what we use, as they
do not nest with other packs, but where nothing else shortens a layer both give the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import comfy_extras.nodes_custom_sampler
import torch
from bigain.bigain_core.methods import TokenMerging
from bigain.bigain_core.schedules import DenoisingProgress
from bigain.bigain_core.tokens.grid import TokenGrid
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import functional

import nodes
from tests.host.compressing import merge, pool, report
from tests.host.recording import OVERRIDE

Conditioning = list
Options = dict  # what the host tells a patch: block, activations_shape, cond_or_uncond, ...


@dataclass(frozen=True, eq=False)
class Run:
    """All that an image depends on: the inputs of a KSampler node."""

    model: ModelPatcher
    positive: Conditioning
    negative: Conditioning
    latent: dict
    steps: int = 2
    cfg: float = 3.0
    sampler: str = "euler"
    scheduler: str = "sgm_uniform"
    denoise: float = 1.0
    seed: int = 7
    sigmas: tuple[float, ...] = ()

    def but(self, **changes) -> Run:
        return replace(self, **changes)

    def with_model(self, change: Callable[[ModelPatcher], ModelPatcher]) -> Run:
        return replace(self, model=change(self.model))

    def image(self) -> Tensor:
        """(B, 4, H, W), float; with `sigmas` from the node that takes them instead of steps."""
        if self.sigmas:
            return self._custom_image()
        return outputs(
            nodes.KSampler, self.model, self.seed, self.steps, self.cfg, self.sampler,
            self.scheduler, self.positive, self.negative, self.latent, self.denoise,
        )[0]["samples"]  # fmt: skip

    def _custom_image(self) -> Tensor:
        extra = comfy_extras.nodes_custom_sampler
        (sampler,) = outputs(extra.KSamplerSelect, self.sampler)
        return outputs(
            extra.SamplerCustom, self.model, True, self.seed, self.cfg, self.positive,
            self.negative, sampler, torch.tensor(self.sigmas), self.latent,
        )[0]["samples"]  # fmt: skip


def outputs(node, *args, **kwargs) -> tuple:
    """Results of a host node, whichever style it is written in on this version."""
    run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
    result = run(*args, **kwargs)
    return getattr(result, "args", result)


def patched_by(node, *args, **kwargs) -> Callable[[Run], Run]:
    """A run whose model went through a host node that takes the model first."""
    return lambda run: run.with_model(lambda model: outputs(node, model, *args, **kwargs)[0])


def on_model(change: Callable[[ModelPatcher], None]) -> Callable[[Run], Run]:
    """A run with a clone of its model that `change` has edited."""

    def edit(model):
        clone = model.clone()
        change(clone)
        return clone

    return lambda run: run.with_model(edit)


def with_kernel(kernel: Callable) -> Callable[[Run], Run]:
    """A run with another attention kernel in the host's slot for one."""

    def install(model):
        model.model_options["transformer_options"][OVERRIDE] = kernel

    return on_model(install)


@dataclass(frozen=True)
class Ours:
    """One of our nodes, on all layers of a UNet, and what it does to the tokens of one layer.

    Of two in a chain `in_decoder` is what the second does, in the decoder.
    """

    node: Callable[..., ModelPatcher]
    shorten: Callable[[Tensor, TokenGrid], tuple[Callable, Callable, Callable]]
    in_decoder: Callable[[Tensor, TokenGrid], tuple[Callable, Callable, Callable]] | None = None

    def on(self, model: ModelPatcher) -> ModelPatcher:
        return self.node(model, levels=2)

    def idle(self, model: ModelPatcher) -> ModelPatcher:
        """CompressionState and active in each call, but finding every layer too small."""
        return self.node(model, levels=2, min_tokens=10**6)

    def finest(self, model: ModelPatcher) -> ModelPatcher:
        return self.node(model)


def merging(block_input: Tensor, grid: TokenGrid):
    plan = TokenMerging(0.5).plan(block_input, grid, DenoisingProgress(0.5), 0)
    return plan.queries, plan.context, plan.restore


def pooling(block_input: Tensor, grid: TokenGrid):
    """Factor 2, alpha 0.9, written with the image functions of torch."""
    size = max(1, grid.height // 2), max(1, grid.width // 2)
    window = grid.height // size[0], grid.width // size[1]

    def pooled(tokens):
        image = tokens.unflatten(1, (grid.height, grid.width)).movedim(-1, 1)  # (B, C, H, W)
        nearest = functional.interpolate(image, size, mode="nearest-exact")
        return functional.avg_pool2d(image, window).lerp(nearest, 0.9).flatten(2).mT

    return lambda x: x, pooled, lambda x: x


def switched_off(model: ModelPatcher) -> ModelPatcher:
    """Both our nodes with the setting that does nothing."""
    return pool(merge(model, 0.0), 1)


OURS = {
    "merging": Ours(lambda model, **where: merge(model, 0.5, **where), merging),
    "pooling": Ours(pool, pooling),
}


def chained(model: ModelPatcher, **where) -> ModelPatcher:
    """Of the seven layers of a small UNet the last four are in the decoder."""
    return pool(merge(model, 0.5, blocks="0-2", **where), blocks="3-6", **where)


BOTH = Ours(chained, merging, pooling)


def nowhere(options: Options) -> bool:
    return False


def finest_level(options: Options) -> bool:
    """Layers at the resolution of the latent."""
    return options["activations_shape"][-2:] == options["original_shape"][-2:]


def middle_block(options: Options) -> bool:
    return options["block"][0] == "middle"


@dataclass(frozen=True)
class Scenario:
    """A feature next to ours.

    `add` gives it to a run, `base` says what else that run needs. `taken` are the layers whose
    attention the feature computes itself or whose tokens it has changed: ours leaves them to it.
    `works_on_results` tells that it patches what self-attention returns, which has to be whole.
    """

    add: Callable[[Run], Run]
    base: Callable[[Run], Run] = lambda run: run
    taken: Callable[[Options], bool] = nowhere
    works_on_results: bool = False


@contextmanager
def block_inputs(model: ModelPatcher) -> Iterator[dict]:
    """Under "latest" the input of the transformer block that has begun last."""
    noted = {}

    def note(module, args):
        noted["latest"] = args[0]

    blocks = (m for m in model.model.modules() if isinstance(m, BasicTransformerBlock))
    hooks = [block.norm1.register_forward_pre_hook(note) for block in blocks]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def through_the_hosts_patches(scenario: Scenario, base: Run, ours: Ours) -> Tensor:
    """The image with the same compression by the attn1 patches of the host instead of our node.

    They come last, to see what the patches of others have made of a layer, or first where others
    must see what they have restored: the host cannot have both, as all its patches run in order.
    """
    with block_inputs(base.model) as noted:

        def shorten(n, context, value, options):
            grid = TokenGrid(*options["activations_shape"][-2:])
            if scenario.taken(options) or noted["latest"].shape[1] != grid.tokens:
                return n, context, value
            in_decoder = options["block"][0] == "output" and ours.in_decoder
            act = in_decoder or ours.shorten
            queries, keys, options["restore"] = act(noted["latest"], grid)
            return queries(n), keys(context), keys(value)

        def restore(n, options):
            return options["restore"](n) if "restore" in options else n

        def install(model):
            model.set_model_attn1_patch(shorten)
            model.set_model_attn1_output_patch(restore)

        compress = on_model(install)
        if scenario.works_on_results:
            return scenario.add(compress(base)).image()
        return compress(scenario.add(base)).image()


def no_memory(device=None, torch_free_too=False):
    """In place of the host's `get_free_memory`: every text has a call of its own."""
    return (1, 1) if torch_free_too else 1


def instance_forwards(model: ModelPatcher) -> list[torch.nn.Module]:
    """Modules of the network on which some forward was left behind."""
    modules = model.model.diffusion_model.modules()
    return [module for module in modules if "forward" in module.__dict__]


def assert_same_image(image: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to `tolerance` of the largest value."""
    torch.testing.assert_close(
        image, expected, rtol=0, atol=tolerance * float(expected.abs().max())
    )


def assert_differs(image: Tensor, other: Tensor, why: str) -> None:
    """By more than rounding could explain."""
    difference = (image - other).abs().max() / other.abs().max()
    assert difference > 1e-3, f"{why}: the images differ by {difference:.1e} of their range"


def in_both_orders(
    add: Callable[[Run], Run], base: Run, ours: Callable[[ModelPatcher], ModelPatcher]
) -> tuple[Run, Run]:
    """Ours behind the other node, and before it."""
    return add(base).with_model(ours), add(base.with_model(ours))


@cache
def chain_alone(base: Run) -> Tensor:
    return base.with_model(BOTH.on).image()


def check_ours(scenario: Scenario, base: Run, ours: Ours, tolerance: float = 1e-4) -> Tensor:
    """The image with the scenario and ours behind it, which acts as it should."""
    theirs = scenario.add(base)
    theirs_alone = theirs.image()
    run = theirs.with_model(ours.on)
    image = run.image()
    assert image.isfinite().all()
    assert_differs(image, theirs_alone, "ours did nothing")
    assert_same_image(image, through_the_hosts_patches(scenario, base, ours), tolerance)
    text = report(run.model)
    assert "BiGain on " in text and "CHANGED NOTHING" not in text
    assert not instance_forwards(run.model)
    off = theirs.with_model(lambda model: switched_off(ours.idle(model)))
    assert torch.equal(off.image(), theirs_alone), "ours is off and yet acts"
    return image


def check(scenario: Scenario, start: Run) -> None:
    """Ours and theirs act in either order, and with ours off the other acts as without it."""
    base = scenario.base(start)
    image = check_ours(scenario, base, BOTH)
    assert_differs(image, chain_alone(base), "theirs did nothing")
    first = base.with_model(BOTH.on)
    before = scenario.add(first)
    if before.model is not first.model:
        assert torch.equal(before.image(), image), "the order of the nodes matters"
        assert report(first.model) == report(before.model), "the report behind our node"
