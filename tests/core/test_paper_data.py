"""Data sets where they lie, and the images held out of the small models."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.data import CLASS_NAMES, TEXTURES
from benchmarks.paper.data import SETS, bundled_set, factors, small_contest, small_set, subset
from bigain_core.classification import TrialPlan
from bigain_core.classification.datasets.imagenet import imagenet_labels

PLAN = TrialPlan((1, 2), (2, 1))


def image(path: Path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(levels).save(path)


def test_a_wrong_choice_among_rivals_is_wrong_in_one_factor():
    for label in CLASS_NAMES:
        among = small_contest(label).labels
        assert label in among and len(set(among)) == 10
        wrong = [
            (a != b) for other in among for a, b in [(factors(other), factors(label))] if a != b
        ]
        assert len(wrong) == 9
        if not label.startswith("digit"):
            differ = [
                sum(a != b for a, b in zip(factors(o), factors(label), strict=True)) for o in among
            ]
            assert Counter(differ) == {0: 1, 1: 9}
            assert len({factors(other)[1] for other in among}) == len(TEXTURES)


def test_held_out_samples_are_as_many_of_each_class_and_the_same_again(tmp_path):
    data = small_set(tmp_path / "a", 85)
    counts = Counter(image.labels[0] for image in data.images.images)
    assert set(counts) == set(CLASS_NAMES)
    assert {counts[n] for n in CLASS_NAMES[:30]} == {15} and {
        counts[n] for n in CLASS_NAMES[30:]
    } == {6}
    assert Counter(data.asked).most_common()[0][1] - Counter(data.asked).most_common()[-1][1] == 1
    again = small_set(tmp_path / "b", 85)
    assert again.images.images == data.images.images
    assert all(again.images.content(i) == data.images.content(i) for i in data.images.images)
    files = [[s.path(i).read_bytes() for i in s.images[:40]] for s in (data.images, again.images)]
    assert files[0] == files[1]
    before = data.images.path(data.images.images[0]).stat().st_mtime_ns
    small_set(tmp_path / "a", 85)
    assert data.images.path(data.images.images[0]).stat().st_mtime_ns == before


@pytest.fixture
def imagenet(tmp_path):
    """Two images each of two classes of the subset and one beyond it."""
    inside = list(imagenet_labels("ImageNet-100"))[:2]
    outside = next(
        wnid for wnid in imagenet_labels() if wnid not in imagenet_labels("ImageNet-100")
    )
    for wnid in (*inside, outside):
        for number in range(2):
            image(tmp_path / "val" / wnid / f"ILSVRC2012_val_0000000{number}.JPEG", number)
    return tmp_path, inside, outside


def test_imagenet_folders_are_ranked_among_the_labels_of_the_set(imagenet):
    root, inside, outside = imagenet
    names = imagenet_labels()
    whole = SETS["imagenet1k"](root)
    assert len(whole.labels) == 1000 and len(whole.images.images) == 6
    assert whole.plan.trials == (5, 20, 100)
    part = SETS["imagenet100"](root)
    assert len(part.labels) == 100 and part.plan.trials == (5, 20)
    assert [image.number for image in part.images.images] == [0, 1, 2, 3]
    assert {image.labels for image in part.images.images} == {(names[wnid],) for wnid in inside}
    assert all(part.images.path(image).is_file() for image in part.images.images)
    assert part.asked == tuple(image.labels[0] for image in part.images.images)
    assert part.prompt(part.asked[0]) == f"a photo of a {part.asked[0]}."
    assert names[outside] in {image.labels[0] for image in whole.images.images}


def test_a_subset_names_its_samples_by_file(imagenet, tmp_path):
    data = SETS["imagenet1k"](imagenet[0])
    wanted = [data.images.images[n] for n in (4, 1)]
    (tmp_path / "some.txt").write_text("# two\n" + "\n".join(image.file for image in wanted) + "\n")
    part = subset(data, tmp_path / "some.txt")
    assert [(i.number, i.file) for i in part.images.images] == [
        (0, wanted[1].file),
        (1, wanted[0].file),
    ]
    assert part.asked == (wanted[1].labels[0], wanted[0].labels[0])
    (tmp_path / "some.txt").write_text("no/such.JPEG\n")
    with pytest.raises(ValueError, match="of the 6 images of ImageNet-1K in some.txt, such as"):
        subset(data, tmp_path / "some.txt")
    np.save(tmp_path / "some.npy", np.array([4, 1]))
    assert subset(data, tmp_path / "some.npy") == part
    np.save(tmp_path / "some.npy", np.array([6]))
    with pytest.raises(ValueError, match="got 6"):
        subset(data, tmp_path / "some.npy")


def test_pets_are_those_of_the_test_list(tmp_path):
    for name in ("Abyssinian_1", "yorkshire_terrier_9", "Abyssinian_2"):
        image(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "test.txt").write_text(
        "yorkshire_terrier_9 37 2 25\nAbyssinian_1 1 1 1\n"
    )
    data = SETS["pets"](tmp_path)
    assert [(i.file, i.labels) for i in data.images.images] == [
        ("Abyssinian_1.jpg", ("Abyssinian",)),
        ("yorkshire_terrier_9.jpg", ("Yorkshire Terrier",)),
    ]
    assert len(data.labels) == 37
    assert data.prompt("Pug") == "a photo of a Pug, a type of pet."
    assert data.images.path(data.images.images[0]).is_file()


@pytest.fixture
def coco(tmp_path):
    for number in (7, 8, 9):
        image(tmp_path / "val2017" / f"{number:012}.jpg")
    (tmp_path / "annotations").mkdir()
    images = [{"id": n, "file_name": f"{n:012}.jpg"} for n in (9, 8, 7)]
    marked = [(9, 3), (9, 1), (9, 3), (7, 3)]
    instances = {
        "images": images,
        "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}],
        "annotations": [{"image_id": i, "category_id": c} for i, c in marked],
    }
    said = [(5, 9, "later "), (4, 9, " first. "), (6, 7, "a car"), (7, 8, "nothing")]
    captions = {"annotations": [{"id": n, "image_id": i, "caption": c} for n, i, c in said]}
    for name, content in (("instances", instances), ("captions", captions)):
        (tmp_path / "annotations" / f"{name}_val2017.json").write_text(json.dumps(content))
    return tmp_path


def test_coco_samples_have_all_their_categories_and_their_first_caption(coco):
    data = SETS["coco"](coco)
    assert data.labels == ("person", "car")
    assert [(i.file, set(i.labels)) for i in data.images.images] == [
        ("000000000007.jpg", {"car"}),
        ("000000000009.jpg", {"car", "person"}),
    ]
    assert [data.prompt(text) for text in data.asked] == ["a car", "first."]
    assert data.template.replace("{}", "car") == "a photo of a car."


def test_drawings_of_the_bundled_model_are_ranked_among_ten_names():
    data = bundled_set(50)
    assert len(data.images.images) == 12 and len(data.labels) == 48
    assert data.asked[:48] == data.labels and data.asked[48:] == data.labels[:2]
    for image in data.images.images:
        names = data.contest(image).labels
        assert len(set(names)) == 10 and image.labels[0] in names
        assert data.images.path(image).exists()
