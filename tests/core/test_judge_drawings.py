"""The yardsticks of the model of drawings, on a small random model and made-up results."""

import json

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import judge_drawings
from benchmarks.drawings import CLASS_NAMES, RASTER, STYLES, Drawings, held_out, trained
from benchmarks.judge_drawings import (
    OFF,
    PLACED,
    judged,
    known,
    main,
    report,
    settings,
    trained_judge,
)
from bigain_core.classification import TrialPlan

NAMES, PAIRS = len(CLASS_NAMES), len(CLASS_NAMES) * len(STYLES)


def plain_drawings(shades):
    """Squares of the grey that each pair is given."""
    grey = (255 * shades).round().byte().view(NAMES, len(STYLES), 1, 1, 1)
    alpha = torch.full_like(grey, 255)
    whole = torch.cat([grey, grey, grey, alpha], 2)
    return Drawings(whole.expand(-1, -1, -1, RASTER, RASTER))


@pytest.fixture
def short(monkeypatch, make_dit, tmp_path):
    """Run the command on a small random model; returns its folder and a function that runs it."""
    path = tmp_path / "model.safetensors"
    dit = make_dit(hidden_size=64, depth=1, num_heads=1, in_channels=3, num_classes=NAMES)
    save_file(dit.state_dict(), path, metadata={"class_names": "\n".join(CLASS_NAMES)})
    drawings = plain_drawings(torch.rand(PAIRS, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(judge_drawings, "read_drawings", lambda cache: drawings)
    monkeypatch.setattr(judge_drawings, "SIZE", 16)
    monkeypatch.setattr(judge_drawings, "TrialPlan", lambda: TrialPlan((1, 2), (2, 1)))

    def run(rounds, images):
        flags = {"folder": tmp_path, "rounds": rounds, "images": images, "steps": 1}
        flags["judge-steps"] = 2
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr("sys.argv", ["judge_drawings", str(path), *words])
        main()

    return tmp_path, run


def test_the_command_goes_on_where_it_was(short, capsys):
    folder, run = short
    run(rounds=1, images=1)
    first = {name: (folder / name).read_text() for name in ("generated.jsonl", "ranked.jsonl")}
    run(rounds=2, images=2)
    for name, text in first.items():
        assert (folder / name).read_text().startswith(text)
    lines = [json.loads(line) for line in (folder / "ranked.jsonl").open()]
    pairs = held_out().nonzero()[:, 0]
    assert [line["label"] for line in lines] == (pairs[:2] // len(STYLES)).tolist()
    assert f"of {2 * NAMES}" in capsys.readouterr().out
    assert {path.name for path in folder.glob("*.png")} == {
        f"{number} {setting}.png" for number in range(2) for setting in (OFF, PLACED)
    }


def test_auto_compresses_what_is_large_enough(make_dit, randn):
    shape = {"hidden_size": 128, "depth": 3, "num_heads": 2, "in_channels": 3}
    dit = make_dit(input_size=64, num_classes=NAMES, **shape)
    runners = settings(dit)
    for runner in runners.values():
        runner.predict_noise(randn(1, 3, 64, 64), 500, torch.tensor([0]))
    compressed = {
        setting: sum(record.compressed for record in runner.log.layers.values())
        for setting, runner in runners.items()
    }
    assert compressed == {OFF: 0, PLACED: 3}


def test_the_judge_learns_what_tells_names_apart_and_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(judge_drawings, "BATCH", 16)
    shades = (torch.arange(NAMES) % 2).float().repeat_interleave(len(STYLES))  # two kinds of names
    drawings = plain_drawings(shades)
    pairs = torch.arange(PAIRS)
    judge = trained_judge(drawings, pairs, tmp_path / "judge.safetensors", 80)
    images = drawings.images(torch.arange(PAIRS), torch.Generator().manual_seed(1))
    found = judged(judge, images)
    assert torch.equal(found % 2, torch.arange(PAIRS) // len(STYLES) % 2)
    again = trained_judge(drawings, pairs, tmp_path / "judge.safetensors", 0)
    assert torch.equal(judged(again, images), found)


def line(off, auto, **more):
    """Seconds and answers of both settings."""
    answers = {
        setting: {"seconds": seconds, key: value}
        for setting, (seconds, key, value) in ((OFF, off), (PLACED, auto))
    }
    return {**answers, **more}


def test_the_report_counts_and_compares():
    generated = [
        line((3.0, "right", [True, True]), (2.0, "right", [True, False]), ssim=[0.9, 0.7]),
        line((4.0, "right", [True, False]), (2.0, "right", [True, False]), ssim=[0.8, 0.8]),
    ]
    ranked = [
        line((3.0, "best", n), (2.0, "best", n if n < 4 else 0), label=n) for n in range(1, 10)
    ]
    text = "\n".join(report(generated, ranked))
    assert "off: the judge sees the name in 3 of 4, 0.750" in text
    assert "BiGain (Auto): the judge sees the name in 2 of 4, 0.500" in text
    assert "generating is faster by 1.75x (1.62 to 1.88)" in text
    assert "SSIM at the same seeds 0.800 (0.775 to 0.825)" in text
    assert "off: right on 9 of 9" in text and "BiGain (Auto): right on 3 of 9" in text
    assert "McNemar p = 0.0312" in text  # 2 * 0.5 ** 6
    assert "ranking is faster by 1.50x" in text


def test_a_judge_of_trained_drawings_knows_nothing_of_the_others(monkeypatch, tmp_path):
    """Held-out drawings are of the other kind here, so it is wrong about all of them."""
    monkeypatch.setattr(judge_drawings, "BATCH", 16)
    shades = (torch.arange(NAMES) % 2).float().repeat_interleave(len(STYLES))
    drawings = plain_drawings((shades - held_out().float()).abs())
    taught, unseen = (kind.nonzero()[:, 0] for kind in (trained(), held_out()))
    judge = trained_judge(drawings, taught, tmp_path / "judge.safetensors", 80)
    found = judged(judge, drawings.images(unseen, torch.Generator().manual_seed(1)))
    assert (found % 2 != unseen // len(STYLES) % 2).all()
    assert known(judge, drawings, unseen).startswith(f"0 of {len(unseen)}, ")
