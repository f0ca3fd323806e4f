"""Which ComfyUI the tests run against: the folder in COMFYUI_PATH, or none."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pathspec import PathSpec

from benchmarks.host import enter_host, import_pack

PACK = Path(__file__).resolve().parent.parent
HOST = os.environ.get("COMFYUI_PATH", "")

# What these look at does not depend on the host: documents, benchmarks, files, the archive, every
# method and how torch counts and compiles it. Or no host was ever seen to change it, as scenarios
# beside other nodes, which run with each when docs/compatibility.md is written. Both operators on a
# family of each kind and a workflow run with each host.
NO_MATTER_WHICH_HOST = {
    "test_ceilings", "test_classifier_models", "test_compare_workflow", "test_compatibility_page",
    "test_compiled", "test_determinism", "test_evaluate_nodes", "test_evidence", "test_fidelity",
    "test_flops", "test_image_files", "test_in_graphs", "test_installed",
    "test_known_bugs_of_peers", "test_methods", "test_paper", "test_read_image",
    "test_recorded_forwards", "test_small_unet", "test_speed", "test_translated",
    "test_user_images", "test_with_caches", "test_with_conditioning", "test_with_guidance",
    "test_with_joint_models", "test_with_patches", "test_with_samplers", "test_with_sizes",
    "test_with_sound", "test_with_sparse_attention", "test_with_two_models", "test_with_weights",
    "test_with_wrapped_blocks",
}  # fmt: skip

if HOST:  # here and not in a hook, for the conftest files below import ComfyUI
    enter_host(Path(HOST), cpu=True)
    import_pack()


def pytest_report_header(config):
    return f"ComfyUI: {HOST or 'none, host and server tests are skipped'}"


def pytest_ignore_collect(collection_path, config):
    """Tests that are not run are not even read: of a host without one, `once` where it is not."""
    needless = not HOST and collection_path.name in ("host", "server", "ui")
    left_out = config.option.markexpr == "not once" and collection_path.stem in NO_MATTER_WHICH_HOST
    return needless or left_out or None


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in NO_MATTER_WHICH_HOST:
            item.add_marker("once")


def pytest_terminal_summary(terminalreporter):
    """A line a reason to skip."""
    reasons = (report.longrepr[2] for report in terminalreporter.getreports("skipped"))
    for reason, tests in Counter(reasons).items():
        terminalreporter.write_line(f"skipped: {reason.removeprefix('Skipped: ')}: {tests} tests")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tensors this small are slower on several threads, far slower on busy ones."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    return Path(HOST)


@pytest.fixture(scope="session")
def server(comfyui, shipped_files, tmp_path_factory):
    """One server for all tests, those in a browser included."""
    from tests.server.conftest import booted, make_base  # which need a host

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
def repository_files() -> list[Path]:
    """What git tracks, or would if it was told of new files."""
    return _files_but(".gitignore")


@pytest.fixture(scope="session")
def shipped_files() -> list[Path]:
    """What a published archive of this folder holds: all but what its ignore files leave out."""
    return _files_but(".comfyignore", ".gitignore")


def _files_but(*ignore_files: str) -> list[Path]:
    lines = [
        line for name in ignore_files for line in (PACK / name).read_text("utf-8").splitlines()
    ]
    return list(_files_below(PACK, PathSpec.from_lines("gitignore", [*lines, ".git"])))


def _files_below(folder: Path, ignored: PathSpec) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(PACK).as_posix() + "/" * path.is_dir()
        if ignored.match_file(name):
            continue
        if path.is_dir():
            yield from _files_below(path, ignored)
        else:
            yield path
