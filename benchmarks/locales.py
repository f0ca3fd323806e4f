"""Keep locales/<language>/nodeDefs.json in step with the English texts of the nodes.

    python -m benchmarks.locales [--host PATH] [--done]

Prints, for each language, texts that are missing and entries without a text, then the texts whose
English has changed since they were translated. With --done, once all languages are up to date,
writes the English down as translated, to tests/host/translated.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.host import enter_host, import_pack
from benchmarks.interfaces import BRANCHING
from dev import find_hosts

PACK = Path(__file__).resolve().parent.parent
LOCALES = PACK / "locales"
TRANSLATED = PACK / "tests" / "host" / "translated.json"


def english() -> dict[str, str]:
    """Every text of the nodes' schemas by its key, in a process that has entered a host."""
    from bigain.nodes import BiGainExtension

    nodes = asyncio.run(BiGainExtension().get_node_list())
    return flat({node.GET_SCHEMA().node_id: texts(node.GET_NODE_INFO_V1()) for node in nodes})


def texts(info: dict) -> dict:
    """Of a node's entry in the host's /object_info, its texts in the form of nodeDefs.json.

    Outputs named after their type have no name of their own: the host translates types.
    """
    outputs = {}
    shown = zip(info["output_name"], info["output"], info["output_tooltips"], strict=True)
    for place, (name, kind, tooltip) in enumerate(shown):
        outputs[str(place)] = ({} if name == kind else {"name": name}) | {"tooltip": tooltip}
    own = {key: info[key] for key in ("display_name", "description")}
    return own | {"inputs": texts_of_inputs(info["input"]), "outputs": outputs}


def texts_of_inputs(groups: dict[str, dict], prefix: str = "") -> dict[str, dict[str, str]]:
    """The same of inputs and of those that options of them have: the host joins their names."""
    found = {}
    for name, (kind, options) in {**groups["required"], **groups.get("optional", {})}.items():
        shown = {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
        found[prefix + name] = shown
        for option in options["options"] if kind == BRANCHING else ():
            found |= texts_of_inputs(option["inputs"], f"{prefix}{name}_")
    return found


def flat(tree: dict, path: str = "") -> dict[str, str]:
    """The leaves of nested dictionaries by their keys, joined by dots."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return leaves


def translations() -> dict[str, dict[str, str]]:
    """The texts of every language by their keys."""
    files = sorted(LOCALES.glob("*/nodeDefs.json"))
    return {file.parent.name: flat(json.loads(file.read_text("utf-8"))) for file in files}


def translated() -> dict[str, str]:
    """The English texts by their keys, as they were when they were translated."""
    return flat(json.loads(TRANSLATED.read_text("ascii")))


def one_line_a_node(texts: dict[str, str]) -> str:
    """JSON whose leaves `flat` finds by the keys of `texts`."""
    nodes: dict[str, dict[str, str]] = {}
    for key, text in texts.items():
        node, rest = key.split(".", 1)
        nodes.setdefault(node, {})[rest] = text
    lines = (f'"{node}": {json.dumps(found)}' for node, found in nodes.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def unlike(keys: set[str], language: str, known: dict[str, str]) -> Iterator[str]:
    """What a language lacks of `keys`, and what it has beside them."""
    yield from (f"{language}: {key} is missing" for key in sorted(keys - known.keys()))
    yield from (f"{language}: {key} belongs to no text" for key in sorted(known.keys() - keys))


def changed(now: dict[str, str], before: dict[str, str]) -> list[str]:
    """Texts whose English is not what was translated, or is new or gone."""
    keys = sorted(now.keys() | before.keys())
    return [
        f"{key}: translated was {before.get(key)!r}, now it says {now.get(key)!r}"
        for key in keys
        if now.get(key) != before.get(key)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", action="append", default=[], metavar="PATH")
    parser.add_argument("--done", action="store_true")
    options = parser.parse_args()
    host, *_ = find_hosts(options.host, os.environ, PACK, Path.home())
    enter_host(host.path, cpu=True)
    import_pack()
    now = english()
    found = [
        line
        for language, known in translations().items()
        for line in unlike(now.keys(), language, known)
    ]
    if not options.done:
        print("\n".join(found + changed(now, translated())))
    elif found:
        sys.exit("\n".join(found))
    else:
        TRANSLATED.write_text(one_line_a_node(now), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
