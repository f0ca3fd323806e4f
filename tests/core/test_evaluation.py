"""What the results of labelled images add up to."""

import json
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from benchmarks.oracle import GaussianWorld, OracleDenoiser
from bigain_core.classification import TrialPlan, classify
from bigain_core.classification.datasets.evaluation import (
    Job,
    Summary,
    comparison,
    record,
    unreadable_record,
)
from bigain_core.classification.datasets.image_folder import LabelledImage
from bigain_core.classification.datasets.result_files import Results
from bigain_core.classification.results.result_table import result_table
from tests.core.classifying import SCHEDULE, ranking
from tests.core.labelled import csv_rows, labelled, plain


def results(job, scores):
    """Records of all images but the last from scores (N, P) of errors."""
    records = {
        image.file: record(
            image,
            job.images.content(image),
            ranking(torch.tensor([[s, s] for s in row]).double()),
            job.labels,
        )
        for image, row in zip(job.all_images, scores.tolist(), strict=False)
    }
    assert json.loads(json.dumps(records)) == records
    return Results(job.settings(job.labels, TrialPlan(), 32), records)


def test_accuracy_comes_with_the_interval_of_wilson():
    job = Job(labelled(["ant"], ["bee"], ["bee"], ["ant"], ["ant"]), ("ant", "bee"))
    scores = torch.tensor([[1.0, 2], [2, 1], [1, 2], [1, 2], [1, 2]])
    summary = Summary(job, results(job, scores).records)
    assert summary.accuracy == pytest.approx(0.8)
    interval = binomtest(4, 5).proportion_ci(0.95, "wilson")
    low, high = (f"{edge:.4f}" for edge in interval)
    assert "accuracy 0.8000 (4 of 5; 95 % interval" in str(summary)
    assert f"interval {low}" in str(summary) and f"to {high}" in str(summary)
    assert summary.by_class() == [("ant", 3, 3), ("bee", 2, 1)]
    assert summary.calls == 4
    assert summary.is_complete
    rows = csv_rows(summary.class_table())
    assert [row["accuracy"] for row in rows] == ["1.0000", "0.5000"]


def test_several_labels_are_averaged_as_scikit_learn_does():
    names = tuple("abcdef")
    generator = torch.Generator().manual_seed(4)
    wanted = torch.rand(12, 6, generator=generator) < 0.4
    wanted[:, 0] |= ~wanted.any(1)
    own = [[name for name, on in zip(names, row, strict=True) if on] for row in wanted]
    job = Job(labelled(*own), names)
    scores = torch.rand(12, 6, generator=generator)
    summary = Summary(job, results(job, scores).records)
    expected = [
        average_precision_score(row, -score)
        for row, score in zip(wanted.numpy(), scores.numpy(), strict=True)
    ]
    mean = sum(expected) / 12
    for kind in ("paired", "raw"):  # equal where every prompt had all trials
        assert summary.mean_average_precision(kind) == pytest.approx(mean)
    assert f"mAP {mean:.4f} (paired)" in str(summary)
    first = wanted[torch.arange(12), scores.argmin(1)].double().mean().item()
    assert summary.accuracy == pytest.approx(first)


def test_several_prompts_of_a_class_count_as_one():
    classes = ("ant", "bee", "ant", "cow")
    errors = [[4.0, 4], [2, 2], [1, 1], [3, 3]]  # the second prompt of the ant is best
    image = LabelledImage(0, "0.png", ("bee", "cow"))
    found = record(image, "0", ranking(errors), classes)
    assert (found["best"], found["right"]) == ("ant", False)
    assert found["ranked"] == [0, 1, 2]  # ant, bee, cow
    assert found["precision"]["paired"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_what_is_missing_is_said():
    images = labelled(["ant"], ["fox"], ["bee"], ["ant"], ["ant"], empty=("elk",))
    job = Job(images, ("ant", "bee", "cow"))
    found = results(job, torch.tensor([[1.0, 2, 3]]))
    found.records["2.png"] = unreadable_record(images.images[2], ValueError("no image"))
    text = str(Summary(job, found.records))
    assert "2 of 4 images have no result yet" in text
    assert "1 unreadable, skipped: 2.png" in text
    assert "1 left out, no prompt for their labels: fox" in text
    assert "2 labels without images: cow, elk" in text
    assert "mAP" not in text
    assert not Summary(job, found.records).is_complete


def test_nothing_finished_has_no_accuracy():
    job = Job(plain(2), ("ant",))
    summary = Summary(job, {})
    assert summary.accuracy != summary.accuracy
    assert "2 of 2 images have no result yet" in str(summary)


def test_images_are_exported_one_per_row():
    job = Job(labelled(["ant", "bee"], ["bee"]), ("ant", "bee"))
    found = results(job, torch.tensor([[1.0, 2], [1, 3]]))
    rows = csv_rows(Summary(job, found.records).image_table())
    assert [(row["file"], row["labels"], row["best"], row["right"]) for row in rows] == [
        ("0.png", "ant; bee", "ant", "True"),
        ("1.png", "bee", "ant", "False"),
    ]
    assert [float(row["precision_paired"]) for row in rows] == [1.0, 0.5]
    assert [float(row["margin"]) for row in rows] == [1.0, 2.0]


def test_no_table_of_results_has_a_formula():
    images = labelled(["=a"], ["=a", "@b"])
    named = [replace(i, file=f"-{i.number}+.png") for i in images.images]
    contents = {image.file: "0" for image in named}
    job = Job(replace(images, images=tuple(named), contents=contents), ("=a", "@b"))
    summary = Summary(job, results(job, torch.tensor([[1.0, 2], [2, 1]])).records)
    world = GaussianWorld.random(2, seed=1, shift=0.7)
    denoiser, (image, _) = OracleDenoiser(world, SCHEDULE), world.images(1, seed=2)
    found = classify(denoiser, image, ["=a", "@b"], TrialPlan((2,), (1,)))
    tables = summary.image_table(), summary.class_table(), result_table(found)
    cells = [[cell for row in csv_rows(text) for cell in row.values()] for text in tables]
    assert [sum(cell.startswith("'") for cell in some) for some in cells] == [6, 2, 2]
    signed = [cell for some in cells for cell in some if cell.startswith(tuple("=+-@"))]
    assert all(float(cell) < 0 for cell in signed)


def test_images_without_labels_are_tagged_and_not_judged():
    job = Job(labelled([], [], []), ("ant", "bee", "cow"))
    found = results(job, torch.tensor([[2.0, 1, 3], [1, 2, 3], [2, 1, 3]]))
    summary = Summary(job, found.records)
    assert str(summary).splitlines()[0] == "3 tagged: bee (2), ant (1)"
    assert len(str(summary).splitlines()) == 2  # and the evaluations, no accuracy, no mAP
    assert summary.accuracy != summary.accuracy and summary.is_complete
    rows = csv_rows(summary.table())
    assert [(row["file"], row["best"]) for row in rows] == [
        ("0.png", "bee"),
        ("1.png", "ant"),
        ("2.png", "bee"),
    ]
    assert list(rows[0]) == [
        "image", "file", "best", "margin", "confidence", "calls", "fits",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="labelled images for a comparison"):
        comparison(found.records, found.records)


def test_an_image_is_done_again_where_its_file_or_labels_or_record_is_not_what_it_was():
    job = Job(labelled(["ant"], ["bee"], ["ant"], ["bee"], ["bee"]), ("ant", "bee"))
    found = dict(results(job, torch.tensor([[1.0, 2]] * 5)).records)
    found["1.png"] |= {"content": "f" * 16}
    found["2.png"] |= {"labels": ["bee"]}
    del found["3.png"]["margin"]
    found["gone.png"] = found["0.png"] | {"file": "gone.png"}
    assert [image.file for image in job.pending(found)] == ["1.png", "2.png", "3.png"]
    summary = Summary(job, found)
    assert summary.by_class() == [("ant", 1, 1), ("bee", 1, 0)] and not summary.is_complete
    assert "3 of 5 images have no result yet" in str(summary)
    assert "1 removed, not counted: gone.png" in str(summary)
    assert [row["image"] for row in csv_rows(summary.image_table())] == ["0", "4"]
    assert list(summary.counted) == ["0.png", "4.png"]


def test_a_shard_of_images_without_labels_has_its_part():
    jobs = [Job(labelled([], [], []), ("ant",), shard=k, shards=2) for k in (0, 1)]
    parts = [image.number for job in jobs for image in job.shard_images]
    assert sorted(parts) == [0, 1, 2]
    assert jobs[0].left_out == ()


def test_the_table_of_labelled_images_has_a_row_per_class():
    job = Job(labelled(["ant"], ["ant"]), ("ant", "bee"))
    summary = Summary(job, results(job, torch.tensor([[1.0, 2], [2, 1]])).records)
    assert summary.table() == summary.class_table() != summary.image_table()


def test_two_runs_are_compared_image_by_image():
    job = Job(plain(12), ("ant", "bee"))
    ours = torch.tensor([[1.0, 2]] * 10 + [[2, 1]] * 2)
    theirs = torch.tensor([[2.0, 1]] * 7 + [[1, 2]] * 4)  # the last image is missing
    text = comparison(results(job, ours).records, results(job, theirs).records)
    expected = binomtest(1, 8).pvalue  # 7 only ours, 1 only theirs, 3 both
    assert "on 11 images that both classified: 10 right against 4" in text
    assert f"only these 7, only the others 1; McNemar p = {expected:.4g}" in text


@pytest.mark.parametrize("changed", [{"content": "1"}, {"labels": ["bee"]}, {"best": None}])
def test_runs_are_compared_on_the_images_that_are_the_same(changed):
    job = Job(plain(4), ("ant", "bee"))
    found = results(job, torch.tensor([[1.0, 2]] * 4)).records
    first = {k: v for k, v in (found["0.png"] | changed).items() if v is not None}
    text = comparison(found, found | {"0.png": first})
    assert "on 3 images that both classified: 3 right against 3" in text
    with pytest.raises(ValueError, match="images in common for a comparison, got none"):
        comparison({"0.png": found["0.png"]}, {"0.png": first})
    with pytest.raises(ValueError, match="images in common"):
        comparison(found, {})
