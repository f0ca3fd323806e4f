"""The command that measures the paper's tables, rehearsed on small models and made-up folders."""

import logging
import os
import signal
import time
from dataclasses import replace
from hashlib import sha256
from zlib import crc32

import comfy.sample
import comfy.sd
import comfy.taesd.taesd
import numpy as np
import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as inception
from comfy.cli_args import args
from PIL import Image
from safetensors.torch import save_file
from torch_fidelity import metric_fid

from benchmarks.data import CLASS_NAMES, held_out_shapes
from benchmarks.demo_host import Loaded, batched
from benchmarks.dit_runner import SMALL_DIT, DiTRunner, load_dit
from benchmarks.paper import models, words, work
from benchmarks.paper.__main__ import main
from benchmarks.paper.data import SETS, small_contest
from benchmarks.paper.data import pets as pets_set
from benchmarks.paper.frechet import Gaussian, frechet_distance
from benchmarks.paper.generation import (
    Samples,
    generate,
    generate_rows,
    image_file,
    inception_distance,
    read_pixels,
)
from benchmarks.paper.models import EULER, Files, Model
from benchmarks.paper.recognition import Share, found_results, recognise
from benchmarks.paper.report import whole
from benchmarks.paper.tables import OFF, ROWS, TOME, Row, chosen, translated
from benchmarks.paper.timesteps import APART
from benchmarks.paper.work import Wanted, Work
from bigain_core.classification import TrialPlan, classify, trial_noise
from bigain_core.classification.datasets.evaluation import Job
from bigain_core.classification.datasets.imagenet import imagenet_labels
from bigain_core.classification.datasets.result_files import ResultFile
from bigain_core.compression.rules import Compression, Rule
from bigain_core.methods import TokenMerging
from bigain_core.models.checkpoint import read_checkpoint
from bigain_core.models.dit import DiT, DiTConfig
from tests.host.families import NAMED
from tests.host.families.case import TEXT, WIDTH
from tests.host.families.models import fill

L_GTM = "L-GTM 0.7"
PIXELS = 64  # of a made-up image that a published model sees
# The made-up ImageNet by places of its classes: of two processes the second has all but the first.
IMAGES = {0: [1], 1: [2, 4, 6]}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Rows are timed once, and images of the small DiT take four steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "ROUNDS", 1)
        fewer = replace(models.UNGUIDED, timesteps=models.UNGUIDED.timesteps[::4])
        patch.setattr(models, "UNGUIDED", fewer)
        yield


# The small DiT


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Everything of three rows for two images, in this process."""
    out = tmp_path_factory.mktemp("small")
    tables = chosen(["3", "10"], ["off", "L-GTM 0.7"])
    wanted = Wanted(tables, out, images=2, samples=2)
    done = Work("small-dit", wanted)
    done.prepare(1)
    done.measure(Share())
    return done


def test_every_choice_is_that_of_the_classifier_without_a_host(small):
    found = small.finished(small.data())
    dit = load_dit(read_checkpoint(SMALL_DIT))
    for row in (OFF, L_GTM):
        records = found_results(found.recognition, row).records
        assert list(records) == [image.file for image in found.job.all_images]
        compression = translated(ROWS[row].compression, models.transformer([1], [2]))
        for image, record in zip(found.job.all_images, records.values(), strict=True):
            path = found.data.images.path(image)
            noise = int(sha256(path.read_bytes()).hexdigest()[:16], 16)
            pixels = read_pixels(path)
            contest = small_contest(record["labels"][0])
            names = contest.labels
            denoiser = DiTRunner(dit, compression).denoiser([CLASS_NAMES.index(n) for n in names])
            expected = classify(denoiser, pixels[None], names, contest.plan, noise).rankings[0]
            assert record["best"] == names[expected.best]
            assert record["margin"] == pytest.approx(expected.margin, rel=1e-3, abs=1e-7)
            assert record["calls"] == contest.plan.calls(len(names)) == 13


def test_products_in_bfloat16_change_little_and_are_told_apart(small, tmp_path):
    tables = chosen(["4"], ["off"])
    rounded = Work("small-dit", replace(small.wanted, tables=tables, out=tmp_path, bf16=True))
    rounded.measure(Share())
    found = [
        found_results(done.finished(done.data()).recognition, OFF) for done in (small, rounded)
    ]
    precisions = [results.settings["dtype"] for results in found]
    assert precisions == ["torch.float32", "torch.float32, products in bfloat16"]
    exact, coarse = ([r["margin"] for r in one.records.values()] for one in found)
    assert exact != coarse and coarse == pytest.approx(exact, rel=0.2)


def test_rows_differ_in_the_compression_alone(small, tmp_path):
    """A row that compresses nothing gives the very results of the plain model."""
    model, data = small.load(), small.data()
    nothing = Row(Compression((Rule(TokenMerging(0.0)),)))
    rows = {OFF: Row(), "nothing": nothing, L_GTM: ROWS[L_GTM], "own": Row(own_noise=True)}
    job = Job(data.images, data.labels, 1)
    recognise(model, data, rows, job, Share(), tmp_path / "r")
    off, none, merged, own = (found_results(tmp_path / "r", row).records for row in rows)
    assert none == off
    assert merged.keys() == own.keys() == off.keys()
    margins = [[r["margin"] for r in records.values()] for records in (off, merged, own)]
    assert margins[0] != margins[1] and margins[0] != margins[2]
    few = replace(data, asked=data.asked[:1])
    rows.pop("own")
    generate_rows(model, few, rows, Share(), tmp_path / "g")
    files = [image_file(tmp_path / "g", row, 0).read_bytes() for row in rows]
    assert files[0] == files[1] and files[0] != files[2]


def test_the_report_covers_both_measures_and_the_costs(small):
    found = small.finished(small.data())
    text = whole(small.wanted.tables, [found])
    assert all(f" {column} |" in text for column in ("accuracy", "distance", "ms"))
    assert "Images without a result" not in text
    small.draw(found)
    for name in ("samples", "curves", "token_maps"):
        assert Image.open(small.folder / f"{name}.png").width > 200
    saved = found.costs[L_GTM].flops / found.costs[OFF].flops
    assert 0.85 < saved < 0.92, "two of six blocks, as the demo counts"


def test_samples_are_judged_by_what_was_asked_for(small):
    found = small.finished(small.data())
    records = found_results(found.generation, OFF).records
    assert [records[n]["asked"] for n in sorted(records)] == list(CLASS_NAMES[:2])
    assert len(found.judged(OFF).agrees) == 2


def test_what_a_word_saves_is_the_difference_of_the_errors_under_two_prompts(small):
    found = torch.cat(list(words.errors(small.load(), ROWS[OFF], 1)))
    assert found.shape == (25, 2), "five shapes in five textures"
    pixels = held_out_shapes(30, APART).pixels[[1]]
    runner = DiTRunner(load_dit(read_checkpoint(SMALL_DIT)))
    names = ["checkered disc", "plain disc"]
    expected = (
        classify(runner.denoiser([1, 0]), pixels, names, words.PLAN).rankings[0].table.mean_errors
    )
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-6)
    assert found[:, 1].mean() > found[:, 0].mean(), "the right word helps"


# A published DiT, with random weights


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    network = comfy.taesd.taesd.TAESD(latent_channels=4)
    fill(network, 1)
    network.vae_scale.data.fill_(1.0)
    network.vae_shift.data.fill_(0.0)
    path = tmp_path_factory.mktemp("vae") / "small.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def dit_file(tmp_path_factory):
    """The published layout, thousand classes, latents of 8 x 8, two blocks."""
    network = DiT(DiTConfig(PIXELS // 8, 2, 4, 64, 2, 1, 1000, learn_sigma=True))
    fill(network)
    path = tmp_path_factory.mktemp("dit") / "DiT-XL-2.safetensors"
    save_file(network.state_dict(), path)
    return path


def image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (80, 70, 3), dtype=np.uint8)
    Image.fromarray(levels).save(path)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    wnids = list(imagenet_labels("ImageNet-100"))
    for place, numbers in IMAGES.items():
        for number in numbers:
            name = f"ILSVRC2012_val_{number:08}.JPEG"
            image(root / "val" / wnids[place] / name, number)
    return root


@pytest.fixture
def command(comfyui, dit_file, autoencoder, imagenet):
    def make(out, *more):
        given = ["3", "--rows", TOME, "--models", "dit-xl-2", "--host", comfyui]
        given += ["--checkpoint", dit_file, "--vae", autoencoder, "--data", "imagenet100"]
        given += ["--root", imagenet, "--out", out, "--samples", 2, "--workers", 1, *more]
        return list(map(str, given))

    return make


@pytest.fixture
def options(monkeypatch):
    """What the command sets of the host is put back."""
    level = logging.getLogger().level
    for name in ("use_pytorch_cross_attention", "fp16_unet"):
        monkeypatch.setattr(args, name, False)
    yield args
    logging.getLogger().setLevel(level)


def rank(number):
    """What torchrun tells one of two processes."""
    return {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number)}


def killed_in_the_middle(environ, given, folder):
    """A copy of this process, the second of two, ended without warning after its first result."""
    if not (child := os.fork()):
        try:
            os.environ |= environ
            main(given)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    first = folder / "off.2-of-2.jsonl"
    deadline = time.monotonic() + 120
    while not (first.exists() and first.read_text().count("\n") > 1):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with first.open("a") as file:
        file.write('{"image": 3, "best')  # as if it had been in the middle of a line
    return first.read_text().splitlines()


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a copy of this process")
def test_two_processes_of_which_one_is_killed_find_what_one_finds(
    command, tmp_path, capsys, monkeypatch, options
):
    a_set, plan = SETS["imagenet100"], TrialPlan((2,))
    monkeypatch.setitem(SETS, "imagenet100", lambda root: replace(a_set(root), plan=plan))
    whole_run, parted = tmp_path / "whole", tmp_path / "parted"
    recognition = parted / "dit-xl-2-imagenet100" / "recognition"
    before = killed_in_the_middle(rank(1), command(parted), recognition)
    assert 2 < len(before) < 1 + len(IMAGES[1]) + 1, "it was killed in the middle"
    assert found_results(recognition, TOME) is None
    main(command(whole_run))
    assert options.use_pytorch_cross_attention
    printed = capsys.readouterr().out
    for number in (0, 1):
        with monkeypatch.context() as launched:
            for name, value in rank(number).items():
                launched.setenv(name, value)
            main(command(parted))
    after = (recognition / "off.2-of-2.jsonl").read_text().splitlines()
    assert after[: len(before) - 1] == before[:-1] and len(after) == 1 + len(IMAGES[1])
    capsys.readouterr()
    main(command(parted, "--report"))
    report = capsys.readouterr().out
    assert accuracies(report) == accuracies(printed) and len(accuracies(report)) == 2 + 2
    for row in (OFF, TOME, "SiTo 0.7"):
        for kind in ("recognition", "generation"):
            found = [
                found_results(folder / "dit-xl-2-imagenet100" / kind, row)
                for folder in (whole_run, parted)
            ]
            if row == "SiTo 0.7":
                assert found == [None, None], "it was not asked for"
            else:
                assert found[0].text == found[1].text
        if row != "SiTo 0.7":
            paths = [
                image_file(folder / "dit-xl-2-imagenet100" / "generation", row, number)
                for folder in (whole_run, parted)
                for number in (0, 1)
            ]
            samples = [path.read_bytes() for path in paths]
            assert samples[:2] == samples[2:] and samples[0] != samples[1]


def accuracies(text):
    """Row, accuracy, mAP and evaluations of each line of the first table."""
    lines = [line.split("|") for line in text.partition("FID")[0].splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in [line[1], *line[3:6]]] for line in lines]


def test_classes_of_a_published_dit_are_those_of_imagenet(dit_file, autoencoder):
    model = models.dit_xl_2(Files(dit_file, autoencoder))
    names = list(imagenet_labels().values())
    encoded = model.loaded.encode([names[7], "", names[999]])
    found = [conditioning[0][1].get("class_label") for conditioning in encoded]
    assert found[0].tolist() == [7] and found[1] is None and found[2].tolist() == [999]
    assert model.loaded.image_size == PIXELS and not model.reads
    with pytest.raises(ValueError, match="expected --vae FILE for this model"):
        models.dit_xl_2(Files(dit_file))


# Stable Diffusion 2 in miniature


@pytest.fixture(scope="module")
def sd2(autoencoder):
    """A random UNet behind the published protocol; a prompt is noise that its letters decide."""
    case = NAMED["sd2"]
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(autoencoder)))

    def encode(prompts):
        made = (torch.Generator().manual_seed(crc32(prompt.encode())) for prompt in prompts)
        return tuple([[torch.randn(1, TEXT, WIDTH, generator=g), {}]] for g in made)

    side = PIXELS // 8
    loaded = Loaded(case.model, vae, encode, (4, side, side), PIXELS)
    return Model(loaded, replace(EULER, timesteps=EULER.timesteps[::25]), reads=True)


@pytest.fixture
def pets(tmp_path):
    rows = []
    for number, name in enumerate(("Abyssinian_1", "pug_3")):
        image(tmp_path / "pets" / "images" / f"{name}.jpg", number)
        rows.append(f"{name} {(1, 26)[number]} 1 1")
    listed = tmp_path / "pets" / "annotations" / "test.txt"
    listed.parent.mkdir()
    listed.write_text("\n".join(rows))
    return tmp_path / "pets"


def test_the_published_protocol_on_pets(sd2, pets, tmp_path, monkeypatch):
    monkeypatch.setitem(models.LOADERS, "sd2", lambda files: sd2)
    monkeypatch.setitem(SETS, "pets", lambda root: replace(pets_set(root), plan=TrialPlan((1,))))
    tables = chosen(["9"], ["IE-KVD"])
    done = Work("sd2", Wanted(tables, tmp_path / "out", "pets", pets))
    done.prepare(1)
    done.measure(Share())
    found = done.finished(done.data())
    settings = found_results(found.recognition, "IE-KVD factor 2").settings
    assert (
        settings["prompts"][25] == "a photo of a Pug, a type of pet." and settings["size"] == PIXELS
    )
    assert settings["dtype"] == "torch.float32"
    generated = found_results(found.generation, "IE-KVD factor 2")
    assert generated.records["00001.png"]["asked"] == "a photo of a Pug, a type of pet."
    text = whole(tables, [found])
    assert "| mAP |" in text and "FID needs the weights of its network" in text
    hybrid = "L-GTM encoder, IE-KVD decoder"
    assert hybrid in text and found.costs[hybrid].flops < found.costs["ToDo factor 2"].flops * 1.2


def test_samples_are_generated_as_the_host_does(sd2):
    """Euler from 999 to 0 in even steps is the host's scheduler "normal"."""
    model = replace(
        sd2, sampling_settings=replace(EULER, timesteps=(999.0, 799.2, 599.4, 399.6, 199.8, 0.0))
    )
    found = generate(model, model.loaded.patcher, ["a", "b"], [3, 8])
    noise = torch.stack([trial_noise(model.loaded.latent_shape, 0, n, 0) for n in (3, 8)])
    positive, negative = batched(model.loaded.encode(["a", "b"])), model.loaded.encode([""])[0]
    latents = comfy.sample.sample(
        model.loaded.patcher, noise, 6, EULER.guidance, "euler", "normal", positive, negative,
        torch.zeros_like(noise), seed=0, disable_pbar=True,
    )  # fmt: skip
    expected = model.loaded.vae.decode(latents).clamp(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    alone = generate(model, model.loaded.patcher, ["b"], [8])
    torch.testing.assert_close(found[1:], alone, atol=1e-3, rtol=1e-3)


# FID


def test_our_distance_is_that_of_the_library():
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(60, 6, generator=generator) * (k + 1) + k for k in (0, 1)]
    theirs = metric_fid.fid_statistics_to_metric(
        *map(metric_fid.fid_features_to_statistics, sets), verbose=False
    )
    ours = [Gaussian.of(features) for features in sets]
    found = frechet_distance(ours[0], ours[0].root, ours[1])
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Random ones for the network of FID, in the file that it is given."""
    network = inception.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        patch.setattr(inception.torch, "load", lambda *args, **options: {})
        made = network("random", ["2048"], feature_extractor_weights_path="none")
    fill(made)
    torch.save(made.state_dict(), tmp_path / "inception.pth")
    return tmp_path / "inception.pth"


def test_fid_is_of_the_generated_samples_to_those_of_the_set(weights, pets, tmp_path, monkeypatch):
    statistics = metric_fid.fid_features_to_statistics
    few = 64  # of 2048 features: the library takes the root of a matrix of so many rows
    monkeypatch.setattr(
        metric_fid, "fid_features_to_statistics", lambda features: statistics(features[:, :few])
    )
    found = SETS["pets"](pets)
    folder = tmp_path / "generated"
    for row in ("same", "other"):
        with ResultFile(Share().file(folder, row), {}) as results:
            for image in found.images.images:
                path = image_file(folder, row, image.number)
                path.parent.mkdir(exist_ok=True)
                with Image.open(found.images.path(image)) as file:
                    (file if row == "same" else file.resize((40, 40))).save(path)
                results.add({"image": image.number, "file": path.name, "asked": ""})
    same = inception_distance(found, folder, "same", weights)
    other = inception_distance(found, folder, "other", weights)
    assert abs(same) < 1e-3 * other
    assert Samples([found.images.path(found.images.images[0])])[0].shape == (3, 80, 70)
