"""Video and sound that are denoised together: the video is compressed, the sound stays exact."""

import itertools

import pytest
import torch
from bigain.bigain_core.classification import SpreadGrid, TrialPlan, trial_noise
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents
from bigain.bigain_core.comfyui.patching.adapter import Inputs
from bigain.bigain_core.comfyui.patching.attach import compression_state
from bigain.bigain_core.comfyui.patching.joint_attention import minimax_h3
from bigain.bigain_core.compression.automatic import STRENGTHS
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier
from comfy.nested_tensor import NestedTensor
from comfy.utils import pack_latents

from tests.host.compressing import merge, pool, preset
from tests.host.families import NAMED, parametrized
from tests.host.families.case import Case, prompt
from tests.host.families.with_sound import FILM, IMAGE, KEYFRAMES, SILENT, VOICE
from tests.host.ranking import some_prompts
from tests.host.recording import OVERRIDE
from tests.host.test_families import one_step
from tests.host.test_layouts import assert_pooled_as_declared

with_sound = parametrized("case", {name: (NAMED[name],) for name in ("ltxav", "minimax_h3_both")})
with_ltx = parametrized("case", {"ltxav": (NAMED["ltxav"],)})
with_h3 = parametrized("case", {"minimax_h3": (NAMED["minimax_h3"],)})


def keys_and_values(case, ours):
    """Of each attention call of a run, with all tokens in rows: [(q, k, v)], (B, N, C)."""
    seen, model = [], ours(case.model)

    def kernel(function, q, k, v, heads, *args, skip_reshape=False, **kwargs):
        rows = [x.transpose(1, 2).flatten(2) if skip_reshape else x for x in (q, k, v)]
        seen.append([x.clone() for x in rows])
        return function(q, k, v, heads, *args, skip_reshape=skip_reshape, **kwargs)

    model = model.clone()
    model.model_options["transformer_options"][OVERRIDE] = kernel
    one_step(case, model, None)
    return seen


@pytest.mark.parametrize("ours", [merge, pool])
@with_sound
def test_text_and_sound_enter_the_first_compressed_layer_bit_for_bit(case, ours):
    """Up to there nothing differs: all that is not the video is what it is without us."""
    plain, short = keys_and_values(case, lambda model: model), keys_and_values(case, ours)
    assert len(plain) == len(short)
    pairs = list(zip(plain, short, strict=True))
    first = next(n for n, (a, b) in enumerate(pairs) if a[1].shape != b[1].shape)
    for before, after in pairs[:first]:
        assert all(map(torch.equal, before, after))
    prefix = sum(count for _, count in case.layers[0].prefix)
    for whole, shortened in zip(*pairs[first], strict=True):
        assert torch.equal(whole[:, :prefix], shortened[:, :prefix])


@pytest.mark.parametrize("ours", [merge, pool])
def test_the_sound_of_ltx_attends_in_all_its_places(ours):
    """No call but those of the video's own attention is shorter."""
    case = NAMED["ltxav"]
    video, plain = 2 * 6 * 10, keys_and_values(case, lambda model: model)
    for whole, shortened in zip(plain, keys_and_values(case, ours), strict=True):
        lengths = [x.shape[1] for x in whole]
        of_video = lengths == [video] * 3
        assert ([x.shape[1] for x in shortened] == lengths) != of_video


def test_a_video_whose_sound_is_not_wanted_is_compressed_as_well():
    """The host then calls the network with one stream, as with LTX Video."""

    class Silent(Case):
        def noise(self, size=None, batch=None):
            return super().noise(size, batch).unbind()[0]

    fields = {name: getattr(NAMED["ltxav"], name) for name in Case.__dataclass_fields__}
    assert "2 of 2 self-attention layers compressed" in assert_pooled_as_declared(Silent(**fields))


def test_guide_frames_of_ltx_with_sound_stay_whole():
    class Guided(Case):
        def noise(self, size=None, batch=None):
            video, sound = super().noise(size, batch).unbind()
            return NestedTensor((torch.cat((video, video[:, :, :1]), dim=2), sound))

    plain = NAMED["ltxav"]
    patchifier = plain.model.model.diffusion_model.patchifier
    guide = patchifier.patchify(torch.zeros(1, 128, 1, *plain.sizes[0]))[1]
    fields = {name: getattr(plain, name) for name in Case.__dataclass_fields__}
    mask = pack_latents((torch.ones(1, 128, 3, *plain.sizes[0]), torch.ones(1, *plain.audio)))[0]
    guided = prompt(width=48, keyframe_idxs=guide, concat_mask=mask)
    text = assert_pooled_as_declared(Guided(**fields | {"conditioning": guided}))
    assert "120 tokens + 60 of text or references -> 120 queries, 30 keys" in text


PARTS = (*KEYFRAMES["minimax_keyframes"], IMAGE, VOICE, SILENT, FILM)


@with_h3
def test_the_video_of_h3_is_found_behind_every_combination_of_conditions(case):
    """Against the host's own list of the parts of the sequence, in even and odd sizes."""
    from comfy.ldm.minimax.model import PackedLayout

    network = case.model.model.diffusion_model
    for chosen in itertools.product((False, True), repeat=len(PARTS)):
        parts = list(itertools.compress(PARTS, chosen))
        keyframes = [part for part in parts if "kind" not in part]
        references = [part for part in parts if "kind" in part]
        payload = {"keyframes": keyframes, "refs": references}
        for height, width, text, sound in ((8, 12, 6, 5), (7, 11, 1, 0)):
            shapes = [torch.Size((1, 24, 3, height, width)), torch.Size((1, 32, 2, sound))]
            conditions = {"latent_shapes": shapes, "minimax_payload": payload}
            context = torch.empty(1, text, 64)
            found = Inputs(network, torch.empty(shapes[0]), context, conditions, {}, (1, 2, 2))
            host = PackedLayout(text, 3, 8, 12, sound, keyframes, references)
            start, stop, kind = host.segments[-1]
            (place,) = minimax_h3(found)
            assert [(one.prefix, one.prefix + one.tokens) for one in place.references] == [
                (first, last) for first, last, kind in host.segments if kind == "ref_img"
            ]
            assert {one.sequence_tokens for one in place.references} <= {host.seq_len}
            assert kind == "video" and (place.frames, place.height, place.width) == (3, 4, 6)
            assert (place.prefix, place.sequence_tokens) == (start, stop)
            assert place.suffix == 0 and stop == host.seq_len


@pytest.mark.parametrize("strength", STRENGTHS)
@with_h3
def test_auto_leaves_the_ends_of_the_process_alone_for_h3(case, strength):
    """Motion is decided in the first steps, and detail of the sound in the last."""
    (rule,) = compression_state(preset(case.model, strength)).compression.rules
    assert (rule.active.start, rule.active.end) == (0.2, 0.9)
    (other,) = compression_state(preset(NAMED["flux"].model, strength)).compression.rules
    assert (other.active.start, other.active.end) == (0.0, 1.0)


CUSTOM = {"preset": "custom", "trials": "2", "keep": "1"}
PLAN = TrialPlan((1, 3), (3, 1), sampler=SpreadGrid())


@with_ltx
def test_prompts_are_ranked_for_a_video_by_calls_without_sound(case):
    """Against the network itself, which is given the noisy video alone."""
    model, prompts = case.model, some_prompts(case)
    video = case.noise(batch=2).unbind()[0]
    result = classify_latents(model, video, prompts, PLAN)
    for number, ranking in enumerate(result.rankings):
        clean = model.model.process_latent_in(video[number : number + 1])
        for trial, spec in enumerate(ranking.table.specs):
            noise = trial_noise(tuple(video.shape[1:]), PLAN.seed, number, spec.noise)[None]
            level = (spec.timestep + 0.5) / 1000
            noisy = (1 - level) * clean + level * noise
            expected = []
            for [[tokens, entries]] in prompts.conditionings:
                conds = model.model.extra_conds(
                    cross_attn=tokens, noise=noisy, device=noisy.device, **entries
                )
                values = {key: value.cond for key, value in conds.items()}
                context = values.pop("c_crossattn")
                found = model.model.diffusion_model(
                    [noisy], torch.tensor([level]), context, transformer_options={}, **values
                )
                expected.append((found - (noise - clean)).double().square().mean().item())
            assert ranking.table.errors[:, trial].tolist() == pytest.approx(expected, rel=1e-6)
            assert len({f"{error:.5g}" for error in expected}) == 3, "prompts make a difference"


@with_ltx
def test_of_a_video_with_sound_the_video_is_ranked_and_the_summary_says_so(case):
    """As if there were no sound, with the noise mask of the video."""
    both, prompts = case.noise(), some_prompts(case)
    masks = tuple(torch.zeros(1, 1, *stream.shape[2:]) for stream in both.unbind())
    masks[0][..., :4] = 1

    def classify(samples, mask):
        latent = {"samples": samples, "noise_mask": mask}
        done = BiGainDiffusionClassifier.execute(
            case.model, prompts, CUSTOM, loss="l2", trial_seed=0, latent=latent
        )
        return done.args[3], done.ui["text"][0]

    table, text = classify(both, NestedTensor(masks))
    assert "Prompts are ranked for the video; its sound is left out." in text
    alone, silent = classify(both.unbind()[0], masks[0])
    assert table == alone and "sound" not in silent
    assert classify(both, None)[0] == classify(both.unbind()[0], None)[0] != table


@with_h3
def test_a_model_that_cannot_do_without_sound_is_refused_in_the_classifier(case):
    both = case.noise()
    for samples in (both, both.unbind()[0]):
        with pytest.raises(ValueError, match="without sound, got MiniMaxH3, whose network takes"):
            BiGainDiffusionClassifier.execute(
                case.model,
                some_prompts(case),
                {"preset": "fast"},
                loss="l2",
                trial_seed=0,
                latent={"samples": samples},
            )
