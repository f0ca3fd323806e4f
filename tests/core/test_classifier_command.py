"""The parts of `python -m benchmarks.classifier` that run a network, on a tiny random one."""

from dataclasses import replace

import pytest
import torch

from benchmarks import classifier_bundled
from benchmarks.classifier_bundled import BANDS, PAPER, effect, run_bundled
from bigain_core.models.dit import DiT

IMAGES, PROMPTS = 2, 30


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """In the place of the small DiT: as many names and blocks, 16 tokens."""

    load = classifier_bundled.load_dit

    def network(checkpoint):
        shape = replace(checkpoint.config, patch_size=8, hidden_size=64, num_heads=1)
        draw = torch.Generator().manual_seed(0)
        state = {
            name: torch.randn(weight.shape, generator=draw) * max(1, weight[0].numel()) ** -0.5
            for name, weight in DiT(shape).state_dict().items()
        }
        return load(replace(checkpoint, state=state, config=shape))

    monkeypatch.setattr(classifier_bundled, "load_dit", network)
    monkeypatch.setattr(classifier_bundled, "EFFECT_IMAGES", IMAGES)


@pytest.fixture
def tables():
    return []


@pytest.fixture
def markdown(tables):
    return lambda head, rows: tables.append((head, [list(row) for row in rows]))


def test_the_bands_of_the_plain_model_add_up_to_its_margin(markdown, tables, monkeypatch):
    margins, bands_of = [], classifier_bundled.band_differences

    def noted(source, result, *given):
        margins.append(result.lead(0, 1).margin)
        return bands_of(source, result, *given)

    monkeypatch.setattr(classifier_bundled, "band_differences", noted)
    effect(markdown)
    (_, changes), (_, bands) = tables
    methods = [row[0] for row in bands]
    assert methods[0] == "off" and [row[0] for row in changes] == methods[1:]
    for k, (_, *shares) in enumerate(bands):
        assert len(shares) == BANDS
        own = margins[k :: len(methods)]
        assert 1e4 * max(map(abs, own)) > 1
        assert sum(map(float, shares)) == pytest.approx(1e4 * sum(own) / IMAGES, abs=0.03)


def test_a_run_that_was_stopped_goes_on_and_counts_the_paper_s_calls(markdown, tables, tmp_path):
    run_bundled(tmp_path, {"shapes": IMAGES, "digits": 0}, markdown)
    (file,) = tmp_path.iterdir()
    whole = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text(whole[0] + whole[1][:40], "utf-8")
    first = tables[0]
    run_bundled(tmp_path, {"shapes": IMAGES, "digits": 0}, markdown)
    (paper,) = (row for row in first[1] if row[0] == PAPER)
    assert paper[1].startswith(f"{5 * PROMPTS + 15 * 5:.1f} (1.00x)")
    columns = slice(0, 5)  # without the time
    assert [r[columns] for r in tables[len(tables) // 2][1]] == [r[columns] for r in first[1]]
