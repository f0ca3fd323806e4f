"""Which layers a placement covers."""

import pytest
from torch import nn

from bigain_core.placement import (
    PLACEMENTS,
    LayerId,
    Placement,
    block_ranges,
    modules_at,
    named_placement,
    parse_blocks,
)

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
    ("name", "options", "layers"),
    [
        ("everywhere", {}, list(range(28))),
        ("encoder", {}, []),
        ("blocks 0-5 (early)", {}, [0, 1, 2, 3, 4, 5]),
        ("blocks 6-11 (mid-early)", {}, [6, 7, 8, 9, 10, 11]),
        ("blocks 0-11", {}, list(range(12))),
        ("blocks 1-5 and 7-11 (published)", {}, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]),
        ("everywhere", {"blocks": "0, 27-30"}, [0, 27]),
        ("blocks 0-5 (early)", {"blocks": "20-21"}, [20, 21]),
        ("blocks 0-5 (early)", {"blocks": " "}, [0, 1, 2, 3, 4, 5]),
        ("encoder", {"blocks": "0-27"}, []),
    ],
)
def test_named_placements_in_a_transformer(name, options, layers):
    """Blocks replace those of a preset but not its stages."""
    assert covered(named_placement(name, **options), TRANSFORMER) == layers


@pytest.mark.parametrize(
    ("placement", "layers"),
    [
        (named_placement("everywhere", 1), [0, 6]),
        (named_placement("everywhere", 2), [0, 1, 5, 6]),
        (named_placement("everywhere", 4), [0, 1, 2, 3, 4, 5, 6]),
        (named_placement("encoder", 1), [0]),
        (named_placement("encoder", 3), [0, 1, 2]),
        (named_placement("decoder", 1), [6]),
        (named_placement("decoder", 2), [5, 6]),
        (named_placement("middle", 1), []),
        (named_placement("middle", 4), [3]),
        (named_placement("blocks 0-11", 4), []),
        (named_placement("everywhere", 4, blocks="1, 4-6"), [1, 4, 5, 6]),
        (named_placement("decoder", 2, blocks="1, 4-6"), [5, 6]),
        (Placement(stages=("encoder", "middle"), layers=(0, 2, 3, 4), levels=3), [0, 2]),
        (Placement(stages=()), []),
        (Placement(layers=()), []),
    ],
)
def test_named_placements_in_a_unet(placement, layers):
    """Stage, number and level must all match."""
    assert covered(placement, UNET) == layers


def test_encoder_middle_and_decoder_are_everywhere():
    parts = [covered(named_placement(name, 4), UNET) for name in ("encoder", "middle", "decoder")]
    assert sorted(sum(parts, [])) == covered(named_placement("everywhere", 4), UNET)


def test_the_default_covers_every_layer_of_the_finest_level():
    assert covered(Placement(), TRANSFORMER) == list(range(28))
    assert covered(Placement(), UNET) == [0, 6]


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


def test_a_named_placement_carries_the_least_number_of_tokens():
    placement = named_placement("encoder", 2, "0-1", 256)
    assert placement == Placement(("encoder",), (0, 1), 2, 256)
    assert Placement().min_tokens == 0


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="expected a placement of .* got 'blocks 1-6'") as error:
        named_placement("blocks 1-6")
    assert all(name in str(error.value) for name in PLACEMENTS)


@pytest.mark.parametrize("text", ["0", "0-1", "1-3, 7", "0, 2, 4", "1-5, 7-11"])
def test_ranges_are_the_text_that_is_parsed(text):
    assert block_ranges(parse_blocks(text)) == text


class Wrapper(nn.Module):
    """As torch.compile puts one around a module, but it passes no attributes on."""

    def __init__(self, inner):
        super().__init__()
        self._orig_mod = inner


def test_modules_are_found_through_wrappers_and_places_stay_where_one_is_missing():
    def block():
        return nn.ModuleDict({"attn": nn.Identity(), "norm": nn.Identity()})

    network = nn.ModuleDict({"blocks": nn.ModuleList([block() for _ in range(4)])})
    blocks = list(network.blocks)
    network.blocks[1] = Wrapper(Wrapper(blocks[1]))
    network.blocks[2] = nn.Identity()
    expected = [blocks[0].attn, blocks[1].attn, None, blocks[3].attn]
    for whole in (network, Wrapper(network)):
        assert list(modules_at(whole, "blocks.*.attn")) == expected
        assert list(modules_at(whole, "blocks.*")) == list(network.blocks)
        assert list(modules_at(whole, "blocks.*.norm|attn"))[2:4] == [
            blocks[1].norm,
            blocks[1].attn,
        ]
        assert not list(modules_at(whole, "others.*.attn"))
