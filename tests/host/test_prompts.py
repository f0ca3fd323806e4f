"""Prompts from text, CSV, label sets and the names of a DiT's classes."""

import comfy.utils
import pytest
import torch
from bigain.bigain_core.classification.datasets.imagenet import imagenet_labels
from bigain.bigain_core.classification.datasets.labels import label_set
from bigain.bigain_core.comfyui.classifying.prompts import encode_prompts
from bigain.nodes.classification_nodes import BiGainPrompts
from bigain.nodes.dit_nodes import BiGainDiTLabels
from torchvision.models import ResNet18_Weights

from tests.host.families.models import own_dit


class WordCounter:
    """Stands for a CLIP: notes what it is asked to read."""

    def __init__(self):
        self.seen = []

    def tokenize(self, text, disable_weights=False):
        assert disable_weights, "parentheses would be read as weights"
        self.seen.append(text)
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[torch.full((1, 1, 1), float(len(tokens))), {}]]


def test_prompts_fill_the_template_with_plain_text():
    clip = WordCounter()
    node = BiGainPrompts.execute(clip, "\ncat (animal)\n  dog: big\n", "a photo of a {}")
    assert clip.seen == ["a photo of a cat (animal)", "a photo of a dog: big", ""]
    assert node.args[0].labels == ("cat (animal)", "dog: big")


@pytest.mark.parametrize(
    ("labels", "template", "message"),
    [
        ("", "{}", "expected at least one prompt, got none"),
        ("cat\n\ndog", "{}", "an empty one on line 2"),
        ("cat\ncat", "{}", "got 'cat' more than once"),
        ("cat", "a photo", "expected a template with {} where the label goes, got 'a photo'"),
    ],
)
def test_bad_prompts_are_explained(labels, template, message):
    with pytest.raises(ValueError, match=message.replace("{}", r"\{\}")):
        BiGainPrompts.execute(WordCounter(), labels, template)


def test_a_checkpoint_without_text_encoder_is_explained():
    with pytest.raises(ValueError, match="expected a CLIP"):
        encode_prompts(None, ["cat"], "{}")


def test_labels_of_a_dit_come_by_name_and_number(models):
    positive, negative, wanted = BiGainDiTLabels.execute(models["dit"], "bee\n4").args
    assert wanted.labels == ("bee", "4")
    assert positive[0][1]["class_label"].tolist() == [1, 4]
    assert "class_label" not in negative[0][1]
    everything = BiGainDiTLabels.execute(models["dit"], "").args[2]
    assert everything.labels == ("ant", "bee", "cat", "dog", "eel")


def test_a_label_set_names_the_classes_of_imagenet():
    model, names = own_dit(1000), list(imagenet_labels().values())
    positive, _, prompts = BiGainDiTLabels.execute(model, f"{names[7]}\n3", "ImageNet-1K").args
    assert prompts.labels == (names[7], "3")
    assert positive[0][1]["class_label"].tolist() == [7, 3]
    assert BiGainDiTLabels.execute(model, "", "ImageNet-1K").args[2].labels == tuple(names)
    positive, _, some = BiGainDiTLabels.execute(model, "", "ImageNet-100").args
    assert [names[k] for k in positive[0][1]["class_label"].tolist()] == list(some.labels)
    assert some.labels == tuple(imagenet_labels("ImageNet-100").values())
    with pytest.raises(ValueError, match="class number from 0 to 999 .*'fox'"):
        BiGainDiTLabels.execute(model, "fox", "ImageNet-100")


def test_a_label_set_needs_a_model_of_its_classes(models):
    with pytest.raises(ValueError, match="1000 classes of ImageNet .* got one of 5 classes"):
        BiGainDiTLabels.execute(models["dit"], "", "ImageNet-1K")


def test_labels_need_a_dit(models):
    with pytest.raises(ValueError, match="expected a model from BiGain DiT Loader"):
        BiGainDiTLabels.execute(models["sd15"], "cat")
    with pytest.raises(ValueError, match="class number from 0 to 4 or a name such as ant.*'fox'"):
        BiGainDiTLabels.execute(models["dit"], "fox")


def test_csv_gives_whole_prompts_and_their_classes():
    clip = WordCounter()
    text = 'prompt,class\n"a cat, black",cat\na kitten,cat\na dog,dog'
    (prompts,) = BiGainPrompts.execute(clip, text, "a photo of a {}").args
    assert clip.seen == ["a cat, black", "a kitten", "a dog", ""]
    assert prompts.classes == ("cat", "cat", "dog")


def test_a_label_set_replaces_the_labels():
    clip = WordCounter()
    (prompts,) = BiGainPrompts.execute(clip, "x", "a {}", "STL-10").args
    assert len(prompts.labels) == 10 and clip.seen[7] == "a monkey"
    assert prompts.classes == prompts.labels


@pytest.mark.parametrize(("name", "count"), [("ImageNet-1K", 1000), ("ImageNet-100", 100)])
def test_classes_of_imagenet_become_prompts(name, count):
    clip = WordCounter()
    (prompts,) = BiGainPrompts.execute(clip, "x", "a photo of a {}", name).args
    assert len(prompts.labels) == len(set(clip.seen[:-1])) == count
    assert clip.seen[-2] == f"a photo of a {prompts.labels[-1]}"
    assert BiGainPrompts.define_schema().inputs[3].options[-2:] == ["ImageNet-1K", "ImageNet-100"]


def test_labels_of_imagenet_are_those_that_torchvision_predicts():
    """But for two, where it leaves a pair that differs in case and joins both synonyms."""
    found = label_set("ImageNet-1K").labels
    others = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    differ = {a: b for a, b in zip(found, others, strict=True) if a != b}
    assert differ == {"Cardigan Welsh corgi": "Cardigan", "tank suit": "maillot tank suit"}


def test_encoding_prompts_moves_the_bar(monkeypatch):
    seen = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, *rest, **more: seen.append((value, total)),
    )
    encode_prompts(WordCounter(), ["ant", "bee", "cat"], "{}")
    assert seen[0] == (1, 4) and seen[-1] == (4, 4), "hosts may leave out some between"
