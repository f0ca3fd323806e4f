"""What the report says of layers that another node or pack has taken."""

import pytest

from tests.host.compressing import report
from tests.host.side_by_side import OURS, on_model
from tests.host.test_with_guidance import replace_all, seg
from tests.host.test_with_patches import TOME, attention_mask, style_aligned

ALL_TAKEN = {
    "StyleAligned": style_aligned,
    "attention mask": attention_mask,
    "attention replaced everywhere": replace_all,
}


@pytest.mark.parametrize("scenario", ALL_TAKEN)
def test_where_others_have_every_layer_nothing_was_changed(start, scenario):
    """The network was called, so the report is connected where it should be."""
    run = on_model(ALL_TAKEN[scenario])(start()).with_model(OURS["merging"].on)
    run.image()
    text = report(run.model)
    assert text.startswith("BiGain CHANGED NOTHING on Stable Diffusion")
    assert "0 of 7 self-attention layers" in text


PARTLY_TAKEN = {"ToMe of ComfyUI": TOME, "SEG": on_model(seg)}


@pytest.mark.parametrize("scenario", PARTLY_TAKEN)
def test_layers_of_others_count_among_those_present(start, scenario):
    """Both take three of the seven layers."""
    run = PARTLY_TAKEN[scenario](start()).with_model(OURS["merging"].on)
    run.image()
    assert "4 of 7 self-attention layers compressed" in report(run.model)
