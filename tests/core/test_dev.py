"""dev.py: which hosts it finds, what it would install, and what it starts."""

import importlib.util
import io
import os
import sys
import threading
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def dev(tmp_path, monkeypatch):
    """A fresh dev.py whose folders all lie below tmp_path and that starts no process."""
    spec = importlib.util.spec_from_file_location("bigain_dev", REPO / "dev.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)

    def no_process(*command, **_):
        raise AssertionError(f"started {command}")

    for name in ("call", "run", "check_output"):
        monkeypatch.setattr(module.subprocess, name, no_process)
    repo = tmp_path / "work" / "bigain"
    venv = repo / ".venv"
    monkeypatch.setattr(module, "REPO", repo)
    monkeypatch.setattr(module, "VENV", venv)
    for name in ("INSTALLED", "HOST_FAILED", "BROWSER_FAILED", "FRONT_ENDS"):
        monkeypatch.setattr(module, name, venv / getattr(module, name).name)
    venv.mkdir(parents=True)
    (repo / "pyproject.toml").write_text("[dependency-groups]\ndev = ['pytest']\n")
    return module


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def make_host(folder, version="0.33.0", requirements="torch\n"):
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'# generated\n__version__ = "{version}"\n')
    (folder / "requirements.txt").write_text(requirements)
    return folder


def make_venv_folder(dev, version):
    python = dev.venv_python(dev.VENV)
    python.parent.mkdir(parents=True)
    python.touch()
    (dev.VENV / "pyvenv.cfg").write_text(f"home = somewhere\nversion = {version}\n")


def running():
    return ".".join(map(str, sys.version_info[:3]))


def test_what_a_console_cannot_show_is_replaced(dev, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="")
    monkeypatch.setattr(sys, "stdout", console)
    dev.say("\u2713 50 %")
    assert console.buffer.getvalue() == b"? 50 %\n"


class TestFindingHosts:
    def find(self, dev, home, given=(), **environ):
        return dev.find_hosts(given, environ, dev.REPO, home)

    def test_nothing_lies_around(self, dev, home):
        assert self.find(dev, home) == []

    def test_newest_first_by_number_not_by_spelling(self, dev, home):
        for name, version in (("ComfyUI", "0.9.2"), ("ComfyUI-a", "0.33.0"), ("ComfyUI-b", "0.4")):
            make_host(home / "comfy" / name, version)
        found = self.find(dev, home)
        assert [host.version for host in found] == ["0.33.0", "0.9.2", "0.4"]
        assert found[0].path == (home / "comfy" / "ComfyUI-a").resolve()

    def test_every_usual_place(self, dev, home):
        places = [
            home / "comfy" / "ComfyUI",
            home / "Documents" / "comfy" / "ComfyUI",
            dev.REPO.parent / "ComfyUI-mine",
        ]
        for place in places:
            make_host(place)
        assert {host.path for host in self.find(dev, home)} == {p.resolve() for p in places}

    def test_around_the_pack_in_custom_nodes(self, dev, home, tmp_path):
        comfy = make_host(tmp_path / "any name")
        repo = comfy / "custom_nodes" / "bigain"
        assert [host.path for host in dev.find_hosts((), {}, repo, home)] == [comfy.resolve()]
        elsewhere = comfy / "other_folder" / "bigain"
        assert dev.find_hosts((), {}, elsewhere, home) == []

    def test_a_host_reached_twice_counts_once(self, dev, home, tmp_path):
        comfy = make_host(home / "comfy" / "ComfyUI")
        repo = comfy / "custom_nodes" / "bigain"
        assert len(dev.find_hosts((), {}, repo, home)) == 1
        roundabout = str(comfy / ".." / "ComfyUI")
        assert len(self.find(dev, home, [str(comfy), roundabout])) == 1

    def test_other_folders_are_passed_over(self, dev, home):
        make_host(home / "comfy" / "ComfyUI")
        (make_host(home / "comfy" / "ComfyUI-broken") / "main.py").unlink()
        (home / "comfy" / "ComfyUI-notes").mkdir()
        (home / "comfy" / "ComfyUI.zip").touch()
        assert len(self.find(dev, home)) == 1

    def test_named_hosts_are_used_exactly_and_in_their_order(self, dev, home, tmp_path):
        make_host(home / "comfy" / "ComfyUI", "0.40.0")
        old = make_host(tmp_path / "old", "0.8.0")
        new = make_host(tmp_path / "new", "0.33.0")
        named = [str(old), str(new)]
        assert [h.version for h in self.find(dev, home, named)] == ["0.8.0", "0.33.0"]
        listed = self.find(dev, home, COMFYUI_PATH=os.pathsep.join(named))
        assert [h.version for h in listed] == ["0.8.0", "0.33.0"]

    def test_host_wins_over_comfyui_path(self, dev, home, tmp_path):
        one, two = make_host(tmp_path / "one"), make_host(tmp_path / "two")
        found = self.find(dev, home, [str(one)], COMFYUI_PATH=str(two))
        assert [host.path for host in found] == [one.resolve()]

    def test_empty_comfyui_path_means_none(self, dev, home):
        make_host(home / "comfy" / "ComfyUI")
        assert len(self.find(dev, home, COMFYUI_PATH="")) == 1

    @pytest.mark.parametrize("origin", ["--host", "COMFYUI_PATH"])
    def test_an_invalid_named_host_is_an_error(self, dev, home, tmp_path, origin):
        make_host(home / "comfy" / "ComfyUI")
        wrong = tmp_path / "wrong"
        (wrong / "comfy").mkdir(parents=True)
        given = [str(wrong)] if origin == "--host" else ()
        environ = {} if given else {"COMFYUI_PATH": str(wrong)}
        with pytest.raises(dev.DevError) as caught:
            dev.find_hosts(given, environ, dev.REPO, home)
        message = str(caught.value)
        assert message.startswith(f"{origin}: expected a ComfyUI folder")
        assert f"got {wrong} (missing: main.py, comfyui_version.py, requirements.txt)" in message
        assert message.endswith("Give the folder that ComfyUI's main.py lies in.")

    def test_a_version_file_without_a_version_is_named(self, dev, tmp_path):
        odd = make_host(tmp_path / "odd")
        (odd / "comfyui_version.py").write_text("version = 1\n")
        with pytest.raises(dev.DevError, match="missing: __version__ in comfyui_version.py"):
            dev.read_host(odd, "--host")


class TestRequirements:
    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("torch", "torch"),
            ("comfyui-frontend-package==1.49.6", "comfyui-frontend-package"),
            ("SQLAlchemy>=2.0.0", "sqlalchemy"),
            ("pydantic~=2.0", "pydantic"),
            ("  Foo_Bar.baz [extra] >= 1 ; python_version < '3.11'", "foo-bar-baz"),
            ("pack @ https://example.org/pack.whl", "pack"),
            ("av>=16.0.0", "av"),
            ("six#comment", "six"),
            ("", None),
            ("# non essential dependencies:", None),
            ("-r other.txt", None),
            ("--extra-index-url https://example.org", None),
            ("git+https://example.org/pack.git", None),
        ],
    )
    def test_name(self, dev, line, name):
        assert dev.requirement_name(line) == name

    def test_only_missing_packages_are_installed_with_their_pins(self, dev):
        text = "torch\nsqlalchemy>=2\n\n# more:\nFoo.Bar==1.2  # pinned\npack~=2.0\n"
        assert dev.not_installed(text, ["Torch", "SQLAlchemy", "pip"]) == [
            "Foo.Bar==1.2",
            "pack~=2.0",
        ]

    def test_spelling_of_names_does_not_matter(self, dev):
        assert dev.not_installed("some-long.name==1\n", ["Some_Long_Name"]) == []


class TestInstalling:
    @pytest.fixture
    def pip(self, dev, monkeypatch):
        """What pip was asked to install."""
        asked = []
        monkeypatch.setattr(dev, "pip_install", lambda *what: asked.append(what))
        monkeypatch.setattr(dev, "installed_names", lambda: ["torch"])
        return asked

    def test_second_start_installs_nothing(self, dev, pip, tmp_path):
        host = dev.read_host(make_host(tmp_path / "ComfyUI"), "--host")
        dev.install_packages([host])
        assert pip
        pip.clear()
        dev.install_packages([host])
        assert pip == []

    @pytest.mark.parametrize("changed", ["pyproject.toml", "requirements.txt", "hosts", "python"])
    def test_a_change_installs_again(self, dev, pip, tmp_path, monkeypatch, changed):
        host = dev.read_host(make_host(tmp_path / "ComfyUI"), "--host")
        dev.install_packages([host])
        pip.clear()
        hosts = [] if changed == "hosts" else [host]
        if changed == "pyproject.toml":
            (dev.REPO / changed).write_text("[dependency-groups]\ndev = ['ruff']\n")
        if changed == "requirements.txt":
            host.requirements.write_text("torch>=3\n")
        if changed == "python":
            monkeypatch.setattr(dev.sys, "version", "3.99.0")
        dev.install_packages(hosts)
        assert pip

    def test_a_failed_installation_is_not_taken_for_done(self, dev, pip, tmp_path, monkeypatch):
        host = dev.read_host(make_host(tmp_path / "ComfyUI"), "--host")
        dev.install_packages([host])
        host.requirements.write_text("no-such-package\n")

        def fail(*what):
            raise dev.DevError("pip")

        with monkeypatch.context() as patch:
            patch.setattr(dev, "pip_install", fail)
            with pytest.raises(dev.DevError):
                dev.install_packages([host])
        host.requirements.write_text("torch\n")
        pip.clear()
        dev.install_packages([host])
        assert pip

    def test_the_newest_host_decides_the_versions(self, dev, pip, tmp_path):
        old = make_host(tmp_path / "old", "0.8.0", "torch==1\nonly-old==2\n")
        new = make_host(tmp_path / "new", "0.33.0", "torch==3\n")
        dev.install_packages([dev.read_host(old, "--host"), dev.read_host(new, "--host")])
        requirements = [what[1] for what in pip if what[0] == "-r"]
        assert requirements == [str(new.resolve() / "requirements.txt")]
        assert pip[-1] == ("only-old==2",)

    def test_without_a_host(self, dev, pip):
        dev.install_packages([])
        assert pip[-1] == ("--group", "standalone", "--group", "dev")

    def test_front_ends_beside_that_of_the_newest_host_are_installed_once(self, dev, pip, tmp_path):
        pins = {"0.8.0": "1.35.9", "0.33.0": "1.49.6"}
        hosts = [
            dev.read_host(
                make_host(tmp_path / host, host, f"comfyui-frontend-package=={pin}\ntorch\n"), ""
            )
            for host, pin in pins.items()
        ]
        dev.install_front_ends(hosts)
        options = [("--no-deps", "--target", str(dev.FRONT_ENDS / n)) for n in ("1.35.9", "newest")]
        assert pip == [
            (*options[0], "comfyui-frontend-package==1.35.9"),
            (*options[1], "comfyui-frontend-package"),
        ]
        for name in ("1.35.9", "newest"):
            (dev.FRONT_ENDS / name).mkdir(parents=True)
        pip.clear()
        dev.install_front_ends(hosts)
        assert pip == []

    def test_failing_pip_is_reported(self, dev, monkeypatch):
        monkeypatch.setattr(dev.subprocess, "call", lambda *_, **__: 1)
        with pytest.raises(dev.DevError, match="expected pip to install torch, got exit code 1"):
            dev.pip_install("torch")

    def test_venv_of_this_python_is_kept(self, dev):
        make_venv_folder(dev, running())
        dev.make_venv(dev.VENV)

    @pytest.mark.parametrize("state", ["missing", "other python", "python gone"])
    def test_venv_is_made(self, dev, monkeypatch, state):
        if state != "missing":
            make_venv_folder(dev, "3.1.4" if state == "other python" else running())
        if state == "python gone":
            dev.venv_python(dev.VENV).unlink()
        commands = []
        monkeypatch.setattr(dev.subprocess, "call", lambda command: commands.append(command) or 0)
        dev.make_venv(dev.VENV)
        assert commands == [[sys.executable, "-m", "venv", "--clear", str(dev.VENV)]]


class TestProvidingAHost:
    def test_a_failure_is_remembered(self, dev, home, monkeypatch):
        tries = []
        monkeypatch.setattr(dev, "install_host", lambda target: tries.append(target) or "no way")
        assert dev.provide_host(home) == ([], "no way")
        assert dev.provide_host(home) == ([], "no way")
        assert tries == [home / "comfy" / "ComfyUI"]

    def test_success_is_a_host_and_leaves_no_reason(self, dev, home, monkeypatch):
        monkeypatch.setattr(dev, "install_host", lambda target: make_host(target) and "")
        hosts, problem = dev.provide_host(home)
        assert [host.path for host in hosts] == [(home / "comfy" / "ComfyUI").resolve()]
        assert problem == "" and not dev.HOST_FAILED.exists()

    def test_an_unreachable_source_downloads_nothing(self, dev, home, monkeypatch):
        monkeypatch.setattr(dev, "source_problem", lambda: "no network")
        assert dev.install_host(home / "comfy" / "ComfyUI") == "no network"

    def test_a_silent_source_is_given_up(self, dev, monkeypatch):
        def silent(command, timeout, **_):
            raise dev.subprocess.TimeoutExpired(command, timeout)

        monkeypatch.setattr(dev.shutil, "which", lambda name: name)
        monkeypatch.setattr(dev.subprocess, "run", silent)
        assert dev.source_problem().endswith(f"not answer within {dev.SECONDS_TO_REACH_SOURCE} s")


class TestProvidingABrowser:
    """`problems` are what is found before anything is tried and after each command."""

    @pytest.fixture
    def tried(self, dev, monkeypatch):
        commands = []

        def call(command, **_):
            commands.append(command[-3:])
            return 1

        monkeypatch.setattr(dev.subprocess, "call", call)
        monkeypatch.setattr(dev, "browser_problem", lambda: self.problems[len(commands)])
        return commands

    def test_a_browser_that_starts_is_enough(self, dev, tried):
        self.problems = [""]
        dev.BROWSER_FAILED.write_text("remembered")
        assert dev.provide_browser("debian", True) == "" and tried == []

    def test_that_of_playwright_comes_before_that_of_the_system(self, dev, tried):
        self.problems = ["none", ""]
        assert dev.provide_browser("debian", True) == ""
        assert tried == [["playwright", "install", "chromium"]]
        assert not dev.BROWSER_FAILED.exists()

    @pytest.mark.parametrize(
        ("distribution", "root", "last"),
        [
            ("debian", True, ["--yes", "--no-install-recommends", "chromium"]),
            ("ubuntu", True, ["playwright", "install-deps", "chromium"]),
            ("debian", False, ["playwright", "install", "chromium"]),
            ("ubuntu", False, ["playwright", "install", "chromium"]),
            ("", True, ["playwright", "install", "chromium"]),
        ],
    )
    def test_a_failure_of_all_that_this_system_has_is_remembered(
        self, dev, tried, distribution, root, last
    ):
        self.problems = ["none"] * 4
        problem = dev.provide_browser(distribution, root)
        assert tried[0] == ["playwright", "install", "chromium"] and tried[-1] == last
        assert problem.count("exit code 1 of ") == len(tried)
        tried.clear()
        assert dev.provide_browser(distribution, root) == problem
        assert tried == []

    def test_the_problem_is_the_last_line_of_what_the_tests_would_start(self, dev, monkeypatch):
        def run(command, **_):
            assert command[1:] == [str(dev.BROWSER)] and (REPO / dev.BROWSER).is_file()
            return dev.subprocess.CompletedProcess(
                command, self.code, "", "Traceback\nno browser\n"
            )

        monkeypatch.setattr(dev.subprocess, "run", run)
        self.code = 1
        assert dev.browser_problem() == "no browser"
        self.code = 0
        assert dev.browser_problem() == ""


class TestRunning:
    @pytest.fixture
    def runs(self, dev, monkeypatch):
        """Collects (arguments, COMFYUI_PATH); `codes` are by folder, `code` for all others."""
        seen = []
        self.code, self.codes = 0, {}

        def call(command, cwd, env):
            assert cwd == dev.REPO and command[0] == str(dev.venv_python(dev.VENV))
            seen.append((command[2:], env.get("COMFYUI_PATH")))
            return self.codes.get(Path(env.get("COMFYUI_PATH", "")).name, self.code)

        def run(command, cwd, env, **kept):
            code = call(command, cwd, env)
            return dev.subprocess.CompletedProcess(command, code, stdout="first\nlast")

        monkeypatch.setenv("COMFYUI_PATH", "inherited")
        monkeypatch.setattr(dev.subprocess, "call", call)
        monkeypatch.setattr(dev.subprocess, "run", run)
        return seen

    @pytest.fixture
    def hosts(self, dev):
        return [dev.Host(Path("/new"), "0.33.0"), dev.Host(Path("/old"), "0.8.0")]

    def test_every_test_runs_with_each_host_and_what_no_host_changes_once(
        self, dev, runs, hosts, capsys
    ):
        assert dev.run_tests(hosts, ["-x"], "") == 0
        new, old = (str(host.path) for host in hosts)
        half = "--ignore-glob=*/test_[{}]*.py"
        expected = [
            ("server and browser tests with ComfyUI 0.33.0", "tests/server tests/ui", new),
            ("host tests with ComfyUI 0.33.0", f"tests/host {half.format('!a-l')}", new),
            ("host tests with ComfyUI 0.33.0", f"tests/host {half.format('!m-z')}", new),
            (
                "server and browser tests with ComfyUI 0.8.0",
                "tests/server tests/ui -m not_once",
                old,
            ),
            ("host tests with ComfyUI 0.8.0", "tests/host -m not_once", old),
            ("tests that need no ComfyUI", "tests/core", None),
        ]
        wanted = [("pytest " + arguments + " -x", path) for _, arguments, path in expected]
        found = [(" ".join(a.replace(" ", "_") for a in given), path) for given, path in runs]
        assert sorted(found, key=str) == sorted(wanted, key=str)
        said = capsys.readouterr().out.splitlines()[1:]
        assert {heading.split(" (")[0][3:] for heading in said[::3]} == {e[0] for e in expected}
        assert said[1::3] == ["first"] * 6 and said[2::3] == ["last"] * 6

    def test_every_file_of_host_tests_is_in_one_half(self, dev, hosts):
        """Of about as many as the other, by what pytest matches names with."""
        _, first, second, *_ = (arguments for *_, arguments in dev.planned_runs(hosts, []))
        globs = [option.partition("=")[2] for _, option in (first, second)]
        files = [str(path) for path in (REPO / "tests" / "host").glob("test_*.py")]
        halves = [[f for f in files if not fnmatch(f, str(REPO / glob))] for glob in globs]
        assert sorted(sum(halves, [])) == sorted(files)
        assert min(map(len, halves)) > len(files) / 3

    def test_beside_two_long_runs_all_others_follow_in_order(self, dev, hosts, monkeypatch):
        """The first two are in the way until all others, one after the other, have ended."""
        *long, _, _, _, _ = queue = [arguments for *_, arguments in dev.planned_runs(hosts, [])]
        begun, others_ended = [], threading.Event()

        def run(command, **_):
            begun.append(command[3:])
            if command[3:] in long:
                assert others_ended.wait(timeout=30)
            elif command[3:] == queue[-1]:
                others_ended.set()
            return dev.subprocess.CompletedProcess(command, 0, stdout="")

        monkeypatch.setattr(dev.subprocess, "run", run)
        assert dev.run_tests(hosts, [], "") == 0
        assert sorted(begun[:3]) == sorted(queue[:3]) and begun[3:] == queue[3:]

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("tests/host/test_a.py", {"tests/host/test_a.py": ["/new", "/old"]}),
            ("tests/ui", {"tests/ui": ["/new", "/old"]}),
            ("./tests/core/test_a.py::test_b[c]", {"./tests/core/test_a.py::test_b[c]": [None]}),
            (
                "tests",
                {
                    "tests/host": ["/new", "/old"],
                    "tests/server tests/ui": ["/new", "/old"],
                    "tests/core": [None],
                },
            ),
            (
                "tests/core tests/host/a.py tests/host/b.py",
                {"tests/core": [None], "tests/host/a.py tests/host/b.py": ["/new", "/old"]},
            ),
        ],
    )
    def test_a_path_goes_to_the_runs_of_its_folder_alone(self, dev, runs, hosts, given, expected):
        assert dev.run_tests(hosts, ["-k", "x", *given.split()], "") == 0
        found = {}
        for (_, *arguments), path in runs:
            marks = ["-m", "not once"] if path == "/old" else []
            number = len(arguments) - len(marks) - 2
            assert arguments[number:] == [*marks, "-k", "x"]
            found.setdefault(" ".join(arguments[:number]), []).append(path)
        assert {key: sorted(paths, key=str) for key, paths in found.items()} == expected

    def test_a_path_that_needs_a_host_where_there_is_none_is_nothing_run(self, dev, runs, capsys):
        assert dev.run_tests([], ["tests/host/test_a.py"], "LEFT OUT: much.") == 5
        assert runs == [] and "LEFT OUT: much." in capsys.readouterr().out

    def test_tests_without_host_end_with_what_was_left_out(self, dev, runs, capsys):
        assert dev.run_tests([], [], "LEFT OUT: much.") == 0
        assert runs == [(["pytest", "tests/core"], None)]
        assert capsys.readouterr().out.splitlines()[-1] == "LEFT OUT: much."

    @pytest.mark.parametrize(
        ("code", "codes", "expected"),
        [(0, {"new": 1}, 1), (0, {"old": 2}, 2), (0, {"": 4}, 4), (5, {"": 0}, 0), (5, {}, 5)],
    )
    def test_any_failure_is_the_exit_code(self, dev, runs, hosts, code, codes, expected):
        self.code = code
        self.codes |= codes
        assert dev.run_tests(hosts, [], "") == expected
        assert len(runs) == 6

    def test_demo_gets_host_and_arguments(self, dev, runs, hosts):
        extra = ["--prompts", "a cat", "a dog"]
        dev.run_demo(hosts, extra, "")
        new = str(hosts[0].path)
        assert runs == [(["benchmarks.demo", "--host", new, *extra], new)]

    def test_demo_without_host_ends_with_what_was_left_out(self, dev, runs, capsys):
        self.code = 7
        assert dev.run_demo([], [], "LEFT OUT: much.") == 7
        assert runs == [(["benchmarks.demo"], None)]
        assert capsys.readouterr().out.splitlines()[-1] == "LEFT OUT: much."

    @pytest.mark.parametrize(
        ("line", "hosts", "extra"),
        [
            ("test", [], []),
            ("test --host a --host=b -x", ["a", "b"], ["-x"]),
            ("test -k one tests/core --host a", ["a"], ["-k", "one", "tests/core"]),
            ("test -p no:cacheprovider -m slow", [], ["-p", "no:cacheprovider", "-m", "slow"]),
            ("demo --prompts cat dog --ho x", [], ["--prompts", "cat", "dog", "--ho", "x"]),
        ],
    )
    def test_command_line(self, dev, line, hosts, extra):
        command, *_ = arguments = line.split()
        assert dev.parse(arguments) == (command, hosts, extra)

    @pytest.fixture
    def provided(self, dev, monkeypatch):
        """Nothing can be installed: what `main` asked for on the way."""
        asked = []
        for name in ("make_venv", "install_packages", "install_front_ends"):
            monkeypatch.setattr(dev, name, lambda *_, name=name: asked.append(name))
        monkeypatch.setattr(dev, "provide_host", lambda home: ([], "git is not installed"))
        monkeypatch.setattr(dev, "provide_browser", lambda *_: "no root")
        return asked

    @pytest.mark.parametrize("command", ["demo", "test"])
    def test_a_run_without_a_host_says_why_and_how_to_include_it(
        self, dev, runs, provided, monkeypatch, capsys, command
    ):
        monkeypatch.setattr(dev, "find_hosts", lambda *_: [])
        assert dev.main([command]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert "needs ComfyUI" in line and "git is not installed" in line
        assert f"python dev.py {command} --host PATH_TO_COMFYUI" in line
        assert f"delete .venv/{dev.HOST_FAILED.name}" in line
        assert provided == ["make_venv", "install_packages"]  # a browser needs a host

    def test_a_run_without_a_browser_says_why_and_how_to_include_it(
        self, dev, runs, provided, hosts, monkeypatch, capsys
    ):
        monkeypatch.setattr(dev, "find_hosts", lambda *_: hosts)
        assert dev.main(["test"]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert "in a browser" in line and "no root" in line and "install Chromium" in line
        assert f"delete .venv/{dev.BROWSER_FAILED.name}" in line
        assert provided[-1] == "install_front_ends"

    def test_an_invalid_host_starts_nothing(self, dev, tmp_path, capsys):
        assert dev.main(["test", "--host", str(tmp_path)]) == 2
        assert "--host: expected a ComfyUI folder" in capsys.readouterr().err
