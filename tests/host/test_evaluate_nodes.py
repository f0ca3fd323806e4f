"""The nodes that measure, explain and compare, on the bundled model and drawn images."""

import csv
import io
import json
from dataclasses import replace

import folder_paths
import numpy as np
import pytest
import torch
from bigain.bigain_core.classification import (
    PLANS,
    classify,
)
from bigain.bigain_core.comfyui.classifying import folder_evaluation
from bigain.bigain_core.comfyui.classifying.identity import settings, weights_digest
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.bigain_core.models.checkpoint import BUNDLED_MODEL, read_checkpoint
from bigain.nodes.dit_nodes import BiGainDiTLabels
from bigain.nodes.evaluation_node import BiGainEvaluate
from PIL import Image

from benchmarks.data import CLASS_NAMES
from benchmarks.dit_runner import DiTRunner, load_dit
from tests.host.compressing import merge
from tests.host.drawn import COUNT, LABELS

PRESET = "fast"


@pytest.fixture
def folders(tmp_path, monkeypatch, drawings):
    """ComfyUI's input and output folders; the drawings lie in one folder per class."""
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    for number, (pixels, label) in enumerate(zip(*drawings, strict=True)):
        path = tmp_path / "input" / "drawn" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels.numpy() * 255).round().astype(np.uint8)).save(path)
    return tmp_path


@pytest.fixture
def run(bundled, drawn_prompts, vae, folders):
    def execute(**changes):
        inputs = {
            "model": bundled, "prompts": drawn_prompts, "vae": vae, "folder": "drawn", "csv": "",
            "output": "runs/first", "preset": PRESET, "size": 32, "limit": 0, "shard": 1,
            "shards": 1, "compare_with": "",
        }  # fmt: skip
        return BiGainEvaluate.execute(**(inputs | changes)).args

    return execute


def lines(folders, name="runs/first.jsonl"):
    return (folders / "output" / name).read_text("utf-8").splitlines()


@pytest.fixture(scope="module")
def expected(drawings):
    """Best labels of the drawings without the host, in the order of file names."""
    pixels, labels = drawings
    order = sorted(range(COUNT), key=lambda n: f"{labels[n]}/{n}.png")
    seen = ((pixels[order] * 255).round() / 255 * 2 - 1).movedim(-1, 1)
    runner = DiTRunner(load_dit(read_checkpoint(BUNDLED_MODEL)))
    denoiser = runner.denoiser([CLASS_NAMES.index(label) for label in LABELS])
    found = classify(denoiser, seen, LABELS, PLANS[PRESET])
    return [(labels[n], LABELS[best]) for n, best in zip(order, found.best, strict=True)]


def test_results_are_those_of_the_classifier_without_a_host(run, folders, expected):
    summary, accuracy, table = run()
    records = [json.loads(line) for line in lines(folders)[1:]]
    assert [(r["labels"][0], r["best"]) for r in records] == expected
    right = sum(label == best for label, best in expected)
    assert accuracy == pytest.approx(right / COUNT)
    assert f"({right} of {COUNT}; 95 % interval" in summary
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["label"], row["images"]) for row in rows] == [(name, "2") for name in LABELS]
    exported = (folders / "output" / "runs" / "first.csv").read_text("utf-8")
    assert [row["best"] for row in csv.DictReader(io.StringIO(exported))] == [
        best for _, best in expected
    ]


WNIDS = {"n01440764": "tench", "n01443537": "goldfish", "n01514859": "hen"}


def test_folders_named_by_wordnet_ids_are_counted_under_their_labels(
    run, folders, drawn_prompts, expected
):
    shown = dict(zip(sorted(LABELS), WNIDS.values(), strict=True))
    for label, wnid in zip(sorted(LABELS), WNIDS, strict=True):
        (folders / "input" / "drawn" / label).rename(folders / "input" / "drawn" / wnid)
    classes = tuple(shown[label] for label in LABELS)
    named = Prompts(drawn_prompts.labels, drawn_prompts.conditionings, classes)
    summary, _, table = run(prompts=named)
    records = [json.loads(line) for line in lines(folders)[1:]]
    assert [(r["labels"][0], r["best"]) for r in records] == [
        (shown[label], shown[best]) for label, best in expected
    ]
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["label"], row["images"]) for row in rows] == [(name, "2") for name in classes]
    assert "left out" not in summary


def test_shards_and_interruptions_change_nothing(run, folders):
    run()
    whole = lines(folders)
    path = folders / "output" / "runs" / "first.jsonl"
    path.write_bytes(path.read_bytes()[: len("\n".join(whole[:3])) + 40])
    run()
    assert lines(folders) == whole
    for shard in (2, 1, 3):
        summary, _, _ = run(output="runs/parted", shard=shard, shards=3)
        assert ("have no result yet" in summary) == (shard != 3)
    assert lines(folders, "runs/parted.jsonl") == whole
    assert len(lines(folders, "runs/parted.2-of-3.jsonl")) == 1 + 2


def test_what_is_finished_is_not_classified_again(run, folders, monkeypatch):
    run()
    monkeypatch.setattr("bigain.bigain_core.comfyui.classifying.folder_evaluation.classify", None)
    assert "(" in run()[0]


def test_a_stopped_run_keeps_what_it_finished(run, folders, monkeypatch):

    calls = []

    def stops(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return classify(*args, **options)

    run(output="runs/whole")
    monkeypatch.setattr(folder_evaluation, "classify", stops)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(lines(folders)) == 1 + 2
    run()
    assert lines(folders) == lines(folders, "runs/whole.jsonl")
    assert len(calls) == 3 + (COUNT - 2)


def test_an_interruption_by_the_user_stops_it(run, folders):
    from comfy.model_management import InterruptProcessingException, interrupt_current_processing

    interrupt_current_processing(True)
    try:
        with pytest.raises(InterruptProcessingException):
            run()
    finally:
        interrupt_current_processing(False)
    assert len(lines(folders)) == 1


def test_other_settings_need_another_name(run, bundled, vae, drawn_prompts):
    run(limit=1)
    others = {
        "plan": {"preset": "balanced"},
        "size": {"size": 64},
        "prompts": {"prompts": BiGainDiTLabels.execute(bundled, "\n".join(LABELS[::-1])).args[2]},
        "classes": {"prompts": replace(drawn_prompts, classes=LABELS[:2] + LABELS[:1])},
        "compression": {"model": merge(bundled)},
    }
    for name, change in others.items():
        with pytest.raises(ValueError, match=f"results of the same {name}"):
            run(**change)
    assert "1 of" in run(limit=1)[0] or "0 of" in run(limit=1)[0]


def test_a_larger_limit_goes_on(run, folders):
    run(limit=3)
    assert [json.loads(line)["image"] for line in lines(folders)[1:]] == [0, 2, 4]
    summary, _, _ = run()
    assert [json.loads(line)["image"] for line in lines(folders)[1:]] == [0, 2, 4, 1, 3, 5]
    assert f"of {COUNT};" in summary


def test_patched_weights_are_another_model(bundled, drawn_prompts):
    """A LoRA, its strength, and whether it is loaded at the point of the process."""
    key = next(k for k in bundled.model_state_dict() if k.endswith("attn.qkv.weight"))
    shape = bundled.model_state_dict()[key].shape
    digests = [weights_digest(bundled)]
    for scale, strength in ((1.0, 1.0), (1.0, 0.5), (2.0, 1.0)):
        patched = bundled.clone()
        patched.add_patches({key: (scale * torch.ones(shape),)}, strength)
        digests.append(weights_digest(patched))
    assert len(set(digests)) == 4
    patched.patch_model()
    try:
        assert weights_digest(patched) == digests[-1]
        assert weights_digest(bundled) == digests[0]
    finally:
        patched.unpatch_model()
    assert settings(bundled, drawn_prompts)["model"].endswith(digests[0])


def test_bad_images_are_counted_and_left_out(run, folders, drawn_prompts):
    top = folders / "input" / "drawn"
    (top / "plain disc" / "broken.png").write_bytes(b"no image")
    good = (top / "plain disc").glob("[0-9]*.png")
    (top / "plain disc" / "torn.png").write_bytes(next(good).read_bytes()[:-300])
    (top / "fox").mkdir()
    (top / "fox" / "0.png").write_bytes(b"not even opened")
    (top / "ring").mkdir()
    summary, _, _ = run()
    assert "2 unreadable, skipped: plain disc/broken.png, plain disc/torn.png" in summary
    assert "1 left out, no prompt for their labels: fox" in summary
    assert "1 labels without images: ring" in summary
    assert f"of {COUNT};" in summary
    before = lines(folders)
    run()
    assert lines(folders) == before


def test_several_labels_per_image_come_from_a_table(run, folders):
    (folders / "input" / "drawn" / "several.csv").write_text(
        "".join(
            f"{path.relative_to(folders / 'input' / 'drawn').as_posix()},{';'.join(LABELS[:2])}\n"
            for path in (folders / "input" / "drawn").rglob("*.png")
        )
    )
    summary, accuracy, _ = run(csv="several.csv")
    assert "mAP" in summary and "(paired)" in summary and "(paper_code)" in summary
    bests = [json.loads(line)["best"] for line in lines(folders)[1:]]
    assert accuracy == sum(best in LABELS[:2] for best in bests) / COUNT


def test_two_runs_are_compared(run):
    run()
    summary, _, _ = run(output="runs/second", preset="balanced", compare_with="runs/first")
    assert f"against runs/first: on {COUNT} images that both classified" in summary
    assert "McNemar p = " in summary
    with pytest.raises(ValueError, match="expected results in nothing.jsonl, got No such file"):
        run(compare_with="nothing")


OUTSIDE = ["/etc", "..", "drawn/../../secret", "C:\\x", "\\\\host\\share", "out", "out/deep"]


@pytest.fixture
def secret(folders):
    (folders / "secret" / "ant").mkdir(parents=True)
    (folders / "secret" / "labels.csv").write_text("a.png,plain disc\n")
    for name in ("input", "output"):
        (folders / name / "out").symlink_to(folders / "secret", target_is_directory=True)
    (folders / "output" / "file.jsonl").symlink_to(folders / "secret" / "new.jsonl")
    (folders / "output" / "table.csv").symlink_to(folders / "secret" / "new.csv")
    (folders / "input" / "drawn" / "linked.csv").symlink_to(folders / "secret" / "labels.csv")
    return folders / "secret"


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["folder", "output", "compare_with"])
def test_nothing_outside_of_the_hosts_folders_is_touched(run, secret, folders, place, name):
    before = sorted(secret.rglob("*"))
    with pytest.raises(ValueError, match=r"expected a (name|file or folder).* below (in|out)put"):
        run(**{place: name})
    assert sorted(secret.rglob("*")) == before
    assert not [path for path in (folders / "output").rglob("*") if path.is_file()]


def test_links_in_place_of_files_are_refused(run, secret):
    before = sorted(secret.rglob("*"))
    for change in ({"output": "file"}, {"output": "table"}, {"csv": "linked.csv"}):
        with pytest.raises(ValueError, match="which leads elsewhere"):
            run(**change)
    with pytest.raises(ValueError, match="expected a name below input"):
        run(csv="../../secret/labels.csv")
    assert sorted(secret.rglob("*")) == before
