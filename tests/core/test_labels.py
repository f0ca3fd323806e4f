"""Labels from text, several prompts per class, and a result in words."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from bigain_core.classification import Classification
from bigain_core.classification.datasets import image_folder, imagenet, labels
from bigain_core.classification.datasets.imagenet import imagenet_labels
from bigain_core.classification.datasets.labels import LABEL_SETS, Labels, label_set, read_labels
from bigain_core.classification.results.classes import by_class
from bigain_core.classification.results.summary import summary
from tests.core.classifying import ranking


def test_a_line_is_a_label_commas_and_all():
    assert read_labels("\n red, shiny \ncat\n") == Labels(("red, shiny", "cat"))
    assert read_labels("prompt\ncat").labels == ("prompt", "cat")
    assert read_labels("") == Labels(())


@pytest.mark.parametrize("header", ["prompt,class", "classidx, Prompt, ClassName"])
def test_csv_brings_whole_prompts_and_their_classes(header):
    def row(prompt, name):
        cells = {"prompt": prompt, "class": name, "classname": name, "classidx": "7"}
        return ",".join(cells[column.strip().lower()] for column in header.split(","))

    cat = row('"a cat, black"', "cat")
    text = "\n".join([header, cat, row("a kitten", "cat"), row("a dog", "dog")])
    assert read_labels(text) == Labels(
        ("a cat, black", "a kitten", "a dog"), ("cat", "cat", "dog"), whole=True
    )


@pytest.mark.parametrize("line", ["a cat", "a cat, black, cat", "a cat,", ", cat", ""])
def test_a_broken_line_of_csv_is_named(line):
    with pytest.raises(ValueError, match="expected 2 cells with a prompt and its class.*on line 2"):
        read_labels(f"prompt,class\n{line}\na dog,dog")


def test_published_label_sets_are_complete_and_distinct():
    counts = {name: len(label_set(name).labels) for name in LABEL_SETS}
    assert counts == {
        "CIFAR-10": 10, "STL-10": 10, "Oxford-IIIT Pets": 37, "COCO": 80, "ImageNet-1K": 1000,
        "ImageNet-100": 100,
    }  # fmt: skip
    for name in LABEL_SETS:
        labels = label_set(name).labels
        assert len({label.lower() for label in labels}) == len(labels), "CLIP reads small letters"
        assert all(label and label == label.strip() for label in labels)
    pets = label_set("Oxford-IIIT Pets").labels
    assert list(pets) == sorted(pets), "class numbers follow the alphabet"


IMAGENET_NUMBERS = {  # as in lists of the predictions of published models
    0: ("n01440764", "tench"),
    1: ("n01443537", "goldfish"),
    134: ("n02012849", "crane bird"),
    207: ("n02099601", "golden retriever"),
    264: ("n02113186", "Cardigan Welsh corgi"),
    281: ("n02123045", "tabby"),
    474: ("n02963159", "cardigan"),
    517: ("n03126707", "crane"),
    638: ("n03710637", "maillot"),
    639: ("n03710721", "tank suit"),
    657: ("n03773504", "missile"),
    744: ("n04008634", "projectile"),
    836: ("n04355933", "sunglass"),
    837: ("n04356056", "sunglasses"),
    999: ("n15075141", "toilet tissue"),
}


def test_classes_of_imagenet_have_their_numbers_and_first_synonyms():
    found = list(imagenet_labels().items())
    assert {number: found[number] for number in IMAGENET_NUMBERS} == IMAGENET_NUMBERS
    wnids = [wnid for wnid, _ in found]
    assert wnids == sorted(wnids), "as an image folder numbers its classes"
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)


def test_imagenet_100_is_a_part_of_imagenet_in_the_same_order():
    whole, part = imagenet_labels(), imagenet_labels("ImageNet-100")
    assert list(part.items()) == [(wnid, whole[wnid]) for wnid in whole if wnid in part]
    # The first and the last few of the published list, which has an order of its own.
    for wnid in ("n02869837", "n01749939", "n02488291", "n03424325", "n01855672", "n02090622"):
        assert wnid in part
    assert "n01440764" not in part


def test_the_lists_of_imagenet_are_read_when_they_are_asked_for(monkeypatch):
    """A fresh copy of each module that could read them opens nothing."""
    opened, read = [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda p, *a: opened.append(p.name) or read(p, *a))
    for module in (imagenet, labels, image_folder):
        spec = spec_from_file_location(f"{module.__name__}_again", module.__file__)
        copy = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, copy)  # its dataclasses look there
        spec.loader.exec_module(copy)
    assert not opened
    label_set(LABEL_SETS[-1])
    assert "imagenet_1k.txt" in opened


NAN = torch.nan
# Prompts 1 and 3 are of class "dog"; 3 wins, 1 is second, 0 third, 2 was dropped early.
FOUR = ranking(
    [[1.3, 1.5, 1.2], [1.1, 1.2, 1.2], [2.0, NAN, NAN], [1.0, 1.1, 1.15]], [1, 1, 0, 1], planned=3
)
LABELS = ("a cat", "a dog", "a cow", "a puppy")
CLASSES = ("cat", "dog", "cow", "dog")


def test_the_best_prompt_of_a_class_counts():
    result = by_class(Classification(LABELS, (FOUR,)), CLASSES)
    assert result.labels == ("cat", "dog", "cow")
    (found,) = result.rankings
    assert [result.labels[k] for k in found.order] == ["dog", "cat", "cow"]
    assert found.margin == pytest.approx((0.3 + 0.4 + 0.05) / 3), "puppy against cat, not dog"


def test_labels_that_are_their_own_classes_are_left_as_they_are():
    result = Classification(LABELS, (FOUR,))
    assert by_class(result, LABELS) is result


def test_a_class_that_a_cheaper_model_ruled_out_stays_in_the_ranking():
    screening = ranking([[1.0], [1.2], [2.0], [1.1]], [1, 0, 0, 0])
    deciding = ranking([[1.3, 1.4], [NAN, NAN], [NAN, NAN], [1.0, 1.1]], [1, 0, 0, 1],
                       screening=screening)  # fmt: skip
    result = by_class(Classification(LABELS, (deciding,)), CLASSES)
    assert [result.labels[k] for k in result.rankings[0].order] == ["dog", "cat", "cow"]


def test_the_summary_says_what_the_numbers_are():
    every = Classification(LABELS, (FOUR,))
    text = summary(every, every, 1.0, ["mind the model"])
    assert text.splitlines()[0] == "Image 0: a puppy"
    lead = FOUR.best_lead
    assert f"ahead of a dog by {lead.margin:.4g}" in text
    assert f"confidence that more trials would not change it: {FOUR.confidence:.1%}" in text
    assert "10 network evaluations, 2 saved" in text
    assert text.splitlines()[-1] == "Warning: mind the model"


def test_the_summary_counts_the_prompts_and_not_the_classes():
    every = Classification(LABELS, (FOUR,))
    assert "10 network evaluations" in summary(by_class(every, CLASSES), every, 1.0)


def test_a_lead_within_its_noise_is_warned_of():
    close = ranking([[1.0, 2.0, 1.0], [1.5, 1.4, 1.2]], [1, 1])
    result = Classification(("a", "b"), (close,))
    assert "Warning: a leads b by less than two standard errors" in summary(result, result, 1.0)


def test_likelihoods_follow_the_temperature_and_need_squared_errors():
    two = ranking([[1.0, 1.0], [1.1, 1.1]], [1, 1], nats=torch.tensor([10.0, 10.0]))
    result = Classification(("a", "b"), (two,))
    for temperature in (1.0, 0.5):
        odds = torch.tensor(temperature * 1.0).exp().item()  # 10 nats for 1, so 1 for 0.1
        assert f"temperature {temperature:g}: a {odds / (1 + odds):.3g}" in summary(
            result, result, temperature
        )
    other = ranking([[1.0], [1.1]], [1, 1], nats=torch.tensor([NAN]))
    result = Classification(("a", "b"), (other,))
    assert "likelihood" not in summary(result, result, 1.0)
