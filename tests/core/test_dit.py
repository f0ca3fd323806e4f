"""The transformer against an independent one written from its publication."""

import math

import pytest
import torch
from torch.nn import functional

from benchmarks.dit_runner import PlainDiT, scaled_dot_product_attention
from bigain_core.models.dit import DiTConfig, timestep_embedding
from tests.core.calls import counted

XL_2 = DiTConfig(32, 2, 4, 1152, 28, 16, 1000, learn_sigma=True)


def embed_timestep(timestep):
    """128 frequencies from 1 down to almost 1 / 10000: all cosines, then all sines."""
    angles = [timestep * 10000 ** (-i / 128) for i in range(128)]
    values = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    return torch.tensor(values, dtype=torch.float64)


def normalise(x):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-6).sqrt()


def silu(x):
    return x / (1 + (-x).exp())


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(q, k, v, heads):
    """One head after the other: q (N, C), k and v (M, C) -> (N, C)."""
    size = q.shape[1] // heads
    parts = []
    for part in (slice(h * size, (h + 1) * size) for h in range(heads)):
        weights = (q[:, part] @ k[:, part].T / math.sqrt(size)).exp()
        parts.append(weights / weights.sum(1, keepdim=True) @ v[:, part])
    return torch.cat(parts, dim=1)


def published_dit(state, config, image, timestep, label, positions):
    """One image (C, H, W) whose sides the patch divides, in double precision."""
    state = {key: value.double() for key, value in state.items()}

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    size, patch = config.hidden_size, config.patch_size
    height, width = image.shape[1] // patch, image.shape[2] // patch
    kernel, bias = state["x_embedder.proj.weight"].flatten(1), state["x_embedder.proj.bias"]
    tokens = []
    for row in range(0, image.shape[1], patch):
        for column in range(0, image.shape[2], patch):
            piece = image[:, row : row + patch, column : column + patch].double().flatten()
            tokens.append(kernel @ piece + bias)
    x = torch.stack(tokens) + positions.double()  # (N, C)

    condition = linear(embed_timestep(timestep), "t_embedder.mlp.0")
    condition = linear(silu(condition), "t_embedder.mlp.2")
    condition = silu(condition + state["y_embedder.embedding_table.weight"][label])
    for block in (f"blocks.{number}" for number in range(config.depth)):
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(
            condition, f"{block}.adaLN_modulation.1"
        ).split(size)
        qkv = linear(normalise(x) * (1 + scale1) + shift1, f"{block}.attn.qkv")
        mixed = attend(*qkv.split(size, dim=1), config.num_heads)
        x = x + gate1 * linear(mixed, f"{block}.attn.proj")
        inner = gelu(linear(normalise(x) * (1 + scale2) + shift2, f"{block}.mlp.fc1"))
        x = x + gate2 * linear(inner, f"{block}.mlp.fc2")
    shift, scale = linear(condition, "final_layer.adaLN_modulation.1").split(size)
    x = linear(normalise(x) * (1 + scale) + shift, "final_layer.linear")

    out = torch.empty(x.shape[1] // patch**2, height * patch, width * patch, dtype=torch.float64)
    for n, token in enumerate(x):
        for dy in range(patch):
            for dx in range(patch):
                place = n // width * patch + dy, n % width * patch + dx
                start = (dy * patch + dx) * len(out)
                out[:, place[0], place[1]] = token[start : start + len(out)]
    return out[: config.in_channels]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_size": 4, "num_heads": 4},
        {"learn_sigma": True, "in_channels": 3},
        {"hidden_size": 64, "num_heads": 1, "depth": 1},
    ],
)
def test_noise_equals_the_published_architecture(make_dit, randn, changes):
    model = make_dit(**changes)
    x = randn(3, model.config.in_channels, 8, 8)
    timesteps, labels = torch.tensor([0, 500, 999]), torch.tensor([0, 2, 5])
    noise = model(x, timesteps, labels)
    assert noise.shape == x.shape  # a learned variance is dropped
    for k in range(3):
        expected = published_dit(
            model.state_dict(),
            model.config,
            x[k],
            timesteps[k].item(),
            labels[k],
            model.pos_embed[0],
        )
        torch.testing.assert_close(noise[k].double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(12, 8), (4, 10), (16, 16)])
def test_other_sizes_resize_the_position_table_bicubically(make_dit, randn, height, width):
    model, x = make_dit(), randn(1, 4, height, width)
    h, w = height // 2, width // 2
    table = model.pos_embed.view(1, 4, 4, 128).permute(0, 3, 1, 2)
    table = functional.interpolate(table, (h, w), mode="bicubic", align_corners=False)
    positions = table[0].permute(1, 2, 0).reshape(h * w, 128)
    noise = model(x, torch.tensor([300]), torch.tensor([1]))
    expected = published_dit(model.state_dict(), model.config, x[0], 300, 1, positions)
    torch.testing.assert_close(noise[0].double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(7, 8), (9, 5), (1, 1)])
def test_odd_sizes_are_padded_by_repetition_and_cropped(make_dit, randn, height, width):
    model, x = make_dit(), randn(1, 4, height, width)
    rows = [min(row, height - 1) for row in range(height + height % 2)]
    columns = [min(column, width - 1) for column in range(width + width % 2)]
    arguments = torch.tensor([300]), torch.tensor([1])
    noise = model(x, *arguments)
    assert noise.shape == x.shape
    padded = model(x[:, :, rows][:, :, :, columns], *arguments)
    assert torch.equal(noise, padded[:, :, :height, :width])


def test_any_attention_function_can_be_given(make_dit, randn):
    model, heads_seen = make_dit(), []
    arguments = randn(2, 4, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 1])

    def attention(q, k, v, heads):
        heads_seen.append(heads)
        return torch.stack([attend(*qkv, heads) for qkv in zip(q, k, v, strict=True)])

    noise = model(*arguments, attention)
    torch.testing.assert_close(noise, model(*arguments), atol=1e-4, rtol=1e-4)
    assert heads_seen == [2, 2, 2]


def test_attention_with_fewer_keys_equals_a_loop_over_heads(randn):
    q, k, v = randn(2, 6, 12), randn(2, 4, 12, seed=1), randn(2, 4, 12, seed=2)
    out = scaled_dot_product_attention(q, k, v, heads=3)
    expected = torch.stack([attend(*qkv, heads=3) for qkv in zip(q, k, v, strict=True)])
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("timestep", [0, 1, 37.5, 999])
def test_timestep_embedding_equals_the_formula(timestep):
    embedded = timestep_embedding(torch.tensor([timestep]))
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded[0].double(), embed_timestep(timestep), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_and_stays_close(make_dit, randn, dtype):
    model = make_dit()
    x, timesteps, labels = randn(1, 4, 8, 8), torch.tensor([300]), torch.tensor([1])
    exact = model(x, timesteps, labels)
    noise = model.to(dtype)(x.to(dtype), timesteps, labels)
    assert noise.dtype == dtype
    error = (noise.float() - exact).norm() / exact.norm()
    assert error < 32 * torch.finfo(dtype).eps


def test_xl_2_has_the_published_size_and_cost():
    model = PlainDiT(XL_2, device="meta")
    assert sum(p.numel() for p in model.parameters()) == 675_129_632
    x = torch.empty(1, 4, 32, 32, device="meta")
    index = torch.zeros(1, dtype=torch.long, device="meta")
    multiply_adds = counted(lambda: model(x, index, index)) / 2
    assert multiply_adds == pytest.approx(118.64e9, rel=1e-3)  # published: 118.64 Gflops
