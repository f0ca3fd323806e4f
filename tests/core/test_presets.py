"""The rows of the paper's tables as compressions."""

import pytest
import torch

from bigain_core.compression.presets import PRESETS
from bigain_core.placement import LayerId
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import network_call, planned

# The self-attention of Stable Diffusion 2.0 at 512 x 512: levels of 64, 32, 16 and 8 tokens a side.
LEVELS = [1, 1, 2, 2, 3, 3, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1]
STAGES = ["encoder"] * 6 + ["middle"] + ["decoder"] * 9
UNET = [
    LayerId(n, stage, level) for n, (stage, level) in enumerate(zip(STAGES, LEVELS, strict=True))
]
DIT = [LayerId(n, "transformer") for n in range(28)]
FULL_RESOLUTION = [layer_id for layer_id in UNET if layer_id.level == 1]
TOKENS_LEFT = {
    "ToMe 0.7": (1229, 1229),
    "L-GTM 0.7": (1229, 1229),
    "L-GTM 0.7, cached assignment": (1229, 1229),
    "adaptive block merge 0.7": (1231, 1231),
    "SiTo 0.7": (1229, 1229),
    "ToDo factor 2": (4096, 1024),
    "IE-KVD factor 2": (4096, 1024),
}
ROWS = sorted({name.split(": ")[1] for name in PRESETS})
OF_UNETS = [name for name in PRESETS if not name.startswith("DiT")]


def run(name, layers, side, progress=0.5):
    """The log of one network call, and the plans by layer, on tokens without values."""
    call = network_call(*PRESETS[name].rules, progress=progress)
    plans = {}
    for layer_id in layers:
        grid = TokenGrid(side >> layer_id.level - 1, side >> layer_id.level - 1)
        plans[layer_id] = planned(
            call, layer_id, torch.empty(1, grid.tokens, 8, device="meta"), grid
        )
    return call.log, plans


@pytest.mark.parametrize("name", OF_UNETS)
def test_every_unet_preset_compresses_the_full_resolution_alone(name):
    log, plans = run(name, UNET, 64)
    compressed = [layer_id for layer_id, record in log.layers.items() if record.compressed]
    assert compressed == FULL_RESOLUTION and len(compressed) == 5
    assert not log.skipped
    row = name.split(": ")[1]
    for layer_id in FULL_RESOLUTION:
        counts = (plans[layer_id].query_tokens, plans[layer_id].context_tokens)
        if "encoder" in row:
            method = row.split(", ")[layer_id.stage == "decoder"]
            expected = (1229, 1229) if method.startswith("L-GTM") else (4096, 1024)
        else:
            expected = TOKENS_LEFT.get(row, (4096, 256 if "factor 4" in row else 1024))
        assert counts == expected


@pytest.mark.parametrize("name", PRESETS)
def test_presets_act_at_every_timestep(name):
    layer_id = DIT[1] if name.startswith("DiT") else UNET[0]
    for timestep in (999, 500, 0):
        assert PRESETS[name].rule_at(layer_id, DenoisingProgress(1 - timestep / 999)) is not None


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("DiT")])
def test_dit_presets_cover_blocks_1_to_5_and_7_to_11(name):
    log, plans = run(name, DIT, 32)
    compressed = [layer_id.number for layer_id, record in log.layers.items() if record.compressed]
    assert compressed == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    expected = (308, 308) if "L-GTM" in name else (1024, 256)
    assert {(plans[DIT[n]].query_tokens, plans[DIT[n]].context_tokens) for n in compressed} == {
        expected
    }
    assert run(name, UNET, 64)[0].layers_compressed == 0


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_the_same_in_every_table(row):
    rows = {PRESETS[name] for name in PRESETS if name.split(": ")[1] == row}
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Table 7: factor 2, alpha 1", "Table 3: ToDo factor 2"),
        ("Table 7: factor 2, alpha 0.9", "Table 3: IE-KVD factor 2"),
    ],
)
def test_rows_of_one_setting_are_equal(name, other):
    assert PRESETS[name] == PRESETS[other]


def test_rows_of_different_settings_differ():
    same = {"Table 7: factor 2, alpha 1": "ToDo factor 2"}
    same["Table 7: factor 2, alpha 0.9"] = "IE-KVD factor 2"
    dit = {name: name for name in PRESETS if name.startswith("DiT")}
    settings = {dit.get(name, same.get(name, name.split(": ")[1])) for name in PRESETS}
    assert len(set(PRESETS.values())) == len(settings)


@pytest.mark.parametrize(
    ("name", "noise", "clean"),
    [
        ("Table 3: ToDo factor 2", 1.0, 1.0),
        ("Table 3: IE-KVD factor 2", 0.9, 0.9),
        ("Table 7: factor 4, alpha 1.2", 1.2, 1.2),
        ("Table 8: alpha 0.2 to 0.8", 0.2, 0.8),
        ("Table 8: alpha 0.8 to 1.2", 0.8, 1.2),
        ("Table 8: alpha 0 to 1.2", 0.0, 1.2),
    ],
)
def test_alpha_goes_from_noise_to_the_clean_image(name, noise, clean):
    layer_id = FULL_RESOLUTION[0]
    assert run(name, [layer_id], 64, 0.0)[1][layer_id].alpha == pytest.approx(noise)
    assert run(name, [layer_id], 64, 1.0)[1][layer_id].alpha == pytest.approx(clean)


def test_the_published_grids_are_complete():
    assert sum(name.startswith("Table 7") for name in PRESETS) == 12
    assert sum(name.startswith("Table 8") for name in PRESETS) == 6
    assert {name.split(":")[0] for name in PRESETS} == {
        *(f"Table {number}" for number in (3, 6, 7, 8, 9)),
        "DiT",
    }
