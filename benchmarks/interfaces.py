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


def offered() -> dict[str, dict]:
    """The interface of every node by its id, in a process that has entered a host."""
    import folder_paths
    from bigain.nodes import BiGainExtension

    # Names of files would be those of this machine.
    with mock.patch.object(folder_paths, "get_filename_list", return_value=[]):
        nodes = asyncio.run(BiGainExtension().get_node_list())
        return {node.GET_SCHEMA().node_id: interface(node.GET_NODE_INFO_V1()) for node in nodes}


def interface(info: dict) -> dict[str, list[dict]]:
    """Of a node's entry in the host's /object_info, what a saved workflow relies on.

    A saved workflow has the values of widgets by position, and links by the position of outputs.
    """
    inputs = []
    for group in ("required", "optional"):
        for name, (kind, options) in info["input"].get(group, {}).items():
            kept = {key: options[key] for key in KEPT if key in options}
            inputs.append({"name": name, "type": kind, "optional": group == "optional", **kept})
    outputs = zip(info["output_name"], info["output"], strict=True)
    return {"inputs": inputs, "outputs": [{"name": name, "type": kind} for name, kind in outputs]}


def written() -> dict[str, dict]:
    """The interface of every node by its id, as it is in the files."""
    return {path.stem: json.loads(path.read_text("ascii")) for path in sorted(FOLDER.glob("*"))}


def harm(old: dict, new: dict) -> Iterator[str]:
    """What a change of a node's interface would do to workflows that were saved before."""
    places = {given["name"]: place for place, given in enumerate(new["inputs"])}
    for place, before in enumerate(old["inputs"]):
        name = before["name"]
        if name not in places:
            yield f"`{name}` is gone: what it was set to is lost, and later widgets take its place"
        elif places[name] != place:
            yield (
                f"`{name}` was input {place} and is input {places[name]}: widgets are saved by "
                "position, so it gets the value of another one"
            )
        else:
            yield from harm_of_input(before, new["inputs"][place])
    known = {given["name"] for given in old["inputs"]}
    for given in new["inputs"]:
        if given["name"] not in known and not given["optional"]:
            yield f"`{given['name']}` is new and required: prompts without it are refused"
    for place, before in enumerate(old["outputs"]):
        if before not in new["outputs"][place : place + 1]:
            yield f"output {place} is no longer {before}: links from it are cut or carry other data"


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
    """JSON with a line for each input and output."""
    groups = (
        f'"{group}": [\n' + ",\n".join(f"  {json.dumps(slot)}" for slot in slots) + "\n]"
        for group, slots in node.items()
    )
    return "{" + ",\n".join(groups) + "}\n"


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
