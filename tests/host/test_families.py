"""Both operators on every family, against slow references that work on the host's own attention.

The references know nothing of the pack's table: they find the image by what
test_family_models.py has measured, and shorten keys and values by loops.
"""

import importlib
import itertools
import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from bigain.bigain_core.comfyui.patching.adapter import Inputs
from bigain.bigain_core.comfyui.patching.attach import compression_state
from bigain.bigain_core.comfyui.patching.families import FAMILIES, find_family
from bigain.bigain_core.comfyui.patching.joint_attention import JointAttention
from bigain.bigain_core.compression.automatic import STRENGTHS
from bigain.bigain_core.compression.forwards import replaced_forwards
from bigain.bigain_core.compression.network_call import NetworkCall
from bigain.bigain_core.compression.rules import Compression, Rule
from bigain.bigain_core.compression.run_log import RunLog
from bigain.bigain_core.methods import TokenMerging
from bigain.bigain_core.schedules import DenoisingProgress
from bigain.bigain_core.tokens.grid import TokenGrid
from comfy.ldm.modules.attention import CrossAttention

from tests.host.compressing import merge, pool, preset, report
from tests.host.families import CASES, NAMED, for_cases, for_cases_and_sizes, parametrized
from tests.host.families.case import sample
from tests.host.families.models import fill
from tests.host.families.wan import OUT_OF_REACH
from tests.host.recording import OVERRIDE, Recorder, grid, layer_of
from tests.host.side_by_side import instance_forwards

UNCOVERED = {"ernie_image", "hidream_o1", "stable_cascade"}
NOT_ROTARY = {"class-conditional DiT", "PixArt", "Stable Diffusion 3", "AuraFlow"}
UNET = "Stable Diffusion UNet (1.x, 2.x, XL, SVD)"
RATIO, FACTOR, ALPHA = 0.6, 2, 0.4


def family_of(case):
    return find_family(case.model.model.diffusion_model)


COVERED = [case for case in CASES if case.name not in UNCOVERED]
covered_case = for_cases(COVERED)
joint_cases = [
    case for case in COVERED if case.missing or isinstance(family_of(case).adapter, JointAttention)
]
joint_case = for_cases(joint_cases)
# Where another has its network and its layers, a case differs in its conditioning alone.
ONE_OF_EACH = {
    case.name
    if case.missing
    else (family_of(case).name, *(layer.modules for layer in case.layers)): case
    for case in reversed(COVERED)
}.values()
one_of_each_network = for_cases(ONE_OF_EACH)
one_of_each_or_merged_nowhere_else = for_cases(
    case for case in COVERED if case in ONE_OF_EACH or case not in joint_cases
)


class Reference(Recorder):
    """Shortens the image in the layers that a case declares; a UNet's at its finest level."""

    def __init__(self, case, size, shorten):
        super().__init__(case)
        self.case, self.size, self.shorten = case, size, shorten
        self.hits = 0

    def record(self, function, args, kwargs, options):
        calls = len(self.calls)
        plain = super().record(function, args, kwargs, options)
        layer = layer_of(self.case, self.calls[calls].module)
        finest = self.case.layers[:1] if family_of(self.case).name == UNET else self.case.layers
        if layer not in finest:
            return plain
        self.hits += 1
        q, k, v, *others = args
        by_heads = kwargs.get("skip_reshape", False)
        q, k, v = (x.movedim(2, 1) if by_heads else x for x in (q, k, v))  # (B, N, ...)
        frames, rows, columns = grid(self.case, layer, self.size)
        start = sum(count for _, count in layer.prefix)
        where = (start, frames, rows, columns)
        mask = others[1] if len(others) > 1 else kwargs.get("mask")
        q, k, v, keys, spread = self.shorten(q, k, v, where)
        if mask is not None:
            mask = mask[..., keys]
            if mask.shape[-2] > 1 and len(spread) > q.shape[1]:
                mask = mask[..., [spread.index(n) for n in range(q.shape[1])], :]
        if len(others) > 1:
            others[1] = mask
        else:
            kwargs = {**kwargs, "mask": mask}
        q, k, v = (x.movedim(1, 2) if by_heads else x for x in (q, k, v))
        out = function(q, k, v, *others, **kwargs)
        return out[:, :, spread] if kwargs.get("skip_output_reshape") else out[:, spread]


def boxes(first, frames, rows, columns, factor, step=1):
    """(nearest token, all tokens, frames) of each key; behind the first, `step` frames share."""
    runs = [[0], *(list(range(n, min(n + step, frames))) for n in range(1, frames, step))]
    height, width, frame = rows // factor, columns // factor, rows * columns
    tall, wide = rows // height, columns // width
    for run, i, j in itertools.product(runs, range(height), range(width)):
        corner = first + i * tall * columns + j * wide
        window = [
            corner + n * frame + a * columns + b
            for n in run
            for a in range(tall)
            for b in range(wide)
        ]
        nearest = first + run[len(run) // 2] * frame + int((i + 0.5) * rows / height) * columns
        yield nearest + int((j + 0.5) * columns / width), window, len(run)


def pooled_by_loops(rotary, weighed=False, step=1, references=lambda start, stop, tokens: []):
    """IE-KVD by the definition of D(alpha, s), one window after the other.

    A key that comes several times weighs as much as so many tokens: `weighed`, as those it stands
    for, else as its frames among those of the longest run. `references` tells the places (first,
    frames, rows, columns) of those that are shortened, and by which factor.
    """

    def shorten(q, k, v, where):
        tokens = list(range(q.shape[1]))
        start, image = where[0], math.prod(where[1:])
        found = [(*where, FACTOR), *references(start, start + image, len(tokens))]
        kept, end = [], 0  # (nearest token, its window)
        alone = 1 if weighed else min(step, max(1, where[1] - 1))  # frames of the longest run
        for first, frames, rows, columns, factor in sorted(found):
            kept += alone * [(token, [token]) for token in tokens[end:first]]
            for nearest, window, length in boxes(first, frames, rows, columns, factor, step):
                kept += (len(window) if weighed else length) * [(nearest, window)]
            end = first + frames * rows * columns
        kept += alone * [(token, [token]) for token in tokens[end:]]
        keys = [nearest for nearest, _ in kept]

        def blended(x):
            means = [x[:, window].mean(1) for _, window in kept]
            return ALPHA * x[:, keys] + (1 - ALPHA) * torch.stack(means, 1)

        return q, k[:, keys] if rotary else blended(k), blended(v), keys, tokens

    return shorten


def merged_by_loops(rotary, step=1):
    """L-GTM on queries, keys and values of one image, group by group, the values the metric.

    Frame by frame, or within runs of `step` frames.
    """

    def shorten(q, k, v, where):
        start, frames, rows, columns = where
        assert len(q) == 1, "each image has groups of its own"
        n, method = q.shape[1], TokenMerging(RATIO, frames=step)
        target, grid = list(range(n)), TokenGrid(rows, columns, frames if step > 1 else 1)
        for first in range(start, start + frames * rows * columns, grid.tokens):
            metric = v[:, first : first + grid.tokens].flatten(2)
            plan = method.plan(metric, grid, DenoisingProgress(0.5), 0)
            for token, goal in enumerate(plan.target[0].tolist()):
                target[first + token] = first + goal
        kept = sorted(set(target))
        groups = [[token for token in range(n) if target[token] == goal] for goal in kept]

        def mean(x):
            return torch.stack([x[:, group].mean(1) for group in groups], 1)

        positions = (lambda x: x[:, kept]) if rotary else mean
        spread = [kept.index(goal) for goal in target]
        return positions(q), positions(k), mean(v), kept, spread

    return shorten


def one_step(case, model, size):
    """Without guidance, so that each image is a call of its own."""
    return sample(case, model, size, steps=1, cfg=1.0)


def with_reference(case, size, shorten):
    """A step with the reference, and how many layers it has shortened."""
    model = case.model.clone()
    with Reference(case, size, shorten) as reference:
        model.model_options["transformer_options"][OVERRIDE] = reference.override
        return one_step(case, model, size), reference.hits


def assert_equal_to(case, size, model, shorten):
    """Sampling with our nodes is sampling with the reference; returns the latter."""
    expected, hits = with_reference(case, size, shorten)
    scale = expected.abs().max()
    found = one_step(case, model, size)
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-4)
    records = compression_state(model).log.layers.values()
    assert sum(record.compressed for record in records) == hits > 0
    return expected


def is_rotary(case):
    return family_of(case).name not in {*NOT_ROTARY, UNET}


@for_cases_and_sizes(COVERED)
def test_pooling_equals_a_slow_reference_on_the_hosts_attention(case, size):
    model = pool(case.model, FACTOR, alpha_start=ALPHA, alpha_end=ALPHA)
    expected = assert_equal_to(case, size, model, pooled_by_loops(is_rotary(case)))
    plain = one_step(case, case.model, size)
    assert (expected - plain).norm() > 1e-3 * plain.norm()
    assert f"BiGain on {family_of(case).name}" in report(model)


@joint_case
def test_weighed_keys_equal_keys_that_are_repeated(case):
    """The grid is even: every pooled key stands for the same number of tokens."""
    repeated = pooled_by_loops(is_rotary(case), weighed=True)
    model = pool(case.model, FACTOR, alpha_start=ALPHA, alpha_end=ALPHA, proportional=True)
    assert_equal_to(case, case.sizes[0], model, repeated)


@for_cases(case for case in COVERED if case.frames > 1)
def test_frames_that_share_keys_equal_a_slow_reference_on_the_hosts_attention(case):
    """The first frame is alone; keys of longer runs weigh as much as the frames in them."""
    model = pool(case.model, FACTOR, alpha_start=ALPHA, alpha_end=ALPHA, frames=2)
    assert_equal_to(case, case.sizes[0], model, pooled_by_loops(is_rotary(case), step=2))
    apart = pool(case.model, FACTOR, alpha_start=ALPHA, alpha_end=ALPHA)
    assert torch.equal(one_step(case, model, None), one_step(case, apart, None)) == (
        case.frames == 2
    )


@for_cases(case for case in COVERED if case.frames > 1)
def test_frames_that_merge_equal_a_slow_reference_on_the_hosts_attention(case):
    model = merge(case.model, RATIO, frames=2)
    assert_equal_to(case, case.sizes[0], model, merged_by_loops(is_rotary(case), 2))
    assert "over 2 frames" in report(model)


REFERRING = {  # where references of 4 x 5 tokens lie: from the end of the image, or before it
    "flux_references": 0, "flux2_references": 0, "qwen_image_edit": 0, "krea2_references": 0,
    "joyimage_references": 0, "omnigen2_references": -20, "boogu_references": -20,
}  # fmt: skip


@pytest.mark.parametrize("weighed", [False, True])
@parametrized("case, behind", {name: (NAMED[name], place) for name, place in REFERRING.items()})
def test_references_are_shortened_by_a_factor_of_their_own(case, behind, weighed):
    def places(start, stop, tokens):
        """None in layers that see the image alone."""
        first = start + behind if behind else stop
        return [(first, 1, 4, 5, 3)] if tokens > stop - start else []

    settings = {"alpha_start": ALPHA, "alpha_end": ALPHA, "proportional": weighed}
    model = pool(case.model, FACTOR, reference_factor=3, **settings)
    expected = pooled_by_loops(is_rotary(case), weighed, references=places)
    assert_equal_to(case, case.sizes[0], model, expected)
    assert ", 20 of references -> 1 keys, " in report(model)


@parametrized("case", {"minimax_h3": (NAMED["minimax_h3_references"],)})
def test_references_with_sound_between_them_are_shortened(case):
    """Behind 6 tokens of text: an image, a voice of 8, a film, another behind its sound of 6."""
    places = [(6, 1, 4, 2, 2), (22, 2, 2, 3, 2), (40, 2, 2, 3, 2)]
    settings = {"alpha_start": ALPHA, "alpha_end": ALPHA, "proportional": True}
    model = pool(case.model, FACTOR, reference_factor=2, **settings)
    expected = pooled_by_loops(rotary=True, weighed=True, references=lambda *_: places)
    assert_equal_to(case, case.sizes[0], model, expected)
    assert ", 32 of references -> 6 keys, " in report(model)


@parametrized("case, behind", {name: (NAMED[name], place) for name, place in REFERRING.items()})
def test_references_can_be_shortened_alone(case, behind):
    """Factor 1 leaves the image whole, and models without references as they are."""
    model = pool(case.model, 1, reference_factor=2)
    assert not torch.equal(one_step(case, model, None), one_step(case, case.model, None))
    text = report(model)
    assert "references IE" not in text and ", 20 of references -> 4 keys, " in text
    off = pool(case.model, 1, reference_factor=1)
    assert torch.equal(one_step(case, off, None), one_step(case, case.model, None))


@joint_case
def test_merging_equals_a_slow_reference_on_the_hosts_attention(case):
    model = merge(case.model, RATIO)
    assert_equal_to(case, case.sizes[-1], model, merged_by_loops(is_rotary(case)))


@cache
def plain_image(case):
    """What most tests compare with, generated once."""
    return sample(case, case.model, steps=1)


@covered_case
def test_ratio_zero_and_factor_one_are_bit_identical(case):
    off = merge(pool(case.model, 1), 0.0)
    assert torch.equal(sample(case, off, steps=1), plain_image(case))


@covered_case
def test_a_node_outside_its_range_is_bit_identical_and_says_so(case):
    """The wrappers are at work in every call and skip every layer."""
    never = {"start_percent": 0.4321, "end_percent": 0.4321}
    model = merge(pool(case.model, **never), **never)
    assert torch.equal(sample(case, model, steps=1), plain_image(case))
    assert "CHANGED NOTHING" in report(model)


@one_of_each_or_merged_nowhere_else
def test_the_model_is_as_it_was_after_a_run(case):
    plain = plain_image(case)
    weights = {key: value.clone() for key, value in case.model.model.state_dict().items()}
    keys = (partial(pool, method=method) for method in ("key merging", "key pairs"))
    for ours in (merge, pool, *keys):
        compressed, again = (sample(case, ours(case.model), steps=1) for _ in range(2))
        assert compressed.isfinite().all() and not torch.equal(compressed, plain)
        assert torch.equal(again, compressed), "same seed, same image"
    assert torch.equal(sample(case, case.model, steps=1), plain)
    assert not instance_forwards(case.model)
    after = case.model.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in weights.items())


@pytest.mark.parametrize("node", [pool, partial(preset, name="auto")], ids=["pool", "auto"])
@for_cases([*(case for case in CASES if case.name in UNCOVERED), *OUT_OF_REACH])
def test_a_family_outside_the_table_is_named(case, node):
    kind = type(case.model.model).__name__
    with pytest.raises(ValueError, match=f"got a {kind} model whose network is .*, which is not"):
        node(case.model)


def test_every_row_of_the_table_has_a_case():
    there = {family_of(case) for case in CASES if not case.missing} - {None}
    stood_in_for = {"Qwen-Image 2.1", "Kandinsky 6"}  # in files of their own
    missing = {f.name for f in FAMILIES} - {f.name for f in there} - stood_in_for
    only_newer = {"Kandinsky 5", "Krea 2", "Lens", "JoyImage", "Mage-Flow", "MiniMax H3"}
    assert missing <= {*only_newer, "Ideogram 4", "Boogu", "PixelDiT"}
    if not any(case.missing for case in CASES):
        assert not missing


def merged(case, layer, x, size, **rotary):
    """What a self-attention module gives for x (B, N, C) with merging, and the groups (B, N)."""
    network, adapter = case.model.model.diffusion_model, family_of(case).adapter
    rules = Compression((Rule(TokenMerging(RATIO)),))
    call = NetworkCall(rules, lambda: DenoisingProgress(0.5), RunLog(), adapter.layer_flops)
    latent = torch.empty(len(x), 4, *(2 * length for length in size))
    inputs = Inputs(network, latent, None, {}, {})
    found = adapter.intercept(adapter.layers(network)[:1], call, inputs)
    with replaced_forwards(found.forwards):
        out = layer(x, **rotary)
    plan = TokenMerging(RATIO).plan(x, TokenGrid(*size), DenoisingProgress(0.5), 0)
    return out, plan.target


def group_means(x, goals):
    """x (N, C) with every kept token replaced by the mean of its group."""
    means = x.clone()
    for goal in set(goals):
        means[goal] = x[[token for token, other in enumerate(goals) if other == goal]].mean(0)
    return means


@pytest.mark.parametrize("name", ["pixart_sigma", "hunyuan_dit"])
def test_merging_before_projection_equals_attention_among_the_group_means(name, monkeypatch):
    """All rows are projected and turned at their own places, then only kept ones take part."""
    case, size = NAMED[name], (4, 6)
    layer = family_of(case).adapter.layers(case.model.model.diffusion_model)[0][1]
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 24, 96 if name == "pixart_sigma" else 64, generator=generator)
    angles = torch.randn(24, 16, generator=generator).repeat_interleave(2, 1)
    rotary = {"freqs_cis_img": (angles.cos(), angles.sin())} if name == "hunyuan_dit" else {}
    out, target = merged(case, layer, x, size, **rotary)
    host = importlib.import_module(case.blind)
    attention, first = host.optimized_attention, (lambda y: y[0] if rotary else y)
    for sample_, goals in enumerate(target.tolist()):
        kept = sorted(set(goals))
        assert len(kept) == 24 - int(24 * RATIO)

        def among_kept(q, k, v, *args, kept=kept, goals=goals, **kwargs):
            short = attention(*(tensor[:, :, kept] for tensor in (q, k, v)), *args, **kwargs)
            return short[:, [kept.index(goal) for goal in goals]]

        monkeypatch.setattr(host, "optimized_attention", among_kept)
        expected = first(layer(group_means(x[sample_], goals)[None], **rotary))
        torch.testing.assert_close(first(out)[sample_], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["flux", "sd3", "hunyuan_video_padded", "pixart_sigma"])
def test_half_precision_is_close_to_full(name, dtype):
    """The plain model, too, is further from itself in half precision, by its timesteps alone."""
    case = NAMED[name]
    half = replace(case).model  # a case of its own, and with it a model
    half.model.diffusion_model.to(dtype)
    half.model.manual_cast_dtype = dtype
    plain = one_step(case, half, None)
    its_own = (plain - one_step(case, case.model, None)).norm()
    for ours in (merge, pool, partial(pool, proportional=True)):
        compressed, exact = (one_step(case, ours(model), None) for model in (half, case.model))
        assert compressed.isfinite().all() and not torch.equal(compressed, plain)
        assert (compressed - exact).norm() < 1.5 * its_own + 0.05 * exact.norm()


class MotionModule(torch.nn.Module):
    """Attention over the frames of a video at each place, as AnimateDiff adds it to a UNet."""

    def __init__(self, channels):
        super().__init__()
        self.attention = CrossAttention(channels, heads=2, dim_head=16, operations=torch.nn)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.shape)
        over_frames = x.flatten(2).permute(2, 0, 1)  # (H * W, frames, C)
        mixed = over_frames + self.attention(over_frames)
        return mixed.permute(1, 2, 0).reshape(x.shape)


@pytest.mark.parametrize("ours", [merge, pool])
def test_a_motion_module_in_a_unet_sees_whole_frames(ours):
    case = replace(NAMED["sd15"])
    block = case.model.model.diffusion_model.input_blocks[1]
    without = sample(case, ours(case.model), batch=3, steps=1)
    motion = MotionModule(32)
    fill(motion)
    block.append(motion)
    model = ours(case.model)
    assert not torch.equal(sample(case, model, batch=3, steps=1), without)
    assert {shape[1:] for shape in motion.seen} == {torch.Size((32, 12, 20))}
    assert "3 of 7 self-attention layers compressed" in report(model)


@covered_case
def test_auto_has_a_rule_for_every_family(case):
    for strength in STRENGTHS:
        assert compression_state(preset(case.model, strength)).compression.rules
