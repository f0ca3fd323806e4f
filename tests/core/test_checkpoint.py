"""Reading checkpoints: shapes, formats, class names and labels."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.dit_runner import load_dit
from bigain_core.models.checkpoint import class_indices, read_checkpoint
from bigain_core.models.dit import DiT, DiTConfig

NAMES = ("disc", "square", "ring", "3", "plain cross")


def xl_2_shapes(tokens):
    """Keys and shapes of the published DiT-XL/2 file."""
    shapes = {
        "pos_embed": (1, tokens, 1152),
        "x_embedder.proj.weight": (1152, 4, 2, 2),
        "x_embedder.proj.bias": (1152,),
        "t_embedder.mlp.0.weight": (1152, 256),
        "t_embedder.mlp.0.bias": (1152,),
        "t_embedder.mlp.2.weight": (1152, 1152),
        "t_embedder.mlp.2.bias": (1152,),
        "y_embedder.embedding_table.weight": (1001, 1152),
        "final_layer.linear.weight": (32, 1152),
        "final_layer.linear.bias": (32,),
        "final_layer.adaLN_modulation.1.weight": (2304, 1152),
        "final_layer.adaLN_modulation.1.bias": (2304,),
    }
    layers = {
        "attn.qkv": (3456, 1152),
        "attn.proj": (1152, 1152),
        "mlp.fc1": (4608, 1152),
        "mlp.fc2": (1152, 4608),
        "adaLN_modulation.1": (6912, 1152),
    }
    for block in range(28):
        for name, shape in layers.items():
            shapes[f"blocks.{block}.{name}.weight"] = shape
            shapes[f"blocks.{block}.{name}.bias"] = shape[:1]
    return shapes


@pytest.fixture
def saved(make_dit, tmp_path):
    """Save a tiny model under a file name, wrapped and with metadata if asked to."""

    def save(name="model.safetensors", wrap=None, metadata=None, **changes):
        state, path = make_dit(**changes).state_dict(), tmp_path / name
        if path.suffix == ".safetensors":
            save_file(state, path, metadata=metadata)
        else:
            torch.save({wrap: state, "steps": 7} if wrap else state, path)
        return path

    return save


@pytest.mark.parametrize(("tokens", "input_size"), [(256, 32), (1024, 64)])
def test_the_published_xl_2_layout_is_recognised_and_fits(tokens, input_size):
    shapes = xl_2_shapes(tokens)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    config = DiTConfig.from_state_dict(state)
    assert config == DiTConfig(input_size, 2, 4, 1152, 28, 16, 1000, learn_sigma=True)
    model = DiT(config, device="meta")
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == shapes


@pytest.mark.parametrize(
    "config",
    [
        DiTConfig(32, 8, 4, 384, 12, 6, 1000, learn_sigma=True),  # DiT-S/8
        DiTConfig(32, 4, 4, 768, 12, 12, 1000, learn_sigma=True),  # DiT-B/4
        DiTConfig(64, 2, 4, 1024, 24, 16, 10, learn_sigma=False),  # DiT-L/2
        DiTConfig(32, 2, 3, 128, 6, 2, 40, learn_sigma=False),
        DiTConfig(16, 2, 3, 32, 1, 1, 1, learn_sigma=False),
    ],
)
def test_the_shape_of_a_model_is_inferred_from_its_weights(config):
    assert DiTConfig.from_state_dict(DiT(config, device="meta").state_dict()) == config


@pytest.mark.parametrize("key", ["pos_embed", "y_embedder.embedding_table.weight"])
def test_a_state_that_lacks_a_key_is_refused_by_that_key(make_dit, key):
    state = make_dit().state_dict()
    del state[key]
    with pytest.raises(ValueError, match=f"expected a class-conditional DiT.*{key}.*is missing"):
        DiTConfig.from_state_dict(state)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [("a.safetensors", None), ("a.pt", None), ("a.pt", "ema"), ("a.ckpt", "model")],
)
def test_every_format_gives_the_same_model(make_dit, saved, randn, name, wrap):
    checkpoint = read_checkpoint(saved(name, wrap))
    assert checkpoint.class_names == ()
    original, model = make_dit(), load_dit(checkpoint)
    assert model.config == original.config
    assert not model.training
    arguments = randn(1, 4, 8, 8), torch.tensor([10]), torch.tensor([1])
    assert torch.equal(model(*arguments), original(*arguments))


def test_averaged_weights_are_preferred(make_dit, tmp_path):
    ema, model = make_dit(seed=1).state_dict(), make_dit(seed=2).state_dict()
    torch.save({"model": model, "ema": ema, "opt": {"lr": 1e-4}}, tmp_path / "run.pt")
    state = read_checkpoint(tmp_path / "run.pt").state
    assert torch.equal(state["pos_embed"], ema["pos_embed"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_is_loaded_in_the_dtype_asked_for(saved, dtype):
    model = load_dit(read_checkpoint(saved()), dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_code_in_a_pickled_file_is_refused_and_not_run(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "evil.pt"

    class Evil:
        def __reduce__(self):
            return Path.touch, (trap,)

    torch.save({"ema": Evil()}, path)
    with pytest.raises(ValueError, match="evil.pt, which cannot be read") as refused:
        read_checkpoint(path)
    assert isinstance(refused.value.__cause__, pickle.UnpicklingError)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()  # the trap works where it is let loose


def test_class_names_are_the_lines_of_the_metadata(saved):
    path = saved(metadata={"class_names": "\n".join(NAMES)})
    assert read_checkpoint(path).class_names == NAMES


def test_a_wrong_number_of_class_names_is_refused(saved):
    path = saved("short.safetensors", metadata={"class_names": "disc\nring"})
    with pytest.raises(ValueError, match="expected 5 class names in .*short.safetensors.*got 2"):
        read_checkpoint(path)


@pytest.mark.parametrize(("metadata", "expected"), [({}, "eps"), ({"predicts": "v"}, "v")])
def test_what_is_predicted_stands_in_the_metadata(saved, metadata, expected):
    assert read_checkpoint(saved(metadata=metadata)).config.predicts == expected


def test_an_unknown_prediction_is_refused(saved):
    path = saved("flow.safetensors", metadata={"predicts": "flow"})
    with pytest.raises(ValueError, match="one of eps, v, got 'flow' in .*flow.safetensors"):
        read_checkpoint(path)


def test_another_kind_of_model_is_refused(tmp_path):
    path = tmp_path / "unet.safetensors"
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="expected a class-conditional DiT.*starts with.*out.0"):
        read_checkpoint(path)


QKV = torch.zeros(384, 128)
BLOCK_1 = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
BROKEN = {  # message: weights that are others, or missing
    r"'blocks.1.mlp.fc1.weight' is missing\. Download": {"blocks.1.mlp.fc1.weight": None},
    r"'blocks.1.attn.qkv.weight' is missing and 19 more faults": {
        f"blocks.1.{layer}.{part}": None for layer in BLOCK_1 for part in ("weight", "bias")
    },
    r"'blocks.3.attn.qkv.weight' is missing and 10 more faults": {
        "blocks.999999999.attn.qkv.weight": QKV
    },
    r"of a DiT of 4 blocks .* 'blocks.3.attn.qkv.weight' is missing": {
        "blocks.x.attn.qkv.weight": QKV
    },
    r"'blocks.0.attn.q_norm.weight' belongs to another kind of network": {
        "blocks.0.attn.q_norm.weight": torch.ones(64)
    },
    r"'blocks.0.mlp.fc2.bias' has shape \(64,\) instead of \(128,\)": {
        "blocks.0.mlp.fc2.bias": torch.zeros(64)
    },
    r"'pos_embed' has shape \(1, 17, 128\) instead of \(1, 16, 128\)": {
        "pos_embed": torch.zeros(1, 17, 128)  # no square
    },
    r"'x_embedder.proj.weight' has 2 dimensions instead of 4": {
        "x_embedder.proj.weight": torch.zeros(128, 16)
    },
    r"'final_layer.linear.bias' holds torch.int8 instead of floating-point numbers": {
        "final_layer.linear.bias": torch.zeros(16, dtype=torch.int8)
    },
    r"'blocks.2.attn.proj.bias' holds NaN or infinity": {
        "blocks.2.attn.proj.bias": torch.full((128,), torch.nan)
    },
}


@pytest.mark.parametrize("message", BROKEN)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_faulty_file_is_refused_before_a_network_is_built(make_dit, tmp_path, message, suffix):
    state, path = make_dit().state_dict() | BROKEN[message], tmp_path / f"model{suffix}"
    state = {key: weight for key, weight in state.items() if weight is not None}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


CUTS = [lambda content, kept=kept: content[:kept] for kept in (0, 7, 100, -1)]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.ckpt"])
@pytest.mark.parametrize("spoil", [*CUTS, lambda content: b"<!DOCTYPE html><html>404</html>"])
def test_a_file_that_was_cut_off_or_of_another_kind_is_refused_by_its_name(saved, name, spoil):
    path = saved(name)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"got {name}, which cannot be read .* Download it again"):
        read_checkpoint(path)


def test_a_width_that_heads_do_not_divide_is_refused():
    state = DiT(DiTConfig(8, 2, 4, 200, 1, 1, 5, learn_sigma=False), device="meta").state_dict()
    with pytest.raises(ValueError, match="width is a multiple of 64.*got width 200"):
        DiTConfig.from_state_dict(state)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"ema": [1]}, {1: torch.zeros(3)}])
def test_a_pickled_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected a (DiT|class-conditional DiT) checkpoint"):
        read_checkpoint(tmp_path / "other.pt")


@pytest.fixture
def config(make_dit):
    return make_dit().config


def test_labels_are_names_or_numbers(config):
    assert class_indices(["ring", " 0", "plain cross ", "4"], config, NAMES) == [2, 0, 4, 4]
    assert class_indices(["4", "0"], config, ()) == [4, 0]


def test_a_name_wins_over_a_number(config):
    assert class_indices(["3", "2"], config, NAMES) == [3, 2]
    assert class_indices(["3"], config, ("3", *NAMES[1:])) == [0]


@pytest.mark.parametrize("label", ["5", "-1", "1.5", "cat", "", "Ring"])
def test_a_label_that_the_model_does_not_have_is_refused(config, label):
    with pytest.raises(ValueError, match="class number from 0 to 4 or a name such as disc, square"):
        class_indices(["0", label], config, NAMES)
    with pytest.raises(ValueError, match=rf"carries no names\), got '{label}'"):
        class_indices([label], config, ())
