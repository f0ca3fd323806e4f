"""Captions of a folder: read back by hand, by what trainers do with them."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from bigain_core.classification.datasets.captions import read_captions
from bigain_core.classification.datasets.image_folder import (
    UnreadableImageError,
    folders_in,
    read_folder,
    read_tree,
)
from bigain_core.classification.datasets.tagging import CaptionStyle, Tagged, Tagging
from tests.core.labelled import csv_rows

USUAL = CaptionStyle()
LABELS = ("cat", "dog", "tree")
FITS = {"cat": 0.9, "dog": 0.2, "tree": 0.97}


@pytest.fixture
def roots(tmp_path):
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def tagging(roots):
    """Of files of a folder that are made first; further ones join it."""

    def make(*files, style=USUAL, target="tagged"):
        for file in files:
            path = roots / "input" / "set" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"pixels of {file}".encode())
        images = read_tree(roots / "input", "set")
        return Tagging(images, roots / "output" / target, LABELS, style)

    return make


def written(tagging, fits=FITS, before=None):
    """Records of all images, each with the same probabilities."""
    before = before or {}
    return {
        image.file: tagging.written(image, fits, before.get(image.file, {}))
        for image in tagging.images.images
    }


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("style", "caption"),
    [
        (CaptionStyle(), "tree, cat"),
        (CaptionStyle(0.95), "tree"),
        (CaptionStyle(0.9), "tree, cat"),  # the threshold itself is enough
        (CaptionStyle(0.0), "tree, cat, dog"),
        (CaptionStyle(0.99), ""),
        (CaptionStyle(0.5, "sks person, ", " ,4k"), "sks person, tree, cat, 4k"),
        (CaptionStyle(1.0, "sks person"), "sks person"),
    ],
)
def test_a_caption_has_the_tags_that_fit_most_probable_first(style, caption):
    assert style.caption(FITS) == caption


def test_copies_have_a_caption_of_their_name_beside_them(tagging, roots):
    before = contents(roots / "input") if (roots / "input").exists() else {}
    made = tagging("a.png", "10_sks/b.c.jpg", style=CaptionStyle(prefix="sks"))
    before = contents(roots / "input")
    records = written(made)
    assert contents(roots / "input") == before
    found = contents(roots / "output" / "tagged")
    assert found == {
        "a.png": b"pixels of a.png", "a.txt": b"sks, tree, cat",
        "10_sks/b.c.jpg": b"pixels of 10_sks/b.c.jpg", "10_sks/b.c.txt": b"sks, tree, cat",
    }  # fmt: skip
    assert json.loads(json.dumps(records)) == records
    digest = sha256(b"pixels of a.png").hexdigest()
    assert records["a.png"]["content"] == digest[:16]
    loaded = read_captions(read_folder(roots / "output" / "tagged", "10_sks"))
    assert loaded.of("b.c.jpg") == "sks, tree, cat"


def test_letters_of_any_language_are_utf_8(tagging, roots):
    made = tagging("\u732b.png", style=CaptionStyle(suffix="\u00fcber"))
    written(made)
    text = roots / "output" / "tagged" / "\u732b.txt"
    assert text.read_bytes() == "tree, cat, \u00fcber".encode()


def test_what_is_finished_waits_no_longer_and_what_is_new_does(tagging):
    records = written(tagging("a.png"))
    grown = tagging("b.png")
    assert [image.file for image in grown.pending(records)] == ["b.png"]
    changed = Path(grown.images.root, "set", "a.png")
    changed.write_bytes(b"something else")
    assert [image.file for image in tagging().pending(records)] == ["a.png", "b.png"]
    assert grown.pending({"a.png": {"file": "a.png", "unreadable": "why"}})


def test_another_style_writes_the_captions_anew(tagging, roots):
    records = written(tagging("a.png"))
    other = tagging(style=CaptionStyle(0.95, "sks"))
    assert not other.pending(records)
    (image,) = other.images.images
    record = other.rewritten(image, records["a.png"])
    assert contents(roots / "output")["tagged/a.txt"] == b"sks, tree"
    assert record["fits"] == FITS and record["caption"] == "sks, tree"


def test_a_caption_that_was_changed_by_hand_stays(tagging, roots):
    made = tagging("a.png", "b.png")
    records = written(made)
    text = roots / "output" / "tagged" / "a.txt"
    text.write_text("a cat on a tree", "utf-8")
    for style in (CaptionStyle(), CaptionStyle(0.95)):
        other = tagging(style=style)
        records = written(other, before=records)
        assert text.read_text("utf-8") == "a cat on a tree"
        assert Tagged(other, records).changed == ["a.png"]
    assert (roots / "output" / "tagged" / "b.txt").read_text("utf-8") == "tree"


def test_files_that_were_removed_from_the_output_come_back(tagging, roots):
    made = tagging("a.png")
    records = written(made)
    before = contents(roots / "output")
    for path in (roots / "output" / "tagged").iterdir():
        path.unlink()
    written(made, before=records)
    assert contents(roots / "output") == before


def test_a_file_of_somebody_else_in_the_output_is_not_written_over(tagging, roots):
    made = tagging("a.png")
    (roots / "output" / "tagged").mkdir()
    (roots / "output" / "tagged" / "a.png").write_bytes(b"not from here")
    with pytest.raises(UnreadableImageError, match="another file of that name"):
        written(made)
    assert contents(roots / "output") == {"tagged/a.png": b"not from here"}


def test_an_image_that_changed_gets_another_copy(tagging, roots):
    records = written(tagging("a.png"))
    (roots / "input" / "set" / "a.png").write_bytes(b"something else")
    written(tagging(), {**FITS, "dog": 0.6}, records)
    found = contents(roots / "output")
    assert found == {"tagged/a.png": b"something else", "tagged/a.txt": b"tree, cat, dog"}


def test_two_images_never_share_a_caption(tagging):
    """The one tagged first keeps it, else the first by name; file systems may fold case."""
    made = tagging("a.png", "b.png")
    records = written(made)
    grown = tagging("a.jpg", "B.jpg", "c.jpg", "c.png")
    assert grown.clashes(records) == {"a.jpg": "a.png", "B.jpg": "b.png", "c.png": "c.jpg"}
    assert made.clashes({}) == {}


@pytest.mark.parametrize("place", ["set", "set/tagged", "."])
def test_the_images_cannot_be_written_over(tagging, roots, place):
    made = tagging("a.png")
    with pytest.raises(ValueError, match="output outside of the folder of the images"):
        Tagging(made.images, (roots / "input" / place).resolve(), LABELS, CaptionStyle())


def test_the_summary_counts_tags_and_names_what_was_left_out(tagging, roots):
    made = tagging("a.png", "b.png", "c.png", "d.png")
    records = written(made)
    records["b.png"] = made.written(
        made.images.images[1], dict.fromkeys(LABELS, 0.1), records["b.png"]
    )
    records["c.png"] = {"file": "c.png", "unreadable": "no image"}
    records["gone.png"] = records["a.png"] | {"file": "gone.png"}
    del records["d.png"]
    tagged = Tagged(made, records)
    assert str(tagged).splitlines() == [
        "2 images with 2 tags: tree (1), cat (1)",
        "1 without a tag that fits: b.png",
        "1 skipped: c.png (no image)",
        "1 no longer in the folder; their copies stay: gone.png",
    ]
    rows = csv_rows(tagged.table())
    assert rows == [
        {"file": "a.png", "tags": "tree 0.97; cat 0.9", "caption": "tree, cat"},
        {"file": "b.png", "tags": "", "caption": ""},
    ]


def test_folders_in_folders_count_and_hidden_ones_do_not(tagging, roots):
    made = tagging("a.png", "10_x/b.png", "10_x/deep/c.webp", ".cache/d.png", "notes.md", ".e.png")
    assert [i.file for i in made.images.images] == ["10_x/b.png", "10_x/deep/c.webp", "a.png"]
    assert folders_in(roots / "input") == ["set"]


@pytest.mark.parametrize("folder", ["", "  ", "sett"])
def test_a_folder_that_is_not_there_is_answered_with_those_that_are(roots, folder):
    for name in ("set", "other", ".hidden"):
        (roots / "input" / name).mkdir()
    for read in (read_tree, read_folder):
        with pytest.raises(ValueError, match="which is none. There are 'other', 'set'."):
            read(roots / "input", folder)
    with pytest.raises(ValueError, match="Put one into missing."):
        read_tree(roots / "missing", "set")


def test_a_limit_leaves_the_others_out_and_calls_them_not_removed(tagging):
    made = tagging("a.png", "b.png", "c.png", "d.png")
    records = written(made)
    some = replace(made, limit=2)
    assert [image.file for image in some.pending({})] == ["a.png", "c.png"]
    assert str(Tagged(some, records)).splitlines() == ["2 images with 4 tags: tree (2), cat (2)"]


def test_a_folder_without_images_is_refused(roots):
    (roots / "input" / "set").mkdir()
    with pytest.raises(ValueError, match="expected images in 'set', got none"):
        read_tree(roots / "input", "set")
