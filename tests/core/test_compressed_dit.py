"""Compression of the transformer's self-attention."""

import pytest
import torch

from benchmarks.dit_runner import scaled_dot_product_attention
from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.rules import Rule
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import projections_shortened
from bigain_core.methods import (
    KeyMerging,
    KeyPairs,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Sharing,
    TokenMerging,
)
from bigain_core.models.compressed_dit import attention_layers, replacements
from bigain_core.placement import LayerId, Placement, named_placement
from bigain_core.schedules import AlphaSchedule
from bigain_core.tokens.centred_keys import keys_with_values
from bigain_core.tokens.grid import TokenGrid, patch_grid
from tests.core.calls import MIDDLE, network_call

MERGING, POOLING = TokenMerging(0.5), KVDownsampling(2, AlphaSchedule(0.9, 0.9))
GRID = TokenGrid(4, 4)


@pytest.fixture(scope="module")
def model(make_dit):
    return make_dit()


@pytest.fixture(scope="module")
def inputs(randn):
    return randn(2, 4, 8, 8), torch.tensor([500, 500]), torch.tensor([1, 4])


def compressed(model, inputs, *rules, log=None):
    call = network_call(*rules, log=log, layer_flops=projections_shortened)
    with replaced_forwards(replacements(model, inputs[0], call)):
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


def check_against(model, inputs, method, forward, number=1):
    """A method in block `number` is that attention, and matters."""
    expected = with_attention(model, inputs, number, forward)
    out = compressed(model, inputs, Rule(method, Placement(layers=(number,))))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(out, model(*inputs), atol=1e-3)


def test_sites_are_the_blocks_in_order(model):
    found = attention_layers(model)
    assert [layer_id for layer_id, _ in found] == [LayerId(n, "transformer") for n in range(3)]
    assert all(layer is model.blocks[n].attn for n, (_, layer) in enumerate(found))


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(8, 8, (4, 4)), (7, 12, (4, 6)), (1, 3, (1, 2))]
)
def test_the_token_grid_counts_padded_patches(height, width, grid):
    assert patch_grid((height, width), 2) == TokenGrid(*grid)


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.2])
def test_pooling_after_the_projection_equals_pooling_before(model, inputs, alpha):
    method = KVDownsampling(2, AlphaSchedule(alpha, alpha))

    def pooled_first(layer, x):
        image = x.unflatten(1, (2, 2, 2, 2))  # (B, h, window, w, window, C)
        context = alpha * image[:, :, 1, :, 1] + (1 - alpha) * image.mean((2, 4))
        return attend(layer, x, context.flatten(1, 2))

    check_against(model, inputs, method, pooled_first)


def test_merging_reduces_queries_keys_and_values_and_copies_outputs(model, inputs):
    def merged(layer, x):
        plan = MERGING.plan(x, GRID, MIDDLE, 2)
        out = torch.empty_like(x)
        for sample in range(len(x)):
            target = plan.target[sample]
            kept = target.unique()
            means = torch.stack([x[sample, target == token].mean(0) for token in kept])
            y = attend(layer, means[None], means[None])[0]
            out[sample] = y[torch.searchsorted(kept, target)]
        return out

    check_against(model, inputs, MERGING, merged, number=2)


@pytest.mark.parametrize(
    "rules",
    [
        (),
        (Rule(TokenMerging(0.0)),),
        (Rule(KVDownsampling(1)),),
        (Rule(KeyPairs(0.0)),),
        (Rule(MERGING, named_placement("encoder")),),
        (Rule(TokenMerging(0.05)),),  # less than one of 16 tokens
    ],
)
def test_what_compresses_nothing_is_bit_identical_to_the_plain_model(model, inputs, rules):
    assert torch.equal(compressed(model, inputs, *rules), model(*inputs))


def test_proportional_merging_adds_the_log_of_sizes_to_the_logits(model, inputs):
    method = TokenMerging(0.6, proportional=True)

    def merged(layer, x):
        plan = method.plan(x, GRID, MIDDLE, 1)
        out = torch.empty_like(x)
        for sample in range(len(x)):
            kept, place, sizes = plan.target[sample].unique(return_inverse=True, return_counts=True)
            means = torch.stack([x[sample, place == group].mean(0) for group in range(len(kept))])
            q, k, v = layer.qkv(means).unflatten(-1, (3, layer.num_heads, -1)).permute(1, 2, 0, 3)
            logits = q @ k.mT / q.shape[-1] ** 0.5 + sizes.log()
            y = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
            out[sample] = layer.proj(y)[place]
        return out

    check_against(model, inputs, method, merged)


def test_merged_keys_weigh_as_much_as_their_tokens(model, inputs):
    method = KeyMerging(0.6)

    def merged(layer, x):
        _, k, v = layer.qkv(x).chunk(3, dim=-1)
        plan = method.plan(keys_with_values(k, v), GRID, MIDDLE, 1)
        out = torch.empty_like(x)
        for sample in range(len(x)):
            kept, place, sizes = plan.target[sample].unique(return_inverse=True, return_counts=True)
            means = torch.stack([x[sample, place == group].mean(0) for group in range(len(kept))])
            q, _, _ = (
                layer.qkv(x[sample]).unflatten(-1, (3, layer.num_heads, -1)).permute(1, 2, 0, 3)
            )
            _, k, v = layer.qkv(means).unflatten(-1, (3, layer.num_heads, -1)).permute(1, 2, 0, 3)
            logits = q @ k.mT / q.shape[-1] ** 0.5 + sizes.log()
            out[sample] = layer.proj((logits.softmax(-1) @ v).transpose(0, 1).flatten(1))
        return out

    check_against(model, inputs, method, merged)


def test_keys_are_centred_on_what_attends_to_them(model, inputs):
    """In place of pairs, as queries are at hand."""

    def centred(layer, x):
        q, k, v = layer.qkv(x).chunk(3, dim=-1)
        plan = KeyPairs(0.7, centred=True).plan(keys_with_values(k, v), GRID, MIDDLE, 1)
        k, v, mask = plan.attended(q, k, v, layer.num_heads)
        return layer.proj(scaled_dot_product_attention(q, k, v, layer.num_heads, mask))

    check_against(model, inputs, KeyPairs(0.7), centred)


@pytest.mark.parametrize("method", [KVSelection("high", 0.5), KVCellSelection("low", 2, 0.5)])
def test_chosen_keys_and_values_may_be_chosen_before_the_projection(model, inputs, method):
    def chosen_first(layer, x):
        return attend(layer, x, method.plan(x, GRID, MIDDLE, 1).context(x))

    check_against(model, inputs, method, chosen_first)


@pytest.mark.parametrize("method", [MERGING, POOLING])
@pytest.mark.parametrize(("height", "width"), [(7, 9), (4, 12), (16, 10)])
def test_any_size_is_compressed(model, randn, method, height, width):
    inputs = randn(1, 4, height, width), torch.tensor([500]), torch.tensor([1])
    log = RunLog()
    assert compressed(model, inputs, Rule(method), log=log).shape == inputs[0].shape
    assert log.layers_compressed == 3 and not log.skipped


@pytest.mark.parametrize(
    "method",
    [MERGING, POOLING, TokenMerging(0.5, sharing=Sharing("network"), proportional=True)],
    ids=lambda method: method.name,
)
def test_a_sample_is_compressed_as_if_alone_and_the_same_every_time(model, inputs, method):
    together = compressed(model, inputs, Rule(method))
    assert torch.equal(together, compressed(model, inputs, Rule(method)))
    for k in range(2):
        alone = compressed(model, [t[k : k + 1] for t in inputs], Rule(method))
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-5, rtol=1e-5)


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
