"""BiGain Sample Images: a batch, its names and a folder that belong together."""

from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from bigain.bigain_core.classification.datasets.image_folder import read_folder
from bigain.nodes.sample_images_node import ALL, LABELS, BiGainSampleImages
from PIL import Image

from benchmarks.drawings import CLASS_NAMES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    return tmp_path


def test_names_are_those_of_the_images_and_of_the_files(folder):
    images, names, inside = BiGainSampleImages.execute(ALL).args
    names = names.splitlines()
    assert len(images) == len(names) == 12 and set(names) < set(CLASS_NAMES)
    for image, name in zip(images, names, strict=True):
        kept = np.asarray(Image.open(folder / inside / f"{name}.png"))
        assert torch.equal(image, torch.from_numpy(kept / np.float32(255)))
        (alone, only, _) = BiGainSampleImages.execute(name).args
        assert torch.equal(alone[0], image) and only == name


def test_the_folder_can_be_tagged_and_measured(folder):
    inside = BiGainSampleImages.execute(ALL).args[2]
    tagged, labelled = (read_folder(folder, inside, table) for table in ("", LABELS))
    assert [image.labels for image in tagged.images] == [()] * 12
    assert [(Path(image.file).stem,) for image in labelled.images] == [
        image.labels for image in labelled.images
    ]
