"""A real ComfyUI server with this pack in its own process, and the example workflows for it."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image

PACK = Path(__file__).resolve().parents[2]
EXAMPLES = PACK / "example_workflows"
BYPASSED = 4  # the mode of a node that the user switched off
OPTIONS = ["--cpu", "--disable-api-nodes", "--disable-all-custom-nodes"]
OPTIONS += ["--whitelist-custom-nodes", "bigain", "--database-url", "sqlite:///:memory:"]
OPTIONS += ["--cache-classic"]  # what is kept must not depend on how much memory is free
SECONDS_TO_BOOT = 240
SECONDS_TO_RUN = 250
SECONDS_TO_STOP = 15


@dataclass
class Run:
    """What became of a queued prompt."""

    entry: dict  # of the server's history
    url: str

    @property
    def succeeded(self) -> bool:
        return self.entry["status"]["status_str"] == "success"

    def message(self, kind: str) -> dict:
        """The last message of a kind, such as execution_error or execution_cached."""
        return dict(self.entry["status"]["messages"]).get(kind, {})

    def text(self, node: str) -> str:
        (text,) = self.entry["outputs"][node]["text"]
        return text

    def pictures(self, node: str) -> list[np.ndarray]:
        """What a node saved: (H, W, 3) each, in the order of the batch."""
        files = self.entry["outputs"][node]["images"]
        answers = [local().get(f"{self.url}/view", params=file, timeout=30) for file in files]
        return [np.asarray(Image.open(io.BytesIO(answer.content))) for answer in answers]


@dataclass
class Server:
    url: str
    log_file: Path
    process: subprocess.Popen
    boot_log: str = ""

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", errors="replace")

    def get(self, path: str) -> requests.Response:
        answer = local().get(self.url + path, timeout=60)
        answer.raise_for_status()
        return answer

    def wait_for_boot(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_BOOT
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self.get("/system_stats")
            except requests.RequestException:
                time.sleep(0.2)
            else:
                self.boot_log = self.log
                return
        pytest.fail(f"no server after {SECONDS_TO_BOOT} s or before it ended; its log:\n{self.log}")

    def run(self, prompt: dict) -> Run:
        """Queue a prompt and wait for it."""
        answer = local().post(f"{self.url}/prompt", json={"prompt": prompt}, timeout=60)
        assert answer.ok, answer.text
        prompt_id = answer.json()["prompt_id"]
        deadline = time.monotonic() + SECONDS_TO_RUN
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}").json()
            if prompt_id in history:
                return Run(history[prompt_id], self.url)
            time.sleep(0.1)
        pytest.fail(f"expected the prompt to end within {SECONDS_TO_RUN} s")


def local() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy between here and here
    return session


def make_base(folder: Path, files: list[Path]) -> Path:
    """A base directory whose only custom node is a copy of what this pack ships."""
    for file in files:
        target = folder / "custom_nodes" / "bigain" / file.relative_to(PACK)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (folder / "input").mkdir()
    for image in EXAMPLES.glob("*_input.png"):
        shutil.copy(image, folder / "input")
    return folder


def environment(comfyui: Path, folder: Path) -> dict[str, str]:
    """The environment of the server, with what an older host misses.

    Before it could read the templates' package of today, ComfyUI served a folder of that package
    which is gone; it does not start without one.
    """
    environ = {**os.environ, "PYTHONUTF8": "1"}
    if "iter_templates" not in (comfyui / "app" / "frontend_management.py").read_text("utf-8"):
        package = folder / "stand_in" / "comfyui_workflow_templates"
        (package / "templates").mkdir(parents=True)
        (package / "__init__.py").touch()
        environ["PYTHONPATH"] = str(package.parent)
    return environ


@contextmanager
def booted(comfyui: Path, folder: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(folder), *OPTIONS]
    log_file = folder / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=comfyui,
            env=environment(comfyui, folder),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            server = Server(f"http://127.0.0.1:{port}", log_file, process)
            server.wait_for_boot()
            yield server
        finally:
            process.terminate()
            try:
                process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def server(comfyui, shipped_files, tmp_path_factory):
    folder = make_base(tmp_path_factory.mktemp("server"), shipped_files)
    with booted(comfyui, folder) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed and "server" in item.funcargs:
        report.sections.append(("server log", item.funcargs["server"].log[-10_000:]))
    return report


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    return server.get("/object_info").json()


@pytest.fixture(scope="session")
def example():
    """A fresh copy of an example workflow by its name, some kinds of nodes switched off."""

    def load(name: str, switched_off: tuple[str, ...] = ()) -> dict:
        workflow = json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))
        for node in workflow["nodes"]:
            if node["type"] in switched_off:
                node["mode"] = BYPASSED
        return workflow

    return load


@pytest.fixture(scope="session")
def converted(object_info):
    """A saved workflow as a prompt; `changes` are inputs by kind of node."""

    def convert(workflow: dict, **changes: dict) -> dict:
        prompt = convert_ui_to_api(workflow, object_info)
        for node in prompt.values():
            node["inputs"].update(changes.get(node["class_type"], {}))
        return prompt

    return convert


@pytest.fixture(scope="session")
def node_ids():
    """The ids of a kind of node in a prompt, in the order of the workflow."""

    def find(prompt: dict, kind: str) -> list[str]:
        return [number for number, node in prompt.items() if node["class_type"] == kind]

    return find
