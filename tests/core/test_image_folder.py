"""Labelled sets: folders and tables of images, and which of them a job works on."""

import os
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.classification.datasets.evaluation import Job
from bigain_core.classification.datasets.image_folder import (
    LabelledImage,
    UnreadableImageError,
    below,
    read_folder,
    resolve_wordnet_ids,
)
from tests.core.labelled import labelled, plain


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
        (b"a.png,ant\nb.png,\n", "got 'b.png' in row 2"),
        (b"a.png,ant\na.png,bee\n", "every image once, got 'a.png' again in row 2"),
        ("caf\u00e9.png,chat".encode("cp1252"), "in UTF-8, got labels.csv in another encoding"),
        (b'a.png,"cat\n' + b"b.png,dog\n" * 20000, "line .*Is a quotation mark missing"),
        (b"", "images in 'set'.*got none"),
        (b"../../secret/x.png,ant\n", "a name below input.*got '../../secret/x.png'"),
        (b"/etc/x.png,ant\n", "a name below input"),
    ],
)
def test_a_bad_table_is_explained(root, table, message):
    (root / "set" / "labels.csv").write_bytes(table)
    with pytest.raises(ValueError, match=f"BiGain: expected .*{message}"):
        read_folder(root, "set", "labels.csv")


def test_bad_folders_are_explained(root):
    (root / "empty" / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match="expected images in 'empty'.*got none"):
        read_folder(root, "empty")
    with pytest.raises(ValueError, match="a folder of images in input, got 'nowhere'"):
        read_folder(root, "nowhere")
    with pytest.raises(
        ValueError, match="expected a CSV file.*in set, got missing.csv, which is not there"
    ) as error:
        read_folder(root, "set", "missing.csv")
    assert str(root) not in str(error.value)
    (root / "set" / "loose.png").touch()
    with pytest.raises(ValueError, match="got loose.png and 0 more outside of any"):
        read_folder(root, "set")


def test_a_folder_of_loose_images_has_no_labels(root):
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


def test_links_that_lead_out_are_refused_and_others_are_followed(root):
    secret = root.parent / "secret"
    (root / "out").symlink_to(secret, target_is_directory=True)
    (root / "inside").symlink_to(root / "set", target_is_directory=True)
    (root / "dangling").symlink_to(root.parent / "not there yet")
    for name in (".", "out", "out/x.png", "dangling"):
        with pytest.raises(ValueError, match="which leads elsewhere"):
            below(root, name)
    assert below(root, "inside", "bee") == (root / "set" / "bee").resolve()


@pytest.mark.parametrize(
    ("place", "target", "message"),
    [
        ("bee/x.png", "../secret/x.png", "leads elsewhere"),
        ("elk", "../secret", "leads elsewhere"),
        ("bee/x.png", "set/bee/x.png", None),
    ],
)
def test_a_link_in_the_set_that_leads_out_or_to_itself_is_unreadable(root, place, target, message):
    (root / "set" / place).symlink_to(root / target)
    found = read_folder(root, "set")
    linked = next(image for image in found.images if image.file.endswith("x.png"))
    with pytest.raises(UnreadableImageError, match=message):
        found.path(linked)
    assert all(found.path(image).is_file() for image in found.images if image != linked)


def test_a_file_that_becomes_a_link_later_is_refused_when_it_is_read(root):
    found = read_folder(root, "set")
    (root / "set/bee/2.png").unlink()
    (root / "set/bee/2.png").symlink_to(root.parent / "secret" / "x.png")
    with pytest.raises(UnreadableImageError, match="leads elsewhere"):
        found.path(found.images[2])


def test_a_root_that_is_a_link_is_as_good_as_any(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    assert len(read_folder(tmp_path / "alias", "set").images) == 3


@given(count=st.integers(1, 40), limit=st.integers(0, 50), shards=st.integers(1, 7))
def test_shards_part_the_images(count, limit, shards):
    jobs = [Job(plain(count), ("ant",), limit, k, shards) for k in range(shards)]
    numbers = [[image.number for image in job.shard_images] for job in jobs]
    wanted = count if not limit else min(limit, count)
    assert sorted(sum(numbers, [])) == [image.number for image in jobs[0].all_images]
    assert len(jobs[0].all_images) == wanted


def test_shards_are_about_equal_and_keep_their_images_when_others_come():
    few, many = plain(1000), plain(3000)
    for shard in range(4):
        before, after = (Job(some, ("ant",), 0, shard, 4).shard_images for some in (few, many))
        assert before == tuple(image for image in after if image.number < 1000)
        assert 650 < len(after) < 850


def test_a_limit_spreads_over_the_classes():
    images = labelled(*([["ant"]] * 30), *([["bee"]] * 60))
    chosen = [image.labels[0] for image in images.chosen(9)]
    assert (chosen.count("ant"), chosen.count("bee")) == (3, 6)


def test_content_is_told_by_bytes_alone(root):
    files = {"1": b"one", "2": b"two", "one again": b"one"}
    for name, data in files.items():
        (root / "set" / "cow" / f"{name}.png").write_bytes(data)
    found = read_folder(root, "set")
    seen = {image.file[4:-4]: found.content(image) for image in found.images[-3:]}
    assert seen["1"] == seen["one again"] == sha256(b"one").hexdigest()[:16] != seen["2"]
    (root / "set" / "cow" / "2.png").write_bytes(b"too")
    os.utime(root / "set" / "cow" / "1.png", (0, 0))
    again = read_folder(root, "set")
    changed = {i.file[4:-4]: again.content(i) != seen[i.file[4:-4]] for i in again.images[-3:]}
    assert changed == {"1": False, "2": True, "one again": False}


def test_what_has_no_content_is_unreadable(root):
    found = read_folder(root, "set")
    (root / "set" / "bee" / "2.png").unlink()
    (root / "set" / "bee" / "1.JPG").unlink()
    (root / "set" / "bee" / "1.JPG").symlink_to(root.parent / "secret" / "x.png")
    for image, message in zip(found.images[1:], ("leads elsewhere", "not a file"), strict=True):
        with pytest.raises(UnreadableImageError, match=message):
            found.content(image)
        assert not Job(found, ("bee",)).is_finished(image, {"best": "bee"})


def test_folders_named_by_wordnet_ids_stand_for_their_labels():
    images = labelled(["n01440764"], ["n02963159", "cardigan"], ["n02113186"], ["ant"],
                      empty=("n01443537",))  # fmt: skip
    found = resolve_wordnet_ids(images, ("tench", "goldfish", "cardigan", "ant"))
    assert [image.labels for image in found.images] == [
        ("tench",), ("cardigan",), ("n02113186",), ("ant",)
    ]  # fmt: skip
    assert found.empty == ("goldfish",)
    assert [image.file for image in found.images] == [image.file for image in images.images]
    assert Job(found, ("tench", "goldfish")).unknown_labels == ("ant", "cardigan", "n02113186")


def test_wordnet_ids_stay_where_the_prompts_have_them_or_other_labels():
    images = labelled(["n01440764"], ["ant"])
    assert resolve_wordnet_ids(images, ("n01440764", "tench")) == images
    assert resolve_wordnet_ids(images, ("ant", "bee")) == images


def test_jobs_without_work_are_explained():
    with pytest.raises(ValueError, match="labelled ant. Labels and prompts must be spelled alike"):
        Job(plain(2), ("bee",))
    with pytest.raises(ValueError, match="expected a shard from 1 to 2, got 3"):
        Job(plain(2), ("ant",), shard=2, shards=2)
