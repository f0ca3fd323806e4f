"""Write docs/compatibility.md from tests that run on real hosts, and the README's list of models.

    python -m benchmarks.compatibility [--host PATH ...] [--models | --readme]

Runs the tests of the model families and those next to other nodes with every ComfyUI, as `dev.py`
finds them or as named, and with the newest those that emulate still newer ones. A cell says yes
only where all of its tests ran and passed. With --models what is next to other nodes stays as it
is; with --readme no test is run: the list of models follows the page as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from xml.etree import ElementTree

from benchmarks.demo_report import table
from dev import Host, find_hosts, version_key

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "compatibility.md"
README = REPO / "README.md"
LIST_OF_MODELS = re.compile(r"(?<=<!-- models -->\n).*?(?=\n<!-- end of models -->)", re.DOTALL)
WIDTH = 120
OF_A_VARIANT = re.compile(r",? with | for |, ")  # where the name of a model ends
FAMILIES = "tests/host/test_families.py"
COLUMNS = {
    "IE-KVD": ("test_pooling_equals_a_slow_reference_on_the_hosts_attention",),
    "L-GTM": (
        "test_the_model_is_as_it_was_after_a_run",
        "test_merging_equals_a_slow_reference_on_the_hosts_attention",
    ),
    "off": (
        "test_ratio_zero_and_factor_one_are_bit_identical",
        "test_a_node_outside_its_range_is_bit_identical_and_says_so",
    ),
}
NEWER = "tests/host/test_newer_attention.py"
CALL_OF_0_40 = (
    "test_the_attention_that_a_checkpoint_has_chosen_runs_in_every_layer",
    "test_nothing_changes_where_no_checkpoint_has_chosen",
)
EMULATED = {
    NEWER: "The attention call of 0.40, with boxes for tensors and a chosen attention",
    "tests/host/test_image_queries.py": "Qwen-Image 2.1, whole and with a cached prefix",
    "tests/host/test_kandinsky6.py": "Kandinsky 6",
    "tests/host/test_with_sparse_attention.py": "Model Sparse Attention",
}
SCENARIOS = {
    "tests/host/test_with_patches.py": "Other nodes that change attention or the model",
    "tests/host/test_with_joint_models.py": "The same on Flux",
    "tests/host/test_with_guidance.py": "Guidance",
    "tests/host/test_with_conditioning.py": "Conditioning",
    "tests/host/test_with_samplers.py": "Samplers and schedules",
    "tests/host/test_with_weights.py": "Weights and memory",
    "tests/host/test_with_sizes.py": "Sizes",
    "tests/host/test_in_graphs.py": "Graphs",
    "tests/host/test_determinism.py": "Determinism",
    "tests/host/test_compiled.py": "torch.compile",
    "tests/host/test_known_bugs_of_peers.py": "Known bugs of other packs, absent here",
}
ONE_ROW_EACH = re.compile(r"test_both_act|test_ours_acts|test_layers_that_another")
INTRODUCTION = """\
# Compatibility

Written by `python -m benchmarks.compatibility` from the results of tests that run ComfyUI itself,
with small random models of its own classes. A cell says *yes* where all of its tests ran and
passed, *no* where one failed, and is empty where this ComfyUI has no such model or node.

Random weights show that the right layers are found and shortened exactly as intended, and that
nothing else changes. They say nothing about the quality of images.

## Models

*IE-KVD*: sampling equals a slow reference that shortens keys and values by loops on the host's own
attention. *L-GTM*: the image changes, the same way each time, and the plain model is afterwards
what it was; for models with joint attention it equals such a reference too. *off*: ratio 0, factor
1 and a node outside its range are bit-identical to the plain model. *call of 0.40*: on the newest
ComfyUI here, with its attention called as 0.40 and later do, the attention that a checkpoint has
chosen runs in every layer, and results are those of this ComfyUI's own call.
"""
NOT_COVERED = """
Refused with a message, and why:

- Ernie-Image: its attention is not given the options of the host, so an override does not see it.
- HiDream O1: its text and its image attend in two calls of their own, and reach the host's
  attention through a function made for each network call.
- CogVideoX, Mochi: text and video attend together within reach of an override; no tests yet.
- Prism: no ComfyUI tested here has it.
- Wan Animate 2 and the causal models made from Wan: one calls attention for a frame at a time, with
  keys of the pose behind those of the video, the others without the options of the host.

Control blocks of Wan VACE stay whole; its other blocks are compressed. Wan FlowRVS has the network
and the sequence of Wan, but no row: it was not tested by itself. A sequence that does not add up is
left as it is and named in BiGain Report.
"""
EMULATIONS = """
## Newer than the newest ComfyUI here

Stand-ins written from what is known of later versions, around the networks of ComfyUI {version}.
They show that these conventions are met, not that a later version has no others.
"""
NEXT_TO = """
## Next to other nodes

On Stable Diffusion 1.5, parts of it on SDXL and Flux as well. The image with both equals one
whose compression was done by the host's own patches instead of ours, in either order of the nodes.
"""


@dataclass(frozen=True)
class Outcome:
    """Of one test: its function, the parameters in its name, what it recorded, and how it ended."""

    function: str
    parameters: str
    recorded: dict[str, str]
    verdict: str  # passed, failed or skipped


def outcomes(host: Host, path: str) -> list[Outcome]:
    """Of all tests in a file with a host."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", path, "-q", f"--junitxml={report}"]
        environ = {**os.environ, "COMFYUI_PATH": str(host.path)}
        subprocess.call(command, cwd=REPO, env=environ)
        return [outcome(case) for case in ElementTree.parse(report).iter("testcase")]


def outcome(case: ElementTree.Element) -> Outcome:
    function, _, parameters = case.attrib["name"].rstrip("]").partition("[")
    recorded = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
    verdict = "passed"
    if case.find("skipped") is not None:
        verdict = "skipped"
    if case.find("failure") is not None or case.find("error") is not None:
        verdict = "failed"
    return Outcome(function, parameters, recorded, verdict)


def cell(verdicts: Iterable[str]) -> str:
    """yes if all that could run have passed, empty if none could."""
    ran = {verdict for verdict in verdicts if verdict != "skipped"}
    return "" if not ran else "yes" if ran == {"passed"} else "no"


Column = tuple[str, list[Outcome], tuple[str, ...]]  # its head, and functions among the outcomes


def family_rows(columns: list[Column]) -> Iterator[list[str]]:
    """The title, then a cell for each column, in the order in which cases come."""
    titles: dict[str, str] = {}
    verdicts = defaultdict(list)
    for head, results, functions in columns:
        for result in results:
            if "case" in result.recorded:
                titles.setdefault(result.recorded["case"], result.recorded["title"])
                if result.function in functions:
                    verdicts[result.recorded["case"], head].append(result.verdict)
    for case, title in titles.items():
        cells = [cell(verdicts[case, head]) for head, *_ in columns]
        if any(cells):
            yield [title, *cells]


def row_name(result: Outcome) -> str:
    """A scenario by its name; other tests by what they are called."""
    if ONE_ROW_EACH.match(result.function):
        return re.sub("(-before|-behind)?(-merging|-pooling)?$", "", result.parameters)
    return result.function.removeprefix("test_").replace("_", " ")


def scenario_rows(by_host: dict[Host, list[Outcome]]) -> Iterator[list[str]]:
    verdicts = defaultdict(list)
    names = dict.fromkeys(row_name(result) for results in by_host.values() for result in results)
    for host, results in by_host.items():
        for result in results:
            verdicts[row_name(result), host].append(result.verdict)
    for name in names:
        yield [name, *(cell(verdicts[name, host]) for host in by_host)]


def page(hosts: list[Host], next_to: str = "") -> str:
    """Of hosts from old to new; `next_to` is that part of the page where it is to stay."""
    columns: list[Column] = []
    for host in hosts:
        results = outcomes(host, FAMILIES)
        columns += [(f"{host.version}: {head}", results, names) for head, names in COLUMNS.items()]
    emulated = {path: outcomes(hosts[-1], path) for path in EMULATED}
    columns.append(("call of 0.40", emulated[NEWER], CALL_OF_0_40))
    parts = [
        INTRODUCTION,
        table(["model", *(head for head, *_ in columns)], list(family_rows(columns))),
    ]
    parts += [NOT_COVERED.rstrip(), EMULATIONS.format(version=hosts[-1].version).rstrip()]
    for path, title in EMULATED.items():
        rows = scenario_rows({hosts[-1]: emulated[path]})
        parts.append(f"\n{table([title, 'emulated'], list(rows))}")
    return "\n".join(parts) + "\n" + (next_to or next_to_other_nodes(hosts))


def next_to_other_nodes(hosts: list[Host]) -> str:
    parts = [NEXT_TO.rstrip()]
    for path, title in SCENARIOS.items():
        results = {host: outcomes(host, path) for host in hosts}
        head = [title, *(host.version for host in hosts)]
        parts.append(f"\n{table(head, list(scenario_rows(results)))}")
    return "\n".join(parts) + "\n"


def models(page: str) -> str:
    """The models of the page, by the versions of ComfyUI that all their tests passed with.

    Models with references, for inpainting and the like are not told from their model.
    """
    first = re.search(r"(^\|.*\|\n)+", page, re.MULTILINE)[0]
    heading, _, *rows = re.findall(r"^\|(.*)\|$", first, re.MULTILINE)
    columns = [column.strip().partition(": ") for column in heading.split("|")[1:]]
    versions_of: dict[str, str] = {}
    for row in rows:
        words, *cells = (cell.strip() for cell in row.split("|"))
        found = list(zip(columns, cells, strict=True))
        failed = {version for (version, *_), cell in found if cell != "yes"}
        tested = dict.fromkeys(version for version, of_a_host, _ in columns if of_a_host)
        passed = [version for version in tested if version not in failed]
        if passed:
            versions_of.setdefault(OF_A_VARIANT.split(words)[0], f"ComfyUI {' and '.join(passed)}")
    groups = defaultdict(list)
    for name, versions in versions_of.items():
        groups[versions].append(name)
    lines = (f"- Tested with {versions}: {', '.join(names)}." for versions, names in groups.items())
    return "\n".join(fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def with_models(readme: str, page: str) -> str:
    """The README with the models of the page."""
    return LIST_OF_MODELS.sub(lambda _: models(page), readme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", action="append", default=[], metavar="PATH")
    parser.add_argument("--models", action="store_true", help="leave what is next to other nodes")
    parser.add_argument("--readme", action="store_true", help="leave the page as it is")
    args = parser.parse_args()
    if not args.readme:
        hosts = sorted(find_hosts(args.host, os.environ, REPO, Path.home()), key=version_key)
        kept = NEXT_TO + PAGE.read_text("utf-8").partition(NEXT_TO)[2] if args.models else ""
        PAGE.write_text(page(hosts, kept), encoding="utf-8")
    readme = with_models(README.read_text("utf-8"), PAGE.read_text("utf-8"))
    README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
