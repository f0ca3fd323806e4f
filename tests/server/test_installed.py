"""What is published, and a newcomer's first minutes with a clone."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api

from benchmarks.interfaces import written
from tests.server.conftest import PACK, Server, booted

CLONE = "BiGain-main"  # the name that its owner gave it; archives have that of the project
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


def nodes(prompt: dict, kind: str) -> list[str]:
    """The ids of a kind of node in a prompt."""
    return [number for number, node in prompt.items() if node["class_type"] == kind]


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


@dataclass
class Installed:
    server: Server
    pack: Path

    def template(self, name: str, **changes: dict) -> dict:
        """A template of the browser as a prompt; `changes` are inputs by kind of node."""
        saved = self.server.get(f"/api/workflow_templates/{self.pack.name}/{name}.json").json()
        prompt = convert_ui_to_api(saved, self.server.get("/object_info").json())
        for node in prompt.values():
            node["inputs"].update(changes.get(node["class_type"], {}))
        return prompt


@pytest.fixture(scope="module")
def installed(comfyui, repository, tmp_path_factory):
    """A ComfyUI that has nothing but a clone of this pack."""
    base = tmp_path_factory.mktemp("clone")
    (base / "input").mkdir()
    pack = base / "custom_nodes" / CLONE
    run(base, "git", "clone", "--quiet", str(repository), str(pack))
    with booted(comfyui, base, "--whitelist-custom-nodes", CLONE) as server:
        yield Installed(server, pack)


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


def test_all_nodes_and_their_help_are_there(installed):
    nodes = installed.server.get("/object_info").json()
    ours = {name for name, info in nodes.items() if info["category"] == "BiGain"}
    assert ours == written().keys()
    for name in ours:
        page = f"/extensions/{installed.pack.name}/docs/{name}.md"
        assert installed.server.get(page).text.startswith("# ")


def test_every_template_is_offered(installed):
    offered = installed.server.get("/workflow_templates").json()[installed.pack.name]
    examples = installed.pack / "example_workflows"
    assert set(offered) == {path.stem for path in examples.glob("*.json")}


def test_a_template_generates_accelerated_images(installed):
    prompt = installed.template("bigain_compare_quality", KSampler={"steps": 2})
    done = installed.server.run(prompt)
    assert done.succeeded, done.entry
    for number in nodes(prompt, "SaveImage"):
        assert [image.shape for image in done.images(number)] == [(256, 256, 3)] * 4
    for number in nodes(prompt, "BiGainReport"):
        assert "2 of 6 self-attention layers compressed" in done.text(number)


def test_a_template_says_what_an_image_shows(installed):
    image = installed.pack / "example_workflows" / "bigain_classify_image_input.png"
    shutil.copy(image, installed.server.folder / "input")  # as its note says
    few = {"labels": "plain disc\nrow-striped triangle\ndigit 3"}
    prompt = installed.template("bigain_classify_image", BiGainDiTLabels=few)
    done = installed.server.run(prompt)
    assert done.succeeded, done.entry
    (classifier,) = nodes(prompt, "BiGainDiffusionClassifier")
    assert "1,row-striped triangle," in done.text(classifier)
