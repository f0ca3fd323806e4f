"""A real ComfyUI server with this pack in its own process, and the example workflows for it."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image
from safetensors.torch import load, save_file
from torch import Tensor, nn

from benchmarks.dit_runner import SMALL_DIT
from bigain_core.models.checkpoint import BUNDLED_MODEL, read_checkpoint
from bigain_core.models.dit import DiT

PACK = Path(__file__).resolve().parents[2]
EXAMPLES = PACK / "example_workflows"
FAMILY_NODES = Path(__file__).parent / "family_nodes"
FOLDER = "BiGain-main"  # of the pack, which the owner of a clone may call as they like
BYPASSED = 4  # the mode of a node that the user switched off
FEW_TOKENS = "few_tokens.safetensors"  # see `few_tokens`
OPTIONS = ["--cpu", "--disable-api-nodes", "--disable-all-custom-nodes"]
OPTIONS += ["--whitelist-custom-nodes", FOLDER, FAMILY_NODES.name]
OPTIONS += ["--database-url", "sqlite:///:memory:"]
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

    def images(self, node: str) -> list[np.ndarray]:
        """What a node saved: (H, W, 3) each, in the order of the batch."""
        return [np.asarray(Image.open(io.BytesIO(file))) for file in self._files(node, "images")]

    def latent(self, node: str) -> Tensor:
        """What a node saved: (B, C, H, W) or (B, C, T, H, W)"""
        (file,) = self._files(node, "latents")
        return load(file)["latent_tensor"]

    def _files(self, node: str, kind: str) -> list[bytes]:
        files = self.entry["outputs"][node][kind]
        answers = [local().get(f"{self.url}/view", params=file, timeout=30) for file in files]
        return [answer.content for answer in answers]


@dataclass
class Server:
    url: str
    folder: Path  # its base directory
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

    def post(self, path: str, content: dict) -> requests.Response:
        answer = local().post(self.url + path, json=content, timeout=60)
        assert answer.ok, answer.text
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
        return self.ended(self.queue(prompt))

    def run_and_interrupt(self, prompt: dict, under_way: Callable[[str], bool]) -> Run:
        """Interrupt a prompt once the log since its start says that it is under way."""
        before = len(self.log)
        prompt_id = self.queue(prompt)
        until(lambda: under_way(self.log[before:]), "the prompt to be under way")
        self.post("/interrupt", {"prompt_id": prompt_id})
        return self.ended(prompt_id)

    def queue(self, prompt: dict) -> str:
        """With a name of who queues it: to others 0.8.0 gives nothing of nodes that are cached."""
        content = {"prompt": prompt, "client_id": "tests"}
        return self.post("/prompt", content).json()["prompt_id"]

    def ended(self, prompt_id: str) -> Run:
        entry = until(
            lambda: self.get(f"/history/{prompt_id}").json().get(prompt_id), "the prompt to end"
        )
        return Run(entry, self.url)


def until(happened: Callable, what: str):
    """What a function returns as soon as that is true of it."""
    deadline = time.monotonic() + SECONDS_TO_RUN
    while time.monotonic() < deadline:
        if found := happened():
            return found
        time.sleep(0.05)
    pytest.fail(f"expected {what} within {SECONDS_TO_RUN} s")


def local() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy between here and here
    return session


def randomised(network: nn.Module) -> dict[str, Tensor]:
    """Weights scaled by fan-in."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(weight.shape, generator=generator) * max(1, weight[0].numel()) ** -0.5
        for name, weight in network.state_dict().items()
        if weight.ndim
    }


def few_tokens(path: Path) -> None:
    """A random model with the blocks, images and names of the bundled one, where any will do.

    It has 64 tokens in place of 1024, which is about twenty times as fast.
    """
    bundled = read_checkpoint(BUNDLED_MODEL)
    shape = replace(bundled.config, patch_size=8, hidden_size=64, num_heads=1)
    names = {"class_names": "\n".join(bundled.class_names)}
    save_file(randomised(DiT(shape)), path, names)


def make_base(folder: Path, files: list[Path]) -> Path:
    """A base directory with a copy of what this pack ships, and the nodes for its tests."""
    for file in files:
        target = folder / "custom_nodes" / FOLDER / file.relative_to(PACK)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    shutil.copytree(FAMILY_NODES, folder / "custom_nodes" / FAMILY_NODES.name)
    models = folder / "models" / "diffusion_models"
    models.mkdir(parents=True)
    shutil.copy(SMALL_DIT, models)
    few_tokens(models / FEW_TOKENS)
    (folder / "input" / "my images").mkdir(parents=True)
    return folder


def environment() -> dict[str, str]:
    """The environment of the server.

    Several threads would mostly wait for each other in models this small, above all with other
    tests beside them.
    """
    environ = {**os.environ, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    return environ | {"BIGAIN_REPOSITORY": str(PACK), "BIGAIN_FOLDER": FOLDER}


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
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            server = Server(f"http://127.0.0.1:{port}", folder, log_file, process)
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
def object_info(server) -> dict:
    return server.get("/object_info").json()


@pytest.fixture(scope="session")
def workflow():
    """A fresh copy of a saved workflow, some kinds of nodes switched off."""

    def read(file: Path, switched_off: tuple[str, ...] = ()) -> dict:
        saved = json.loads(file.read_text("utf-8"))
        for node in saved["nodes"]:
            if node["type"] in switched_off:
                node["mode"] = BYPASSED
        return saved

    return read


@pytest.fixture(scope="session")
def example(workflow):
    """The same of an example workflow by its name."""

    def read(name: str, switched_off: tuple[str, ...] = ()) -> dict:
        return workflow(EXAMPLES / f"{name}.json", switched_off)

    return read


@pytest.fixture(scope="session")
def converted(object_info):
    """A saved workflow as a prompt; `changes` are inputs by kind of node.

    Where one of them chooses an option, the inputs of the other option are dropped.
    """

    def convert(workflow: dict, **changes: dict) -> dict:
        prompt = convert_ui_to_api(workflow, object_info)
        for node in prompt.values():
            given = changes.get(node["class_type"], {})
            saved = node["inputs"].items()
            kept = {name: value for name, value in saved if name.partition(".")[0] not in given}
            node["inputs"] = kept | given
        return prompt

    return convert


@pytest.fixture(scope="session")
def node_ids():
    """The ids of a kind of node in a prompt, in the order of the workflow."""

    def find(prompt: dict, kind: str) -> list[str]:
        return [number for number, node in prompt.items() if node["class_type"] == kind]

    return find
