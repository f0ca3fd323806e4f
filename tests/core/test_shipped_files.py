"""What the published archive holds, and the rules that shipped code keeps."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
# All that may be in the archive; a new kind of file is added here with a reason to ship it.
SHIPPED = {
    "entry point": r"__init__\.py",
    "metadata": r"pyproject\.toml",
    "what users read": r"(README|CHANGELOG)\.md|LICENSE|NOTICE",
    "nodes": r"nodes/\w+\.py",
    "core": r"bigain_core/(\w+/)*\w+\.py",
    "label sets": r"bigain_core/classification/datasets/imagenet_\w+\.txt",
    "bundled model": r"bigain_core/models/drawings\.safetensors",
    "workflows and thumbnails": r"example_workflows/bigain_\w+\.(json|jpg)",
    "sample images": r"bigain_core/models/samples/[\w -]+\.png",
    "help": r"web/docs/([\w-]+/)*[\w-]+\.(md|png)",
    "browser": r"web/(\w+/)*\w+\.js",
    "translations": r"locales/[a-z]{2}(-[A-Z]{2})?/\w+\.json",
}
CORE_IMPORTS = {"numpy", "safetensors", "torch"} | sys.stdlib_module_names
TENSORS_MADE_BY_NODES = {"torch.tensor", "torch.zeros"}  # a label and a placeholder of conditioning
# The registry withholds a version in which its scanner finds one of these, even in a comment.
TRIPWIRES = re.compile(
    r"""
    \bos\.(environ|getenv|system|popen)\b | \bimport\ os\b | \bsubprocess\b | \bmultiprocessing\b
    | \b(urllib|requests|socket|aiohttp|httpx|ftplib|smtplib|http\.client|webbrowser)\b
    | \bhttps?://(?!www\.w3\.org/)  # the name of SVG is an address
    | \b(pickle|marshal|shelve|dill|joblib)\b | \btorch\.load\((?!.*weights_only=True)
    | \b(importlib|runpy|ctypes|builtins)\b | __import__ | \bsys\.path\b | \bsys\.modules\[
    | (?<![.\w])(eval|exec|compile)\s*\( | \bglobals\(\)
    | \b(base64|codecs|zlib|atob)\b | (\\x[0-9a-f]{2}){4} | [A-Za-z0-9+/]{100}
    | \b(XMLHttpRequest|WebSocket|sendBeacon|importScripts|fetch\() | \bnew\ Function\b
    | \b(innerHTML|outerHTML|insertAdjacentHTML|document\.write)\b
    """,
    re.VERBOSE,
)


@pytest.fixture(scope="module")
def names(shipped_files):
    return [path.relative_to(PACK).as_posix() for path in shipped_files]


@pytest.fixture(scope="module")
def modules(shipped_files):
    """The syntax tree of every shipped Python file by its path in the pack."""
    return {
        path.relative_to(PACK).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in shipped_files
        if path.suffix == ".py"
    }


def imported(tree):
    """Top-level packages that a module imports absolutely."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_the_archive_holds_what_runs_and_what_users_read(names):
    kinds = {name: [k for k in SHIPPED if re.fullmatch(SHIPPED[k], name)] for name in names}
    assert [name for name in names if len(kinds[name]) != 1] == []
    assert {"__init__.py", "pyproject.toml", "LICENSE", "README.md"} <= set(names)


@pytest.mark.parametrize(
    "name",
    ["install.py", "prestartup_script.py", "requirements.txt", "setup.py", "tests/core/test_x.py"]
    + ["bigain_core/__pycache__/grid.pyc", "bigain_core/native.so", "web/dist/index.mjs"]
    + ["example_workflows/model.safetensors", "nodes/.env", "benchmarks/demo.py", "node.zip"]
    + ["benchmarks/models/shapes_and_digits.safetensors"],
)
def test_what_must_not_be_shipped_is_of_no_kind(name):
    assert not [kind for kind in SHIPPED.values() if re.fullmatch(kind, name)]


def test_the_bundled_model_is_the_only_large_file(shipped_files):
    large = [path.name for path in shipped_files if path.stat().st_size > 500_000]
    assert large == ["drawings.safetensors"]


def test_the_core_knows_no_host(modules):
    core = [name for name in modules if name.startswith("bigain_core/")]
    free = [name for name in core if not name.startswith("bigain_core/comfyui/")]
    assert free and free != core
    for name in free:
        assert set(imported(modules[name])) <= CORE_IMPORTS, name


def test_nodes_do_no_tensor_maths(modules):
    """They make tensors to hand on, and compute nothing with torch or numpy."""
    for name in (name for name in modules if name.startswith("nodes/")):
        for node in ast.walk(modules[name]):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch."):
                assert ast.unparse(node) in TENSORS_MADE_BY_NODES, name
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("torch", "numpy"), name
            if isinstance(node, ast.Import):
                assert "numpy" not in {alias.name.split(".")[0] for alias in node.names}, name


def test_the_entry_point_imports_nothing_before_it_is_asked(modules):
    tree = modules["__init__.py"]
    assert not [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def test_shipped_code_has_nothing_that_the_registry_flags(shipped_files):
    found = {
        path.relative_to(PACK).as_posix(): match[0]
        for path in shipped_files
        if path.suffix in (".py", ".js")
        if (match := TRIPWIRES.search(path.read_text("utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    ["import subprocess", "os.environ['X']", "y = eval(x)", "pickle.", "from importlib import util"]
    + ["torch.load(path)", "'https://example.org/x'", "sys.modules['nodes'] = x", "import os"]
    + ["fetch('/prompt')", "element.innerHTML = text", "new Function('x')", "import base64"]
    + ['"' + "\\x65" * 4 + '"', '"' + "QUJD" * 25 + '"'],
)
def test_the_pattern_finds_what_the_registry_flags(code):
    assert TRIPWIRES.search(code)


def test_the_pattern_lets_harmless_code_pass():
    assert not TRIPWIRES.search("model.eval(); re.compile(x); executor(x)  # pickled")
    assert not TRIPWIRES.search("torch.load(path, map_location='cpu', weights_only=True)")
    assert not TRIPWIRES.search("const SVG = 'http://www.w3.org/2000/svg'; api.fetchApi(x)")
    assert not TRIPWIRES.search("if 'torch._dynamo' in sys.modules: pass")


def test_shipped_sources_are_ascii(shipped_files):
    sources = [path for path in shipped_files if path.suffix in (".py", ".js", ".toml", ".txt")]
    assert [path.name for path in sources if not path.read_bytes().isascii()] == []


@pytest.mark.parametrize("path", sorted((PACK / "benchmarks").rglob("*.py")), ids=lambda p: p.name)
def test_a_benchmark_takes_the_pack_under_one_name(path):
    """Under two names there are two classes of a kind: what one makes, the other does not know."""
    names = set(imported(ast.parse(path.read_text("utf-8"))))
    assert not {"bigain", "bigain_core"} <= names
