"""Labelled sets, results that survive interruptions, and what they add up to."""

import csv
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from bigain_core.classification import Ranking, TrialPlan
from bigain_core.classification.evaluation import Job, comparison, record, unreadable_record
from bigain_core.classification.labelled_sets import (
    LabelledImage,
    LabelledSet,
    below,
    in_words,
    read_folder,
)
from bigain_core.classification.result_files import (
    ResultFile,
    Results,
    merged,
    read_results,
    shard_name,
    write_whole,
)

PACK = Path(__file__).resolve().parents[2]
SETTINGS = {"images": "abc", "prompts": ["ant", "bee"], "probe": 0.5}


@pytest.fixture
def root(tmp_path):
    """An input folder with files of class folders; what lies beside it is out of reach."""
    root = tmp_path / "input"
    for name in ("set/bee/2.png", "set/bee/1.JPG", "set/ant/deep/0.webp", "set/ant/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "set" / "cow").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.png").touch()
    return root


def test_class_folders_are_read_in_the_order_of_names(root):
    found = read_folder(root, "set")
    assert found.images == (
        LabelledImage(0, "ant/deep/0.webp", ("ant",)),
        LabelledImage(1, "bee/1.JPG", ("bee",)),
        LabelledImage(2, "bee/2.png", ("bee",)),
    )
    assert found.empty == ("cow",)


def test_a_table_gives_one_or_several_labels(root):
    table = 'file,label\nbee/2.png,bee\nant/deep/0.webp,"ant; bee;ant"\n\ngone.png,cow\n'
    (root / "set" / "labels.csv").write_text(table, "utf-8-sig")
    assert read_folder(root, "set", "labels.csv").images == (
        LabelledImage(0, "ant/deep/0.webp", ("ant", "bee")),
        LabelledImage(1, "bee/2.png", ("bee",)),
        LabelledImage(2, "gone.png", ("cow",)),
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"a.png\n", "rows of a file and its label.*got 'a.png' in row 1"),
        (b"a.png,ant\nb.png,\n", "got 'b.png,' in row 2"),
        (b"a.png,ant\na.png,bee\n", "every image once, got 'a.png' again in row 2"),
        (b"a.png,\xff\n", "CSV file in UTF-8, got labels.csv"),
        (b"", "expected images in 'set'.*got none"),
        (b"../../secret/x.png,ant\n", "expected a name below input.*got '../../secret/x.png'"),
        (b"/etc/x.png,ant\n", "expected a name below input"),
    ],
)
def test_a_bad_table_is_explained(root, table, message):
    (root / "set" / "labels.csv").write_bytes(table)
    with pytest.raises(ValueError, match=message):
        read_folder(root, "set", "labels.csv")


def test_bad_folders_are_explained(root):
    (root / "empty" / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match="expected images in 'empty'.*got none"):
        read_folder(root, "empty")
    with pytest.raises(ValueError, match="a folder of images in input, got 'nowhere'"):
        read_folder(root, "nowhere")
    with pytest.raises(ValueError, match="expected a CSV file.*missing.csv.*No such file"):
        read_folder(root, "set", "missing.csv")
    (root / "set" / "loose.png").touch()
    with pytest.raises(ValueError, match="got loose.png and 0 more outside of any"):
        read_folder(root, "set")


def test_a_folder_of_loose_pictures_has_no_labels(root):
    loose = root / "loose"
    (loose / "notes").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "readme.txt", ".hidden.png"):
        (loose / name).touch()
    found = read_folder(root, "loose")
    assert [(i.number, i.file, i.labels) for i in found.images] == [
        (0, "a.jpg", ()),
        (1, "b.png", ()),
    ]
    assert found.empty == () and not found.is_labelled
    assert read_folder(root, "set").is_labelled


OUTSIDE = ["/etc", "..", "set/../../secret", "C:\\x", "C:x", "\\\\host\\x", "set\\..\\..", "", " "]


@pytest.mark.parametrize("name", [*OUTSIDE, "a\0b"])
def test_names_that_lead_elsewhere_are_refused(root, name):
    with pytest.raises(ValueError, match="expected a name below input"):
        below(root, name)


def test_the_root_itself_is_refused(root):
    with pytest.raises(ValueError, match="leads elsewhere"):
        below(root, ".")


def test_links_that_lead_out_are_refused_and_others_are_followed(root):
    secret = root.parent / "secret"
    (root / "out").symlink_to(secret, target_is_directory=True)
    (root / "inside").symlink_to(root / "set", target_is_directory=True)
    (root / "dangling").symlink_to(root.parent / "not there yet")
    for name in ("out", "out/x.png", "dangling"):
        with pytest.raises(ValueError, match="which leads elsewhere"):
            below(root, name)
    assert below(root, "inside", "bee") == (root / "set" / "bee").resolve()


@pytest.mark.parametrize("place", ["set/bee/x.png", "set/elk"])
def test_a_link_in_the_set_that_leads_out_stops_it(root, place):
    secret = root.parent / "secret"
    (root / place).symlink_to(secret / "x.png" if place.endswith("png") else secret)
    with pytest.raises(ValueError, match="x.png.*which leads elsewhere"):
        read_folder(root, "set")


def test_a_file_that_becomes_a_link_later_is_refused_when_it_is_read(root):
    found = read_folder(root, "set")
    (root / "set/bee/2.png").unlink()
    (root / "set/bee/2.png").symlink_to(root.parent / "secret" / "x.png")
    with pytest.raises(ValueError, match="which leads elsewhere"):
        found.path(found.images[2])


def test_a_root_that_is_a_link_is_as_good_as_any(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    assert len(read_folder(tmp_path / "alias", "set").images) == 3


def labelled(*labels, empty=()):
    images = (LabelledImage(n, f"{n}.png", tuple(own)) for n, own in enumerate(labels))
    return LabelledSet(Path("input"), "set", tuple(images), empty)


def plain(count):
    return labelled(*([["ant"]] * count))


@given(count=st.integers(1, 40), limit=st.integers(0, 50), shards=st.integers(1, 7))
def test_shards_part_the_images(count, limit, shards):
    jobs = [Job(plain(count), ("ant",), limit, k, shards) for k in range(shards)]
    numbers = [[image.number for image in job.own] for job in jobs]
    wanted = count if not limit else min(limit, count)
    assert sorted(sum(numbers, [])) == [image.number for image in jobs[0].every]
    assert len(jobs[0].every) == wanted
    sizes = {len(own) for own in numbers}
    assert max(sizes) - min(sizes) <= 1
    if wanted == count:
        assert all(n % shards == shard for shard, own in enumerate(numbers) for n in own)


def test_a_limit_spreads_over_the_classes():
    images = labelled(*([["ant"]] * 30), *([["bee"]] * 60))
    chosen = [image.labels[0] for image in images.chosen(9)]
    assert (chosen.count("ant"), chosen.count("bee")) == (3, 6)


def test_another_file_or_label_is_another_set():
    digests = [labelled(["ant"]), labelled(["bee"]), plain(2), labelled(["ant", "bee"])]
    assert len({images.digest for images in digests}) == 4


def test_folders_named_by_wordnet_ids_stand_for_their_labels():
    images = labelled(["n01440764"], ["n02963159", "cardigan"], ["n02113186"], ["ant"],
                      empty=("n01443537",))  # fmt: skip
    found = in_words(images, ("tench", "goldfish", "cardigan", "ant"))
    assert [image.labels for image in found.images] == [
        ("tench",), ("cardigan",), ("n02113186",), ("ant",)
    ]  # fmt: skip
    assert found.empty == ("goldfish",)
    assert [image.file for image in found.images] == [image.file for image in images.images]
    assert Job(found, ("tench", "goldfish")).unknown_labels == ("ant", "cardigan", "n02113186")


def test_wordnet_ids_stay_where_the_prompts_have_them_or_other_labels():
    images = labelled(["n01440764"], ["ant"])
    assert in_words(images, ("n01440764", "tench")) == images
    assert in_words(images, ("ant", "bee")) == images


def test_jobs_without_work_are_explained():
    with pytest.raises(ValueError, match="labelled ant. Labels and prompts must be spelled alike"):
        Job(plain(2), ("bee",))
    with pytest.raises(ValueError, match="expected a shard from 1 to 2, got 3"):
        Job(plain(2), ("ant",), shard=2, shards=2)


# Result files


def entry(number):
    return {"image": number, "file": f"{number}.png", "best": "b\u00e9e", "right": number % 2 == 0}


def write(path, count, settings=SETTINGS):
    """Finish images until `count` are there; the numbers that had to be done."""
    with ResultFile(path, settings) as file:
        todo = [number for number in range(count) if number not in file.records]
        for number in todo:
            file.add(entry(number))
    return todo


@pytest.fixture(scope="module")
def whole():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.jsonl"
        write(path, 5)
        return path.read_bytes()


@settings(max_examples=300)
@given(data=st.data())
def test_a_run_that_is_cut_at_any_byte_goes_on_without_loss_or_repetition(whole, data):
    cut = data.draw(st.integers(0, len(whole)))
    finished = max(whole[:cut].count(b"\n") - 1, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        path.write_bytes(whole[:cut])
        assert write(path, 5) == list(range(finished, 5))
        assert path.read_bytes() == whole


@settings(max_examples=60)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=6))
def test_being_killed_again_and_again_ends_in_the_same_file(whole, cuts):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        for cut in cuts:
            write(path, 5)
            path.write_bytes(path.read_bytes()[:cut])
        write(path, 5)
        assert path.read_bytes() == whole


def test_a_process_that_is_killed_leaves_what_it_finished(tmp_path):
    path = tmp_path / "run.jsonl"
    code = f"""
import os, signal, pathlib
from bigain_core.classification.result_files import ResultFile
file = ResultFile(pathlib.Path({str(path)!r}), {SETTINGS!r})
for number in range(3):
    file.add({{"image": number}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PACK)
    assert done.returncode == -9
    assert list(read_results(path).records) == [0, 1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_full_disk_is_reported_and_the_file_stays_valid(tmp_path):
    """The system takes a part of a line and then nothing more, at every place in the line."""
    code = f"""
import pathlib, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from bigain_core.classification.result_files import ResultFile
for room in range(110, 190):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    with ResultFile(pathlib.Path({str(tmp_path)!r}) / f"{{room}}.jsonl", {SETTINGS!r}) as file:
        try:
            for number in range(20):
                file.add({{"image": number, "file": "somewhere"}})
        except ValueError as error:
            message = str(error)
            assert "expected to write a result to" in message, message
            assert "Make room on the disk" in message, message
        else:
            raise SystemExit("everything fitted")
"""
    subprocess.run([sys.executable, "-c", code], cwd=PACK, check=True)
    for room in range(110, 190):
        path = tmp_path / f"{room}.jsonl"
        content = path.read_bytes()
        line = len(b'{"image": 0, "file": "somewhere"}\n')
        assert content.endswith(b"\n") and room - line < len(content) <= room
        assert len(read_results(path).records) == content.count(b"\n") - 1
        with ResultFile(path, SETTINGS) as file:
            file.add({"image": 99})
        assert 99 in read_results(path).records


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "table.csv").write_text("before\n")
    code = f"""
import pathlib, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from bigain_core.classification.result_files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    write_whole(pathlib.Path({str(tmp_path / "table.csv")!r}), "row\\n" * 1000)
except ValueError as error:
    assert "expected to write table.csv, got File too large. Make room" in str(error), error
else:
    raise SystemExit("everything fitted")
"""
    subprocess.run([sys.executable, "-c", code], cwd=PACK, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "before\n"
    write_whole(tmp_path / "table.csv", "after\n")
    assert (tmp_path / "table.csv").read_text() == "after\n"


def test_a_link_in_the_way_of_a_table_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "table.csv.part").symlink_to(tmp_path / "secret")
    write_whole(tmp_path / "table.csv", "new")
    assert (tmp_path / "secret").read_text() == "mine"
    assert (tmp_path / "table.csv").read_text() == "new"
    assert not (tmp_path / "table.csv.part").is_symlink()


def test_a_place_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "file" / "run.jsonl", tmp_path / "folder.jsonl"):
        with pytest.raises(ValueError, match="expected to write results to"):
            ResultFile(path, SETTINGS)


@pytest.mark.parametrize("content", [b"my diary", b"my diary\n", b'{"a": 1}\n{"b": 2}\n', b"\n"])
def test_a_file_of_another_kind_is_left_alone(tmp_path, content):
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a file of another kind, which is left alone"):
        ResultFile(path, SETTINGS)
    assert path.read_bytes() == content


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_are_not_mixed(tmp_path, key):
    path = tmp_path / "run.jsonl"
    write(path, 2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"run.jsonl to hold results of the same {key}, got"):
        ResultFile(path, SETTINGS | {key: 0.7})
    assert path.read_bytes() == before


def test_what_is_measured_may_differ_a_little(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, 2)
    assert len(ResultFile(path, SETTINGS | {"probe": 0.5004}).records) == 2


def test_damage_in_the_middle_is_named(tmp_path, whole):
    path = tmp_path / "run.jsonl"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0\0\0\n", *lines[3:]]))
    with pytest.raises(ValueError, match="JSON on every line of run.jsonl.*on line 3"):
        ResultFile(path, SETTINGS)


def test_shards_come_together_as_one_run(tmp_path):
    paths = [tmp_path / shard_name("run", shard, 3) for shard in range(3)]
    assert [path.name for path in paths] == [f"run.{k}-of-3.jsonl" for k in (1, 2, 3)]
    for shard, path in enumerate(paths):
        with ResultFile(path, SETTINGS) as file:
            for number in range(shard, 10, 3):
                file.add(entry(number))
    found = merged([read_results(path) for path in reversed(paths)])
    assert list(found.records) == list(range(10))
    assert found.records == {number: entry(number) for number in range(10)}
    other = Results(SETTINGS | {"images": "other"}, {})
    with pytest.raises(ValueError, match="of the same images"):
        merged([found, other])


def test_an_image_that_became_readable_counts_once(tmp_path):
    path = tmp_path / "run.jsonl"
    image = LabelledImage(0, "0.png", ("ant",))
    with ResultFile(path, SETTINGS) as file:
        file.add(unreadable_record(image, ValueError("broken")))
        file.add(entry(0))
    assert read_results(path).records == {0: entry(0)}


# What results add up to


def ranking(errors):
    """One stage: all prompts had all trials."""
    errors = torch.tensor(errors, dtype=torch.float64)
    best = errors.mean(1).argmin()
    stage = torch.zeros(len(errors), dtype=torch.long)
    stage[best] = 1
    return Ranking(errors, stage, torch.arange(errors.shape[1]))


def results(job, scores):
    """Records of all images but the last from scores (N, P) of errors."""
    records = {
        image.number: record(image, ranking([[s, s] for s in row]), job.labels)
        for image, row in zip(job.every, scores.tolist(), strict=False)
    }
    assert json.loads(json.dumps(records[0])) == records[0]
    return Results(job.settings(job.labels, TrialPlan(), 32), records)


def test_accuracy_comes_with_the_interval_of_wilson():
    job = Job(labelled(["ant"], ["bee"], ["bee"], ["ant"], ["ant"]), ("ant", "bee"))
    scores = torch.tensor([[1.0, 2], [2, 1], [1, 2], [1, 2], [1, 2]])
    summary = job.summary(results(job, scores))
    assert summary.accuracy == pytest.approx(0.8)
    interval = binomtest(4, 5).proportion_ci(0.95, "wilson")
    low, high = (f"{edge:.4f}" for edge in interval)
    assert "accuracy 0.8000 (4 of 5; 95 % interval" in str(summary)
    assert f"interval {low}" in str(summary) and f"to {high}" in str(summary)
    assert summary.by_class() == [("ant", 3, 3), ("bee", 2, 1)]
    assert summary.calls == 4
    assert summary.is_complete
    rows = list(csv.DictReader(io.StringIO(summary.class_table())))
    assert [row["accuracy"] for row in rows] == ["1.0000", "0.5000"]


def test_several_labels_are_averaged_as_scikit_learn_does():
    names = tuple("abcdef")
    generator = torch.Generator().manual_seed(4)
    wanted = torch.rand(12, 6, generator=generator) < 0.4
    wanted[:, 0] |= ~wanted.any(1)
    own = [[name for name, on in zip(names, row, strict=True) if on] for row in wanted]
    job = Job(labelled(*own), names)
    scores = torch.rand(12, 6, generator=generator)
    summary = job.summary(results(job, scores))
    expected = [
        average_precision_score(row, -score)
        for row, score in zip(wanted.numpy(), scores.numpy(), strict=True)
    ]
    mean = sum(expected) / 12
    for kind in ("paired", "raw"):  # equal where every prompt had all trials
        assert summary.mean_average_precision(kind) == pytest.approx(mean)
    assert f"mAP {mean:.4f} (paired)" in str(summary)
    first = wanted[torch.arange(12), scores.argmin(1)].double().mean().item()
    assert summary.accuracy == pytest.approx(first)


def test_several_prompts_of_a_class_count_as_one():
    classes = ("ant", "bee", "ant", "cow")
    errors = [[4.0, 4], [2, 2], [1, 1], [3, 3]]  # the second prompt of the ant is best
    image = LabelledImage(0, "0.png", ("bee", "cow"))
    found = record(image, ranking(errors), classes)
    assert (found["best"], found["right"]) == ("ant", False)
    assert found["ranked"] == [0, 1, 2]  # ant, bee, cow
    assert found["precision"]["paired"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_what_is_missing_is_said():
    images = labelled(["ant"], ["fox"], ["bee"], ["ant"], ["ant"], empty=("elk",))
    job = Job(images, ("ant", "bee", "cow"))
    found = results(job, torch.tensor([[1.0, 2, 3]]))
    found.records[2] = unreadable_record(images.images[2], ValueError("no picture"))
    text = str(job.summary(found))
    assert "2 of 4 images have no result yet" in text
    assert "1 unreadable, skipped: 2.png" in text
    assert "1 left out, no prompt for their labels: fox" in text
    assert "2 labels without images: cow, elk" in text
    assert "mAP" not in text
    assert not job.summary(found).is_complete


def test_nothing_finished_has_no_accuracy():
    job = Job(plain(2), ("ant",))
    summary = job.summary(Results({}, {}))
    assert summary.accuracy != summary.accuracy
    assert "2 of 2 images have no result yet" in str(summary)


def test_images_are_exported_one_per_row():
    job = Job(labelled(["ant", "bee"], ["bee"]), ("ant", "bee"))
    found = results(job, torch.tensor([[1.0, 2], [1, 3]]))
    rows = list(csv.DictReader(io.StringIO(job.summary(found).image_table())))
    assert [(row["file"], row["labels"], row["best"], row["right"]) for row in rows] == [
        ("0.png", "ant; bee", "ant", "True"),
        ("1.png", "bee", "ant", "False"),
    ]
    assert [float(row["precision_paired"]) for row in rows] == [1.0, 0.5]
    assert [float(row["margin"]) for row in rows] == [1.0, 2.0]


def test_images_without_labels_are_tagged_and_not_judged():
    job = Job(labelled([], [], []), ("ant", "bee", "cow"))
    found = results(job, torch.tensor([[2.0, 1, 3], [1, 2, 3], [2, 1, 3]]))
    summary = job.summary(found)
    assert str(summary).splitlines()[0] == "3 tagged: bee (2), ant (1)"
    assert len(str(summary).splitlines()) == 2  # and the evaluations, no accuracy, no mAP
    assert summary.accuracy != summary.accuracy and summary.is_complete
    rows = list(csv.DictReader(io.StringIO(summary.table())))
    assert [(row["file"], row["best"]) for row in rows] == [
        ("0.png", "bee"),
        ("1.png", "ant"),
        ("2.png", "bee"),
    ]
    assert list(rows[0]) == ["image", "file", "best", "margin", "confidence", "calls"]
    with pytest.raises(ValueError, match="labelled images for a comparison"):
        comparison(found, found)


def test_a_shard_of_images_without_labels_has_its_part():
    job = Job(labelled([], [], []), ("ant",), shard=1, shards=2)
    assert [image.number for image in job.own] == [1]
    assert job.left_out == ()


def test_the_table_of_labelled_images_has_a_row_per_class():
    job = Job(labelled(["ant"], ["ant"]), ("ant", "bee"))
    summary = job.summary(results(job, torch.tensor([[1.0, 2], [2, 1]])))
    assert summary.table() == summary.class_table() != summary.image_table()


def test_two_runs_are_compared_image_by_image():
    job = Job(plain(12), ("ant", "bee"))
    ours = torch.tensor([[1.0, 2]] * 10 + [[2, 1]] * 2)
    theirs = torch.tensor([[2.0, 1]] * 7 + [[1, 2]] * 4)  # the last image is missing
    text = comparison(results(job, ours), results(job, theirs))
    expected = binomtest(1, 8).pvalue  # 7 only ours, 1 only theirs, 3 both
    assert "on 11 images that both classified: 10 right against 4" in text
    assert f"only these 7, only the others 1; McNemar p = {expected:.4g}" in text


def test_runs_of_different_images_are_not_compared():
    one, other = (Job(plain(n), ("ant", "bee")) for n in (2, 3))
    scores = torch.tensor([[1.0, 2]])
    with pytest.raises(ValueError, match="same labelled images"):
        comparison(results(one, scores), results(other, scores))
    empty = Results(results(one, scores).settings, {})
    with pytest.raises(ValueError, match="images in common"):
        comparison(results(one, scores), empty)


def test_two_processes_may_append_to_one_file(tmp_path):
    """Nobody should, but lines stay whole."""
    path = tmp_path / "run.jsonl"
    first, second = ResultFile(path, SETTINGS), ResultFile(path, SETTINGS)
    for number in range(0, 6, 2):
        first.add(entry(number))
        second.add(entry(number + 1))
    assert sorted(read_results(path).records) == list(range(6))
