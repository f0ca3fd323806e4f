"""LoRAs and checkpoints compared on held-out drawings, through the node."""

import csv
import io
import json

import comfy.sd
import folder_paths
import numpy as np
import pytest
import torch
from bigain.bigain_core.comfyui.classifying import compared_models
from bigain.bigain_core.models.checkpoint import read_checkpoint
from bigain.nodes.compare_models_node import BiGainCompareModels
from bigain.nodes.dit_nodes import BiGainDiTLabels
from PIL import Image
from safetensors.torch import save_file

from benchmarks.data import CLASS_NAMES, held_out_shapes
from benchmarks.dit_runner import SMALL_DIT, DiTRunner, load_dit
from bigain_core.classification import Blocks, ErrorSource, TrialPlan
from bigain_core.classification.datasets.held_out_comparison import errors_under
from tests.host.families import NAMED

pytestmark = pytest.mark.once

LABELS = ("plain disc", "checkered square", "row-striped triangle", "checkered cross")
# How much of the damage of the base each epoch takes back: all of it is right, more too much.
EPOCHS = {1: 0.4, 3: 1.0, 10: 1.3, 11: 1.8}
BEST = "epoch-000003.safetensors"
DAMAGED = "blocks.0.attn.qkv"


@pytest.fixture(scope="module")
def damage():
    """A change of rank 2 of a layer of the bundled model, twice as large: up and down."""
    weight = read_checkpoint(SMALL_DIT).state[f"{DAMAGED}.weight"].float()
    generator = torch.Generator().manual_seed(1)
    up, down = (torch.randn(n, 2, generator=generator) for n in weight.shape)
    return up * 2 * weight.norm() / (up @ down.T).norm(), down.T.contiguous()


@pytest.fixture(scope="module")
def files(damage, tmp_path_factory):
    """Epochs that heal a damaged base, and the base as a checkpoint."""
    folder, (up, down) = tmp_path_factory.mktemp("models"), damage
    for epoch, share in EPOCHS.items():
        key = f"diffusion_model.{DAMAGED}"
        parts = {f"{key}.lora_up.weight": -share * up, f"{key}.lora_down.weight": down}
        save_file(parts, folder / f"epoch-{epoch:06d}.safetensors")
    checkpoint = read_checkpoint(SMALL_DIT)
    state = {key: value.clone() for key, value in checkpoint.state.items()}
    whole = state[f"{DAMAGED}.weight"]
    state[f"{DAMAGED}.weight"] = (whole.float() + up @ down).to(whole.dtype)
    metadata = {"class_names": "\n".join(checkpoint.class_names)}
    save_file(state, folder / "damaged.safetensors", metadata=metadata)
    other = {"diffusion_model.elsewhere.lora_up.weight": up}
    save_file(other | {"diffusion_model.elsewhere.lora_down.weight": down}, folder / "other.pt")
    folder_paths.add_model_folder_path("loras", str(folder / "loras"))
    (folder / "loras").mkdir()
    for path in folder.glob("epoch-*"):
        path.rename(folder / "loras" / path.name)
    (folder / "other.pt").rename(folder / "loras" / "other.safetensors")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return folder


@pytest.fixture(scope="module")
def damaged(files):
    from bigain.bigain_core.comfyui.dit_model import load_dit_model

    return load_dit_model(files / "damaged.safetensors")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    write(tmp_path / "input", 60)
    return tmp_path


def write(root, count, start=0):
    """Drawings of LABELS in folders of their classes."""
    drawn = held_out_shapes(count)
    for n, (pixels, k) in enumerate(zip(drawn.pixels, drawn.labels.tolist(), strict=True)):
        if n >= start and CLASS_NAMES[k] in LABELS:
            path = root / "drawn" / CLASS_NAMES[k] / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            levels = ((pixels.movedim(0, -1) / 2 + 0.5) * 255).round().numpy().astype(np.uint8)
            Image.fromarray(levels).save(path)


@pytest.fixture
def run(shallow, vae, files, folders):
    prompts = BiGainDiTLabels.execute(shallow, "\n".join(LABELS)).args[2]

    def execute(**changes):
        inputs = {
            "model": shallow, "vae": vae, "folder": "drawn", "models": "epoch-*.safetensors",
            "csv": "", "output": "runs/epochs", "size": 32, "trials": 4, "limit": 0,
            "stop_early": True, "prompts": prompts,
        }  # fmt: skip
        return BiGainCompareModels.execute(**(inputs | changes))

    return execute


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def results(folders):
    return {
        path.name: [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]
        for path in (folders / "output" / "runs").glob("*.jsonl")
    }


def test_the_epoch_that_was_planted_as_best_is_found_with_its_interval(run, folders, damaged):
    write(folders / "input", 100)
    found = run(model=damaged)
    best, summary, table, chart = found.args
    assert best == BEST and f"best of 5: {BEST}" in summary
    worse = {row["model"]: row for row in rows(table)}
    for name in ("connected model", "epoch-000001.safetensors", "epoch-000011.safetensors"):
        assert worse[name]["worse"] == "yes" and float(worse[name]["low"]) > 0
    assert [row["model"] for row in rows(table)][0] == BEST
    assert "saved by dropping models early" in summary
    assert chart.shape[0] == 1 and chart.shape[-1] == 3
    shown = found.ui["bigain_comparison"]
    assert [one["name"] for one in shown][1:] == [f"epoch-{k:06d}.safetensors" for k in EPOCHS]
    assert [one["name"] for one in shown if one["best"]] == [BEST]
    json.dumps(found.ui, allow_nan=False)
    assert (folders / "output" / "runs" / "epochs.csv").read_text("utf-8") == table


def test_errors_are_those_of_the_healed_network_without_a_host(run, folders, damage, damaged):
    few = {"stop_early": False, "limit": 3}
    run(model=damaged, models=f"{BEST}\nepoch-000010.safetensors: 0.5", **few)
    up, down = damage
    checkpoint = read_checkpoint(SMALL_DIT)
    for share, ending in ((1.0, BEST), (0.65, "epoch-000010.safetensors__0.5")):
        weight = checkpoint.state[f"{DAMAGED}.weight"].float() + (1 - share) * up @ down
        state = {**checkpoint.state, f"{DAMAGED}.weight": weight}
        network = load_dit(checkpoint.__class__(state, checkpoint.config, checkpoint.class_names))
        denoiser = DiTRunner(network).denoiser([CLASS_NAMES.index(label) for label in LABELS])
        (name,) = (name for name in results(folders) if ending in name)
        records = results(folders)[name]
        assert len(records) == 3
        plan = TrialPlan((4,), (1,), sampler=Blocks(4))
        for record in records:
            path = folders / "input" / "drawn" / record["file"]
            seen = torch.from_numpy(np.asarray(Image.open(path)).copy()).movedim(-1, 0) / 127.5 - 1
            source = ErrorSource(denoiser, seen, LABELS, plan, int(record["content"], 16))
            expected = errors_under(source, LABELS.index(record["caption"]))
            assert record["errors"] == pytest.approx(expected, rel=2e-3)


def test_what_is_known_is_not_computed_again(run, folders, monkeypatch):
    one = {"stop_early": False, "models": "epoch-000001*"}
    first = run(**one)
    before = results(folders)
    asked = []

    def counted(source, prompt):
        asked.append(source.image)
        return errors_under(source, prompt)

    monkeypatch.setattr(compared_models, "errors_under", counted)
    assert run(**one).args[1:3] == first.args[1:3]
    assert asked == [] and results(folders) == before
    write(folders / "input", 80, start=60)  # the folder has grown
    new = len(list((folders / "input").rglob("*.png"))) - len(next(iter(before.values())))
    run(**one)
    assert len(asked) == 2 * new > 0  # with the base
    asked.clear()
    run(stop_early=False, models="epoch-000001*\nepoch-000010*")
    assert len(asked) == len(list((folders / "input").rglob("*.png")))


def test_an_interrupted_comparison_goes_on(run, folders, monkeypatch):
    def stops(source, prompt):
        if sum(map(len, results(folders).values())) == 11:
            raise KeyboardInterrupt
        return errors_under(source, prompt)

    few = {"models": "epoch-00000*", "limit": 12}
    expected = run(output="runs/whole", **few).args[1:3]
    for path in (folders / "output" / "runs").glob("whole*"):
        path.unlink()
    monkeypatch.setattr(compared_models, "errors_under", stops)
    with pytest.raises(KeyboardInterrupt):
        run(**few)
    assert sum(map(len, results(folders).values())) == 11
    monkeypatch.setattr(compared_models, "errors_under", errors_under)
    assert run(**few).args[1:3] == expected


def test_a_changed_caption_is_judged_anew(run, folders):
    run(stop_early=False, models=BEST)
    path = next(iter(sorted((folders / "input").rglob("*.png"))))
    other = next(label for label in LABELS if label != path.parent.name)
    path.with_suffix(".txt").write_text(other)
    run(stop_early=False, models=BEST)
    for records in results(folders).values():
        captions = [r["caption"] for r in records if r["file"].endswith(f"/{path.name}")]
        assert captions == [path.parent.name, other]


def test_images_that_cannot_be_used_are_left_out_and_counted(run, folders):
    (folders / "input" / "drawn" / LABELS[0] / "bad.png").write_bytes(b"no image")
    path = next(iter(sorted((folders / "input").rglob("?.png"))))
    path.with_suffix(".txt").write_text("something else")
    summary = run(stop_early=False, models=BEST).args[1]
    count = len(list((folders / "input").rglob("*.png")))
    assert f"on {count - 2} images" in summary and "1 images left out" in summary


def test_a_checkpoint_takes_part(run, damaged):
    found = run(model=damaged, models=f"{BEST}\ndamaged.safetensors", stop_early=False, limit=2)
    shown = {one["name"]: one for one in found.ui["bigain_comparison"]}
    assert shown["damaged.safetensors"]["behind"] == shown["connected model"]["behind"] > 0


def test_wrong_inputs_are_explained(run, shallow):
    with pytest.raises(ValueError, match="none of whose weights belong to it"):
        run(models="other.safetensors")
    with pytest.raises(ValueError, match="expected models to compare"):
        run(models=" ")
    with pytest.raises(ValueError, match="expected a CLIP for the captions"):
        run(prompts=None)
    with pytest.raises(ValueError, match="expected images with a caption"):
        run(prompts=BiGainDiTLabels.execute(shallow, "digit 3").args[2])


def test_models_whose_errors_do_not_compare_are_refused(run, files, monkeypatch):
    monkeypatch.setattr(compared_models, "load_dit_model", lambda path: NAMED["sd2v"].model)
    with pytest.raises(ValueError, match="same latents, noise levels and prediction"):
        run(models="damaged.safetensors")


def test_captions_are_encoded_by_the_clip_that_the_lora_acts_on(monkeypatch, folders, files):
    """Texts beside images go to the CLIP of each model as they are, labels in the template."""
    asked = []

    class Clip:
        def __init__(self, name):
            self.name = name

        def tokenize(self, text, **options):
            asked.append((self.name, text))
            return text

        def encode_from_tokens_scheduled(self, tokens):
            return NAMED["sd15"].conditioning(len(tokens) + 100 * len(self.name))

    model = NAMED["sd15"].model

    def patched(model, clip, lora, *strengths):
        assert strengths == (0.5, 0.5)
        changed = model.clone()
        key = next(iter(model.get_key_patches("diffusion_model.")))
        shape = model.get_key_patches()[key][0][0].shape
        changed.add_patches({key: (torch.ones(shape),)}, 0.01)
        return changed, Clip("other")

    class Encoder:
        def encode(self, pixels):
            return torch.ones(1, 4, 8, 8) * pixels.mean()

    monkeypatch.setattr(comfy.sd, "load_lora_for_models", patched)
    write(folders / "input", 12)
    paths = sorted((folders / "input").rglob("*.png"))
    paths[0].with_suffix(".txt").write_text("a caption")
    BiGainCompareModels.execute(
        model=model, vae=Encoder(), folder="drawn", models=f"{BEST}: 0.5", csv="", output="x",
        size=64, trials=1, limit=0, stop_early=False, clip=Clip("one"), template="a {}",
    )  # fmt: skip
    texts = {"a caption", *(f"a {path.parent.name}" for path in paths[1:])}
    for name in ("one", "other"):
        assert {text for who, text in asked if who == name} == texts | {compared_models.PROBE, ""}
