"""Which layers a placement covers."""

import pytest

from bigain_core.placement import PLACEMENTS, LayerId, Placement, named_placement, parse_blocks

TRANSFORMER = [LayerId(number, "transformer") for number in range(28)]
UNET = [
    LayerId(0, "encoder", 1),
    LayerId(1, "encoder", 2),
    LayerId(2, "encoder", 3),
    LayerId(3, "middle", 4),
    LayerId(4, "decoder", 3),
    LayerId(5, "decoder", 2),
    LayerId(6, "decoder", 1),
]


def covered(placement, layers):
    return [layer_id.number for layer_id in layers if placement.covers(layer_id)]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("everywhere", list(range(28))),
        ("encoder", []),
        ("blocks 0-5 (early)", [0, 1, 2, 3, 4, 5]),
        ("blocks 6-11 (mid-early)", [6, 7, 8, 9, 10, 11]),
        ("blocks 0-11", list(range(12))),
        ("blocks 1-5 and 7-11 (published)", [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]),
    ],
)
def test_named_placements_in_a_transformer(name, numbers):
    assert covered(named_placement(name), TRANSFORMER) == numbers


@pytest.mark.parametrize(
    ("name", "levels", "numbers"),
    [
        ("everywhere", 1, [0, 6]),
        ("everywhere", 2, [0, 1, 5, 6]),
        ("everywhere", 4, [0, 1, 2, 3, 4, 5, 6]),
        ("encoder", 1, [0]),
        ("encoder", 3, [0, 1, 2]),
        ("decoder", 1, [6]),
        ("decoder", 2, [5, 6]),
        ("middle", 1, []),
        ("middle", 4, [3]),
        ("blocks 0-11", 4, []),
    ],
)
def test_named_placements_in_a_unet(name, levels, numbers):
    assert covered(named_placement(name, levels), UNET) == numbers


def test_encoder_middle_and_decoder_are_everywhere():
    parts = [covered(named_placement(name, 4), UNET) for name in ("encoder", "middle", "decoder")]
    assert sorted(sum(parts, [])) == covered(named_placement("everywhere", 4), UNET)


@pytest.mark.parametrize(
    "layer_id", [*TRANSFORMER, *(layer_id for layer_id in UNET if layer_id.level == 1)]
)
def test_the_default_covers_every_site_of_the_finest_level(layer_id):
    assert Placement().covers(layer_id)


def test_stage_number_and_level_must_all_match():
    placement = Placement(stages=("encoder", "middle"), numbers=(0, 2, 3, 4), levels=3)
    assert covered(placement, UNET) == [0, 2]


def test_an_empty_choice_covers_nothing():
    assert covered(Placement(stages=()), UNET) == covered(Placement(numbers=()), UNET) == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        (" , \n", ()),
        ("0", (0,)),
        ("7-7", (7,)),
        ("1-5, 7-11", (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)),
        ("9 3,3\n1-2", (1, 2, 3, 9)),
        ("2-4,3-5,", (2, 3, 4, 5)),
        ("10,9", (9, 10)),
    ],
)
def test_blocks_are_numbers_and_ranges_with_both_ends(text, numbers):
    assert parse_blocks(text) == numbers


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("5-1", "5-1"),
        ("1-5, x", "x"),
        ("-3", "-3"),
        ("1-", "1-"),
        ("1 - 5", "-"),
        ("1..5", "1..5"),
        ("1-2-3", "1-2-3"),
        ("2, 1.5", "1.5"),
    ],
)
def test_blocks_of_another_form_are_refused(text, part):
    expected = "BiGain: expected attention layers as numbers and ascending ranges"
    with pytest.raises(ValueError, match=expected) as error:
        parse_blocks(text)
    assert f"got {part!r} in {text!r}" in str(error.value)


@pytest.mark.parametrize("text", ["0-999999999", "99999999999999999999", "1, 10000", "9999-10000"])
def test_layers_beyond_any_model_are_refused_at_once(text):
    assert parse_blocks("9998-9999") == (9998, 9999)
    with pytest.raises(ValueError, match=r"expected attention layers up to 9999, got '.*' in '.*'"):
        parse_blocks(text)


@pytest.mark.parametrize(
    ("name", "blocks", "numbers"),
    [
        ("everywhere", "0, 27-30", [0, 27]),
        ("blocks 0-5 (early)", "20-21", [20, 21]),
        ("blocks 0-5 (early)", " ", [0, 1, 2, 3, 4, 5]),
        ("encoder", "0-27", []),
    ],
)
def test_blocks_replace_those_of_a_preset_but_not_its_stages(name, blocks, numbers):
    assert covered(named_placement(name, blocks=blocks), TRANSFORMER) == numbers


def test_blocks_are_numbers_of_attention_layers_in_a_unet():
    assert covered(named_placement("everywhere", 4, blocks="1, 4-6"), UNET) == [1, 4, 5, 6]
    assert covered(named_placement("decoder", 2, blocks="1, 4-6"), UNET) == [5, 6]


def test_a_named_placement_carries_the_least_number_of_tokens():
    placement = named_placement("encoder", 2, "0-1", 256)
    assert placement == Placement(("encoder",), (0, 1), 2, 256)
    assert Placement().min_tokens == 0


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="expected a placement of .* got 'blocks 1-6'") as error:
        named_placement("blocks 1-6")
    assert all(name in str(error.value) for name in PLACEMENTS)
