"""What is published."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.server.conftest import PACK

AUTHOR = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]


def run(folder: Path, *command: str) -> str:
    """What a command says that succeeds."""
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    environ = {**os.environ, "DO_NOT_TRACK": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=folder, env=environ, check=False, **said)
    assert done.returncode == 0, done.stdout
    return done.stdout


def comfy(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-json", *arguments)


@pytest.fixture(scope="module")
def repository(repository_files, tmp_path_factory):
    """A repository with the working tree as its only commit."""
    folder = tmp_path_factory.mktemp("repository")
    for file in repository_files:
        target = folder / file.relative_to(PACK)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", *AUTHOR, "commit", "--quiet", "--message", "all")
    return folder


@pytest.fixture(scope="module")
def archive(repository):
    """What the registry would get."""
    comfy(repository, "node", "pack")
    return repository / "node.zip"


def test_the_registry_finds_nothing_to_object_to(repository, archive):
    assert "All validation checks passed successfully" in comfy(repository, "node", "validate")


def test_the_archive_holds_the_shipped_files(archive, shipped_files):
    """All other tests of a server or a browser install these."""
    with ZipFile(archive) as packed:
        held = {info.filename: packed.read(info) for info in packed.infolist()}
    shipped = {path.relative_to(PACK).as_posix(): path.read_bytes() for path in shipped_files}
    assert held.keys() == shipped.keys()
    assert [name for name in held if held[name] != shipped[name]] == []


def test_the_linter_for_packs_passes(archive, tmp_path):
    ZipFile(archive).extractall(tmp_path)
    run(tmp_path, sys.executable, "-m", "comfy_test", "lint", "--strict")
