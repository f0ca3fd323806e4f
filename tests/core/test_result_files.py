"""Results that survive interruptions."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigain_core.classification.datasets import result_files
from bigain_core.classification.datasets.evaluation import unreadable_record
from bigain_core.classification.datasets.image_folder import LabelledImage
from bigain_core.classification.datasets.result_files import (
    ResultFile,
    Results,
    merged,
    read_results,
    shard_name,
    write_atomic,
)

PACK = Path(__file__).resolve().parents[2]
SETTINGS = {"folder": "abc", "prompts": ["ant", "bee"], "probe": 0.5}


def entry(number):
    return {"file": f"{number}.png", "best": "b\u00e9e", "right": number % 2 == 0}


def write(path, count, settings=SETTINGS):
    """Finish images until `count` are there; the numbers that had to be done."""
    with ResultFile(path, settings) as file:
        todo = [number for number in range(count) if f"{number}.png" not in file.records]
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
def test_a_run_that_is_cut_at_any_bytes_goes_on_without_loss_or_repetition(whole, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        for cut in data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=3)):
            finished = max(whole[:cut].count(b"\n") - 1, 0)
            path.write_bytes(whole[:cut])
            assert write(path, 5) == list(range(finished, 5))
            assert path.read_bytes() == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a copy of this process")
def test_a_process_that_is_killed_leaves_what_it_finished(tmp_path):
    path = tmp_path / "run.jsonl"
    if not (child := os.fork()):
        try:
            file = ResultFile(path, SETTINGS)
            for number in range(3):
                file.add({"file": str(number)})
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert list(read_results(path).records) == ["0", "1", "2"]


@contextmanager
def largest_file(size):
    """A disk on which no file has room for more bytes."""
    resource = pytest.importorskip("resource", reason="needs a limit of the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_reported_and_the_file_stays_valid(tmp_path):
    """The system takes a part of a line and then nothing more, at every place in the line."""
    message = "expected to write a result to.*Make room on the disk"
    for room in range(110, 190):
        path = tmp_path / f"{room}.jsonl"
        with (
            largest_file(room),
            pytest.raises(ValueError, match=message),
            ResultFile(path, SETTINGS) as file,
        ):
            for number in range(20):
                file.add({"file": f"{number:012}"})
        content = path.read_bytes()
        line = len(b'{"file": "000000000000"}\n')
        assert content.endswith(b"\n") and room - line < len(content) <= room
        assert len(read_results(path).records) == content.count(b"\n") - 1
        with ResultFile(path, SETTINGS) as file:
            file.add({"file": "99"})
        assert "99" in read_results(path).records


def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "table.csv").write_text("before\n")
    message = "expected to write table.csv, got File too large. Make room"
    with largest_file(100), pytest.raises(ValueError, match=message):
        write_atomic(tmp_path / "table.csv", "row\n" * 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "before\n"
    write_atomic(tmp_path / "table.csv", "after\n")
    assert (tmp_path / "table.csv").read_text() == "after\n"


def test_two_that_write_one_table_at_once_do_not_disturb_each_other(tmp_path, monkeypatch):
    """The second begins and ends while the first is about to put its table in place."""
    path, replace = tmp_path / "table.csv", Path.replace

    def second_in_between(part, target):
        monkeypatch.undo()
        write_atomic(path, "second")
        assert path.read_text() == "second"
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", second_in_between)
    write_atomic(path, "first")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_way_of_a_table_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("mine")
    monkeypatch.setattr(result_files, "uuid4", lambda: UUID(int=1))
    (tmp_path / f"table.csv.{UUID(int=1)}.part").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="expected to write table.csv, got File exists"):
        write_atomic(tmp_path / "table.csv", "new")
    assert (tmp_path / "secret").read_text() == "mine"


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
    with pytest.raises(ValueError, match="a file of another kind, which is not touched"):
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


def test_differing_settings_are_told_in_words(tmp_path):
    """Digests say nothing, and what differs may stand anywhere in a long value."""
    names = [f"prompt {number}" for number in range(1000)]
    first = {"prompts": names, "size": 32, "weights": "8926725de2aed131", "encoded prompts": 1.5}
    write(tmp_path / "run.jsonl", 1, first)
    wanted = {
        "prompts": [*names[:700], "cat", *names[700:]], "size": 64, "weights": "2648429e14a0d1fe",
        "encoded prompts": 2.5, "LoRAs": "0a",
    }  # fmt: skip
    with pytest.raises(ValueError) as error:
        ResultFile(tmp_path / "run.jsonl", wanted)
    text = str(error.value)
    assert "of the same prompts and size and weights and encoded prompts and LoRAs, got" in text
    assert text.count('"prompt 700"') == 2 and text.count('"cat"') == 1 and len(text) < 700
    assert "size 32 for 64; other weights (another checkpoint, or another precision)" in text
    assert "8926" not in text and "2648" not in text and "2.5" not in text


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
    assert list(found.records) == [f"{number}.png" for number in range(10)]
    assert list(found.records.values()) == [entry(number) for number in range(10)]
    other = Results(SETTINGS | {"folder": "other"}, {})
    with pytest.raises(ValueError, match="of the same folder"):
        merged([found, other])


def test_an_image_that_became_readable_counts_once(tmp_path):
    path = tmp_path / "run.jsonl"
    image = LabelledImage(0, "0.png", ("ant",))
    with ResultFile(path, SETTINGS) as file:
        file.add(unreadable_record(image, ValueError("broken")))
        file.add(entry(0))
    assert read_results(path).records == {"0.png": entry(0)}


def test_a_second_writer_of_one_file_is_refused_until_the_first_is_through(tmp_path):
    path = tmp_path / "run.jsonl"
    code = f"""
import pathlib, time
from bigain_core.classification.datasets.result_files import ResultFile
with ResultFile(pathlib.Path({str(path)!r}), {SETTINGS!r}) as file:
    print("writing", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=PACK, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(ValueError, match="run.jsonl alone, got a file that another evaluation"):
            ResultFile(path, SETTINGS)
        other.kill()
    with ResultFile(path, SETTINGS) as file:
        file.add(entry(0))
        with pytest.raises(ValueError, match="another evaluation is writing"):
            ResultFile(path, SETTINGS)
    assert read_results(path).records == {"0.png": entry(0)}
