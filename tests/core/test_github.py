"""Workflows and forms of .github: what they call exists, what they name agrees with the code."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import dev

PACK = Path(__file__).resolve().parents[2]
GITHUB = PACK / ".github"
PYPROJECT = (PACK / "pyproject.toml").read_text("utf-8")
CITATION = yaml.safe_load((PACK / "CITATION.cff").read_text("utf-8"))
INSTALLED_BY = {"ruff": "ruff", "cffconvert": "cffconvert", "comfy": "comfy-cli"}
OF_THE_RUNNER = {"google-chrome", "grep"}
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))


def read(name):
    return yaml.safe_load((GITHUB / "workflows" / name).read_text("utf-8"))


def steps(job):
    return job.get("steps", [])


JOBS = [
    pytest.param(job, id=f"{path.stem}-{name}")
    for path in sorted((GITHUB / "workflows").glob("*.yml"))
    for name, job in read(path.name)["jobs"].items()
]


def refs(job):
    """What of ComfyUI a job checks out, by folder."""
    given = (step.get("with", {}) for step in steps(read("ci.yml")["jobs"][job]))
    return {one["path"]: one["ref"] for one in given if "ref" in one}


def in_pyproject(pattern):
    return re.search(pattern, PYPROJECT, re.MULTILINE)[1]


@pytest.mark.parametrize("job", JOBS)
def test_every_command_exists(job):
    pip_has = set()
    for step in steps(job):
        for line in step.get("run", "").splitlines():
            command, *arguments = shlex.split(line)
            if command == "python" and arguments[:3] == ["-m", "pip", "install"]:
                pip_has.update(arguments[3:])
            elif command == "python":
                assert arguments[0] == "dev.py"
                dev.parse(arguments[1:])
            else:
                assert command in OF_THE_RUNNER or INSTALLED_BY[command] in pip_has


@pytest.mark.parametrize("job", JOBS)
def test_every_file_that_is_called_exists(job):
    if called := job.get("uses"):
        assert (PACK / called).is_file()
    for action in (step["uses"] for step in steps(job) if "uses" in step):
        assert re.fullmatch(r"actions/(checkout@v4|setup-python@v5)", action)


def test_the_oldest_and_the_newest_host_are_those_of_the_code():
    assert refs("test") == {
        "ComfyUI": f"v{dev.HOST_VERSION}",
        "ComfyUI-oldest": "v" + in_pyproject(r'^requires-comfyui = ">=(.+)"'),
    }


def test_the_latest_host_is_tried_and_once_a_week_its_master():
    assert {"cron": "17 4 * * 1"} in read("ci.yml")[True]["schedule"]  # YAML reads "on" as true
    ref = refs("newer")["ComfyUI"]
    newer = r"\$\{\{ github\.event_name == 'schedule' && 'master' \|\| 'v(\d+)\.(\d+)\.(\d+)' \}\}"
    latest = tuple(map(int, re.fullmatch(newer, ref).groups()))
    assert latest > tuple(map(int, dev.HOST_VERSION.split(".")))


def test_dev_py_finds_both_hosts_where_they_are_checked_out(tmp_path):
    job = read("ci.yml")["jobs"]["test"]
    pack, *hosts = [step["with"]["path"] for step in steps(job) if "path" in step.get("with", {})]
    assert job["defaults"]["run"]["working-directory"] == pack
    for host in hosts:
        (tmp_path / host / "comfy").mkdir(parents=True)
        for part in ("main.py", "requirements.txt"):
            (tmp_path / host / part).touch()
        (tmp_path / host / "comfyui_version.py").write_text("__version__ = '1'", encoding="utf-8")
    found = dev.find_hosts((), {}, tmp_path / pack, tmp_path / "home")
    assert {host.path.name for host in found} == set(hosts) and len(hosts) == 2


def test_all_systems_and_the_oldest_python_are_tested():
    matrix = read("ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert matrix["python"][0] == in_pyproject(r'^requires-python = ">=(.+)"')


def test_nothing_is_published_untested_and_one_secret_is_known():
    assert read("publish.yml")["jobs"]["registry"]["needs"] == "tests"
    text = "".join(path.read_text("utf-8") for path in (GITHUB / "workflows").glob("*.yml"))
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"REGISTRY_ACCESS_TOKEN"}


def test_a_tag_is_compared_with_a_line_of_pyproject():
    version = in_pyproject(r'^version = "(.+)"')
    (check,) = [
        step["run"]
        for step in steps(read("publish.yml")["jobs"]["registry"])
        if "grep" in step.get("run", "")
    ]
    _, _, line, file = shlex.split(check.replace("${GITHUB_REF_NAME#v}", version))
    assert line in (PACK / file).read_text("utf-8").splitlines()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_the_report(path):
    form = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = {field["id"]: field for field in form["body"]}
    assert len(fields) == len(form["body"])
    assert all(field["attributes"]["label"] for field in fields.values())
    assert fields["report"]["validations"]["required"]


def test_what_is_cited_is_this_version_and_the_paper():
    assert CITATION["version"] == in_pyproject(r'^version = "(.+)"')
    assert CITATION["repository-code"] == in_pyproject(r'^Repository = "(.+)"')
    assert CITATION["preferred-citation"]["url"] in (PACK / "README.md").read_text("utf-8")


def test_the_changelog_has_this_version():
    headings = re.findall(r"^## (\S+)", (PACK / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == in_pyproject(r'^version = "(.+)"')
