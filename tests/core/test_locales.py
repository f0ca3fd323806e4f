"""The nodes' texts in other languages: all there, and safe for the host's front end."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.interfaces import BRANCHING
from benchmarks.locales import changed, flat, translated, translations, unlike

INTERFACES = sorted((Path(__file__).parents[1] / "host" / "interfaces").glob("*.json"))
LANGUAGES = ["de", "fr", "ja", "zh"]
NUMBER = r"\d+(?:\.\d+)?"


@pytest.fixture(scope="module")
def locales():
    return translations()


def expected_keys():
    """What a translation has, by the interfaces of the nodes."""
    for file in INTERFACES:
        node, interface = file.stem, json.loads(file.read_text("ascii"))
        yield from (f"{node}.display_name", f"{node}.description")
        for name in names(interface["inputs"]):
            yield from (f"{node}.inputs.{name}.{part}" for part in ("name", "tooltip"))
        for place, output in enumerate(interface["outputs"]):
            yield f"{node}.outputs.{place}.tooltip"
            if output["name"] != output["type"]:
                yield f"{node}.outputs.{place}.name"


def names(inputs, prefix=""):
    for given in inputs:
        yield prefix + given["name"]
        if given["type"] == BRANCHING:
            for own in given["options"].values():
                yield from names(own, f"{prefix}{given['name']}_")


def test_these_languages_are_there(locales):
    assert sorted(locales) == LANGUAGES  # never en: it would win over the nodes' own texts


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated(locales, language):
    assert list(unlike(set(expected_keys()), language, locales[language])) == []
    assert [key for key, text in locales[language].items() if not text.strip()] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_front_end_reads_texts_as_they_are(locales, language):
    """It takes braces, @ and | for commands in some places and for themselves in others."""
    assert [key for key, text in locales[language].items() if re.search(r"[{}@|]", text)] == []
    nodes = json.dumps(list(flat({path.stem: "" for path in INTERFACES})))
    assert "." not in nodes  # the front end would look for such a name with _ instead


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_are_those_of_the_english_text(locales, language):
    for key, english in translated().items():
        left = re.findall(NUMBER, locales[language][key])
        for number in re.findall(NUMBER, english):
            assert number in left, (key, english)
            left.remove(number)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_one_text_in_english_is_one_in_translation(locales, language):
    ways = {}
    for key, english in translated().items():
        ways.setdefault(english, set()).add(locales[language][key])
    assert {english: found for english, found in ways.items() if len(found) > 1} == {}


def test_a_changed_text_is_named():
    before = {"A.description": "old", "A.inputs.x.tooltip": "same", "A.inputs.y.tooltip": "gone"}
    now = {"A.description": "new", "A.inputs.x.tooltip": "same", "A.inputs.z.tooltip": "added"}
    found = [line.split(":")[0] for line in changed(now, before)]
    assert found == ["A.description", "A.inputs.y.tooltip", "A.inputs.z.tooltip"]
