"""What the published archive holds, and the rules that shipped code keeps."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
REQUIRED = {"__init__.py", "LICENSE", "bigain_core", "example_workflows", "nodes", "pyproject.toml"}
ALLOWED = REQUIRED | {"CHANGELOG.md", "README.md", "locales", "web"}
KINDS = {"", ".js", ".json", ".md", ".png", ".py", ".safetensors", ".toml", ".txt"}
CORE_IMPORTS = {"numpy", "safetensors", "torch"} | sys.stdlib_module_names
TENSORS_MADE_BY_NODES = {"torch.tensor", "torch.zeros"}  # a label and a placeholder of conditioning
# The registry withholds a version in which its scanner finds one of these, even in a comment.
TRIPWIRES = re.compile(
    r"\bos\.(environ|getenv|system|popen)\b|\b(subprocess|urllib|requests|socket|importlib)\b"
    r"|\b(pickle|marshal|ctypes|base64|http\.client)\b|__import__|\bimport os\b"
    r"|(?<![.\w])(eval|exec|compile)\s*\(|\b(XMLHttpRequest|WebSocket)\b|new Function\b"
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
    top = {name.split("/")[0] for name in names}
    assert REQUIRED <= top <= ALLOWED
    assert {Path(name).suffix for name in names} <= KINDS
    assert not [name for name in names if "__pycache__" in name]


def test_the_bundled_model_is_the_only_large_file(shipped_files):
    large = [path.name for path in shipped_files if path.stat().st_size > 500_000]
    assert large == ["shapes_and_digits.safetensors"]


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


@pytest.mark.parametrize("code", ["import subprocess", "os.environ['X']", "y = eval(x)", "pickle."])
def test_the_pattern_finds_what_the_registry_flags(code):
    assert TRIPWIRES.search(code)


def test_the_pattern_lets_harmless_code_pass():
    assert not TRIPWIRES.search("model.eval(); re.compile(x); executor(x)  # pickled")


def test_shipped_sources_are_ascii(shipped_files):
    sources = [path for path in shipped_files if path.suffix in (".py", ".js", ".toml", ".txt")]
    assert [path.name for path in sources if not path.read_bytes().isascii()] == []
