"""What the browser computes is what the core does. Needs node, which runs the modules."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bigain_core.compression.presets import SCHEDULES
from bigain_core.schedules import AlphaCurve

PACK = Path(__file__).resolve().parents[2]
TEXTS = [
    "999: 0.8\n0: 1.2", "999:.5, 400: 1e0,\n\n0: -1.", " 12 : +3 ,", "500.5: 0.9", "1: 2, 1.0: 3",
    "", "\n,", "999", "1: 2: 3", "1: x", "1000: 1", "-1: 1", "5: nan", "5: inf", "nan: 1",
    "1: 1e999", "0x10: 1", ": 1", "1:", "1 2: 3", "1: 2; 3: 4",
]  # fmt: skip


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    return found


@pytest.fixture(scope="module")
def computed(node):
    """What an expression over the names of a module is, with `given` in scope."""

    def compute(module: str, expression: str, given=None):
        names = f"import * as module from {json.dumps((PACK / 'web' / module).as_uri())};"
        code = f"{names} const given = {json.dumps(given)};"
        code += f"console.log(JSON.stringify({expression}));"
        command = [node, "--input-type=module", "--eval", code]
        return json.loads(subprocess.check_output(command, text=True))

    return compute


def points(text):
    try:
        return sorted(AlphaCurve.from_text(text).points, reverse=True)
    except ValueError:
        return None


def test_the_modules_pass_their_own_tests(node):
    files = sorted(map(str, (PACK / "tests" / "ui").glob("*.test.mjs")))
    done = subprocess.run([node, "--test", *files], capture_output=True, text=True, check=False)
    assert files and done.returncode == 0, done.stdout


def test_texts_are_read_as_the_core_reads_them(computed):
    read = computed("alpha_curve.js", "given.map((text) => module.parseCurve(text))", TEXTS)
    found = [curve and [(point["timestep"], point["alpha"]) for point in curve] for curve in read]
    assert found == [points(text) for text in TEXTS]
    assert {curve is None for curve in found} == {True, False}


def test_the_line_is_the_line_of_the_core(computed):
    text, timesteps = "900: 0.2, 600: 1.4, 10: -0.5", list(range(0, 1000, 37))
    drawn = computed(
        "alpha_curve.js",
        "given[1].map((t) => module.alphaAt(module.parseCurve(given[0]), t))",
        [text, timesteps],
    )
    curve = AlphaCurve.from_text(text)
    assert drawn == pytest.approx([curve.at(timestep) for timestep in timesteps], abs=1e-12)


def test_the_presets_of_the_editor_are_the_schedules_of_table_8(computed):
    shown = computed("alpha_curve.js", "module.PRESETS")
    assert sorted(map(tuple, shown)) == sorted([*SCHEDULES, (1.0, 1.0)])
