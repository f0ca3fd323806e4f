"""Which layers a placement covers."""

import pytest

from bigain_core.placement import PLACEMENTS, Placement, Site, named_placement

TRANSFORMER = [Site(number, "transformer") for number in range(28)]
UNET = [
    Site(0, "encoder", 1),
    Site(1, "encoder", 2),
    Site(2, "encoder", 3),
    Site(3, "middle", 4),
    Site(4, "decoder", 3),
    Site(5, "decoder", 2),
    Site(6, "decoder", 1),
]


def covered(placement, sites):
    return [site.number for site in sites if placement.covers(site)]


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


@pytest.mark.parametrize("site", [*TRANSFORMER, *(site for site in UNET if site.level == 1)])
def test_the_default_covers_every_site_of_the_finest_level(site):
    assert Placement().covers(site)


def test_stage_number_and_level_must_all_match():
    placement = Placement(stages=("encoder", "middle"), numbers=(0, 2, 3, 4), levels=3)
    assert covered(placement, UNET) == [0, 2]


def test_an_empty_choice_covers_nothing():
    assert covered(Placement(stages=()), UNET) == covered(Placement(numbers=()), UNET) == []


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="expected a placement of .* got 'blocks 1-6'") as error:
        named_placement("blocks 1-6")
    assert all(name in str(error.value) for name in PLACEMENTS)
