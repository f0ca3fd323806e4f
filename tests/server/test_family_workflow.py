"""compressed_and_plain.json: both operators on models of other families than the bundled one.

The Stable Diffusion 3 is a file that the host's own loader reads; the other models come from the
nodes in family_nodes/. All latents are 12 x 20 and a token is 2 x 2 of their elements.
"""

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.host.families import NO_SUCH_MODEL

WORKFLOW = Path(__file__).parent / "workflows" / "compressed_and_plain.json"
SD3_FILE = "small_sd3.safetensors"
COMPRESSED = {  # by the names that the workflow gives to latents, one more of which is plain
    "token_merging": "BiGainTokenMerging",
    "kv_downsampling": "BiGainKVDownsampling",
}
NODES = tuple(COMPRESSED.values())
MODELS = ("UNETLoader", "FamilyModel", *NODES)
OUTPUTS = ("SaveLatent", "BiGainReport")
OFF = {"BiGainTokenMerging": {"ratio": 0.0}, "BiGainKVDownsampling": {"factor": 1}}
STEPS = 3  # of the workflow
OTHER_SEED = {"PrimitiveInt": {"value": 8}}
UNDER_WAY = re.compile(r" [1-9]\d*/10000 \[")  # the host's progress bar after a step
NOT_COVERED = {"stable_cascade": "StableCascade_C", "ernie_image": "ErnieImage"}


@dataclass(frozen=True)
class Expected:
    """What a family's latents and reports are, counted by hand."""

    name: str
    layers: int
    text: int  # tokens beside those of the image
    latent: tuple[int, ...]
    tokens: int
    merged: int
    pooled: int


IMAGE = ((1, 16, 12, 20), 6 * 10, 60 - 42, 3 * 5)  # 42 of 60 are 0.7
VIDEO = ((1, 16, 3, 12, 20), 3 * 6 * 10, 3 * (60 - 42), 3 * 3 * 5)
FAMILIES = {
    "sd3": Expected("Stable Diffusion 3", 2, 6, *IMAGE),
    "flux": Expected("Flux", 2 + 2, 6, *IMAGE),
    "wan": Expected("Wan", 2, 0, *VIDEO),
}


def sd3_weights() -> dict[str, torch.Tensor]:
    """Two blocks of 128 channels, by the names that a file of Stable Diffusion 3 has."""
    channels = 128
    shapes = {
        "x_embedder.proj": (channels, 16, 2, 2),
        "t_embedder.mlp.0": (channels, 256),
        "t_embedder.mlp.2": (channels, channels),
        "y_embedder.mlp.0": (channels, 24),
        "y_embedder.mlp.2": (channels, channels),
        "context_embedder": (channels, 24),
        "final_layer.adaLN_modulation.1": (2 * channels, channels),
        "final_layer.linear": (2 * 2 * 16, channels),
    }
    for block, stream in ((0, "context"), (0, "x"), (1, "context"), (1, "x")):
        unused = (block, stream) == (1, "context")  # nothing reads the text after the last block
        layers = {"attn.qkv": (3, 1), "adaLN_modulation.1": (2 if unused else 6, 1)}
        if not unused:
            layers |= {"attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        for name, (rows, columns) in layers.items():
            whole = f"joint_blocks.{block}.{stream}_block.{name}"
            shapes[whole] = (rows * channels, columns * channels)
    generator = torch.Generator().manual_seed(0)
    weights = {"pos_embed": torch.randn(1, 32 * 32, channels, generator=generator)}
    for name, shape in shapes.items():
        scale = math.prod(shape[1:]) ** -0.5
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * scale
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return weights


@pytest.fixture(scope="module", autouse=True)
def sd3_file(server):
    folder = server.folder / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(sd3_weights(), folder / SD3_FILE)


@pytest.fixture(scope="module")
def prompt(workflow, converted):
    """The workflow for a case of the families, nodes switched off and inputs changed as wished."""

    def make(case, switched_off=(), **changes):
        changes = {"FamilyInputs": {"case": case}, **changes}
        made = converted(workflow(WORKFLOW, switched_off), **changes)
        if case != "sd3":
            (loader,) = (node for node in made.values() if node["class_type"] == "UNETLoader")
            loader |= {"class_type": "FamilyModel", "inputs": {"case": case}}
        return made

    return make


def latents(run, prompt):
    """What a run saved, by the names that the workflow gives."""
    assert run.succeeded, run.entry
    return {
        node["inputs"]["filename_prefix"].removeprefix("families/"): run.latent(number)
        for number, node in prompt.items()
        if node["class_type"] == "SaveLatent"
    }


@pytest.fixture(scope="module")
def sampled_again(server, prompt, node_ids):
    """Samples from scratch, with the models of the runs before: what was saved."""

    def run(case, switched_off=(), **changes):
        server.run(prompt(case, switched_off, **changes, **OTHER_SEED))
        queued = prompt(case, switched_off, **changes)
        done = server.run(queued)
        cached = done.message("execution_cached")["nodes"]
        assert set(cached) >= {n for kind in MODELS for n in node_ids(queued, kind)}
        assert set(cached).isdisjoint(node_ids(queued, "KSampler"))
        return latents(done, queued)

    return run


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def plain(server, case, prompt):
    """The latent of a model that our nodes have not seen yet."""
    queued = prompt(case, switched_off=NODES)
    return latents(server.run(queued), queued)["plain"]


@pytest.fixture(scope="module")
def run(server, case, prompt, plain):
    return server.run(prompt(case))


@pytest.fixture(scope="module")
def saved(run, case, prompt):
    return latents(run, prompt(case))


@pytest.fixture(scope="module")
def reports(prompt, node_ids):
    """The texts of a run's reports by the names of the latents."""

    def read(run, case):
        numbers = node_ids(prompt(case), "BiGainReport")
        return dict(zip(COMPRESSED, map(run.text, numbers), strict=True))

    return read


def with_one_output(prompt, name):
    """The prompt without the other latents and their reports."""
    (saver,) = (
        node
        for node in prompt.values()
        if node["inputs"].get("filename_prefix") == f"families/{name}"
    )
    sampler = saver["inputs"]["samples"]
    return {
        number: node
        for number, node in prompt.items()
        if node["class_type"] not in OUTPUTS or sampler in node["inputs"].values()
    }


def test_both_operators_run(run, saved, case):
    assert run.succeeded, run.entry
    assert set(saved) == {"plain", *COMPRESSED}
    for latent in saved.values():
        assert latent.shape == FAMILIES[case].latent
        assert latent.isfinite().all()


def test_the_reports_name_the_family_its_layers_and_their_tokens(run, reports, case):
    expected = FAMILIES[case]
    text = f" + {expected.text} of text or references" if expected.text else ""
    texts = reports(run, case)
    for name, method, queries, keys in (
        ("token_merging", "L-GTM 0.7", expected.merged, expected.merged),
        ("kv_downsampling", "IE-KVD factor 2, alpha 0.9", expected.tokens, expected.pooled),
    ):
        first, *layers = texts[name].splitlines()
        assert first.startswith(
            f"BiGain on {expected.name}: {expected.layers} of {expected.layers} self-attention "
            f"layers compressed, {expected.tokens} tokens -> {queries} queries and {keys} keys. "
        )
        assert layers == [
            f"layer {number} (transformer, level 1): {method}, {expected.tokens} tokens{text} "
            f"-> {queries} queries, {keys} keys, in {STEPS} of {STEPS} calls"
            for number in range(expected.layers)
        ]


def test_each_operator_changes_the_latent(saved):
    for one, other in itertools.combinations(saved.values(), 2):
        assert not torch.equal(one, other)


def test_bypassed_nodes_leave_nothing_behind_on_the_model(saved, plain, case, sampled_again):
    for latent in sampled_again(case, switched_off=NODES).values():
        assert torch.equal(latent, plain)


def test_ratio_0_and_factor_1_are_bit_identical(saved, plain, case, sampled_again):
    for latent in sampled_again(case, **OFF).values():
        assert torch.equal(latent, plain)


def test_frames_of_a_video_share_keys_and_values(server, prompt, reports, sampled_again):
    """Three frames: the first alone, two together, 3 x 5 keys each."""
    shared = {"BiGainKVDownsampling": {"method.frames": 2}}
    queued = prompt("wan", **shared)
    done = server.run(queued)
    found, apart = latents(done, queued), sampled_again("wan")
    text = reports(done, "wan")["kv_downsampling"]
    assert "IE-KVD factor 2, alpha 0.9, over 2 frames, 180 tokens -> 180 queries, 30 keys" in text
    assert found["kv_downsampling"].isfinite().all()
    assert not torch.equal(found["kv_downsampling"], apart["kv_downsampling"])
    for name in ("plain", "token_merging"):
        assert torch.equal(found[name], apart[name])


def test_a_second_run_gives_the_same_latents(saved, case, sampled_again):
    again = sampled_again(case)
    assert all(torch.equal(again[name], saved[name]) for name in saved)


def test_a_model_that_was_unloaded_gives_the_same_latents(server, saved, case, prompt):
    server.post("/free", {"unload_models": True, "free_memory": True})
    queued = prompt(case)
    done = server.run(queued)
    if done.message("execution_cached")["nodes"]:  # it was taken before anything was freed
        done = server.run(queued)
    assert not done.message("execution_cached")["nodes"]
    again = latents(done, queued)
    assert all(torch.equal(again[name], saved[name]) for name in saved)


@pytest.mark.parametrize("name", COMPRESSED)
def test_an_interrupted_run_leaves_nothing_behind(
    server, run, saved, case, name, prompt, node_ids, reports
):
    many_steps = with_one_output(prompt(case, KSampler={"steps": 10_000}), name)
    interrupted = server.run_and_interrupt(many_steps, UNDER_WAY.search)
    assert interrupted.message("execution_interrupted")["node_type"] == "KSampler"
    assert not interrupted.message("execution_error")

    queued = prompt(case)
    done = server.run(queued)
    patched = node_ids(queued, COMPRESSED[name])
    assert set(patched) <= set(done.message("execution_cached")["nodes"])
    again = latents(done, queued)
    assert all(torch.equal(again[name], saved[name]) for name in saved)
    assert reports(done, case) == reports(run, case)


@pytest.mark.parametrize("uncovered", NOT_COVERED)
def test_a_family_that_is_not_covered_is_an_error_in_our_words(
    server, uncovered, prompt, object_info
):
    kind, options = object_info["FamilyModel"]["input"]["required"]["case"]
    if uncovered not in (kind if isinstance(kind, list) else options["options"]):
        pytest.skip(NO_SUCH_MODEL)
    before = prompt("flux")
    expected = latents(server.run(before), before)

    failed = server.run(prompt(uncovered))
    assert not failed.succeeded
    error = failed.message("execution_error")
    assert error["node_type"] in NODES
    message = error["exception_message"].strip()
    assert message.startswith("BiGain: expected a model of one of these families: Stable Diffusion")
    assert f"; got a {NOT_COVERED[uncovered]} model whose network is a comfy.ldm." in message
    advice = "Bypass this node for it, or the node that has wrapped its network."
    assert message.endswith(f", which is not covered. {advice}")

    advised = prompt(uncovered, switched_off=NODES)
    assert set(latents(server.run(advised), advised)) == {"plain", *COMPRESSED}
    after = latents(server.run(before), before)
    assert all(torch.equal(after[name], expected[name]) for name in expected)
