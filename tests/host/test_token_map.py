"""BiGain Token Map on models of the host: what is shown is what was decided."""

import comfy.sd
import pytest
import torch
from bigain.bigain_core.comfyui.model_token_map import FIRST, map_tokens
from bigain.bigain_core.compression.token_map import stand_ins
from bigain.bigain_core.methods import KVDownsampling, TokenMerging
from bigain.bigain_core.schedules import DenoisingProgress
from bigain.bigain_core.tokens.grid import TokenGrid
from bigain.nodes.dit_nodes import BiGainDiTLabels
from bigain.nodes.token_map_node import BiGainTokenMap

from tests.host.compressing import merge, pool, report

TIMESTEP = 400


@pytest.fixture
def entering():
    """What a module is called with, as a list that grows."""
    handles = []

    def watch(module):
        seen = []
        handles.append(module.register_forward_pre_hook(lambda _, args: seen.append(args[0])))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


@pytest.fixture
def unet(models, conditioning):
    model = models["sd15"]
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    first = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0]
    return model, latents, conditioning("sd15", model), first.norm1


def test_groups_are_those_of_the_method_on_what_the_layer_gets(unet, entering):
    model, latents, prompt, norm = unet
    seen = entering(norm)
    maps = map_tokens(merge(model, 0.5), latents, prompt, FIRST, TIMESTEP, 0)
    progress = DenoisingProgress(1 - TIMESTEP / 999)
    assert len(maps) == len(seen) == 2
    for one, x in zip(maps, seen, strict=True):
        plan = TokenMerging(0.5).plan(x, TokenGrid(16, 16), progress, 0)
        assert torch.equal(one.stand_in, plan.target[0])
        assert one.grid == TokenGrid(16, 16) and one.merges
    assert not torch.equal(maps[0].stand_in, maps[1].stand_in)


def test_pooled_keys_are_shown_as_windows(unet):
    model, latents, prompt, _ = unet
    one, _ = map_tokens(pool(model), latents, prompt, FIRST, TIMESTEP, 0)
    plan = KVDownsampling().plan(
        latents, TokenGrid(16, 16), DenoisingProgress(1 - TIMESTEP / 999), 0
    )
    assert torch.equal(one.stand_in, stand_ins(plan, TokenGrid(16, 16))[0])
    assert not one.merges and one.scores is None


def test_a_layer_is_chosen_by_its_number_in_the_report(unet, sample):
    model, latents, prompt, _ = unet
    merged = merge(model, 0.5)
    sample("sd15", merged)
    number = int(report(merged).splitlines()[-1].split()[1])
    assert number > 0
    one, _ = map_tokens(merged, latents, prompt, number, TIMESTEP, 0)
    assert one.layer_id.number == number


def test_the_report_of_the_last_run_stays(unet, sample):
    model, latents, prompt, _ = unet
    merged = merge(model, 0.5)
    sample("sd15", merged)
    before = report(merged)
    map_tokens(merged, latents, prompt, FIRST, TIMESTEP, 0)
    assert report(merged) == before


def test_the_noise_depends_on_seed_and_timestep(unet):
    model, latents, prompt, _ = unet
    merged = merge(model, 0.5)

    def groups(timestep, seed):
        return map_tokens(merged, latents[:1], prompt, FIRST, timestep, seed)[0].stand_in

    assert torch.equal(groups(TIMESTEP, 0), groups(TIMESTEP, 0))
    assert not torch.equal(groups(TIMESTEP, 0), groups(TIMESTEP, 1))
    assert not torch.equal(groups(TIMESTEP, 0), groups(900, 0))


def test_what_cannot_be_shown_is_said(unet):
    model, latents, prompt, _ = unet
    with pytest.raises(ValueError, match="BiGain: expected a model that is compressed"):
        map_tokens(model, latents, prompt, FIRST, TIMESTEP, 0)
    with pytest.raises(ValueError, match=r"got 999 of \[0, "):
        map_tokens(merge(model, 0.5), latents, prompt, 999, TIMESTEP, 0)
    late = merge(model, 0.5, start_percent=0.9)
    with pytest.raises(ValueError, match="got any of none.*CHANGED NOTHING"):
        map_tokens(late, latents, prompt, FIRST, TIMESTEP, 0)


def test_the_node_shows_images_and_numbers(bundled):
    positive = BiGainDiTLabels.execute(bundled, "plain disc").args[0]
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    merged = merge(bundled, 0.5, placement="everywhere")
    done = BiGainTokenMap.execute(merged, positive, images, vae, FIRST, TIMESTEP, 0)
    groups, scores, shortened, destinations, value = done.args
    assert groups.shape == scores.shape and groups.shape[0] == 2
    assert shortened.shape == destinations.shape == (2, 32, 32)
    assert shortened.mean() == pytest.approx(0.5)
    assert not (shortened * destinations).any()
    assert value.splitlines()[1].startswith("Image 1: layer 0 (transformer, level 1), L-GTM 0.5")
    assert len(done.ui["images"]) == 2 and done.ui["text"] == (value,)
