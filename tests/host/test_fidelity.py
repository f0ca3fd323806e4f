"""The yardstick on a few images, in this process."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.data import CLASS_NAMES
from benchmarks.fidelity import photos, work
from benchmarks.fidelity import settings as compared_methods
from benchmarks.fidelity.__main__ import main
from benchmarks.fidelity.layers import FirstLayer, MadeLayer
from benchmarks.fidelity.measuring import compressed, predictions, result_files
from benchmarks.fidelity.settings import METHODS
from benchmarks.paper.data import small_contest
from benchmarks.paper.models import LOADERS, UNGUIDED, Files
from bigain_core.comfyui.patching.unet import attention_layers
from bigain_core.methods import TokenMerging

FEW = ("IE-KVD 2", "key merging 2")


def measure(whole):
    for part in whole.parts:
        whole.measure(part)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("fidelity")


def of_three(label):
    """A contest of the label and two others of its contest."""
    contest = small_contest(label)
    others = [name for name in contest.labels if name != label]
    return replace(contest, labels=(label, *others[:2]))


@pytest.fixture
def few(monkeypatch, out):
    """Two methods of the table and one that changes nothing; few labels, timesteps and steps."""
    methods = {name: METHODS[name] for name in FEW}
    measured = methods | {"off": TokenMerging(0.0)}
    monkeypatch.setattr(compared_methods, "METHODS", measured)
    monkeypatch.setattr("benchmarks.fidelity.page.METHODS", methods)
    for module in ("measuring", "page"):
        monkeypatch.setattr(f"benchmarks.fidelity.{module}.TIMESTEPS", (100, 600))
    monkeypatch.setattr("benchmarks.paper.data.small_contest", of_three)
    small = MadeLayer(8, 0.1, width=32, heads=2, rotary=True)
    layers = {"small-unet": {"one": FirstLayer(16)}, "small-dit": {"one": small}, "bundled-dit": {}}
    monkeypatch.setattr(work, "LAYERS", layers)
    fewer = replace(UNGUIDED, timesteps=UNGUIDED.timesteps[::10])
    monkeypatch.setattr("benchmarks.paper.models.UNGUIDED", fewer)
    return lambda model, images=2: work.Work(model, None, out, images, 2, 1)


def records(work, kind):
    return {
        path.stem: [json.loads(line) for line in path.read_text("ascii").splitlines()[1:]]
        for path in (work.folder / kind).glob("*.jsonl")
    }


@pytest.mark.parametrize("model", ["small-dit", "small-unet"])
def test_a_tiny_run_goes_on_and_is_reported(few, model, monkeypatch, capsys):
    first, both = few(model, 1), few(model)
    measure(first)
    before = {path: path.read_text("ascii") for path in first.folder.rglob("*.jsonl")}
    measure(both)
    for path, text in before.items():
        assert path.read_text("ascii").startswith(text), "what is finished is not done again"
    predictions, generation = records(both, "predictions"), records(both, "generation")
    assert len(predictions) == len(generation) == 3
    assert all(len(rows) == 2 for rows in [*predictions.values(), *generation.values()])
    for row in predictions["off-seed-0"]:
        assert not any(row["error"]) and row["same"] and row["ranks"] == pytest.approx(1)
    for row in generation["off-seed-0"]:
        assert row["square"] == 0
    pooled, keys = (
        torch.tensor([r["error"] for r in predictions[f"{name}-seed-0"]]).sum()
        for name in ("ie-kvd-2", "key-merging-2")
    )
    assert 0 < keys < pooled
    main(["--report", "--models", model, "--out", str(both.out)])
    text = capsys.readouterr().out
    assert "2 images, 2 generated" in text and text.count("| key merging 2") == 2
    assert (both.folder / "curves.png").exists()


def test_the_bundled_model_predicts_its_own_drawings_and_photographs(few, monkeypatch):
    for module in ("measuring", "photos"):
        monkeypatch.setattr(f"benchmarks.fidelity.{module}.TIMESTEPS", (600,))
    monkeypatch.setitem(photos.SIDES, "bundled-dit", {256: 32})
    whole = few("bundled-dit", 1)
    own = replace(whole, samples=0, photos=1, tokens=256, names=FEW[:1])
    measure(own)
    (photo,) = records(own, "photos-256")["ie-kvd-2-seed-0"]
    assert 0 < photo["error"][0] < 0.1 * photo["size"][0]
    (row,) = records(own, "predictions")["ie-kvd-2-seed-0"]
    assert 0 < row["error"][0] < 0.1 * row["size"][0] and row["flops"] < row["plain_flops"]


@pytest.mark.parametrize("model", ["small-dit", "small-unet"])
def test_photographs_on_a_small_grid_go_on_and_are_reported(few, model, monkeypatch, capsys):
    monkeypatch.setattr(photos, "TIMESTEPS", (300, 900))
    monkeypatch.setitem(photos.SIDES, model, {256: 32})
    one = replace(few(model, 0), samples=0, photos=1, tokens=256)
    measure(one)
    before = {path: path.read_text("ascii") for path in one.folder.rglob("photos-256/*.jsonl")}
    before |= {path: path.read_text("ascii") for path in one.folder.rglob("layer-one/*.jsonl")}
    measure(replace(one, photos=2))
    assert len(before) == 6
    for path, text in before.items():
        assert path.read_text("ascii").startswith(text), "what is finished is not done again"
    found = records(one, "photos-256")
    assert all(len(rows) == 2 for rows in found.values())
    for row in found["off-seed-0"]:
        assert not any(row["error"]) and row["attention"] == 0
    assert all(row["attention"] > 0 for row in found["ie-kvd-2-seed-0"])
    main(["--report", "--models", model, "--out", str(one.out)])
    text = capsys.readouterr().out
    assert "2 photographs, 256 tokens" in text and "2 photographs, one layer alone (one)" in text
    alone = records(one, "layer-one")
    assert all(row["error"] == [0] for row in alone["off-seed-0"])
    assert all(row["error"][0] > 0 for row in alone["ie-kvd-2-seed-0"])


def test_the_first_layer_alone_does_what_it_does_in_the_network():
    loaded = LOADERS["small-unet"](Files())
    tokens = FirstLayer(16).tokens(loaded, "coffee.png", 0)
    network = loaded.loaded.patcher.model.diffusion_model
    (_, block), *_ = attention_layers(network)
    torch.testing.assert_close(block.norm1(tokens.block_input), tokens.normed)
    out = block.attn1(tokens.normed)
    torch.testing.assert_close(block.attn1.to_out(tokens.attention()), out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model", ["small-dit", "small-unet"])
def test_a_replayed_layer_gets_what_it_gets_in_a_plain_run(model):
    """The first compressed layer does so anyway; where nothing is compressed all are plain."""
    loaded = LOADERS[model](Files())
    layers = photos.Layers.of(loaded.loaded.patcher.model.diffusion_model)
    latents = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = compressed(loaded, compared_methods.Setting("IE-KVD 2", METHODS["IE-KVD 2"]))

    def run(patcher):
        predictions(loaded, patcher, latents, CLASS_NAMES[:1], 0, (300,))

    with layers.noted():
        run(loaded.loaded.patcher)
    with layers.replayed() as plain:
        run(loaded.loaded.patcher)
    assert not any(error for ((error, _),) in plain)
    with layers.replayed() as errors:
        run(ours)
    expected = [output for (output,) in layers.outputs]
    with layers.noted():
        run(ours)
    first = next(n for n, ((error, _),) in enumerate(errors) if error)
    unforced = (layers.outputs[first][0] - expected[first]).double().square().sum().item()
    assert errors[first][0][0] == pytest.approx(unforced, rel=1e-4)
    after = [n for n, ((error, _),) in enumerate(errors) if error][1:]
    assert after, "more than one layer is compressed"
    for n in after:
        drifted = (layers.outputs[n][0] - expected[n]).double().square().sum().item()
        assert errors[n][0][0] != pytest.approx(drifted, rel=1e-4)


def test_results_of_another_setting_are_not_mixed(few, tmp_path):
    one = compared_methods.Setting("L-GTM 0.7", TokenMerging(0.7))
    other = compared_methods.Setting("L-GTM 0.7", TokenMerging(0.6))
    with result_files(tmp_path, [one]):
        pass
    with (
        pytest.raises(ValueError, match="results of the same method"),
        result_files(tmp_path, [other]),
    ):
        pass
