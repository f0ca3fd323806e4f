"""Lists, labels and results as spreadsheets, editors and other systems write them."""

import csv
import io
import json
import os
import sys
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.classification.datasets.evaluation import Job
from bigain_core.classification.datasets.image_folder import (
    FILE_HEADERS,
    read_folder,
)
from bigain_core.classification.datasets.labels import read_labels
from bigain_core.classification.datasets.result_files import KEY, ResultFile, read_results
from bigain_core.text import cell_text, csv_table

EXPECTED = [("a, b.png", ("red fox",)), ("caf\u00e9.png", ("chat", "b\u00eate"))]
ROWS = [(file, ";".join(labels)) for file, labels in EXPECTED]


def written(rows, separator=",", line_end="\r\n"):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=line_end).writerows(rows)
    return text.getvalue()


TABLES = {
    "plain": written(ROWS).encode(),
    "byte order mark": b"\xef\xbb\xbf" + written([("file", "label"), *ROWS]).encode(),
    "UTF-16 of a spreadsheet": written([("File name", "Label"), *ROWS], "\t").encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + written(ROWS).encode("utf-16-be"),
    "semicolons": written(ROWS, ";").encode(),
    "tabs": written(ROWS, "\t").encode(),
    "sep line": b"sep=;\r\n" + written([("image", "class"), *ROWS], ";").encode(),
    "old Mac line ends": written(ROWS, line_end="\r").encode(),
    "filled up rows": written([(*row, "", "") for row in ROWS] + [("", "", "", "")]).encode(),
    "decomposed letters": normalize("NFD", written(ROWS)).encode(),
    "backslashes and blank lines": b"\r\n" + written(ROWS).encode() + b"\r\n\r\n",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    for file, _ in EXPECTED:
        (tmp_path / "set" / file).touch()
    return tmp_path / "set"


def labelled(found):
    return sorted((image.file, image.labels) for image in found.images)


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read_however_it_was_saved(folder, kind):
    (folder / "labels.csv").write_bytes(TABLES[kind])
    assert labelled(read_folder(folder.parent, "set", "labels.csv")) == EXPECTED


@pytest.mark.parametrize("header", sorted(FILE_HEADERS))
def test_a_header_is_no_image(folder, header):
    spelled = header.upper().replace("_", " ")
    (folder / "labels.csv").write_text(written([(spelled, "label"), *ROWS]), "utf-8")
    assert labelled(read_folder(folder.parent, "set", "labels.csv")) == EXPECTED


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_folders_and_labels_match_however_their_letters_are_composed(tmp_path, form):
    name = normalize(form, "b\u00eate \u304c")
    (tmp_path / "set" / name).mkdir(parents=True)
    (tmp_path / "set" / name / "1.JFIF").touch()
    (image,) = read_folder(tmp_path, "set").images
    for other in ("NFC", "NFD"):
        assert read_labels(normalize(other, name)).labels == image.labels
    assert (tmp_path / "set" / image.file).is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux alone")
def test_a_name_that_is_no_text_is_read_and_kept(tmp_path):
    (tmp_path / "set").mkdir()
    path = os.fsencode(tmp_path / "set") + b"/caf\xe9.png"
    os.close(os.open(path, os.O_CREAT))
    found = read_folder(tmp_path, "set")
    (image,) = found.images
    assert os.fsencode(found.path(image)) == path
    with ResultFile(tmp_path / "r.jsonl", {}) as results:
        results.add({"file": image.file})
    assert list(read_results(tmp_path / "r.jsonl").records) == [image.file]
    assert Job(found, ("x",), shards=3).all_images


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_prompts_and_classes_are_read_however_they_were_saved(separator, mark):
    rows = [("Prompt", "Class Name"), ("a cat, asleep", "cat"), ("a dog", "dog")]
    found = read_labels(mark + written(rows, separator))
    assert (found.labels, found.classes) == (("a cat, asleep", "a dog"), ("cat", "dog"))
    assert read_labels(mark + "cat\ndog").labels == ("cat", "dog")


FORMULAS = ["=1+1", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", "''@x"]


@pytest.mark.parametrize("text", [*FORMULAS, "-a dash", "=", "-"])
def test_no_cell_of_a_table_runs_as_a_formula(text):
    ((cell,),) = list(csv.reader(io.StringIO(csv_table((), [[text]]), newline="")))[1:]
    assert cell == "'" + text and cell_text(cell) == text


@pytest.mark.parametrize("value", [-1, -0.5, "-1.5e-07", "+3", "-inf", "nan", "", "cat", "'cat'"])
def test_numbers_and_plain_texts_stay_as_they_are(value):
    assert csv_table((), [[value, 1]]) == f"\n{value},1\n"
    assert cell_text(str(value)) == str(value)


@given(st.text(st.sampled_from("'=+-@\t\r\n1a, \";\uff0d")))
def test_every_text_comes_back(text):
    table = csv_table(("x", "y"), [["a", text]])
    (row,) = list(csv.reader(io.StringIO(table, newline="")))[1:]
    assert cell_text(row[1]) == text and row[1] in (text, "'" + text)
    if row[1].startswith(tuple("=+-@\t\r\n\uff0d")):
        assert isinstance(float(row[1]), float), "a number"


def test_names_and_labels_that_look_like_formulas_go_out_and_in_again(tmp_path):
    files = {"=cmd.png": "@cat", "+.png": "-dog", "'-.png": "'=", "-1.png": "-1"}
    (tmp_path / "set").mkdir()
    for name in files:
        (tmp_path / "set" / name).touch()
    (tmp_path / "set" / "labels.csv").write_text(csv_table(("file", "label"), files.items()))
    found = read_folder(tmp_path, "set", "labels.csv")
    assert {image.file: image.labels for image in found.images} == {
        name: (label,) for name, label in files.items()
    }
    rows = [(f"{name}, big", name) for name in files.values()]
    read = read_labels(csv_table(("prompt", "class"), rows))
    assert list(zip(read.labels, read.classes, strict=True)) == rows


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{KEY: 1, "settings": {}}], "version 2 in r.jsonl, got version 1"),
        ([{KEY: 2}], "settings on the first line of r.jsonl"),
        ([{KEY: 2, "settings": []}], "settings on the first line of r.jsonl"),
        ([{KEY: 2, "settings": {}}, [1]], "something else on line 2"),
        ([{KEY: 2, "settings": {}}, {"file": "x"}, {"image": 0}], "something else on line 3"),
    ],
)
def test_results_of_another_shape_are_refused_by_their_line(tmp_path, lines, message):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    with pytest.raises(ValueError, match=message):
        read_results(path)
    with pytest.raises(ValueError, match=message):
        ResultFile(path, {})


def test_a_line_nested_beyond_reading_is_named(tmp_path):
    header = json.dumps({KEY: 2, "settings": {}})
    (tmp_path / "r.jsonl").write_text(f"{header}\n{'[' * 10**6}\n")
    with pytest.raises(ValueError, match="JSON on every line of r.jsonl.*line 2"):
        read_results(tmp_path / "r.jsonl")
