"""The nodes that measure, explain and compare, on the bundled model and drawn images."""

import csv
import io
import json
import shutil
from dataclasses import replace
from hashlib import sha256

import folder_paths
import numpy as np
import pytest
import torch
from bigain.bigain_core.classification import (
    PLANS,
    classify,
)
from bigain.bigain_core.classification.datasets.result_files import read_results
from bigain.bigain_core.comfyui.classifying import folder_evaluation
from bigain.bigain_core.comfyui.classifying.identity import settings, weights_digests
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.bigain_core.models.checkpoint import read_checkpoint
from bigain.nodes.dit_nodes import BiGainDiTLabels
from bigain.nodes.evaluation_node import BiGainEvaluate
from PIL import Image

from benchmarks.data import CLASS_NAMES
from benchmarks.dit_runner import SMALL_DIT, DiTRunner, load_dit
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
def run(shallow, drawn_prompts, vae, folders):
    def execute(**changes):
        inputs = {
            "model": shallow, "prompts": drawn_prompts, "vae": vae, "folder": "drawn", "csv": "",
            "output": "runs/first", "preset": PRESET, "size": 32, "limit": 0, "shard": 1,
            "shards": 1, "compare_with": "",
        }  # fmt: skip
        return BiGainEvaluate.execute(**(inputs | changes)).args

    return execute


def lines(folders, name="runs/first.jsonl"):
    return (folders / "output" / name).read_text("utf-8").splitlines()


@pytest.fixture(scope="module")
def expected(drawings):
    """Labels and best labels of the drawings without the host, in the order of file names."""
    pixels, labels = drawings
    order = sorted(range(COUNT), key=lambda n: f"{labels[n]}/{n}.png")
    runner = DiTRunner(load_dit(read_checkpoint(SMALL_DIT)))
    denoiser = runner.denoiser([CLASS_NAMES.index(label) for label in LABELS])
    found = []
    for n in order:
        levels = (pixels[n] * 255).round()
        file = io.BytesIO()
        Image.fromarray(levels.numpy().astype(np.uint8)).save(file, "PNG")
        noise = int(sha256(file.getvalue()).hexdigest()[:16], 16)
        seen = (levels / 255 * 2 - 1).movedim(-1, 0)[None]
        best = classify(denoiser, seen, LABELS, PLANS[PRESET], noise).best[0]
        found.append((labels[n], LABELS[best]))
    return found


def test_results_are_those_of_the_classifier_without_a_host(run, folders, bundled, expected):
    summary, accuracy, table = run(model=bundled)
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
    run, folders, bundled, drawn_prompts, expected
):
    shown = dict(zip(sorted(LABELS), WNIDS.values(), strict=True))
    for label, wnid in zip(sorted(LABELS), WNIDS, strict=True):
        (folders / "input" / "drawn" / label).rename(folders / "input" / "drawn" / wnid)
    classes = tuple(shown[label] for label in LABELS)
    named = Prompts(drawn_prompts.labels, drawn_prompts.conditionings, classes)
    summary, _, table = run(model=bundled, prompts=named)
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
    parts = [lines(folders, f"runs/parted.{k}-of-3.jsonl")[1:] for k in (1, 2, 3)]
    assert sorted(sum(parts, [])) == sorted(whole[1:])


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


def test_other_settings_need_another_name(run, shallow, drawn_prompts):
    run(limit=1)
    others = {
        "size": {"size": 64},
        "prompts": {"prompts": BiGainDiTLabels.execute(shallow, "\n".join(LABELS[::-1])).args[2]},
        "classes": {"prompts": replace(drawn_prompts, classes=LABELS[:2] + LABELS[:1])},
        "compression": {"model": merge(shallow)},
    }
    for name, change in others.items():
        with pytest.raises(ValueError, match=f"results of the same {name}"):
            run(**change)
    with pytest.raises(ValueError, match="got preset: fast -> balanced. Choose another name"):
        run(preset="balanced")
    assert "1 of" in run(limit=1)[0] or "0 of" in run(limit=1)[0]


def test_a_larger_limit_goes_on(run, folders):
    run(limit=3)
    files = sorted(folders.rglob("*.png"))
    order = [path.relative_to(folders / "input" / "drawn").as_posix() for path in files]
    assert [json.loads(line)["file"] for line in lines(folders)[1:]] == order[::2]
    summary, _, _ = run()
    assert [json.loads(line)["file"] for line in lines(folders)[1:]] == order[::2] + order[1::2]
    assert f"of {COUNT};" in summary


@pytest.mark.parametrize(("shards", "tagged"), [(1, False), (3, True)])
def test_a_folder_that_has_grown_is_done_where_it_has_grown(
    run, folders, monkeypatch, shards, tagged
):
    """The file that grew and one of a fresh run have the same records, byte by byte."""
    top, later = folders / "input" / "drawn", folders / "later"
    if tagged:
        for path in sorted(top.rglob("*.png")):
            path.rename(top / path.name)
        shutil.rmtree(top / LABELS[0])
    files = sorted(path for path in folders.rglob("*.png"))
    later.mkdir()
    for number in (0, 3):  # the first of all and one between
        files[number].rename(later / f"{number}.png")

    def everything(**changes):
        for shard in range(1, shards + 1):
            summary, _, _ = run(shard=shard, shards=shards, **changes)
        return summary

    everything()
    assert len(lines(folders)) == 1 + COUNT - 2
    classified = []
    monkeypatch.setattr(
        folder_evaluation, "classify", lambda *a, **k: classified.append(a) or classify(*a, **k)
    )
    for number in (0, 3):
        (later / f"{number}.png").rename(files[number])
    summary = everything()
    assert len(classified) == 2 and "removed" not in summary
    assert everything(output="runs/fresh") == summary
    assert sorted(lines(folders)) == sorted(lines(folders, "runs/fresh.jsonl"))
    if shards > 1:
        assert lines(folders) == lines(folders, "runs/fresh.jsonl")
    exported = [(folders / "output" / f"runs/{n}.csv").read_bytes() for n in ("first", "fresh")]
    assert exported[0] == exported[1] and exported[0].count(b"\n") == 1 + COUNT


def test_changed_images_are_done_again_and_removed_ones_are_named(run, folders, monkeypatch):
    run()
    first = lines(folders)
    files = sorted(folders.rglob("*.png"))
    names = [path.relative_to(folders / "input" / "drawn").as_posix() for path in files]
    files[0].write_bytes(files[2].read_bytes())
    files[1].unlink()
    moved = files[3].parent.parent / LABELS[0] / "moved.png"
    files[3].rename(moved)
    asked = []
    monkeypatch.setattr(
        folder_evaluation, "classify", lambda *a, **k: asked.append(a[4]) or classify(*a, **k)
    )
    summary, _, _ = run()
    assert len(asked) == 2 and f"of {COUNT - 1};" in summary
    assert f"2 removed, not counted: {names[1]}, {names[3]}" in summary
    assert lines(folders)[: len(first)] == first
    changed, added = (json.loads(line) for line in lines(folders)[len(first) :])
    assert (changed["file"], added["labels"]) == (names[0], [LABELS[0]])
    same = json.loads(first[3])
    for record, other in ((changed, same), (added, json.loads(first[4]))):
        assert all(record[key] == other[key] for key in ("best", "margin", "content", "ranked"))
    run(output="runs/fresh")
    found, fresh = (
        read_results(folders / "output" / f"runs/{n}.jsonl").records for n in ("first", "fresh")
    )
    assert {file: found[file] for file in fresh} == fresh
    exported = [(folders / "output" / f"runs/{n}.csv").read_bytes() for n in ("first", "fresh")]
    assert exported[0] == exported[1]
    text, _, _ = run(compare_with="runs/fresh")
    assert f"on {COUNT - 1} images that both classified" in text


def test_an_image_that_breaks_and_is_mended_counts_as_what_it_is(run, folders):
    run()
    whole = lines(folders)
    path = sorted(folders.rglob("*.png"))[1]
    good = path.read_bytes()
    path.write_bytes(b"no image")
    assert "1 unreadable, skipped" in run()[0]
    broken = lines(folders)
    assert "1 unreadable, skipped" in run()[0] and lines(folders) == broken
    path.write_bytes(good)
    assert "unreadable" not in run()[0]
    assert lines(folders) == [*broken, whole[2]]


def test_another_folder_needs_another_name(run, folders):
    run(limit=1)
    (folders / "input" / "drawn").rename(folders / "input" / "other")
    with pytest.raises(ValueError, match="of the same folder, got .*drawn.* for .*other"):
        run(folder="other")
    (folders / "input" / "other").rename(folders / "input" / "drawn")
    found = lines(folders)
    for name in ("drawn/", "./drawn", "drawn/."):
        run(folder=name, limit=1)
    assert lines(folders) == found


def test_patched_weights_are_another_model(bundled, drawn_prompts):
    """A LoRA, its strength, and whether it is loaded at the point of the process."""
    key = next(k for k in bundled.model_state_dict() if k.endswith("attn.qkv.weight"))
    shape = bundled.model_state_dict()[key].shape
    weights, plain = weights_digests(bundled)
    digests = [plain]
    for scale, strength in ((1.0, 1.0), (1.0, 0.5), (2.0, 1.0)):
        patched = bundled.clone()
        patched.add_patches({key: (scale * torch.ones(shape),)}, strength)
        assert weights_digests(patched)[0] == weights
        digests.append(weights_digests(patched)[1])
    assert len(set(digests)) == 4
    patched.patch_model()
    try:
        assert weights_digests(patched) == (weights, digests[-1])
        assert weights_digests(bundled) == (weights, plain)
    finally:
        patched.unpatch_model()
    found = settings(bundled, drawn_prompts)
    assert (found["model"], found["weights"], found["LoRAs"]) == ("DiTModel", weights, plain)


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


def test_the_size_is_that_of_the_model_unless_it_is_given(run, folders):
    run(size=0, limit=1)
    assert json.loads(lines(folders)[0])["settings"]["size"] == 32


def test_the_node_shows_what_it_found_and_where_it_is(shallow, drawn_prompts, vae, folders, run):
    run(limit=3, output="runs/some")
    shown = BiGainEvaluate.execute(
        shallow, drawn_prompts, vae, "drawn", "", "runs/some", PRESET, 32, 3, 1, 1, ""
    ).ui["bigain_evaluation"][0]
    records = [json.loads(line) for line in lines(folders, "runs/some.jsonl")[1:]]
    right = sum(record["right"] for record in records)
    assert shown["headline"] == f"{right} of 3 right"
    assert shown["file"] == "runs/some.csv" and shown["complete"] and shown["images"] == 3
    assert (folders / "output" / shown["file"]).is_file()
    doubtful = sorted(records, key=lambda record: record["confidence"])
    assert [row["file"] for row in shown["rows"]] == [record["file"] for record in doubtful]
    for row in shown["rows"]:
        assert (folders / "input" / row["subfolder"] / row["filename"]).is_file()
    assert shown["unsure"] == sum(record["confidence"] < 0.9 for record in records)


def test_numbers_in_the_table_are_rounded(run, folders):
    run()
    for row in csv.DictReader((folders / "output" / "runs" / "first.csv").open("r", newline="")):
        for name in ("margin", "confidence"):
            assert len(row[name].lstrip("-0.").replace(".", "").split("e")[0]) <= 4
