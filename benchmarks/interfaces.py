"""Keep what saved workflows rely on: tests/host/interfaces/<NodeId>.json, one file for each node.

    python -m benchmarks.interfaces [--host PATH]

Writes down new nodes, and what was appended to known ones. A change that would harm a saved
workflow is reported and not written; where it is meant, before a release, delete the file first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from benchmarks.host import enter_host, import_pack
from dev import find_hosts

PACK = Path(__file__).resolve().parent.parent
FOLDER = PACK / "tests" / "host" / "interfaces"
# Of the options of an input: what is saved, what is refused, whether it takes a place among the
# saved values. Tooltips and the like are free to change, and hosts differ in them.
KEPT = ("default", "options", "min", "max", "forceInput", "control_after_generate")
WIDGET_OPTIONS = ("forceInput", "control_after_generate")
BRANCHING = "COMFY_DYNAMICCOMBO_V3"  # a choice whose options have inputs of their own


def offered() -> dict[str, dict]:
    """The interface of every node by its id, in a process that has entered a host."""
    import folder_paths
    from bigain.nodes import BiGainExtension
    from comfy.samplers import KSampler

    # Names of files and samplers would be those of this machine and host.
    files = mock.patch.object(folder_paths, "get_filename_list", return_value=[])
    with files, mock.patch.multiple(KSampler, SAMPLERS=["euler"], SCHEDULERS=["simple"]):
        nodes = asyncio.run(BiGainExtension().get_node_list())
        return {node.GET_SCHEMA().node_id: interface(node.GET_NODE_INFO_V1()) for node in nodes}


def interface(info: dict) -> dict[str, list[dict]]:
    """Of a node's entry in the host's /object_info, what a saved workflow relies on.

    A saved workflow has the values of widgets by position, and links by the position of outputs.
    """
    outputs = zip(info["output_name"], info["output"], strict=True)
    return {
        "inputs": inputs_of(info["input"]),
        "outputs": [{"name": name, "type": kind} for name, kind in outputs],
    }


def inputs_of(groups: dict[str, dict]) -> list[dict]:
    """Of the inputs in an entry of /object_info the same."""
    found = []
    for group in ("required", "optional"):
        for name, (kind, options) in groups.get(group, {}).items():
            kept = {key: options[key] for key in KEPT if key in options}
            if kind == BRANCHING:
                kept["default"] = options["options"][0]["key"]
                kept["options"] = {one["key"]: inputs_of(one["inputs"]) for one in kept["options"]}
            found.append({"name": name, "type": kind, "optional": group == "optional", **kept})
    return found


def written() -> dict[str, dict]:
    """The interface of every node by its id, as it is in the files."""
    return {path.stem: json.loads(path.read_text("ascii")) for path in sorted(FOLDER.glob("*"))}


def harm(old: dict, new: dict) -> Iterator[str]:
    """What a change of a node's interface would do to workflows that were saved before."""
    yield from harm_of_inputs(old["inputs"], new["inputs"])
    for place, before in enumerate(old["outputs"]):
        if before not in new["outputs"][place : place + 1]:
            yield f"output {place} is no longer {before}: links from it are cut or carry other data"


def harm_of_inputs(old: list[dict], new: list[dict]) -> Iterator[str]:
    """The same of the inputs of a node, or of an option of one of them."""
    named, widgets = {given["name"]: given for given in new}, places_of_widgets(new)
    before_widgets = places_of_widgets(old)
    for before in old:
        name = before["name"]
        if name not in named:
            yield f"`{name}` is gone: what it was set to is lost, and later widgets take its place"
            continue
        if before_widgets.get(name) != widgets.get(name, before_widgets.get(name)):
            yield (
                f"`{name}` was widget {before_widgets[name]} and is widget {widgets[name]}: they "
                "are saved by position, so it gets the value of another one"
            )
        yield from harm_of_input(before, named[name])
    known = {given["name"] for given in old}
    for given in new:
        if given["name"] not in known and not given["optional"]:
            yield f"`{given['name']}` is new and required: prompts without it are refused"


def places_of_widgets(inputs: list[dict]) -> dict[str, int]:
    """Of the inputs whose values are saved by position; links are saved by name."""
    with_widget = (i["name"] for i in inputs if "default" in i and not i.get("forceInput"))
    return {name: place for place, name in enumerate(with_widget)}


def harm_of_input(old: dict, new: dict) -> Iterator[str]:
    """The same of one input that is where it was."""
    name = old["name"]
    if new["type"] != old["type"]:
        yield f"`{name}` took {old['type']} and takes {new['type']}: links to it are cut"
    if new.get("default") != old.get("default"):
        yield (
            f"`{name}` had the default {old.get('default')!r} and has {new.get('default')!r}: "
            "prompts that leave it out give another result"
        )
    for option in old.get("options", ()):
        if option not in new.get("options", ()):
            yield f"`{name}` has no option {option!r}: workflows that chose it are refused"
        elif new["type"] == BRANCHING:
            before, now = old["options"][option], new["options"][option]
            yield from (f"`{name}` {option!r}: {text}" for text in harm_of_inputs(before, now))
            if len(now) > len(before):
                yield f"`{name}` {option!r} has more inputs: every saved value after them moves"
    if new.get("min", -float("inf")) > old.get("min", -float("inf")):
        yield f"`{name}` starts at {new['min']}, no longer at {old.get('min')}: less is refused"
    if new.get("max", float("inf")) < old.get("max", float("inf")):
        yield f"`{name}` ends at {new['max']}, no longer at {old.get('max')}: more is refused"
    if old["optional"] and not new["optional"]:
        yield f"`{name}` is required: prompts without it are refused"
    for key in WIDGET_OPTIONS:
        if new.get(key) != old.get(key):
            yield f"`{name}` has {key} {new.get(key)}: every saved value after it moves by one"


def as_text(node: dict[str, list[dict]]) -> str:
    """JSON with a line for each input and output, those of options included."""
    groups = (f'"{group}": {slots_as_text(slots)}' for group, slots in node.items())
    return "{" + ",\n".join(groups) + "}\n"


def slots_as_text(slots: list[dict], margin: str = "") -> str:
    lines = []
    for slot in slots:
        line = json.dumps(slot)
        if slot["type"] == BRANCHING:
            options = (
                f"{margin}    {json.dumps(option)}: {slots_as_text(inputs, margin + '    ')}"
                for option, inputs in slot["options"].items()
            )
            own = json.dumps({key: value for key, value in slot.items() if key != "options"})
            line = own[:-1] + ', "options": {\n' + ",\n".join(options) + "}}"
        lines.append(f"{margin}  {line}")
    return "[\n" + ",\n".join(lines) + f"\n{margin}]" if lines else "[]"


def all_harm(old: dict[str, dict], new: dict[str, dict]) -> list[str]:
    """The same of all nodes, with their ids."""
    found = [f"{node} is gone: workflows with it do not run" for node in old.keys() - new.keys()]
    for node in old.keys() & new.keys():
        found += [f"{node}: {text}." for text in harm(old[node], new[node])]
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", action="append", default=[], metavar="PATH")
    host, *_ = find_hosts(parser.parse_args().host, os.environ, PACK, Path.home())
    enter_host(host.path, cpu=True)
    import_pack()
    old, new = written(), offered()
    if found := all_harm(old, new):
        sys.exit("\n".join(found))
    for node in new:
        (FOLDER / f"{node}.json").write_text(as_text(new[node]), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
