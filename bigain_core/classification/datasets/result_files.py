"""Results on the disk, one line per image, that no interruption damages.

A file is a line of JSON with the settings and then one line of JSON for each finished image. Only a
line that ends counts: what a killed run left behind it is cut off when the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from ..differences import differences
from .file_lock import try_lock

SUFFIX = ".jsonl"
KEY, VERSION = "bigain_evaluation", 2
MEASURED = 0.01  # by how much measured settings may differ between machines
START = f'{{"{KEY}": '.encode()


@dataclass(frozen=True)
class Results:
    """Settings, and records by the file of their image."""

    settings: dict
    records: dict[str, dict]

    @property
    def text(self) -> str:
        """As a file has it."""
        lines = [_header(self.settings), *self.records.values()]
        return "".join(json.dumps(line) + "\n" for line in lines)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file that is there whole or, if that fails, as it was before.

    Of several that write it at once the last one wins.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    part = path.with_name(f"{path.name}.{uuid4()}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ValueError(
            f"BiGain: expected to write {path.name}, got {error.strerror}. Make room on the disk "
            "or make the folder writable, and queue again."
        ) from error


def shard_name(name: str, shard: int, shards: int) -> str:
    """File of a shard (from 0); of the whole set if it is the only one."""
    return f"{name}{SUFFIX}" if shards == 1 else f"{name}.{shard + 1}-of-{shards}{SUFFIX}"


def read_results(path: Path) -> Results:
    """What a file holds but for a torn last line.

    Raises ValueError for a file that is none of results, or damaged elsewhere.
    """
    try:
        return _parsed(path, path.read_bytes())[0]
    except OSError as error:
        raise ValueError(
            f"BiGain: expected results in {path.name}, got {error.strerror}."
        ) from error


def merged(parts: Sequence[Results]) -> Results:
    """All records of several files; of an image that several have, the first.

    Raises ValueError if their settings differ.
    """
    records: dict[str, dict] = {}
    for part in parts:
        _check_settings("the other files", part.settings, parts[0].settings)
        for file, record in part.records.items():
            records.setdefault(file, record)
    return Results(parts[0].settings, dict(sorted(records.items())))


@dataclass
class ResultFile:
    """Results that are being added to; a context that closes the file. One writer at a time.

    Every record is handed to the system whole before the next image begins, without a buffer here.
    """

    path: Path
    settings: dict
    records: dict[str, dict] = field(init=False)
    _file: BinaryIO = field(init=False, repr=False)

    def __post_init__(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise ValueError(
                f"BiGain: expected to write results to {self.path.name}, got {error.strerror}. "
                "Choose another name or make the folder writable."
            ) from error
        try:
            if not try_lock(self._file):
                raise ValueError(
                    f"BiGain: expected to write {self.path.name} alone, got a file that another "
                    "evaluation is writing. Wait for it, choose another name, or give each its "
                    "own shard."
                )
            self.records = self._taken_up()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def add(self, record: dict) -> None:
        """Append the record of an image, in place of an earlier one.

        Raises ValueError if it cannot be written whole.
        """
        self._append(record)
        self.records[record["file"]] = record

    def _taken_up(self) -> dict[int, dict]:
        self._file.seek(0)
        content = self._file.read()
        if b"\n" not in content:
            if not (content.startswith(START) or START.startswith(content)):
                raise _not_ours(self.path)
            self._file.truncate(0)
            self._append(_header(self.settings))
            return {}
        found, length = _parsed(self.path, content)
        _check_settings(self.path.name, found.settings, self.settings)
        if length < len(content):
            self._file.truncate(length)
        return found.records

    def _append(self, line: dict) -> None:
        data = json.dumps(line).encode() + b"\n"
        end = self._file.seek(0, 2)
        reason = "not all of it was taken"
        try:
            if self._file.write(data) == len(data):
                return
        except OSError as error:
            reason = error.strerror
        self._file.truncate(end)
        raise ValueError(
            f"BiGain: expected to write a result to {self.path.name}, got: {reason}. All that was "
            "finished before is in the file. Make room on the disk and queue again to go on."
        )


def _header(settings: dict) -> dict:
    return {KEY: VERSION, "settings": settings}


def _parsed(path: Path, content: bytes) -> tuple[Results, int]:
    """Results and the length of what counts."""
    length = content.rfind(b"\n") + 1
    lines = content[:length].splitlines()
    if not lines or not lines[0].startswith(START):
        raise _not_ours(path)
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"BiGain: expected JSON on every line of {path.name}, got something else on line "
                f"{number}. The file was changed or the disk is damaged; remove that line."
            ) from error
    header, *records = parsed
    if header[KEY] != VERSION:
        raise ValueError(
            f"BiGain: expected results of version {VERSION} in {path.name}, got version "
            f"{header[KEY]!r} of another BiGain. Choose another name, or use that BiGain."
        )
    if not isinstance(header.get("settings"), dict):
        raise ValueError(
            f"BiGain: expected settings on the first line of {path.name}, got none. The file was "
            "changed; choose another name."
        )
    for number, record in enumerate(records, 2):
        if not isinstance(record, dict) or not isinstance(record.get("file"), str):
            raise ValueError(
                f"BiGain: expected the result of an image on every line of {path.name}, got "
                f"something else on line {number}. The file was changed; remove that line."
            )
    return Results(header["settings"], {record["file"]: record for record in records}), length


def _not_ours(path: Path) -> ValueError:
    return ValueError(
        f"BiGain: expected results of an evaluation in {path.name}, got a file of another kind, "
        "which is not touched. Choose another name."
    )


def _check_settings(name: str, found: dict, wanted: dict) -> None:
    if differing := differences(found, wanted, MEASURED):
        raise ValueError(
            f"BiGain: expected {name} to hold results of the same {' and '.join(differing)}, got "
            f"{'; '.join(differing.values())}. Choose another name for these results, or remove "
            "the old ones."
        )
