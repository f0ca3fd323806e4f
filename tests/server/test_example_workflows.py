"""The examples that no other file runs, and those whose checkpoints are not here.

A checkpoint is replaced by a small random model of its family: by a file of the same name where
that fits, by FamilyCheckpoint of family_nodes/ where it would not. All else is as saved, but for
sizes and steps.
"""

import csv
import io
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.sample_images import sample_pairs
from bigain_core.classification.datasets.imagenet import imagenet_labels
from bigain_core.models.dit import DiT, DiTConfig
from tests.server.conftest import EXAMPLES, FEW_TOKENS, local, randomised

HIRES, PHOTO = "bigain_faster_hires_sdxl", "bigain_rank_prompts_for_photo"
SORTED, TAGS = "bigain_sort_images", "bigain_tag_dataset"
DIT = "bigain_classify_with_dit_xl_2"
DIT_FILE, VAE_FILE = "DiT-XL-2-256x256.pt", "vae-ft-mse-840000-ema-pruned.safetensors"
NEEDED = {
    HIRES: {"sd_xl_base_1.0.safetensors"},
    PHOTO: {"v1-5-pruned-emaonly-fp16.safetensors"},
    DIT: {DIT_FILE, VAE_FILE},
}
FAMILIES = {HIRES: "sdxl", PHOTO: "sd15"}
STEPS = 1
TAGGED, CAPTIONED = 4, 2  # images
SMALLER = {
    HIRES: {"EmptyLatentImage": {"width": 384, "height": 384}, "KSampler": {"steps": STEPS}},
    PHOTO: {"ImageScale": {"width": 128, "height": 128}},
    SORTED: {"BiGainRankImages": {"trials": 2}},
    TAGS: {
        "BiGainDiTLoader": {"model_name": FEW_TOKENS},
        "BiGainDiTLabels": {"labels": "bee\npanda\nrocket"},
        "BiGainEvaluate": {"preset": "fast", "limit": TAGGED},
        "BiGainTagFolder": {"limit": CAPTIONED},
    },
}


@pytest.fixture(scope="module")
def photo(comfyui, server):
    """The image that every ComfyUI comes with."""
    shutil.copy(comfyui / "input" / "example.png", server.folder / "input")


@pytest.fixture(scope="module")
def refusals(server, photo, example, converted):
    """What the host says to workflows as shipped, while no checkpoint is there."""
    prompts = {name: converted(example(name)) for name in NEEDED}
    return {
        name: local().post(f"{server.url}/prompt", json={"prompt": prompt}, timeout=60)
        for name, prompt in prompts.items()
    }


@pytest.fixture(scope="module")
def small_files(server, refusals):
    """A DiT of all of ImageNet's classes, and a VAE, by the names that a workflow gives."""
    from comfy.taesd.taesd import TAESD

    models = server.folder / "models"
    for folder in ("diffusion_models", "vae"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    network = DiT(DiTConfig(32, 2, 4, 64, 2, 1, 1000, learn_sigma=True))
    torch.save(randomised(network), models / "diffusion_models" / DIT_FILE)
    save_file(randomised(TAESD()), models / "vae" / VAE_FILE)


@pytest.fixture(scope="module")
def prompt(small_files, example, converted):
    """An example as saved, but for sizes, steps and checkpoints."""

    def make(name, **changes):
        made = converted(example(name), **{**SMALLER.get(name, {}), **changes})
        for node in made.values():
            if node["class_type"] == "CheckpointLoaderSimple":
                node |= {"class_type": "FamilyCheckpoint", "inputs": {"case": FAMILIES[name]}}
        return made

    return make


@pytest.fixture(scope="module")
def run(server, prompt):
    """The prompt of an example and what became of it."""

    def queued(name, **changes):
        made = prompt(name, **changes)
        done = server.run(made)
        assert done.succeeded, done.entry
        return made, done

    return queued


@pytest.fixture(scope="module")
def shown(node_ids):
    """The text under the only node of a kind, or of that with a title."""

    def text(ran, kind, title=None):
        made, done = ran
        numbers = node_ids(made, kind)
        (number,) = [n for n in numbers if title in (None, made[n]["_meta"]["title"])]
        return done.text(number)

    return text


def rows(table):
    return list(csv.DictReader(io.StringIO(table)))


def test_every_example_is_run_by_a_test():
    files = Path(__file__).parent.glob("test_*_workflow*.py")
    tests = [file.read_text("utf-8") for file in files]
    names = [path.stem for path in EXAMPLES.glob("*.json")]
    assert [name for name in names if not any(f'"{name}"' in test for test in tests)] == []


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_checkpoint_is_named(refusals, name):
    """Older hosts name one of several."""
    answer = refusals[name]
    assert answer.status_code == 400
    errors = [error for node in answer.json()["node_errors"].values() for error in node["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    files = {error["extra_info"]["received_value"] for error in errors}
    assert files and files <= NEEDED[name]
    assert all(error["extra_info"]["received_value"] in error["details"] for error in errors)


@pytest.fixture(scope="module")
def hires(run):
    return run(HIRES)


@pytest.mark.once
def test_the_second_pass_is_compressed_and_the_first_is_not(hires, shown):
    """96 x 96 latents; attention begins at half of that, just enough tokens to be faster."""
    first, *layers = shown(hires, "BiGainReport").splitlines()
    assert first.startswith(
        "BiGain on Stable Diffusion UNet (1.x, 2.x, XL, SVD): 3 of 7 self-attention layers "
        "compressed, 2304 tokens -> 2304 queries and 576 keys. "
    )
    compressed = [line for line in layers if line.startswith("layer ")]
    assert [line.split(", ")[-1] for line in compressed] == [f"in {STEPS} of {STEPS} calls"] * 3


@pytest.mark.once
def test_the_first_pass_is_enlarged_twice(hires, node_ids):
    made, done = hires
    (number,) = node_ids(made, "SaveImage")
    assert [image.shape for image in done.images(number)] == [(768, 768, 3)]


@pytest.mark.parametrize("name", [PHOTO, DIT])
def test_all_labels_are_ranked_and_the_best_is_shown(name, run, prompt, shown, node_ids):
    ran = run(name)
    (kind,) = {"BiGainPrompts", "BiGainDiTLabels"} & {n["class_type"] for n in ran[0].values()}
    (labels,) = (node["inputs"] for node in ran[0].values() if node["class_type"] == kind)
    offered = labels["labels"].splitlines() or list(imagenet_labels("ImageNet-100").values())
    table, *_ = shown(ran, "BiGainDiffusionClassifier").split("\n\n")
    best = shown(ran, "PreviewAny")
    ranked = [row["label"] for row in rows(table) if row["rank"]]
    assert ranked[0] == best and best in offered
    assert set(ranked) <= set(offered) and len(ranked) == min(50, len(offered))
    (chart,) = ran[1].images(node_ids(ran[0], "PreviewImage")[0])
    assert len({tuple(pixel) for line in chart for pixel in line}) > 3


@pytest.mark.once
def test_images_are_sorted_by_the_prompt(run, shown, node_ids):
    ran = run(SORTED)
    (node,) = node_ids(ran[0], "BiGainRankImages")
    ranking = rows(shown(ran, "BiGainRankImages"))
    scores = [float(row["score"]) for row in ranking]
    assert scores == sorted(scores, reverse=True)
    names = sorted(sample_pairs())
    assert names[int(ranking[0]["image"])] == "rocket"
    (panel,) = ran[1].entry["outputs"][node]["bigain_ranked"]
    assert [row["image"] for row in panel["rows"]] == [int(row["image"]) for row in ranking]


@pytest.fixture(scope="module")
def tagged(run):
    return run(TAGS)


def test_every_image_of_the_folder_gets_a_tag(server, tagged, shown):
    written = rows((server.folder / "output" / "bigain" / "tags.csv").read_text("utf-8"))
    names = sorted(sample_pairs())
    chosen = names[:: len(names) // TAGGED]  # evenly spread
    assert [row["file"] for row in written] == [f"{name}.png" for name in chosen]
    assert rows(shown(tagged, "PreviewAny", "Tags")) == written
    assert shown(tagged, "PreviewAny", "Summary").startswith(f"{TAGGED} tagged: ")


def test_every_image_has_a_copy_and_a_caption(server, tagged, shown):
    """Read as trainers read them: the text beside each image, tags between commas."""
    folder = server.folder / "output" / "bigain" / "captions"
    samples = server.folder / "input" / "bigain_samples"
    images = sorted(folder.glob("*.png"))
    assert len(images) == CAPTIONED and len(list(folder.iterdir())) == 2 * CAPTIONED
    for path in images:
        assert path.read_bytes() == (samples / path.name).read_bytes()
        first, *tags = path.with_suffix(".txt").read_text("utf-8").split(", ")
        assert first == "emoji" and set(tags) <= sample_pairs().keys()
    assert shown(tagged, "BiGainTagFolder").startswith(f"{CAPTIONED} images with ")


def test_captions_stay_where_they_are_when_it_is_run_again(server, tagged):
    folder = server.folder / "output" / "bigain" / "captions"
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    text = min(folder.glob("*.txt"))
    text.write_text("by hand", "utf-8")
    record = (folder.parent / "captions.jsonl").read_bytes()
    assert server.run(tagged[0]).succeeded
    assert text.read_text("utf-8") == "by hand"
    assert (folder.parent / "captions.jsonl").read_bytes() == record
    assert {path: path.stat().st_mtime_ns for path in times} == times
