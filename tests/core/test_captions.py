"""What images are said to show, and which models a user lists."""

import pytest

from bigain_core.classification.datasets.captions import caption_file, read_captions
from bigain_core.classification.datasets.image_folder import read_folder
from bigain_core.classification.datasets.model_list import ModelFile, parse_models

OFFERED = {
    "loras": ["cat-000002.safetensors", "cat-000010.safetensors", "cat.safetensors", "a/dog.pt"],
    "checkpoints": ["base.safetensors", "cat.safetensors", "odd[1].ckpt"],
}


@pytest.fixture
def folder(tmp_path):
    def make(files):
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path

    return make


def test_a_text_beside_an_image_is_its_caption_whatever_its_folder_says(folder):
    root = folder(
        {
            "10_cat/a.png": b"", "10_cat/a.txt": b"\xef\xbb\xbfa black cat,\r\n asleep \n",
            "10_cat/b.jpg": b"", "dog/c.png": b"", "dog/c.txt": b"  \n",
        }
    )  # fmt: skip
    captions = read_captions(read_folder(root, "set"))
    assert captions.of("10_cat/a.png", "a photo of {}") == "a black cat, asleep"
    assert captions.of("10_cat/b.jpg", "a photo of {}") == "a photo of 10_cat"
    assert captions.of("dog/c.png") == "dog"


def test_images_beside_no_class_folder_need_a_text_each(folder):
    root = folder({"a.png": b"", "a.txt": "gr\u00fcn".encode(), "b.png": b""})
    captions = read_captions(read_folder(root, "set"))
    assert captions.of("a.png", "{} cat") == "gr\u00fcn"
    assert "a.png" in captions and "b.png" not in captions


def test_labels_of_a_table_are_joined(folder):
    root = folder({"a.png": b"", "labels.csv": b"a.png,cat; black"})
    assert read_captions(read_folder(root, "set", "labels.csv")).of("a.png") == "cat, black"


def test_the_text_of_an_image_has_its_name(folder):
    (image,) = read_folder(folder({"x.y/a.b.png": b""}), "set").images
    assert caption_file(image.file) == "x.y/a.b.txt"


def test_a_caption_in_another_encoding_is_refused_by_name(folder):
    root = folder({"a.png": b"", "a.txt": b"\xff\xfe\x00d"})
    with pytest.raises(ValueError, match="caption in UTF-8 in a.txt"):
        read_captions(read_folder(root, "set"))


def test_a_caption_outside_is_not_read(folder, tmp_path):
    root = folder({"a.png": b""})
    (tmp_path.parent / "secret.txt").write_text("secret")
    (root / "set" / "a.txt").symlink_to(tmp_path.parent / "secret.txt")
    with pytest.raises(ValueError, match="leads elsewhere"):
        read_captions(read_folder(root, "set"))


def test_epochs_are_found_by_a_star_in_natural_order():
    found = parse_models("cat*.safetensors\n\n base.safetensors ", OFFERED)
    assert [(one.folder, one.name) for one in found] == [
        ("loras", "cat-000002.safetensors"), ("loras", "cat-000010.safetensors"),
        ("loras", "cat.safetensors"), ("checkpoints", "base.safetensors"),
    ]  # fmt: skip


def test_a_lora_may_have_several_strengths():
    found = parse_models("a\\dog.pt: 0.5, 1,-1", OFFERED)
    assert found == [ModelFile("loras", "a/dog.pt", s) for s in (0.5, 1.0, -1.0)]
    assert [one.name for one in found] == ["a/dog.pt: 0.5", "a/dog.pt", "a/dog.pt: -1"]


def test_a_name_with_brackets_is_found_as_it_is():
    assert parse_models("odd[1].ckpt", OFFERED) == [ModelFile("checkpoints", "odd[1].ckpt")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cow.safetensors", "expected a file in loras, checkpoints, got 'cow.safetensors'"),
        ("base.safetensors: 0.5", "strengths behind the name of a LoRA"),
        ("cat.safetensors: much", "expected strengths with commas"),
        ("cat.safetensors: nan", "expected strengths with commas"),
        ("cat.safetensors\ncat*", "expected different models, got cat.safetensors more than once"),
    ],
)
def test_lines_that_name_no_model_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_models(text, OFFERED)
