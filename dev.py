"""Run the demo or the tests from a fresh clone, with nothing installed before.

    python dev.py demo [--host PATH ...] [arguments of the demo]
    python dev.py test [--host PATH ...] [arguments of pytest]

Packages go into .venv beside this file. A host is a ComfyUI folder; without --host it is looked
for in COMFYUI_PATH, then around this folder and below the home folder, and installed if there is
none. Paths in the remaining arguments are relative to this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent
VENV = REPO / ".venv"
INSTALLED = VENV / "bigain-installed.txt"
HOST_FAILED = VENV / "bigain-host-failed.txt"
BROWSER_FAILED = VENV / "bigain-browser-failed.txt"
FRONT_ENDS = VENV / "front-ends"
BROWSER = Path("tests", "ui", "browser.py")

HOST_PARTS = ("main.py", "comfy", "comfyui_version.py", "requirements.txt")
HOST_VERSION = "0.33.0"
HOST_SOURCE = "https://github.com/comfyanonymous/ComfyUI"
FRONT_END = "comfyui-frontend-package"
PIP_WITH_GROUPS = "pip>=25.1"  # the first that has --group
SECONDS_TO_REACH_SOURCE = 20
PYTEST_NOTHING_SELECTED = 5
AT_A_TIME = 3  # for two cores: a test uses one, and one of these runs waits half of the time
HALVES = {"test_a to test_l": "[!a-l]", "test_m to test_z": "[!m-z]"}  # and what each leaves out


class DevError(Exception):
    """A problem that the person at the keyboard can solve; the message says how."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder."""

    path: Path
    version: str

    @property
    def requirements(self) -> Path:
        return self.path / "requirements.txt"

    def __str__(self) -> str:
        return f"ComfyUI {self.version} ({self.path})"


def say(text: str) -> None:
    """Print a line; what this console cannot show, on Windows much, becomes a question mark."""
    encoding = sys.stdout.encoding
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


# Finding hosts


def read_version(folder: Path) -> str | None:
    """The version of the ComfyUI in a folder, None where the folder is not a ComfyUI."""
    if not all((folder / part).exists() for part in HOST_PARTS):
        return None
    text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return found and found[1]


def read_host(folder: Path, origin: str) -> Host:
    """The host in a folder that was named explicitly; `origin` says where."""
    version = read_version(folder)
    if version is None:
        missing = [part for part in HOST_PARTS if not (folder / part).exists()]
        raise DevError(
            f"{origin}: expected a ComfyUI folder (with {', '.join(HOST_PARTS)}), got {folder} "
            f"(missing: {', '.join(missing) or '__version__ in comfyui_version.py'}). "
            "Give the folder that ComfyUI's main.py lies in."
        )
    return Host(folder.resolve(), version)


def version_key(host: Host) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", host.version))


def likely_folders(repo: Path, home: Path) -> list[Path]:
    """Where a ComfyUI may lie: around the pack and where comfy-cli puts it."""
    around = [repo.parent.parent] if repo.parent.name == "custom_nodes" else []
    for root in (home / "comfy", home / "Documents" / "comfy", repo.parent):
        around += sorted(root.glob("ComfyUI*"))
    return around


def find_hosts(
    given: Sequence[str], environ: Mapping[str, str], repo: Path, home: Path
) -> list[Host]:
    """Exactly the hosts that were named, in that order; else all that lie around, newest first."""
    named = environ.get("COMFYUI_PATH", "").split(os.pathsep)
    origin, folders = ("--host", given) if given else ("COMFYUI_PATH", list(filter(None, named)))
    if folders:
        return list(dict.fromkeys(read_host(Path(f).expanduser(), origin) for f in folders))
    found = (Host(f.resolve(), v) for f in likely_folders(repo, home) if (v := read_version(f)))
    return sorted(dict.fromkeys(found), key=version_key, reverse=True)


# Installing


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def venv_version(venv: Path) -> str | None:
    """The "major.minor" a venv was made with, None where there is no working venv."""
    config = venv / "pyvenv.cfg"
    if not (config.is_file() and venv_python(venv).is_file()):
        return None
    text = config.read_text(encoding="utf-8")
    found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", text, re.MULTILINE)
    return found and found[1]


def make_venv(venv: Path) -> None:
    """Make the venv unless it exists and belongs to the running Python."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if venv_version(venv) == running:
        return
    say(f"making {venv.name} for Python {running}")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", str(venv)]):
        raise DevError(
            f"expected `python -m venv` to make {venv}, got the error above. Install Python's "
            "venv module (Debian, Ubuntu: the package python3-venv) and start again."
        )


def pip_install(*what: str) -> None:
    """Install into the venv; pip prints errors only."""
    command = [str(venv_python(VENV)), "-m", "pip", "install", "-qq", *what]
    if code := subprocess.call(command, cwd=REPO):
        raise DevError(
            f"expected pip to install {' '.join(what)}, got exit code {code} and the errors "
            "above. Nothing was started; solve them (network? disk? versions?) and start again."
        )


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(line: str) -> str | None:
    """The package a line of requirements.txt names; None for comments, options and bare URLs."""
    found = re.match(r"\s*([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?:[\[<>=!~;@#(]|$)", line)
    return normalise(found[1]) if found else None


def not_installed(requirements: str, installed: Iterable[str]) -> list[str]:
    """The lines of a requirements.txt whose packages are not among the installed ones."""
    have = {normalise(name) for name in installed}
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in requirements.splitlines())
    return [line for line in lines if (name := requirement_name(line)) and name not in have]


def installed_names() -> list[str]:
    command = [str(venv_python(VENV)), "-m", "pip", "list", "--format=json"]
    return [row["name"] for row in json.loads(subprocess.check_output(command, cwd=REPO))]


def fingerprint(hosts: Sequence[Host], repo: Path) -> str:
    """Changes whenever something else would have to be installed."""
    asked = [sys.version, (repo / "pyproject.toml").read_text(encoding="utf-8")]
    asked += [host.requirements.read_text(encoding="utf-8") for host in hosts]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def install_packages(hosts: Sequence[Host]) -> None:
    """Install what the hosts and the tools need, unless that was done before.

    The newest host decides the versions. An older one only adds packages that are missing, for
    its pins contradict the newest one's.
    """
    wanted = fingerprint(hosts, REPO)
    if INSTALLED.is_file() and INSTALLED.read_text() == wanted:
        return
    INSTALLED.unlink(missing_ok=True)
    pip_install(PIP_WITH_GROUPS)
    if hosts:
        newest = max(hosts, key=version_key)
        say(f"installing the requirements of {newest} (the first time: several GB)")
        pip_install("-r", str(newest.requirements), "--group", "host", "--group", "dev")
        for host in hosts:
            if missing := not_installed(host.requirements.read_text("utf-8"), installed_names()):
                say(f"installing what only {host} needs: {', '.join(missing)}")
                pip_install(*missing)
    else:
        say("installing torch and the test tools (the first time: several GB)")
        pip_install("--group", "standalone", "--group", "dev")
    INSTALLED.write_text(wanted)


def install_front_ends(hosts: Sequence[Host]) -> None:
    """What the tests in a browser show: the front end that each host asks for, and the newest.

    The newest host's own one is among the packages already.
    """
    newest = max(hosts, key=version_key)
    texts = (host.requirements.read_text("utf-8") for host in hosts if host != newest)
    pinned = [
        found[1] for text in texts if (found := re.search(rf"^{FRONT_END}==(\S+)", text, re.M))
    ]
    wanted = {version: f"{FRONT_END}=={version}" for version in pinned} | {"newest": FRONT_END}
    for name, requirement in wanted.items():
        if not (folder := FRONT_ENDS / name).is_dir():
            say(f"installing {requirement} beside the others")
            pip_install("--no-deps", "--target", str(folder), requirement)


def source_problem() -> str:
    """Why ComfyUI cannot be downloaded from here; empty if it can."""
    if not (git := shutil.which("git")):
        return "git is not installed"
    command = [git, "ls-remote", "--exit-code", HOST_SOURCE, f"refs/tags/v{HOST_VERSION}"]
    limits = {"timeout": SECONDS_TO_REACH_SOURCE, "env": {**os.environ, "GIT_TERMINAL_PROMPT": "0"}}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", **limits)
    except subprocess.TimeoutExpired:
        return f"{HOST_SOURCE} did not answer within {SECONDS_TO_REACH_SOURCE} s"
    said = " ".join(done.stderr.split()) or f"{HOST_SOURCE} has no version {HOST_VERSION}"
    return said if done.returncode else ""


def install_host(target: Path) -> str:
    """Let comfy-cli download ComfyUI; return why that failed, empty if it did not.

    Packages are left to `install_packages`, and so is torch: this only fetches the sources.
    """
    if problem := source_problem():
        return problem
    pip_install(PIP_WITH_GROUPS, "comfy-cli")
    command = [str(venv_python(VENV)), "-m", "comfy_cli", "--skip-prompt", "--no-json"]
    command += ["--workspace", str(target), "install", "--version", HOST_VERSION, "--cpu"]
    command += ["--skip-torch-or-directml", "--skip-requirement", "--skip-manager"]
    environ = {**os.environ, "VIRTUAL_ENV": str(VENV), "DO_NOT_TRACK": "1"}
    code = subprocess.call(command, cwd=REPO, env=environ)
    if code or read_version(target) is None:
        return f"comfy-cli did not install it into {target} (exit code {code})"
    return ""


def provide_host(home: Path) -> tuple[list[Host], str]:
    """Install ComfyUI where none was found: the host, or no host and the reason.

    A failure is remembered, so that the next start does not wait for it again.
    """
    if HOST_FAILED.is_file():
        return [], HOST_FAILED.read_text(encoding="utf-8")
    target = home / "comfy" / "ComfyUI"
    say(f"found no ComfyUI; installing {HOST_VERSION} into {target}")
    if problem := install_host(target):
        say(f"going on without ComfyUI: {problem}")
        HOST_FAILED.write_text(problem, encoding="utf-8")
        return [], problem
    return [read_host(target, "comfy-cli")], ""


def linux_distribution() -> str:
    """The ID in /etc/os-release, empty on other systems."""
    try:
        return platform.freedesktop_os_release()["ID"]
    except OSError:
        return ""


def browser_problem() -> str:
    """Why no browser starts from here; empty if one does."""
    command = [str(venv_python(VENV)), str(BROWSER)]
    kept = {"capture_output": True, "text": True, "errors": "replace"}
    done = subprocess.run(command, cwd=REPO, check=False, **kept)
    said = done.stderr.strip().splitlines() or [f"{BROWSER} ended with {done.returncode}"]
    return said[-1] if done.returncode else ""


def browser_commands(distribution: str, root: bool) -> list[list[str]]:
    """What may bring a browser, in this order."""
    commands = [module_command("playwright", "install", "chromium")]
    if root and distribution == "debian":
        install = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]
        commands += [["apt-get", "update"], install]
    if root and distribution == "ubuntu":  # its own Chromium is a snap; this one lacks libraries
        commands.append(module_command("playwright", "install-deps", "chromium"))
    return commands


def provide_browser(distribution: str, root: bool) -> str:
    """Install a browser where none starts: why that failed, empty if one starts now.

    A failure is remembered, so that the next start does not wait for it again.
    """
    if not browser_problem():
        return ""
    if BROWSER_FAILED.is_file():
        return BROWSER_FAILED.read_text(encoding="utf-8")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    problems = []
    for command in browser_commands(distribution, root):
        say(f"found no browser; running {' '.join(command)}")
        code = subprocess.call(command, cwd=REPO, env=environ, stdin=subprocess.DEVNULL)
        if not (problem := browser_problem()):
            return ""
        problems += [f"exit code {code} of {' '.join(command)}"] if code else []
    found = "; ".join(problems) or problem
    BROWSER_FAILED.write_text(found, encoding="utf-8")
    return found


# Running


def left_out_line(what: str, problem: str, instead: str, stamp: Path) -> str:
    return (
        f"LEFT OUT: {what} (none found; installing it failed: {problem}). To include it: "
        f"{instead}, or delete {stamp.relative_to(REPO).as_posix()} to have the installation "
        "tried again."
    )


def environment(host: Host | None) -> dict[str, str]:
    """The environment of a run: COMFYUI_PATH names its host."""
    environ = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    return environ | {"COMFYUI_PATH": str(host.path)} if host else environ


def module_command(module: str, *arguments: str) -> list[str]:
    return [str(venv_python(VENV)), "-m", module, *arguments]


def run_module(heading: str, environ: dict[str, str], module: str, *arguments: str) -> int:
    say(f"== {heading}")
    return subprocess.call(module_command(module, *arguments), cwd=REPO, env=environ)


def run_demo(hosts: Sequence[Host], extra: Sequence[str], left_out: str) -> int:
    host = hosts[0] if hosts else None
    chosen = ["--host", str(host.path)] if host else []
    heading = f"demo with {host or 'the built-in runner'}"
    code = run_module(heading, environment(host), "benchmarks.demo", *chosen, *extra)
    if left_out:
        say(left_out)
    return code


def planned_runs(
    hosts: Sequence[Host], extra: Sequence[str]
) -> list[tuple[str, Host | None, list]]:
    """Heading, host and arguments of each run of pytest, in the order they begin in.

    Those of server and browser wait half of the time, so of the runs at a time one is such a run,
    as long as there are any. Hosts after the first do not repeat what no host changes (`once`).
    The host tests of the first take longer than all else: they are two runs, each of half the
    files. A path among the arguments goes to the runs of its folder, and other runs fall away.
    """
    kinds = {"server and browser tests": ["server", "ui"], "host tests": ["host"]}
    planned = [
        (f"{kind} with {host}", host, folders, ["-m", "not once"] if host != hosts[0] else [])
        for host in hosts
        for kind, folders in kinds.items()
    ]
    planned.append(("tests that need no ComfyUI", None, ["core"], []))
    paths = {name: (REPO / name.partition("::")[0]).resolve() for name in extra}
    paths = {name: path for name, path in paths.items() if path.is_relative_to(REPO / "tests")}
    others = [argument for argument in extra if argument not in paths]
    if hosts and not paths:
        heading, *same, _ = planned.pop(1)
        planned[1:1] = [
            (f"{heading}, {half}", *same, [f"--ignore-glob=*/test_{left_out}*.py"])
            for half, left_out in HALVES.items()
        ]
    runs = []
    for heading, host, names, marks in planned:
        chosen = []
        for folder in (REPO / "tests" / name for name in names):
            if not paths or any(folder.is_relative_to(path) for path in paths.values()):
                chosen.append(folder.relative_to(REPO).as_posix())
            else:
                chosen += [name for name, path in paths.items() if path.is_relative_to(folder)]
        if chosen:
            runs.append((heading, host, [*chosen, *marks, *others]))
    return runs


def run_tests(hosts: Sequence[Host], extra: Sequence[str], left_out: str) -> int:
    """All tests, in several runs at a time; each is printed when it ends."""
    queue, codes = planned_runs(hosts, extra), []
    if len(queue) == 1:
        [(heading, host, arguments)] = queue
        codes = [run_module(heading, environment(host), "pytest", *arguments)]
    else:
        say(f"{len(queue)} runs of tests, {AT_A_TIME} at a time; each is printed when it has ended")
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            headings = {pool.submit(run_kept, *run): heading for heading, *run in queue}
            for done in as_completed(headings):
                say(f"== {headings[done]}\n{done.result().stdout}")
                codes.append(done.result().returncode)
    if left_out:
        say(left_out)
    # The tests that were chosen need not be in every run.
    codes = [code for code in codes if code != PYTEST_NOTHING_SELECTED] or [PYTEST_NOTHING_SELECTED]
    return next((code for code in codes if code), 0)


def run_kept(host: Host | None, arguments: Sequence[str]) -> subprocess.CompletedProcess:
    """A run of pytest; what it prints is in `stdout`."""
    command = module_command("pytest", *arguments)
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environ = environment(host)
    return subprocess.run(command, cwd=REPO, env=environ, errors="replace", check=False, **kept)


def parse(arguments: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """Split a command line into command, hosts and what is passed on."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "dev.py", description=__doc__, formatter_class=layout, allow_abbrev=False
    )
    parser.add_argument("command", choices=("demo", "test"))
    parser.add_argument("--host", action="append", default=[], metavar="PATH")
    known, extra = parser.parse_known_args(arguments)
    return known.command, known.host, extra


def main(arguments: Sequence[str]) -> int:
    command, given, extra = parse(arguments)
    try:
        hosts, left_out = find_hosts(given, os.environ, REPO, Path.home()), ""
        make_venv(VENV)
        if not hosts:
            hosts, problem = provide_host(Path.home())
            instead = f"python dev.py {command} --host PATH_TO_COMFYUI"
            left_out = problem and left_out_line(
                "everything that needs ComfyUI", problem, instead, HOST_FAILED
            )
        install_packages(hosts)
        if command == "test" and hosts:
            install_front_ends(hosts)
            root = hasattr(os, "geteuid") and os.geteuid() == 0
            if problem := provide_browser(linux_distribution(), root):
                instead = "install Chromium or Chrome"
                left_out = left_out_line("all tests in a browser", problem, instead, BROWSER_FAILED)
    except DevError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 2
    run = run_demo if command == "demo" else run_tests
    return run(hosts, extra, left_out)


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - the file is started by whatever Python there is
        sys.exit(f"dev.py: expected Python 3.10 or newer, got {sys.version.split()[0]}")
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
