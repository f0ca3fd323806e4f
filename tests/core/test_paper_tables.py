"""Rows of the paper's tables: what they are, against the printed figures, and what they vary."""

from pathlib import Path

import pytest
import torch

from benchmarks.flops import count
from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from benchmarks.outlines.unet_outline import SD_2, unet_outline
from benchmarks.paper.experiments import OwnDraws, OwnNoise, SharedPlan
from benchmarks.paper.models import SMALL, UNETS, transformer
from benchmarks.paper.recognition import slug
from benchmarks.paper.tables import OFF, ROWS, TABLES, chosen, translated
from bigain_core.classification import Trial
from bigain_core.methods import TokenMerging
from bigain_core.placement import LayerId
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import MIDDLE

PAGE = Path(__file__).parents[2] / "docs" / "paper-tables.md"
GRID = TokenGrid(6, 8)
PLAIN = 804.257  # GFLOP of a call
PRINTED = {  # Tables 3 and 10
    "ToMe 0.7": 704.87,
    "L-GTM 0.7": 704.99,
    "L-GTM 0.7, cached assignment": 698.88,
    "ToDo factor 2": 717.44,
    "IE-KVD factor 2": 717.44,
}
PRINTED_SAVINGS = {  # in percent
    "ToMe 0.3": 6.2,
    "ToMe 0.5": 9.8,
    "ToMe 0.75": 12.8,
    "L-GTM 0.5": 9.8,
    "factor 2, alpha 0.5": 10.8,
    "factor 4, alpha 0.9": 13.5,
    "alpha 0.8 to 1.2": 10.8,
}


def gflop(row):
    return count(unet_outline(SD_2, 64, 64), ROWS[row].compression).compressed / 1e9


@pytest.mark.parametrize("row", PRINTED)
def test_rows_take_the_printed_operations(row):
    assert gflop(row) == pytest.approx(PRINTED[row], abs=0.011)


def test_keys_by_content_take_hardly_more_operations_than_keys_by_place():
    for row in ("key merging factor 2", "key pairs factor 2", "ToDo factor 2, random places"):
        assert gflop("IE-KVD factor 2") <= gflop(row) < 1.01 * gflop("IE-KVD factor 2")


@pytest.mark.parametrize("row", PRINTED_SAVINGS)
def test_rows_save_the_printed_percentage(row):
    assert 100 * (1 - gflop(row) / PLAIN) == pytest.approx(PRINTED_SAVINGS[row], abs=0.06)


def test_every_row_stands_in_a_table_and_is_compared_with_one_beside_it():
    assert {row for table in TABLES.values() for row in table.rows} == ROWS.keys()
    for table in TABLES.values():
        for rows in (table.recognition, table.generation):
            assert {other for other in rows.values() if other} <= rows.keys()
            assert [row for row, other in rows.items() if not other] == [OFF] * bool(rows)


def test_rows_and_their_files_are_all_different():
    assert len({slug(row) for row in ROWS}) == len(ROWS)
    made = [(row.compression, row.own_noise) for row in ROWS.values()]
    assert len(set(made)) == len(made)


def test_parts_of_names_choose_rows_and_what_they_are_compared_with():
    found = chosen(["3", "7"], ["IE-KVD"])
    assert set(found["3"].recognition) == {"IE-KVD factor 2", "ToDo factor 2"}
    assert set(found["3"].generation) == {"IE-KVD factor 2", "ToDo factor 2"}
    assert set(found["7"].rows) == {"IE-KVD factor 2", "ToDo factor 2"}
    assert chosen(["10"], ["SiTo"])["10"].cost == ("off", "SiTo 0.7")
    assert chosen(["4"]) == {"4": TABLES["4"]}
    with pytest.raises(ValueError, match=r"a part of the name of a row in \['3'\], got \['x9'\]"):
        chosen(["3"], ["x9"])


def covered(row, blocks=12):
    """Numbers of the transformer blocks in which each rule of a row decides."""
    compression = translated(ROWS[row].compression, transformer([1, 2], [3, 4, 7]))
    layers = [LayerId(number, "transformer") for number in range(blocks)]
    found = [(layer_id.number, compression.rule_at(layer_id, MIDDLE)) for layer_id in layers]
    return {number: rule.method.name for number, rule in found if rule}


def test_blocks_of_a_transformer_stand_for_encoder_and_decoder():
    merged, pooled = "L-GTM 0.7", ROWS["IE-KVD factor 2"].compression.rules[0].method.name
    assert covered("L-GTM 0.7") == dict.fromkeys((1, 2, 3, 4, 7), merged)
    assert covered("L-GTM 0.7, encoder only") == dict.fromkeys((1, 2), merged)
    assert covered("L-GTM 0.7, every layer") == dict.fromkeys(range(12), merged)
    first, second = dict.fromkeys((1, 2), merged), dict.fromkeys((3, 4, 7), pooled)
    assert covered("L-GTM encoder, IE-KVD decoder") == first | second
    first, second = dict.fromkeys((1, 2), pooled), dict.fromkeys((3, 4, 7), merged)
    assert covered("IE-KVD encoder, L-GTM decoder") == first | second


# What the ablation varies


def test_one_plan_for_all_prompts_is_that_of_their_mean(randn):
    metric, method = randn(3, GRID.tokens, 5), TokenMerging(0.5)
    found = SharedPlan(method).plan(metric, GRID, MIDDLE, 1)
    alone = method.plan(metric.mean(0, keepdim=True), GRID, MIDDLE, 1)
    assert torch.equal(found.target, alone.target.expand(3, -1))
    own = method.plan(metric, GRID, MIDDLE, 1).target
    assert not torch.equal(own, own[:1].expand(3, -1))


def test_own_draws_differ_between_prompts_and_are_uniform(randn):
    metric = randn(1, GRID.tokens, 5).expand(400, -1, -1)
    method = OwnDraws(0.75)
    target = method.plan(metric, GRID, MIDDLE, 1).target  # at 0.75 only destinations are left
    assert torch.equal(target, method.plan(metric, GRID, MIDDLE, 1).target)
    assert not torch.equal(target[0], target[1])
    kept = target == torch.arange(GRID.tokens)
    cells = kept.view(400, 3, 2, 4, 2).transpose(2, 3).flatten(-2)  # (400, 3, 4, 4)
    assert (cells.sum(-1) == 1).all()
    assert cells.double().mean((0, 1, 2)).sub(0.25).abs().max() < 0.03
    shared = TokenMerging(0.75, "random").plan(metric, GRID, MIDDLE, 1).target
    assert torch.equal(shared, shared[:1].expand(400, -1)), "ToMe draws once for all prompts"


class Watching:
    """A denoiser that notes which prompt saw which noise."""

    schedule = variance_preserving(alphas_cumprod("linear"))

    def __init__(self):
        self.seen = {}

    def __call__(self, latent, trial, prompts):
        for k in prompts:
            self.seen[k] = trial.noise
        return torch.stack([latent + k for k in prompts])


def noises(trial, prompts, latent):
    watching = Watching()
    clean = OwnNoise(watching)(latent, trial, prompts)
    assert clean[:, 0, 0, 0].sub(latent[0, 0, 0]).round().tolist() == prompts
    return watching.seen


def test_each_prompt_has_its_own_noise_that_depends_on_the_trial(randn):
    latent, level = randn(3, 40, 40), Watching.schedule.level(300)
    first, second = Trial(level, randn(3, 40, 40, seed=1)), Trial(level, randn(3, 40, 40, seed=2))
    seen = noises(first, [0, 1, 4], latent)
    again = noises(first, [4, 0], latent)
    assert torch.equal(seen[4], again[4]) and torch.equal(seen[0], again[0])
    every = [first.noise, *seen.values(), noises(second, [0], latent)[0]]
    alike = torch.corrcoef(torch.stack([noise.flatten() for noise in every]))
    assert (alike - torch.eye(len(every))).abs().max() < 0.06
    assert all(abs(noise.std().item() - 1) < 0.05 for noise in every)


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("name", [name for name in TABLES if name != "beyond"])  # not measured yet
def test_the_page_has_every_row(name, model):
    table, page = TABLES[name], PAGE.read_text("utf-8")
    section = page.split(f"## {table.title}\n", 1)[1].split("\n## ")[0]
    part = section.split(f"### {model},", 1)[1].split("\n### ")[0]
    found = {line.split("|")[1].strip() for line in part.splitlines() if line.startswith("|")}
    assert found >= {row for row in table.rows if model in UNETS or not ROWS[row].unets_only}
    assert "Images without a result" not in page
