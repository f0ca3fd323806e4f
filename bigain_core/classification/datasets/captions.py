"""What each image of a folder is said to show: the text beside it, or its labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from .image_folder import LabelledImage, LabelledSet, below

CAPTION_SUFFIX = ".txt"


@dataclass(frozen=True)
class Captions:
    """By the file of an image: texts from files beside it, and its labels where there is none."""

    texts: dict[str, str]
    labels: dict[str, str]

    def __contains__(self, file: str) -> bool:
        return file in self.texts or file in self.labels

    def of(self, file: str, template: str = "{}") -> str:
        """The caption of an image; a label takes the place of {} in the template."""
        if file in self.texts:
            return self.texts[file]
        return template.replace("{}", self.labels[file])


def caption_file(file: str) -> str:
    """Where the text of an image lies, as trainers read it; relative to the folder, with /."""
    return PurePosixPath(file).with_suffix(CAPTION_SUFFIX).as_posix()


def read_captions(images: LabelledSet) -> Captions:
    """The captions of a set; several labels are joined by commas, empty texts are none.

    Raises ValueError for a text that cannot be read or lies elsewhere.
    """
    texts, labels = {}, {}
    for image in images.images:
        if text := _text(images, image):
            texts[image.file] = text
        elif image.labels:
            labels[image.file] = ", ".join(image.labels)
    return Captions(texts, labels)


def _text(images: LabelledSet, image: LabelledImage) -> str:
    """Line breaks count as spaces, as in the files of trainers."""
    name = caption_file(image.file)
    path = below(images.root, images.folder, name)
    if not path.is_file():
        return ""
    try:
        return " ".join(path.read_text("utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"BiGain: expected a caption in UTF-8 in {name}, got {error}. Save it again as UTF-8 "
            "text, or remove it."
        ) from error
