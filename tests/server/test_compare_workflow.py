"""Epochs of a LoRA compared on a captioned folder, from a saved workflow."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.data import CLASS_NAMES, held_out_shapes
from benchmarks.dit_runner import SMALL_DIT
from bigain_core.models.checkpoint import read_checkpoint

WORKFLOW = Path(__file__).parent / "workflows" / "compare_epochs.json"
EPOCHS = {1: 0.3, 2: 1.0, 10: 1.9}  # how much of the damage each takes back
BEST = "epoch-000002.safetensors"
LAYER = "blocks.2.attn.qkv"


@pytest.fixture(scope="module")
def base(server):
    """The folder of the server with a damaged model, LoRAs that heal it and captioned drawings."""
    base, checkpoint = server.log_file.parent, read_checkpoint(SMALL_DIT)
    weight, generator = checkpoint.state[f"{LAYER}.weight"], torch.Generator().manual_seed(1)
    up, down = (torch.randn(n, 2, generator=generator) for n in weight.shape)
    up, down = up * weight.float().norm() / (up @ down.T).norm(), down.T.contiguous()
    state = {key: value.clone() for key, value in checkpoint.state.items()}
    state[f"{LAYER}.weight"] = (weight.float() + up @ down).to(weight.dtype)
    folders = {name: base / "models" / name for name in ("diffusion_models", "loras")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    metadata = {"class_names": "\n".join(checkpoint.class_names)}
    save_file(state, folders["diffusion_models"] / "damaged.safetensors", metadata=metadata)
    for epoch, share in EPOCHS.items():
        key = f"diffusion_model.{LAYER}"
        parts = {f"{key}.lora_up.weight": -share * up, f"{key}.lora_down.weight": down}
        save_file(parts, folders["loras"] / f"epoch-{epoch:06d}.safetensors")
    drawn = held_out_shapes(16)
    for number, (pixels, k) in enumerate(zip(drawn.pixels, drawn.labels.tolist(), strict=True)):
        path = base / "input" / "held_out" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        levels = ((pixels.movedim(0, -1) / 2 + 0.5) * 255).round()
        Image.fromarray(levels.numpy().astype(np.uint8)).save(path)
        path.with_suffix(".txt").write_text(CLASS_NAMES[k] + "\n")
    return base


@pytest.fixture(scope="module")
def prompt(base, server, converted):
    return converted(json.loads(WORKFLOW.read_text("ascii")))


@pytest.fixture(scope="module")
def done(server, prompt):
    return server.run(prompt)


@pytest.fixture(scope="module")
def titled(prompt):
    return {node["_meta"]["title"]: number for number, node in prompt.items()}


def test_it_runs_as_saved_and_finds_the_best_epoch(done, titled):
    assert done.succeeded, done.entry
    assert done.text(titled["best"]) == BEST
    assert f"best of 4: {BEST}" in done.text(titled["summary"])
    rows = list(csv.DictReader(io.StringIO(done.text(titled["table"]))))
    assert rows[0]["model"] == BEST
    assert {row["model"]: row["worse"] for row in rows}["connected model"] == "yes"
    (chart,) = done.images(titled["chart"])
    assert chart.std() > 0


def test_the_node_shows_its_answer(done, prompt):
    (node,) = (n for n, one in prompt.items() if one["class_type"] == "BiGainCompareModels")
    shown = done.entry["outputs"][node]["bigain_comparison"]
    assert [one["name"] for one in shown if one["best"]] == [BEST]


def test_running_again_changes_nothing(server, done, prompt, base, titled):
    files = sorted((base / "output" / "runs").glob("epochs.*"))
    before = [path.read_bytes() for path in files]
    assert len(files) == 1 + 4
    again = server.run(prompt)
    assert again.succeeded and again.text(titled["table"]) == done.text(titled["table"])
    assert [path.read_bytes() for path in files] == before
