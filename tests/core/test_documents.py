"""Figures and names that the documents give are those of the code."""

import re
from itertools import takewhile
from pathlib import Path

import pytest

from benchmarks import compatibility
from benchmarks.flops import automatic_rows, model_rows
from bigain_core.compression.break_even import BREAK_EVEN

PACK = Path(__file__).resolve().parents[2]
PAPER_TO_CODE = PACK / "docs" / "paper-to-code.md"
NOT_PROSE = r"`[^`\n]*`|\]\([^)]*\)|src=\"[^\"]*\"|.*\|( +yes \|)+"  # rows are named after tests
PRIVATE_WORDS = (
    r"\b(?:pictur\w+|paint\w*|graphics cards?|processors?|left alone|leaves? \w+ alone|spare[sd]?"
    r"|every bit|asking|(?:each|the|a) looks?|published gate|rivals?)\b"
)
TEXTS = (
    "*.md", "docs/*.md", "web/docs/*.md", "web/*.js", "nodes/*.py", "example_workflows/*.json",
    "pyproject.toml", "tests/host/translated.json", ".github/ISSUE_TEMPLATE/*.yml",
)  # fmt: skip
README, RESULTS = PACK / "README.md", PACK / "docs" / "results.md"
OVERVIEW = ["", "plain", "L-GTM 0.7", "IE-KVD factor 2"]
HEADLINE = ["whole networks", "512 px", "1024 px", "2048 px"]
ON_A_GPU = ["setting", *HEADLINE[1:]]
SPEED = ["model, size", "L-GTM 0.7", "at most", "IE-KVD factor 2", "at most"]
ACCURACY = ["method", "shape and texture", "shape alone", "texture alone", "digits"]


def rows(text):
    """Cells of every line of a Markdown table."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def table(path, head):
    """{first cell of a row: the others} of the first table with this head."""
    found = rows(path.read_text("utf-8"))
    below = found[found.index(head) + 2 :]
    return {row[0]: row[1:] for row in takewhile(bool, below)}


def factor(text):
    return float(text.removesuffix("x"))


def test_ceilings_in_the_readme_are_those_that_are_counted():
    counted = {row[0]: [row[3], row[5]] for row in model_rows()}
    given = {name: row[1::2] for name, row in table(README, SPEED).items()}
    shared = counted.keys() & given.keys()
    assert len(shared) >= 7
    assert {name: given[name] for name in shared} == {name: counted[name] for name in shared}


def test_speeds_in_the_readme_are_among_those_that_were_measured():
    measured = [row for row in rows(RESULTS.read_text("utf-8")) if len(row) == 7]
    given = table(README, SPEED)
    assert any(row[0] for row in given.values())
    for row in given.values():
        for method, gain, ceiling in (("L-GTM 0.7", *row[:2]), ("IE-KVD factor 2", *row[2:])):
            found = [r[4] for r in measured if r[0] == method and r[2].startswith(f"{gain} (")]
            # The ceilings of measured rows leave the scorer out, a hundredth at most.
            assert not gain or any(abs(factor(c) - factor(ceiling)) < 0.015 for c in found)


def test_the_overview_of_the_readme_repeats_what_was_measured():
    given = table(README, OVERVIEW)
    digits = [row[-1] for name, row in table(RESULTS, ACCURACY).items() if "every" not in name]
    shares = [f"{100 * float(cell.split()[0]):.1f} %" for cell in digits]
    assert given["449 digits recognised"] == shares
    speeds, shown = table(README, SPEED), table(README, HEADLINE)
    for name, cells in shown.items():
        model, method, device = name.split(", ")
        if device == "on a CPU":
            sizes = [speeds.get(f"{model}, {size}") for size in HEADLINE[1:]]
            measured = [row[SPEED.index(method) - 1] if row else "" for row in sizes]
        else:
            measured = [cell.split(", ")[1] for cell in table(RESULTS, ON_A_GPU)[method]]
        assert [cell.removesuffix(" as fast") for cell in cells] == measured
    assert len(shown) == 4


def test_the_readme_lists_the_models_of_the_page_on_compatibility():
    readme, page = (path.read_text("utf-8") for path in (README, compatibility.PAGE))
    assert "Stable Diffusion XL," in compatibility.models(page)
    assert compatibility.with_models(readme, page) == readme


def test_a_model_is_listed_with_the_versions_whose_tests_all_passed():
    page = """
| model                 | 1.0: a | 1.0: b | 2.0: a | 2.0: b | call of 3.0 |
| --------------------- | -----: | -----: | -----: | -----: | ----------: |
| Ant                   |    yes |    yes |    yes |    yes |         yes |
| Ant with references   |     no |    yes |    yes |    yes |             |
| Bee, flying           |    yes |     no |    yes |    yes |          no |
| Cow                   |        |        |    yes |     no |             |
| Dog for one           |        |        |    yes |    yes |             |

## Next to other nodes

| Elk | yes | yes | yes | yes | yes |
"""
    assert compatibility.models(page) == (
        "- Tested with ComfyUI 1.0 and 2.0: Ant.\n- Tested with ComfyUI 2.0: Bee, Dog."
    )


def test_gains_on_the_page_of_auto_are_those_that_are_counted():
    given = rows((PACK / "web" / "docs" / "BiGainAuto.md").read_text("utf-8"))
    assert [row for row in given if row and " px" in row[0]] == list(automatic_rows())


def links_of_paper_to_code():
    """(name, path) of every function and test that the page links to."""
    text = PAPER_TO_CODE.read_text("utf-8")
    return sorted(set(re.findall(r"\[`([^`]+)`\]\(\.\./([^)]+)\)", text)))


@pytest.mark.parametrize(("name", "path"), links_of_paper_to_code())
def test_every_link_of_paper_to_code_leads_to_what_it_names(name, path):
    text = (PACK / path).read_text("utf-8")
    for part in name.split("."):
        assert re.search(rf"^ *(def |class )?{part}\b", text, re.MULTILINE), part


def test_every_row_of_paper_to_code_is_full_and_names_a_test():
    for row in rows(PAPER_TO_CODE.read_text("utf-8")):
        assert all(row), row
        assert (
            len(row) < 3
            or row[0] in ("in the paper", "beyond the paper", "---")
            or "test_" in row[2]
        ), row


def test_texts_for_users_have_the_words_of_the_field():
    for page in (page for pattern in TEXTS for page in PACK.glob(pattern)):
        text = re.sub(NOT_PROSE, "", page.read_text("utf-8"))
        assert re.findall(PRIVATE_WORDS, text, re.IGNORECASE) == [], page


def test_thresholds_in_the_results_are_those_of_the_gate():
    given = {row[0]: row for row in rows((PACK / "docs" / "results.md").read_text("utf-8")) if row}
    for method, flops in BREAK_EVEN["cpu"].items():
        threshold, runs = given[method.__name__][1:3]
        assert float(threshold) * 1e6 == flops
        assert max(map(float, runs.split(", "))) == float(threshold)
