"""What the pack costs a host that starts: nothing but its own modules is loaded or computed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACK = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio, json, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from benchmarks.host import enter_host, import_pack

enter_host(Path(sys.argv[2]), cpu=True)
import execution, nodes, server, torch  # what the host has imported before it looks for packs
from comfy_api.latest import ComfyExtension
from torch.utils._python_dispatch import TorchDispatchMode

work = []

class Note(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        work.append(str(function))
        return function(*args, **(kwargs or {}))

before, state = set(sys.modules), torch.get_rng_state()
with Note():
    import_pack()
    first = set(sys.modules) - before
    extension = asyncio.run(sys.modules["bigain"].comfy_entrypoint())
    found = asyncio.run(extension.get_node_list())
    for node in found:
        node.GET_SCHEMA()
print(json.dumps({
    "first": sorted(first),
    "others": sorted(m for m in set(sys.modules) - before if not m.startswith("bigain")),
    "nodes": len(found),
    "work": work,
    "random state kept": torch.equal(torch.get_rng_state(), state),
    "cuda": torch.cuda.is_initialized(),
}))
"""


@pytest.fixture(scope="module")
def start(comfyui):
    """A host's start in a process of its own."""
    command = [sys.executable, "-c", SCRIPT, str(PACK), str(comfyui)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=comfyui)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_entry_point_loads_nothing_else(start):
    assert start["first"] == ["bigain"]


def test_the_nodes_load_no_module_beyond_those_of_the_host(start):
    """Such as the compiler or a scientific library, which take seconds."""
    assert start["nodes"] > 10
    assert start["others"] == []


def test_nothing_is_computed_and_no_device_is_touched(start):
    assert start["work"] == []
    assert start["random state kept"] and not start["cuda"]
