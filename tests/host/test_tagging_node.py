"""BiGain Tag Folder on a small DiT and drawn images; files are read back by hand."""

import csv
import io
import json
import math
import statistics

import folder_paths
import numpy as np
import pytest
import torch
from bigain.bigain_core.comfyui.classifying import folder_evaluation
from bigain.nodes.tagging_node import BiGainTagFolder
from PIL import Image
from scipy import stats

from benchmarks.data import CLASS_NAMES
from benchmarks.dit_runner import DiTRunner, load_dit
from bigain_core.classification import ErrorSource, TrialPlan, TrialSpec
from bigain_core.classification.results.fit import OFFSET, SLOPE, WRONG
from bigain_core.classification.trials.timesteps import spread_timesteps
from bigain_core.models.checkpoint import read_checkpoint
from tests.host.drawn import LABELS

pytestmark = pytest.mark.once


@pytest.fixture
def folders(tmp_path, monkeypatch, drawings):
    """ComfyUI's input and output folders; three drawings, one of them in a folder of its own."""
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    (tmp_path / "input" / "drawn" / "10_more").mkdir(parents=True)
    for place, name in ((0, "a.png"), (2, "b.png"), (4, "10_more/c.png")):
        add(tmp_path, drawings, place, name)
    return tmp_path


def add(folders, drawings, place, name):
    levels = (drawings[0][place].numpy() * 255).round().astype(np.uint8)
    Image.fromarray(levels).save(folders / "input" / "drawn" / name)


@pytest.fixture
def run(shallow, drawn_prompts, vae, folders):
    def execute(**changes):
        inputs = {
            "model": shallow, "prompts": drawn_prompts, "vae": vae, "folder": "drawn",
            "output": "lora/set", "threshold": 0.5, "prefix": "", "suffix": "", "limit": 0,
            "size": 0,
        }  # fmt: skip
        return BiGainTagFolder.execute(**(inputs | changes))

    return execute


@pytest.fixture
def asked(monkeypatch):
    """Files of the images that are judged."""
    judged, each = [], folder_evaluation.each_image

    def counting(*given):
        judged.extend(image.file for image in given[3].images)
        return each(*given)

    monkeypatch.setattr(folder_evaluation, "each_image", counting)
    return judged


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lines(folders):
    return (folders / "output" / "lora" / "set.jsonl").read_text("utf-8").splitlines()


def by_hand(file, pixels, content):
    """{label: probability} of pixels (C, H, W) by the errors of the network without the host."""
    runner = DiTRunner(load_dit(read_checkpoint(file)))
    asked = [CLASS_NAMES.index(label) for label in LABELS] + [len(CLASS_NAMES)]
    source = ErrorSource(
        runner.denoiser(asked), pixels, [str(k) for k in asked], TrialPlan(), int(content, 16)
    )
    specs = [TrialSpec(timestep, noise) for timestep, noise in spread_timesteps()[:12]]
    errors = np.array([source.errors(spec, range(4)).tolist() for spec in specs])
    gains = errors[:, 3:] - errors[:, :3]  # (trials, labels)
    z = gains.mean(0) / stats.sem(gains)
    found = {}
    for label, lead in zip(LABELS, z, strict=True):
        wrong = statistics.median_low([WRONG, *(other for other in z if other != lead)])
        found[label] = 1 / (1 + math.exp(-OFFSET - SLOPE * (lead - wrong)))
    return found


def test_every_tag_is_judged_against_no_prompt_and_the_others(run, folders, shallow_file):
    run()
    records = [json.loads(line) for line in lines(folders)[1:]]
    assert [record["file"] for record in records] == ["10_more/c.png", "a.png", "b.png"]
    for record in records:
        image = Image.open(folders / "input" / "drawn" / record["file"])
        levels = np.asarray(image, dtype=np.float32) / 255 * 2 - 1
        pixels = torch.from_numpy(levels).movedim(-1, 0)
        expected = by_hand(shallow_file, pixels, record["content"])
        assert record["fits"] == pytest.approx(expected, abs=2e-3)


def test_captions_lie_beside_copies_and_the_input_stays(run, folders):
    before = contents(folders / "input")
    summary, table = run(prefix="drawn by hand", threshold=0.5).args
    assert contents(folders / "input") == before
    found = contents(folders / "output" / "lora" / "set")
    names = {"a", "b", "10_more/c"}
    assert found.keys() == {f"{name}.{end}" for name in names for end in ("png", "txt")}
    rows = {row["file"]: row for row in csv.DictReader(io.StringIO(table))}
    for line in lines(folders)[1:]:
        record = json.loads(line)
        file, stem = record["file"], record["file"].removesuffix(".png")
        assert found[file] == before[f"drawn/{file}"]
        chosen = [name for name, chance in record["fits"].items() if chance >= 0.5]
        chosen.sort(key=lambda name: -record["fits"][name])
        assert found[f"{stem}.txt"].decode() == ", ".join(["drawn by hand", *chosen])
        assert rows[file]["caption"] == ", ".join(["drawn by hand", *chosen])
    exported = (folders / "output" / "lora" / "set.csv").read_bytes().decode()
    assert exported == table
    assert summary.startswith("3 images with ")


def test_the_tag_that_fits_best_is_what_an_image_shows(run, folders, drawings, bundled):
    """Held-out drawings; the probability of a name that is right is mostly above that of others."""
    run(model=bundled)
    fits = {(record := json.loads(line))["file"]: record["fits"] for line in lines(folders)[1:]}
    best = [max(fits[file], key=fits[file].get) for file in ("a.png", "b.png", "10_more/c.png")]
    assert best == [drawings[1][place] for place in (0, 2, 4)]


def test_a_folder_that_has_grown_goes_on(run, folders, asked, drawings):
    run()
    whole = lines(folders)
    add(folders, drawings, 1, "d.png")
    asked.clear()
    run()
    assert asked == ["d.png"]
    assert lines(folders)[: len(whole)] == whole and len(lines(folders)) == len(whole) + 1
    assert (folders / "output" / "lora" / "set" / "d.txt").is_file()


def test_a_run_that_was_cut_goes_on(run, folders, asked):
    run()
    whole, path = lines(folders), folders / "output" / "lora" / "set.jsonl"
    path.write_text("\n".join(whole[:2]) + "\n" + whole[2][:20], "utf-8")
    asked.clear()
    run()
    assert len(asked) == 2 and lines(folders) == whole


def test_another_threshold_takes_no_evaluation(run, folders, asked):
    run()
    asked.clear()
    run(threshold=0.0, suffix="end")
    assert asked == []
    for text in (folders / "output" / "lora" / "set").rglob("*.txt"):
        tags = text.read_text("utf-8").split(", ")
        assert sorted(tags) == sorted([*LABELS, "end"]) and tags[-1] == "end"


def test_what_cannot_be_read_is_skipped_and_named(run, folders, drawings):
    (folders / "input" / "drawn" / "broken.png").write_bytes(b"no image")
    add(folders, drawings, 3, "a.jpg")
    made = run()
    summary = made.args[0]
    assert "2 skipped: " in summary and "broken.png" in summary
    assert "its caption would be that of a.jpg" in summary
    shown = made.ui["bigain_tagged"][0]
    assert (shown["images"], shown["skipped"]) == (3, 2)
    written = contents(folders / "output" / "lora" / "set")
    assert "broken.txt" not in written and "a.png" not in written


def test_other_settings_need_another_name(run, folders):
    run()
    with pytest.raises(ValueError, match="results of the same size"):
        run(size=16)


@pytest.mark.parametrize("change", [{"folder": "../output"}, {"output": "../out"}, {"output": ""}])
def test_nothing_outside_is_read_or_written(run, folders, change):
    before = contents(folders)
    with pytest.raises(ValueError, match="expected a name below"):
        run(**change)
    assert contents(folders) == before


def test_the_node_shows_where_the_captions_are(run, folders):
    shown = run(threshold=0.99).ui["bigain_tagged"][0]
    assert shown["folder"] == "lora/set" and shown["images"] == 3
    fits = {(record := json.loads(line))["file"]: record["fits"] for line in lines(folders)[1:]}
    tagged = {file: [n for n in found if found[n] >= 0.99] for file, found in fits.items()}
    assert shown["without"] == sum(not tags for tags in tagged.values())
    counts = [len(row["tags"]) for row in shown["rows"]]
    assert counts == sorted(counts, key=bool)
    for row in shown["rows"]:
        assert {name for name, _ in row["tags"]} == set(tagged[row["file"]])
        assert (folders / "input" / row["subfolder"] / row["filename"]).is_file()
    json.dumps(shown, allow_nan=False)
