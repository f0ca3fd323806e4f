"""BiGain Best of N: its images are those of the host's KSampler, and losers are not finished."""

import csv
import io

import comfy.model_management as management
import comfy.samplers
import pytest
import torch
from bigain.bigain_core.classification.evidence.seed_selection import DropRules
from bigain.bigain_core.comfyui.best_of_n import best_of_n
from bigain.bigain_core.comfyui.classifying.latent_evidence import rank_for_prompt
from bigain.bigain_core.comfyui.model_comparison import Sampling
from bigain.bigain_core.listener import Listener
from bigain.nodes.best_of_n_node import BiGainBestOfN
from bigain.nodes.dit_nodes import BiGainDiTLabels

import nodes
from tests.host.compressing import merge

STEPS, CFG, TRIALS = 5, 2.5, 4
# Of those that guide in another way, and those whose noise is drawn on a GPU, one stands for all.
SAMPLERS = ["euler_cfg_pp", "dpmpp_2m_sde_gpu"]
SAMPLERS += [s for s in comfy.samplers.KSampler.SAMPLERS if not s.endswith(("_cfg_pp", "_gpu"))]


class Node:
    """The node on a small random DiT, and the host's KSampler with the same inputs."""

    def __init__(self, model):
        self.model = model
        self.prompts = BiGainDiTLabels.execute(model, "cat").args[:2]
        self.latent = {"samples": torch.zeros(1, 4, 8, 8)}

    def best(self, candidates=4, keep=1, seed=7, **changes):
        """Latents, seeds and rows of the table."""
        model, latent, *settings, denoise = self.settings(**changes)
        made, seeds, table = BiGainBestOfN.execute(
            model, *self.prompts, latent, candidates, keep, seed, *settings, denoise, TRIALS, 0
        ).args
        return made["samples"], seeds, list(csv.DictReader(io.StringIO(table)))

    def alone(self, seed, **changes):
        model, latent, *settings, denoise = self.settings(**changes)
        return nodes.common_ksampler(
            model, seed, *settings, *self.prompts, latent, denoise=denoise
        )[0]["samples"]

    def settings(
        self, model=None, latent=None, steps=STEPS, cfg=CFG, sampler="euler", scheduler="karras",
        denoise=1.0,
    ):  # fmt: skip
        model, latent = model or self.model, latent or self.latent
        return model, latent, steps, cfg, sampler, scheduler, denoise


@pytest.fixture
def node(models):
    return Node(models["dit"])


@pytest.mark.once
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_under_any_sampler_the_image_is_that_of_its_seed_alone(node, sampler):
    found, (seed,), rows = node.best(sampler=sampler)
    assert torch.equal(found, node.alone(seed, sampler=sampler))
    assert "while sampling" in [row["dropped"] for row in rows]


def test_several_are_kept_best_first(node):
    found, seeds, rows = node.best(candidates=5, keep=2)
    assert torch.equal(found, torch.cat([node.alone(seed) for seed in seeds]))
    assert [int(row["seed"]) for row in rows[:2]] == seeds and len(rows) == 5
    assert [row["dropped"] == "" for row in rows] == [True, True, False, False, False]
    scores = [float(row["score"]) for row in rows[:2]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("cfg", [1.0, 6.0])
def test_without_guidance_too(node, cfg):
    found, (seed,), _ = node.best(cfg=cfg)
    assert torch.equal(found, node.alone(seed, cfg=cfg))


def test_an_image_can_be_changed_where_a_mask_says(node):
    drawn = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    changes = {"latent": {"samples": drawn, "noise_mask": mask}, "denoise": 0.7}
    found, (seed,), _ = node.best(**changes)
    assert torch.equal(found, node.alone(seed, **changes))


def test_a_compressed_model_samples_and_judges(node):
    model = merge(node.model)
    found, (seed,), _ = node.best(model=model)
    assert torch.equal(found, node.alone(seed, model=model))
    assert not torch.equal(found, node.alone(seed))


class Calls(Listener):
    """What the node says of its evaluations of the network, beside what the network saw."""

    def __init__(self, model):
        self.said = self.seen = 0
        network = model.get_model_object("diffusion_model")
        self.hook = network.register_forward_pre_hook(self.see)

    def on_calls(self, calls):
        self.said += calls

    def see(self, network, inputs):
        self.seen += len(inputs[0])


def sampling(node, sampler="euler", cfg=CFG):
    return Sampling(node.latent, *node.prompts, 7, STEPS, cfg, sampler, "karras")


@pytest.mark.parametrize("cfg", [1.0, CFG])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_every_evaluation_is_counted_and_none_is_done_twice(node, sampler, cfg):
    calls = Calls(node.model)
    found, _ = best_of_n(node.model, sampling(node, sampler, cfg), 4, 1, TRIALS, listener=calls)
    calls.hook.remove()
    assert calls.seen == calls.said == sum(found.calls) < found.all_calls
    one = 2 * (STEPS if sampler == "euler" else 2 * STEPS - 1)
    assert max(found.sampling_calls) == one > min(found.sampling_calls)


def test_scores_are_those_of_rank_images(node):
    """Where nothing is dropped."""
    rules = DropRules(stages=(), delta=0.0)
    found, latent = best_of_n(node.model, sampling(node), 3, 1, TRIALS, 5, rules=rules)
    latents = torch.cat([node.alone(seed) for seed in found.seeds])
    ranking = rank_for_prompt(node.model, latents, *node.prompts, TRIALS, 5)
    assert found.judged.trials.tolist() == [TRIALS] * 3
    torch.testing.assert_close(found.judged.scores, ranking.scores)
    assert found.order == ranking.order and torch.equal(latent[0], latents[ranking.order[0]])


def test_the_model_is_as_before(node):
    before, options = node.alone(7), str(node.model.model_options)
    node.best()
    assert str(node.model.model_options) == options and not node.model.wrappers
    assert torch.equal(node.alone(7), before)


def test_the_user_can_interrupt_it(node):
    network = node.model.get_model_object("diffusion_model")
    interrupt = management.interrupt_current_processing
    stop = network.blocks[0].register_forward_hook(lambda *_: interrupt(True))
    begun = []
    noting = network.blocks[1].mlp.register_forward_pre_hook(lambda *_: begun.append(1))
    try:
        with pytest.raises(management.InterruptProcessingException):
            node.best()
    finally:
        stop.remove(), noting.remove(), interrupt(False)
    assert begun == []
    node.best()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"keep": 4}, "expected to keep fewer seeds than are tried, got 4 of 4"),
        ({"latent": {"samples": torch.zeros(2, 4, 8, 8)}}, "expected a latent of one image, got 2"),
        ({"latent": {"samples": torch.zeros(1, 3, 8, 8) + 1}}, r"latent of shape \(batch, 4"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(node, changes, message):
    calls = Calls(node.model)
    with pytest.raises(ValueError, match=message):
        node.best(**changes)
    calls.hook.remove()
    assert not calls.seen
