"""The examples of video with sound, whose files are replaced by small random models.

All else is as saved, but for sizes and steps. Latents of both streams are saved beside the video.
"""

import pytest
import torch

from tests.host.families import NO_SUCH_MODEL

LTX, H3 = "bigain_ltx_2_video_with_sound", "bigain_minimax_h3_video"
CASES = {LTX: "ltxav", H3: "minimax_h3"}
FILES = {  # loaders, and what stands in for them
    LTX: {
        "CheckpointLoaderSimple": "FamilyCheckpoint",
        "LTXAVTextEncoderLoader": "FamilyClip",
        "LTXVAudioVAELoader": "SmallSoundVAE",
    },
    H3: {"UNETLoader": "FamilyModel", "CLIPLoader": "FamilyClip"},
}
STEPS = 4
SMALLER = {  # 20 x 20 tokens in each of two frames
    LTX: {
        "EmptyLTXVLatentVideo": {"width": 640, "height": 640, "length": 9},
        "LTXVEmptyLatentAudio": {"frames_number": 9},
        "LTXVScheduler": {"steps": STEPS},
    },
    H3: {
        "MiniMaxH3ImageToVideo": {"width": 640, "height": 640, "length": 5},
        "BasicScheduler": {"steps": STEPS},
    },
}
SHAPES = {  # of a video and its sound
    LTX: ((1, 128, 2, 20, 20), (1, 8, 9, 16)),
    H3: ((1, 24, 2, 40, 40), (1, 32, 2, 8)),
}


@pytest.fixture(scope="module", params=CASES)
def name(request, object_info):
    kind, options = object_info["FamilyModel"]["input"]["required"]["case"]
    if CASES[request.param] not in (kind if isinstance(kind, list) else options["options"]):
        pytest.skip(NO_SUCH_MODEL)
    return request.param


@pytest.fixture(scope="module")
def prompt(name, example, converted, node_ids):
    """The example with small models and its latents saved."""

    def make(switched_off=(), **changes):
        made = converted(example(name, switched_off), **{**SMALLER[name], **changes})
        for node in made.values():
            kind = FILES[name].get(node["class_type"])
            if node["class_type"] == "VAELoader":
                kind = "SmallSoundVAE" if "sound" in node["_meta"]["title"] else "FamilyVAE"
            if kind:
                inputs = {} if kind == "SmallSoundVAE" else {"case": CASES[name]}
                node |= {"class_type": kind, "inputs": inputs}
        (apart,) = node_ids(made, "LTXVSeparateAVLatent")
        for slot, stream in enumerate(("video", "sound")):
            inputs = {"samples": [apart, slot], "filename_prefix": f"streams/{stream}"}
            made[stream] = {"class_type": "SaveLatent", "inputs": inputs}
        return made

    return make


@pytest.fixture(scope="module")
def run(server):
    def queued(made):
        done = server.run(made)
        assert done.succeeded, done.entry
        return done

    return queued


@pytest.fixture(scope="module")
def streams(run):
    def saved(made):
        done = run(made)
        return done.latent("video"), done.latent("sound")

    return saved


@pytest.fixture(scope="module")
def compressed(run, prompt):
    made = prompt()
    return made, run(made)


def test_a_video_with_its_sound_is_saved(server, compressed, name, node_ids):
    made, done = compressed
    latents = done.latent("video"), done.latent("sound")
    assert tuple(tuple(latent.shape) for latent in latents) == SHAPES[name]
    assert all(latent.isfinite().all() and latent.std() > 0 for latent in latents)
    (node,) = node_ids(made, "SaveVideo")
    (file,) = done.entry["outputs"][node]["images"]
    assert (server.folder / "output" / file["subfolder"] / file["filename"]).stat().st_size


def test_the_report_says_what_auto_did(compressed, name, node_ids):
    """It keeps to one of two layers here, and for H3 to the steps between the ends."""
    made, done = compressed
    (report,) = node_ids(made, "BiGainReport")
    first, *layers = done.text(report).splitlines()
    family, steps, text = {
        LTX: ("LTX-Video", STEPS, ""),
        H3: ("MiniMax H3", STEPS - 1, f" + {77 + 2 * 8} of text or references"),
    }[name]
    assert first.startswith(f"BiGain on {family}: 1 of 2 self-attention layers compressed, ")
    assert (
        f"layer 1 (transformer, level 1): IE-KVD factor 2, alpha 0.9, 800 tokens{text} "
        f"-> 800 queries, 200 keys, in {steps} of {STEPS} calls" in layers
    )


def test_where_auto_is_off_or_left_out_both_streams_are_those_of_the_plain_model(
    compressed, name, prompt, streams
):
    plain = streams(prompt(switched_off=("BiGainAuto",)))
    off = streams(prompt(BiGainAuto={"preset": "off"}))
    assert all(map(torch.equal, off, plain))
    _, done = compressed
    assert not torch.equal(done.latent("video"), plain[0])
