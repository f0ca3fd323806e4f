"""Folders of images with labels, and which files may be touched at all."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from unicodedata import normalize

from ...text import abbreviate, cell_text
from .imagenet import imagenet_labels

IMAGE_SUFFIXES = frozenset(  # the last three are often unreadable, but must not be overlooked
    ".apng .avif .bmp .gif .ico .jfif .jp2 .jpe .jpeg .jpg .pgm .png .ppm .qoi .tga .tif .tiff "
    ".webp .heic .heif .jxl".split()
)


# What people call the first column of a list of files.
FILE_HEADERS = frozenset(
    "file files filename filepath file_name file_path image images image_name image_path name "
    "path photo".split()
)


class UnreadableImageError(ValueError):
    """An image file that does not hold an image."""


def below(root: Path, *names: str) -> Path:
    """The path of `names` in `root`, links resolved.

    Raises ValueError for an absolute path, for one with .. and for links that lead out of `root` or
    nowhere: a workflow of someone else reaches nothing else on the disk.
    """
    check_names(root, *names)
    try:
        root = root.resolve()
        path = root.joinpath(*names).resolve()
        inside = path != root and root in path.parents
    except (OSError, RuntimeError):  # links that lead to themselves
        inside = False
    if not inside:
        raise ValueError(
            f"BiGain: expected a file or folder that lies below {root.name}, got "
            f"{'/'.join(names)!r}, which leads elsewhere. Links out of {root.name} are not "
            "followed; move the files there."
        )
    return path


def check_names(root: Path, *names: str) -> None:
    """Raise ValueError for an absolute path and for one with .., without a look at the disk."""
    for name in names:
        parts = PureWindowsPath(name)  # knows / and \ and drives, whatever the system
        if not name.strip() or "\0" in name or parts.drive or parts.root or ".." in parts.parts:
            raise ValueError(
                f"BiGain: expected a name below {root.name}, without drive, leading / or .., got "
                f"{name!r}. Move the files there."
            )


@dataclass(frozen=True)
class LabelledImage:
    """`number` is the place in the whole set, `file` is relative to its folder, with /."""

    number: int
    file: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class LabelledSet:
    """Images in the order of their file names. `root` holds all that may be read.

    Either all of them have labels or none has.
    """

    root: Path
    folder: str
    images: tuple[LabelledImage, ...]
    empty: tuple[str, ...] = ()  # class folders without images
    contents: dict[str, str] = field(
        default_factory=dict, compare=False, repr=False
    )  # found so far

    def path(self, image: LabelledImage) -> Path:
        """Raises UnreadableImageError for a link that leads out of `root`."""
        try:
            return below(self.root, self.folder, image.file)
        except ValueError as error:
            raise UnreadableImageError("a link that leads elsewhere") from error

    def content(self, image: LabelledImage) -> str:
        """Sixteen hexadecimal digits that tell the bytes of files apart.

        Not size and date, which a copy to another machine changes and a restored backup does not.
        Raises UnreadableImageError for what cannot be read.
        """
        if image.file not in self.contents:
            path = self.path(image)
            if not path.is_file():  # a pipe would never end
                raise UnreadableImageError("not a file")
            try:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise UnreadableImageError(str(error.strerror)) from error
            self.contents[image.file] = digest[:16]
        return self.contents[image.file]

    @property
    def is_labelled(self) -> bool:
        return any(image.labels for image in self.images)

    def chosen(self, limit: int = 0) -> tuple[LabelledImage, ...]:
        """`limit` images, evenly spread over the set; all for 0."""
        count = len(self.images)
        if not limit or limit >= count:
            return self.images
        return tuple(self.images[k * count // limit] for k in range(limit))


def read_folder(root: Path, folder: str, table: str = "") -> LabelledSet:
    """The images of a folder below `root`, with their labels.

    Without a table each folder in it is a class; images beside no such folder have no labels. A
    table is a CSV file in the folder with a file name and a label, or several with ; between
    them, in each row; a first row such as "file,label" is skipped. Labels are in composed Unicode
    (NFC), however folders and tables spell them.

    Raises ValueError for what lies elsewhere, for a folder without images and for a bad table.
    """
    top = _folder(root, folder)
    if table:
        found, empty = _listed(below(root, folder, table)), ()
        check_names(root, *found)
        found = _spelled_as_on_disk(top, found)
    else:
        found, empty = _by_class(top)
    if not found:
        raise ValueError(
            f"BiGain: expected images in {folder!r}, got none. Put them into one folder per class, "
            "or give the name of a CSV file with their labels, or put them there without labels."
        )
    return LabelledSet(root, folder, _numbered(found), empty)


def read_tree(root: Path, folder: str) -> LabelledSet:
    """All images of a folder below `root` and of the folders in it, without labels.

    Raises ValueError for what lies elsewhere and for a folder without images.
    """
    top = _folder(root, folder)
    files = (path.relative_to(top) for path in top.rglob("*") if _is_image(path))
    found = [file.as_posix() for file in files if not any(p.startswith(".") for p in file.parts)]
    if not found:
        raise ValueError(
            f"BiGain: expected images in {folder!r}, got none. Put them there, or choose another "
            "folder."
        )
    return LabelledSet(root, folder, _numbered(dict.fromkeys(found, ())))


def folders_in(root: Path) -> list[str]:
    """Names of the folders that a user can choose in `root`; none if it is not there."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _folder(root: Path, folder: str) -> Path:
    top = below(root, folder) if folder.strip() else root
    if top == root or not top.is_dir():
        known = abbreviate([repr(name) for name in folders_in(root)])
        raise ValueError(
            f"BiGain: expected a folder of images in {root.name}, got {folder!r}, which is none. "
            + (f"There are {known}." if known else f"Put one into {root.name}.")
        )
    return top


def _numbered(found: Mapping[str, tuple[str, ...]]) -> tuple[LabelledImage, ...]:
    """In the order of the file names."""
    ordered = enumerate(sorted(found.items()))
    return tuple(LabelledImage(number, file, labels) for number, (file, labels) in ordered)


def _by_class(top: Path) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """{file: its class}, classes without files. Linked folders inside a class are not entered."""
    loose = sorted(path.name for path in top.iterdir() if _is_image(path))
    found: dict[str, tuple[str, ...]] = {}
    empty = []
    classes = (path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    for folder in sorted(classes):
        files = [path for path in folder.rglob("*") if _is_image(path)]
        label = normalize("NFC", folder.name)
        found.update({path.relative_to(top).as_posix(): (label,) for path in files})
        if not files:
            empty.append(label)
    if loose and found:
        raise ValueError(
            f"BiGain: expected images in folders that are named after their class, got {loose[0]} "
            f"and {len(loose) - 1} more outside of any. Move them, give a CSV file, or put all "
            "images into one folder without classes to have them tagged."
        )
    return (dict.fromkeys(loose, ()), ()) if loose else (found, tuple(empty))


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not path.is_dir()


def _spelled_as_on_disk(top: Path, found: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """File names as the disk has them, where a table composes letters in another way."""
    if all((top / file).exists() for file in found):
        return found
    names = (path.relative_to(top).as_posix() for path in top.rglob("*"))
    on_disk = {normalize("NFC", name): name for name in names}
    return {on_disk.get(normalize("NFC", file), file): found[file] for file in found}


def _listed(table: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for number, cells in _rows(table):
        labels = _labels(cells[1]) if len(cells) == 2 else ()
        if not found and cells[0].lower().replace(" ", "_") in FILE_HEADERS:
            continue
        if not cells[0] or not labels:
            raise ValueError(
                "BiGain: expected rows of a file and its label, or several labels with ; between "
                f"them, got {','.join(cells)[:100]!r} in row {number} of {table.name}."
            )
        file = cells[0].replace("\\", "/")
        if file in found:
            raise ValueError(
                f"BiGain: expected every image once, got {file!r} again in row {number} of "
                f"{table.name}. Put all of its labels into one row, with ; between them."
            )
        found[file] = labels
    return found


def _rows(table: Path) -> list[tuple[int, list[str]]]:
    """(number, cells) without blank ones; separated by whatever makes two cells of every row."""
    text, separators = _text(table), ",;\t"
    if named := re.match(r"sep=(.)\r?\n", text):  # what Excel writes
        text, separators = text[named.end() :], named[1]
    tables = [_split(table.name, text, separator) for separator in separators]
    return next((rows for rows in tables if all(len(c) == 2 for _, c in rows)), tables[0])


def _split(name: str, text: str, separator: str) -> list[tuple[int, list[str]]]:
    reader, rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator), []
    try:
        for number, row in enumerate(reader, 1):
            cells = [cell_text(cell.strip()) for cell in row]
            while cells and not cells[-1]:  # spreadsheets fill rows up
                cells.pop()
            if cells:
                rows.append((number, cells))
    except csv.Error as error:
        raise ValueError(
            f"BiGain: expected rows of a file and its label in {name}, got something else in line "
            f"{reader.line_num} ({error}). Is a quotation mark missing?"
        ) from error
    return rows


def _text(table: Path) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one."""
    try:
        data = table.read_bytes()
        utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return data.decode("utf-16" if utf_16 else "utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(
            f"BiGain: expected a CSV file in {table.parent.name}, got {table.name}, which is not "
            "there. Put it into the folder of the images, or leave `csv` empty."
        ) from error
    except OSError as error:
        raise ValueError(
            f"BiGain: expected a CSV file, got {table.name}: {error.strerror}. Put it into the "
            "folder of the images."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"BiGain: expected a CSV file in UTF-8, got {table.name} in another encoding. Save it "
            "as CSV UTF-8."
        ) from error


def _labels(cell: str) -> tuple[str, ...]:
    """Different labels in the order given."""
    labels = (label.strip() for label in normalize("NFC", cell).split(";"))
    return tuple(dict.fromkeys(label for label in labels if label))


def resolve_wordnet_ids(images: LabelledSet, prompts: Collection[str]) -> LabelledSet:
    """The set with the labels of ImageNet in place of WordNet ids, as its folders are named.

    Only where the label is among the prompts and the id is not.
    """
    words = {
        wnid: label
        for wnid, label in imagenet_labels().items()
        if label in prompts and wnid not in prompts
    }

    def spelled(labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(words.get(label, label) for label in labels))

    named = (LabelledImage(i.number, i.file, spelled(i.labels)) for i in images.images)
    return replace(images, images=tuple(named), empty=spelled(images.empty))


def known_labels(image: LabelledImage, prompts: Collection[str]) -> tuple[str, ...]:
    """Those of an image that are among the prompts."""
    return tuple(label for label in image.labels if label in prompts)
