"""The demo through the built-in runner, with a small random model in the bundled model's place."""

import base64
import contextlib
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import demo, demo_builtin
from benchmarks.demo_backend import CallFlops
from benchmarks.demo_builtin import GUIDANCE, BuiltinBackend
from benchmarks.demo_drawing import to_image
from benchmarks.dit_runner import DiTRunner
from benchmarks.drawings import CLASS_NAMES, STYLES, held_out
from benchmarks.sample_images import sample_pairs
from bigain_core.classification import TrialPlan, classify
from bigain_core.compression.automatic import AUTO
from bigain_core.compression.rules import Compression, Rule
from bigain_core.measure.flops import projections_shortened
from bigain_core.measure.similarity import ssim
from bigain_core.methods import KVDownsampling
from bigain_core.models.checkpoint import SAMPLES
from bigain_core.placement import Placement
from tests.core.classifying import Calls

SIZE, DEPTH = 16, 3
# In place of what BiGain (Auto) does, which leaves images as small as these as they are.
RULE = Rule(KVDownsampling(), Placement(layers=(1, 2)))
SETTINGS = {"off": Compression(), "BiGain (Auto)": Compression((RULE,))}
PROMPTS = ("pizza", "cat", "guitar")
CLASSES = [CLASS_NAMES.index(prompt) for prompt in PROMPTS]
IMAGE = SAMPLES / "pizza.png"
SHOWN = 160  # pixels: ten times as large
STEPS, SEED = 2, 3
OWN_MODEL = ("--host", "ComfyUI", "--checkpoint", "missing.safetensors")


@pytest.fixture(scope="module", autouse=True)
def small_rule():
    def rules(*asked):
        assert asked == (AUTO, projections_shortened, DEPTH)
        return (RULE,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_builtin, "automatic_rules", rules)
        yield


@pytest.fixture(scope="module")
def dit(make_dit):
    return make_dit(input_size=SIZE, in_channels=3, num_classes=len(CLASS_NAMES))


@pytest.fixture(scope="module")
def model_file(dit, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_file(dit.state_dict(), path, metadata={"class_names": "\n".join(CLASS_NAMES)})
    return path


@pytest.fixture(scope="module")
def backend(model_file):
    return BuiltinBackend(model_file)


@pytest.fixture
def small_model(model_file, monkeypatch):
    monkeypatch.setattr(demo, "BUNDLED_MODEL", model_file)


@dataclass(frozen=True)
class Finished:
    code: int
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def finished(model_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    arguments = ["--image", str(IMAGE), "--prompts", *PROMPTS, "--out", str(folder)]
    arguments += ["--steps", str(STEPS), "--seed", str(SEED), "--rounds", "1"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(demo, "BUNDLED_MODEL", model_file)
        code = demo.main(arguments)
    return Finished(code, folder, out.getvalue())


def ignore(number):
    pass


def test_every_file_is_written_and_named(finished):
    assert finished.code == 0
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"images.png", "ranking.png", "ranking.csv", "summary.md", "demo.html"}
    for name in names:
        assert str(finished.folder / name) in finished.printed


def test_the_page_holds_its_images_and_tables_and_needs_no_other_file(finished):
    page = (finished.folder / "demo.html").read_text(encoding="utf-8")
    sources = re.findall(r'<img src="([^"]+)"', page)
    images = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]
    names = "images.png", "ranking.png"
    assert images == [(finished.folder / name).read_bytes() for name in names]
    assert page.count("<table>") == page.count("</table>") >= 4
    assert "BiGain (Auto) generated these images" in page and "http" not in page


def test_images_are_compared_with_the_plain_ones(finished, backend):
    plain, found = (backend.samples(how, PROMPTS, STEPS, SEED, ignore) for how in SETTINGS.values())
    text = (finished.folder / "summary.md").read_text(encoding="utf-8")
    told = re.search(r"\| BiGain \(Auto\) +\| +([\d.-]+) \| +([\d.]+) \|\n", text)
    squares = (found - plain).square().flatten(1).mean(1)
    assert float(told[2]) == pytest.approx(-10 * squares.log10().median().item(), abs=0.06)
    assert float(told[1]) == pytest.approx(ssim(found, plain).median().item(), abs=6e-4)


def test_without_a_host_the_large_network_is_left_out_in_words(finished):
    assert "Not measured: the network's class comes with ComfyUI" in finished.printed


def test_samples_are_those_of_the_runner(finished, dit):
    with Image.open(finished.folder / "images.png") as sheet:
        assert sheet.size == (20 + 120 + 2 * SHOWN + 8 + 20, 20 + 44 + 3 * SHOWN + 2 * 8 + 20)
        for column, compression in enumerate(SETTINGS.values()):
            pixels = DiTRunner(dit, compression).sample(CLASSES, STEPS, GUIDANCE, SEED)
            for row, expected in enumerate(pixels.movedim(1, -1) / 2 + 0.5):
                x, y = 140 + (SHOWN + 8) * column, 64 + (SHOWN + 8) * row
                cell = sheet.crop((x, y, x + SHOWN, y + SHOWN))
                shown = cell.resize((SIZE, SIZE), Image.Resampling.NEAREST)
                assert shown.tobytes() == to_image(expected.clamp(0, 1)).tobytes()


def test_ranking_table_is_that_of_the_classifier(finished, dit):
    with Image.open(IMAGE) as image:
        pixels = demo.squares([image], SIZE).movedim(-1, 1) * 2 - 1
    expected = []
    for setting, compression in SETTINGS.items():
        denoiser = DiTRunner(dit, compression).denoiser(CLASSES)
        ranking = classify(denoiser, pixels, PROMPTS, TrialPlan(seed=SEED)).rankings[0]
        expected += [
            [
                setting,
                PROMPTS[0],
                str(place),
                PROMPTS[k],
                f"{ranking.table.mean_errors[k].item():.7g}",
            ]
            for place, k in enumerate(ranking.order, 1)
        ]
    text = (finished.folder / "ranking.csv").read_text(encoding="utf-8")
    head, *rows = csv.reader(io.StringIO(text))
    assert head[:5] == ["setting", "image", "rank", "label", "mean_error"]
    assert [row[:5] for row in rows] == expected


def test_chart_has_a_card_per_image(finished):
    with Image.open(finished.folder / "ranking.png") as chart:
        assert chart.size == (2 * 20 + 200 + 2 * 316, 20 + 76 + 204)


def test_summary_puts_the_ceiling_beside_the_times(finished, backend):
    text = (finished.folder / "summary.md").read_text(encoding="utf-8")
    times = text.partition("## Times")[2]
    for setting, compression in SETTINGS.items():
        line = next(line for line in times.splitlines() if line.startswith(f"| {setting} "))
        ceiling = backend.flops(compression).ceiling
        assert line.split("|")[-2].strip() == f"{ceiling:.2f}x"
        assert line in finished.printed
    assert "model | small.safetensors" in text


def test_ceiling_is_plain_by_compressed_operations():
    flops = CallFlops(network=100, layers_before=60, layers_after=10, tokens=4)
    assert flops.compressed == 50
    assert flops.ceiling == 2.0
    assert flops.layers_ceiling == 6.0


def test_network_operations_equal_the_sum_over_layers(backend):
    C, N, patch = 128, 64, 2 * 2 * 3
    block = 24 * N * C**2 + 4 * N * N * C + 12 * C**2  # projections and MLP, attention, modulation
    ends = 2 * N * C * patch * 2 + 2 * (256 * C + C**2) + 4 * C**2  # patches, timestep, modulation
    assert backend.flops(SETTINGS["off"]).network == DEPTH * block + ends


def test_pooled_attention_has_the_ceiling_of_its_smaller_product(backend):
    C, N, layers = 128, 64, 2
    flops = backend.flops(SETTINGS["BiGain (Auto)"])
    assert flops.tokens == N
    assert flops.layers_before == layers * (4 * N * N * C + 8 * N * C**2)
    saved = layers * 4 * N * (N - N // 4) * C
    assert flops.ceiling == flops.network / (flops.network - saved)


def test_plain_calls_have_no_ceiling_above_one(backend):
    flops = backend.flops(SETTINGS["off"])
    assert (flops.ceiling, flops.layers_ceiling) == (1.0, 1.0)


def test_equal_seeds_give_equal_samples_and_the_global_generator_is_left_alone(backend):
    before = torch.get_rng_state()
    first, again, other = (
        backend.samples(SETTINGS["off"], PROMPTS, STEPS, seed, ignore) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_adds_up_to_the_plan(backend):
    steps, calls = [], Calls()
    backend.samples(SETTINGS["off"], PROMPTS, 3, SEED, steps.append)
    plan = TrialPlan((1, 2), (2, 1))
    images = torch.full((2, SIZE, SIZE, 3), 0.5)
    backend.classify(SETTINGS["off"], images, PROMPTS, plan, calls)
    assert steps == [1, 2, 3]
    assert sum(calls.counts) == 2 * plan.calls(len(PROMPTS))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*OWN_MODEL, "--image", "b", "--prompts", "c"], "expected a model file"),
        (["--checkpoint", "sd.safetensors"], "--host PATH_TO_COMFYUI"),
        ([*OWN_MODEL, "--image", "b"], "got no --prompts"),
        ([*OWN_MODEL, "--prompts", "b"], "got no --image"),
        (["--prompts", "a cat"], "'a cat'"),
        (["--prompts", "fox", "fox"], "more than once"),
        (["--image", "missing.png"], "missing.png"),
        (["--image", str(Path(__file__))], "expected an image file"),
        (["--steps", "0"], "--steps of at least 1"),
        (["--seed", "-1"], "--seed of at least 0"),
    ],
)
def test_mistakes_are_told_in_one_line(small_model, capsys, arguments, told):
    assert demo.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("demo: expected")
    assert told in error
    assert error.count("\n") == 1


def test_images_are_cut_to_centre_squares_and_scaled():
    wide = Image.new("RGB", (40, 20), "white")
    wide.paste("black", (10, 0, 30, 20))
    square = demo.squares([wide], 8)
    assert square.shape == (1, 8, 8, 3)
    assert square.max() < 0.1  # the filter reaches a little beyond the edge


def test_sample_images_are_ranked_among_their_names(small_model):
    _, job = demo.prepare(demo.parse([]))
    names = {path.stem for path in SAMPLES.glob("*.png")}
    assert set(job.question.prompts) == names <= set(CLASS_NAMES)
    assert len(set(job.question.names)) == len(job.question.images) == 2
    assert set(job.question.names) < names
    assert set(demo.GENERATED) < set(CLASS_NAMES)
    _, job = demo.prepare(demo.parse(["--image", str(IMAGE)]))
    assert job.question.prompts == CLASS_NAMES


def test_sample_images_were_never_trained_on():
    pairs = sample_pairs()
    assert {f"{name}.png" for name in pairs} == {path.name for path in SAMPLES.iterdir()}
    for name, pair in pairs.items():
        assert held_out()[pair] and CLASS_NAMES[pair // len(STYLES)] == name
