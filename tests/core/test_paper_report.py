"""What is read from results on the disk, against counting by hand."""

import json

import pytest
import torch
from scipy.stats import binomtest

from benchmarks.paper.charts import curves
from benchmarks.paper.cost import FILE, Cost, read_costs
from benchmarks.paper.data import small_set
from benchmarks.paper.generation import blocks
from benchmarks.paper.recognition import Share, found_results, pending
from benchmarks.paper.report import Finished, against, recognition_table, share, whole
from benchmarks.paper.tables import OFF, TABLES
from benchmarks.paper.words import thousandths
from bigain_core.classification.datasets.evaluation import Job
from bigain_core.classification.datasets.result_files import ResultFile
from bigain_core.classification.results.ranking import RANKINGS

TOME = "ToMe 0.7"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_set(tmp_path_factory.mktemp("small"), 10)


@pytest.fixture
def found(tmp_path, data):
    """Results of two rows: every 6th image of off is wrong in the texture, ToMe knows discs."""
    job = Job(data.images, data.labels)
    result = Finished("small-dit, own", tmp_path, data, job, is_unet=False)
    for row in (OFF, TOME):
        for shard in (0, 1):
            path = Share(shard, 2).file(result.recognition, row)
            with ResultFile(path, {}) as file:
                for image in job.images.images[shard::2]:
                    file.add(record(row, image) | {"content": data.images.content(image)})
    costs = {OFF: Cost(800, (1, 2, 3), (1, 1, 1)), TOME: Cost(600, (1, 1, 1), (1, 2, 3))}
    (tmp_path / FILE).write_text(json.dumps({name: vars(cost) for name, cost in costs.items()}))
    return result


def record(row, image):
    label = image.labels[0]
    texture, shape = label.split(" ")
    best = label
    if row == OFF and image.number % 6 == 0 and texture != "digit":
        best = f"{'plain' if texture != 'plain' else 'checkered'} {shape}"
    if row == TOME and texture != "digit":
        best = f"{texture} disc"
    return {
        "file": image.file, "labels": [label], "best": best,
        "right": best == label, "margin": 1.0, "confidence": 1.0, "calls": 3,
        "precision": dict.fromkeys(RANKINGS, 1.0),
    }  # fmt: skip


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=False)) for row in rows}


def test_shape_and_texture_are_counted_apart_and_pairs_compared(found, data):
    text = recognition_table({OFF: "", TOME: OFF}, found)
    plain, merged = cells(text).values()
    shapes = [i for i in data.images.images if not i.labels[0].startswith("digit")]
    missed = sum(image.number % 6 == 0 for image in shapes)
    total = len(data.images.images)
    assert (len(shapes), total) == (450, 510)
    expected = binomtest(total - missed, total).proportion_ci(0.95, "wilson")
    low, high = f"{expected.low:.3f}", f"{expected.high:.3f}"
    assert plain["accuracy"] == f"{1 - missed / total:.3f} ({low} to {high})"
    assert plain["shape"].startswith("1.000") and plain["digits"].startswith("1.000")
    assert plain["texture"].startswith(f"{1 - missed / 450:.3f}")
    assert merged["shape"].startswith("0.200") and merged["texture"].startswith("1.000")
    discs = [i for i in shapes if i.labels[0].endswith("disc")]
    wins = sum(image.number % 6 == 0 for image in discs)
    losses = sum(image.number % 6 != 0 for image in shapes if image not in discs)
    p = binomtest(wins, wins + losses).pvalue
    assert merged["wins:losses"] == f"{wins}:{losses}, p = {p:.2g}"
    row = next(line for line in text.splitlines() if line.startswith(f"| {TOME}"))
    assert f"| 0:360, p = {binomtest(0, 360).pvalue:.2g} |" in row
    assert f"| {missed}:0, p = {binomtest(missed, missed).pvalue:.2g} |" in row


def test_rows_without_results_and_unfinished_ones_are_named(found):
    text = whole({"3": TABLES["3"]}, [found])
    assert "| L-GTM 0.7 " not in text
    assert "L-GTM 0.7 (510 of 510)" in text and "off (" not in text
    assert "## Table 3: the methods\n\n### small-dit, own" in text


def test_operations_and_times_stand_in_table_10(found):
    rows = cells(whole({"10": TABLES["10"]}, [found]))
    assert rows[TOME]["saved"] == "25.0%" and rows[TOME]["ceiling"] == "1.33x"
    assert rows[OFF]["ms"] == "2000 (1000 to 3000)"
    assert rows[TOME]["times as fast"] == "2.00x (1.00 to 3.00)"
    assert read_costs(found.folder)[OFF].per_sample == 1.0


def test_a_row_is_put_together_from_whatever_parts_there_are(found, data):
    assert len(found_results(found.recognition, OFF).records) == 510
    assert pending(found.job, found.recognition, OFF) == []
    Share(1, 2).file(found.recognition, OFF).unlink()
    left = pending(found.job, found.recognition, OFF)
    assert [image.number for image in left] == list(range(1, 510, 2))
    other = Job(data.images, data.labels, 0, 2, 3)
    missing = [image for image in other.shard_images if image.number % 2]
    assert pending(other, found.recognition, OFF) == missing != []
    assert found_results(found.recognition, "ToMe 0.75") is None, "ToMe 0.7 is another row"


def test_nothing_is_made_up_where_nothing_is_known():
    assert (
        share({}) == "-"
        and against({1: True}, None) == "-"
        and against({1: True}, {2: True}) == "-"
    )
    assert against({1: True, 2: True, 3: False}, {1: False, 2: True}) == "1:0, p = 1"


def test_processes_share_all_blocks_of_samples():
    parts = [blocks(70, Share(shard, 3)) for shard in range(3)]
    numbers = [number for part in parts for block in part for number in block]
    assert sorted(numbers) == list(range(70))
    assert {tuple(b) for part in parts for b in part} == {tuple(b) for b in blocks(70, Share())}


def test_curves_show_each_row_at_its_operations(found):
    drawn = curves(found)
    assert drawn.width > drawn.height
    colours = {colour for _, colour in drawn.getcolors(2**16)}
    assert {(0x1F, 0x23, 0x28), (0xCF, 0x22, 0x2E)} <= colours, "off and ToMe"
    assert (0x1A, 0x7F, 0x37) in {
        drawn.getpixel((x, y))
        for x in range(drawn.width - 200, drawn.width)
        for y in range(drawn.height)
    }
    assert torch.tensor(drawn.size).min() > 100


def test_what_a_word_saves_is_in_thousandths_with_its_standard_error():
    found = torch.tensor([[0.25, 0.252], [0.27, 0.276]])
    assert thousandths(found) == ["260.00", "264.00", "4.000 +- 2.000"]  # half of 6 - 2
