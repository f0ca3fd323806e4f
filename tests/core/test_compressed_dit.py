"""Compression of the transformer's self-attention."""

import pytest
import torch

from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.network_call import NetworkCall
from bigain_core.compression.rules import Compression, Rule
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import projections_shortened, self_attention_flops
from bigain_core.methods import (
    BlockMerging,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
from bigain_core.models.compressed_dit import attention_layers, replacements, token_grid
from bigain_core.models.dit import scaled_dot_product_attention
from bigain_core.placement import LayerId, Placement, named_placement
from bigain_core.schedules import AlphaSchedule, DenoisingProgress
from bigain_core.tokens.grid import TokenGrid

MERGING, POOLING = TokenMerging(0.5), KVDownsampling(2, AlphaSchedule(0.9, 0.9))
GRID = TokenGrid(4, 4)


@pytest.fixture(scope="module")
def model(make_dit):
    return make_dit()


@pytest.fixture(scope="module")
def inputs(randn):
    return randn(2, 4, 8, 8), torch.tensor([500, 500]), torch.tensor([1, 4])


def compressed(model, inputs, *rules, log=None):
    call = NetworkCall(
        Compression(rules), DenoisingProgress(0.5), log or RunLog(), projections_shortened
    )
    grid = token_grid(model.config, *inputs[0].shape[-2:])
    with replaced_forwards(replacements(model, grid, call)):
        return model(*inputs)


def with_attention(model, inputs, number, forward):
    """The model with the attention of block `number` computed by forward(layer, x)."""
    layer = model.blocks[number].attn
    with replaced_forwards([(layer, lambda x, attention: forward(layer, x))]):
        return model(*inputs)


def attend(layer, queries, context):
    """Attention of the layer whose keys and values are projected from `context`."""
    width = layer.proj.weight.shape[0]
    weight, bias = layer.qkv.weight.split(width), layer.qkv.bias.split(width)
    q = queries @ weight[0].T + bias[0]
    k, v = (context @ weight[i].T + bias[i] for i in (1, 2))
    return layer.proj(scaled_dot_product_attention(q, k, v, layer.num_heads))


def only(number):
    return Placement(numbers=(number,))


def test_sites_are_the_blocks_in_order(model):
    found = attention_layers(model)
    assert [layer_id for layer_id, _ in found] == [LayerId(n, "transformer") for n in range(3)]
    assert all(layer is model.blocks[n].attn for n, (_, layer) in enumerate(found))


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(8, 8, (4, 4)), (7, 12, (4, 6)), (1, 3, (1, 2))]
)
def test_the_token_grid_counts_padded_patches(model, height, width, grid):
    assert token_grid(model.config, height, width) == TokenGrid(*grid)


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.2])
def test_pooling_after_the_projection_equals_pooling_before(model, inputs, alpha):
    method = KVDownsampling(2, AlphaSchedule(alpha, alpha))

    def pooled_first(layer, x):
        image = x.unflatten(1, (2, 2, 2, 2))  # (B, h, window, w, window, C)
        context = alpha * image[:, :, 1, :, 1] + (1 - alpha) * image.mean((2, 4))
        return attend(layer, x, context.flatten(1, 2))

    expected = with_attention(model, inputs, 1, pooled_first)
    out = compressed(model, inputs, Rule(method, only(1)))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(out, model(*inputs), atol=1e-3)


def test_merging_reduces_queries_keys_and_values_and_copies_outputs(model, inputs):
    def merged(layer, x):
        plan = MERGING.plan(x, GRID, DenoisingProgress(0.5), 2)
        out = torch.empty_like(x)
        for sample in range(len(x)):
            target = plan.target[sample]
            kept = target.unique()
            means = torch.stack([x[sample, target == token].mean(0) for token in kept])
            y = attend(layer, means[None], means[None])[0]
            out[sample] = y[torch.searchsorted(kept, target)]
        return out

    expected = with_attention(model, inputs, 2, merged)
    out = compressed(model, inputs, Rule(MERGING, only(2)))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(out, model(*inputs), atol=1e-3)


@pytest.mark.parametrize(
    "rules",
    [
        (),
        (Rule(TokenMerging(0.0)),),
        (Rule(KVDownsampling(1)),),
        (Rule(MERGING, named_placement("encoder")),),
        (Rule(TokenMerging(0.05)),),  # less than one of 16 tokens
    ],
)
def test_what_compresses_nothing_is_bit_identical_to_the_plain_model(model, inputs, rules):
    assert torch.equal(compressed(model, inputs, *rules), model(*inputs))


@pytest.mark.parametrize("method", [MERGING, POOLING])
def test_a_model_of_constant_tokens_loses_nothing(make_dit, inputs, method):
    """Equal tokens give equal keys, so neither merging nor pooling changes attention."""
    model = make_dit()
    model.pos_embed.fill_(0.3)
    flat = torch.full_like(inputs[0], 0.7), *inputs[1:]
    out = compressed(model, flat, Rule(method))
    torch.testing.assert_close(out, model(*flat), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [BlockMerging, TokenMerging])
def test_proportional_merging_of_equal_tokens_loses_nothing(make_dit, randn, method):
    """Latents of four equal patches per cell, of which only some merge: groups of 1 to 4 tokens."""
    model = make_dit()
    model.pos_embed.zero_()
    patches = randn(2, 4, 2, 2).repeat(1, 1, 4, 4)  # the same patch everywhere
    cells = randn(2, 4, 2, 2, seed=1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    inputs = patches * cells, torch.tensor([500, 500]), torch.tensor([1, 4])
    plain = model(*inputs)
    exact, coarse = (
        compressed(model, inputs, Rule(method(0.4, proportional=proportional)))
        for proportional in (True, False)
    )
    torch.testing.assert_close(exact, plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(coarse, plain, atol=1e-3)


def test_proportional_merging_adds_the_log_of_sizes_to_the_logits(model, inputs):
    method = TokenMerging(0.6, proportional=True)

    def merged(layer, x):
        plan = method.plan(x, GRID, DenoisingProgress(0.5), 1)
        out = torch.empty_like(x)
        for sample in range(len(x)):
            kept, place, sizes = plan.target[sample].unique(return_inverse=True, return_counts=True)
            means = torch.stack([x[sample, place == group].mean(0) for group in range(len(kept))])
            q, k, v = layer.qkv(means).unflatten(-1, (3, layer.num_heads, -1)).permute(1, 2, 0, 3)
            logits = q @ k.mT / q.shape[-1] ** 0.5 + sizes.log()
            y = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
            out[sample] = layer.proj(y)[place]
        return out

    expected = with_attention(model, inputs, 1, merged)
    out = compressed(model, inputs, Rule(method, only(1)))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [KVSelection("high", 0.5), KVCellSelection("low", 2, 0.5)])
def test_chosen_keys_and_values_may_be_chosen_before_the_projection(model, inputs, method):
    def chosen_first(layer, x):
        return attend(layer, x, method.plan(x, GRID, DenoisingProgress(0.5), 1).context(x))

    expected = with_attention(model, inputs, 1, chosen_first)
    out = compressed(model, inputs, Rule(method, only(1)))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(out, model(*inputs), atol=1e-3)


@pytest.mark.parametrize(("interval", "deciding"), [(1, [1, 2, 4, 5]), (2, [1, 4]), (5, [1])])
def test_blocks_share_an_assignment_for_an_interval(make_dit, inputs, interval, deciding):
    """By hand, blocks 1, 2, 4 and 5 carry out the plan of the last of them that decided."""
    model, blocks, plans = make_dit(depth=6), (1, 2, 4, 5), []

    def merged(block, original):
        def forward(x, attention):
            if block in deciding:
                plans.append(MERGING.plan(x, GRID, DenoisingProgress(0.5), block))
            return plans[-1].restore(original(plans[-1].queries(x), attention))

        return forward

    layers = {block: model.blocks[block].attn for block in blocks}
    by_hand = [(layer, merged(block, layer.forward)) for block, layer in layers.items()]
    with replaced_forwards(by_hand):
        expected = model(*inputs)
    log = RunLog()
    method = TokenMerging(0.5, sharing=Sharing("interval", interval))
    out = compressed(model, inputs, Rule(method, Placement(numbers=blocks)), log=log)
    assert torch.equal(out, expected)
    layer_alone = self_attention_flops(128, 8, 8, 8)
    spent = {layer_id.number: record.flops_after for layer_id, record in log.layers.items()}
    assert [block for block in blocks if spent[block] > layer_alone] == deciding


@pytest.mark.parametrize("method", [MERGING, POOLING])
@pytest.mark.parametrize(("height", "width"), [(7, 9), (4, 12), (16, 10)])
def test_any_size_is_compressed(model, randn, method, height, width):
    inputs = randn(1, 4, height, width), torch.tensor([500]), torch.tensor([1])
    log = RunLog()
    assert compressed(model, inputs, Rule(method), log=log).shape == inputs[0].shape
    assert log.layers_compressed == 3 and not log.skipped


@pytest.mark.parametrize(
    "method",
    [
        MERGING,
        POOLING,
        TokenMerging(0.5, "random"),
        TokenMerging(0.5, sharing=Sharing("network"), proportional=True),
        BlockMerging(0.5),
        SimilarityPruning(0.5),
        KVSelection(),
        KVCellSelection(),
    ],
    ids=lambda method: method.name,
)
def test_a_sample_is_compressed_as_if_alone_and_the_same_every_time(model, inputs, method):
    together = compressed(model, inputs, Rule(method))
    assert torch.equal(together, compressed(model, inputs, Rule(method)))
    for k in range(2):
        alone = compressed(model, [t[k : k + 1] for t in inputs], Rule(method))
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-5, rtol=1e-5)


def test_the_model_is_restored(model, inputs):
    before, keys = model(*inputs), list(model.state_dict())
    compressed(model, inputs, Rule(MERGING))
    with pytest.raises(IndexError):
        compressed(model, (*inputs[:2], torch.tensor([99, 99])), Rule(MERGING))
    assert torch.equal(model(*inputs), before)
    assert list(model.state_dict()) == keys
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_forward_of_someone_else_is_compressed_and_kept(make_dit, inputs):
    model = make_dit()
    layer, calls = model.blocks[0].attn, []
    original = layer.forward

    def foreign(x, *args, **kwargs):
        calls.append(x.shape[1])
        return original(x, *args, **kwargs)

    layer.forward = foreign
    compressed(model, inputs, Rule(MERGING))
    assert calls == [8]
    assert layer.__dict__["forward"] is foreign
