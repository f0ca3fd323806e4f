"""What the report says of layers that another node or pack has taken."""

import pytest
import torch

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
    run.picture()
    text = report(run.model)
    assert text.startswith("BiGain CHANGED NOTHING on Stable Diffusion")
    assert "0 of 7 self-attention layers" in text


PARTLY_TAKEN = {"ToMe of ComfyUI": TOME, "SEG": on_model(seg)}


@pytest.mark.parametrize("scenario", PARTLY_TAKEN)
def test_layers_of_others_count_among_those_present(start, scenario):
    """Both take three of the seven layers."""
    run = PARTLY_TAKEN[scenario](start()).with_model(OURS["merging"].on)
    run.picture()
    assert "4 of 7 self-attention layers compressed" in report(run.model)


def test_a_call_within_a_call_is_not_another_patch(start):
    """Both calls are compressed as a whole, see test_state_shared_with_a_call_within_the_call."""
    run = start().with_model(OURS["merging"].on)

    def call_within(x, options):
        if options["block"][0] == "middle":
            own = run.model.model_options["transformer_options"]
            own = own | {"wrappers": run.model.wrappers, "sigmas": options["sigmas"]}
            latent, text = torch.ones(1, 4, 6, 10), run.positive[0][0]
            run.model.model.apply_model(
                latent, options["sigmas"], c_crossattn=text, transformer_options=own
            )
        return x

    on_model(lambda model: model.set_model_patch(call_within, "middle_patch"))(run).picture()
    text = report(run.model)
    assert "in 4 of 4 calls" in text
    assert "left alone" not in text
