"""The benchmark node: it measures what it says, leaves no trace and can be stopped."""

import csv
import io

import comfy.model_management
import comfy.utils
import pytest
import torch
from bigain.bigain_core.comfyui import model_benchmark as core
from bigain.bigain_core.comfyui.classifying.chart import (
    BEST,
    EDGE,
    INK,
    NAMES,
    ROW,
    benchmark_chart,
)
from bigain.bigain_core.comfyui.patching.attach import compression_state
from bigain.bigain_core.measure.benchmark import COLUMNS, Benchmark, Measured
from bigain.bigain_core.measure.timing import Times
from bigain.nodes.benchmark_node import ALL, THIS, BiGainBenchmark
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED, parametrized
from tests.host.families.case import sample
from tests.host.side_by_side import instance_forwards

pytestmark = pytest.mark.once

METHODS = 7  # of the paper's Table 3


def latent(case, size=None, batch=None):
    return {"samples": case.noise(size, batch) * 0}


def run(model, case, methods=THIS, rounds=1, progress=0.5, **prompts):
    return BiGainBenchmark.execute(model, latent(case), methods, rounds, progress, **prompts).args


def rows(table):
    return {row["setting"]: row for row in csv.DictReader(io.StringIO(table))}


FAMILIES = {
    name: (NAMED[name],) for name in ("sd15", "sd2v", "sdxl", "pixart_sigma", "sd3", "flux", "wan")
} | {name: (NAMED[name],) for name in ("ltxav", "minimax_h3")}


@parametrized("case", FAMILIES)
def test_every_method_is_measured_on_every_way_to_attention(case):
    prompts = {"positive": case.conditioning(0), "negative": case.conditioning(1)}
    table, chart = run(case.model, case, ALL, **prompts)
    found = rows(table)
    assert table.splitlines()[0] == ",".join(COLUMNS)
    assert list(found)[0] == "off" and len(found) == 1 + METHODS
    for name, row in found.items():
        assert float(row["ms"]) > 0 and float(row["TFLOP"]) > 0
        if name != "off":
            assert float(row["ceiling"]) > 1 and int(row["layers"]) > 0, name
            assert 0 < float(row["deviation"]) < 10, name
    assert float(found["off"]["deviation"]) == 0 and found["off"]["layers"] == ""
    assert chart.shape[0] == 1 and chart.shape[3] == 3 and 0 <= chart.min() and chart.max() <= 1


def test_a_compressed_model_is_compared_with_itself_without_compression():
    """The ceiling is that of the report of a run, for it counts the same calls."""
    case = NAMED["sd15"]
    model = pool(case.model, factor=4)
    found = rows(run(model, case, THIS, positive=case.conditioning(0))[0])
    assert list(found) == ["off", THIS]
    sample(case, model)
    log = compression_state(model).log
    gain = log.network_flops / (log.network_flops - log.flops_saved)
    assert float(found[THIS]["ceiling"]) == pytest.approx(gain, abs=5e-3)
    assert int(found[THIS]["layers"]) == log.layers_compressed


@pytest.fixture
def outputs(monkeypatch):
    """What the first calls gave: off, then each setting, run after run."""
    found, original = [], core._first_call

    def note(work, device):
        output, memory = original(work, device)
        found.append(output)
        return output, memory

    monkeypatch.setattr(core, "_first_call", note)
    return found


def test_off_is_the_model_without_our_nodes(outputs):
    """Its output is that of the host's own call, and other patches stay on it."""
    case = NAMED["sd15"]

    def double(out, options):
        return 2 * out

    patched = case.model.clone()
    patched.set_model_attn1_output_patch(double)
    prompts = {"positive": case.conditioning(0)}
    run(merge(patched), case, THIS, **prompts)
    off_of_patched = outputs[0]
    run(merge(case.model), case, THIS, **prompts)
    off, ours = outputs[-2:]
    assert not torch.equal(off, off_of_patched)
    assert not torch.equal(off, ours)

    network = case.model.model
    sigma = torch.tensor([float(network.model_sampling.percent_to_sigma(0.5))])
    noise = torch.randn(off[0].shape, generator=torch.Generator().manual_seed(0))
    text = case.conditioning(0)[0][0]
    plain = network.apply_model(noise * sigma, sigma, c_crossattn=text, transformer_options={})
    torch.testing.assert_close(off[0], plain)


def test_deviation_is_the_relative_distance_from_off(outputs):
    case = NAMED["sd15"]
    found = rows(run(merge(case.model), case)[0])
    off, ours = outputs[-2:]
    expected = ((ours - off) ** 2).mean().sqrt() / (off**2).mean().sqrt()
    assert float(found[THIS]["deviation"]) == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("ours", [merge, pool])
def test_the_model_is_as_before(ours):
    case = NAMED["sd15"]
    model, plain = ours(case.model), sample(case, case.model)
    generated, text = sample(case, model), report(model)
    state = torch.get_rng_state()
    run(model, case, ALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert report(model) == text, "the log is still that of the last run"
    assert not instance_forwards(model)
    assert torch.equal(sample(case, model), generated)
    assert torch.equal(sample(case, case.model), plain)
    assert compression_state(case.model) is None


def calls_of(model, noted):
    """A model that notes the batch of each network call."""
    clone = model.clone()

    def note(executor, x, *args, **kwargs):
        noted.append(len(x))
        return executor(x, *args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", note)
    return clone


def test_settings_take_turns_and_progress_is_shown(monkeypatch):
    case, noted, shown = NAMED["sd15"], [], []

    def hook(done, total, *args, **kwargs):
        shown.append((done, total))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    run(calls_of(merge(case.model), noted), case, THIS, rounds=3)
    assert noted == [1] * 8, "off and this model: once to warm up and three rounds"
    assert shown == sorted(shown) and shown[-1] == (8, 8), "the host leaves out some"


def test_both_prompts_go_into_one_call_as_in_sampling():
    case, noted = NAMED["sd15"], []
    prompts = {"positive": case.conditioning(0), "negative": case.conditioning(1)}
    run(calls_of(merge(case.model), noted), case, **prompts)
    assert set(noted) == {2}


@pytest.mark.parametrize("after", [1, 3])
def test_it_can_be_interrupted_and_leaves_nothing_behind(monkeypatch, after):
    case, done = NAMED["sd15"], []
    model, plain = merge(case.model), sample(NAMED["sd15"], case.model)
    generated, text = sample(case, model), report(model)

    def hook(*args, **kwargs):
        done.append(1)
        comfy.model_management.interrupt_current_processing(len(done) == after)

    with monkeypatch.context() as only_here:
        only_here.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(model, case, ALL, rounds=5)
    assert len(done) == after
    assert report(model) == text and not instance_forwards(model)
    assert torch.equal(sample(case, model), generated)
    assert torch.equal(sample(case, case.model), plain)


def test_caches_of_steps_do_not_answer():
    """They would be timed in place of the network."""
    case, noted = NAMED["sd15"], []
    model = calls_of(merge(case.model), noted)

    def cached(executor, x, *args, **kwargs):
        return torch.zeros_like(x)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "easycache", cached)
    run(model, case, THIS, rounds=2)
    assert len(noted) == 6


def test_a_rule_that_acts_in_a_part_of_the_process_is_measured_there():
    case = NAMED["sd15"]
    model = merge(case.model, start_percent=0.0, end_percent=0.3)
    inside, outside = (rows(run(model, case, progress=at)[0])[THIS] for at in (0.1, 0.9))
    assert int(inside["layers"]) > 0 and float(inside["deviation"]) > 0
    assert int(outside["layers"]) == 0 and float(outside["deviation"]) == 0


def test_a_batch_and_an_odd_size_are_measured():
    case = NAMED["sd15"]
    image = {"samples": torch.ones(3, 4, 13, 19)}
    table, _ = BiGainBenchmark.execute(merge(case.model), image, ALL, 1, 0.5).args
    assert len(rows(table)) == 2 + METHODS


REFUSED = {
    "a plain model": (lambda: run(NAMED["sd15"].model, NAMED["sd15"]), "behind a compressing"),
    "a bypassed one": (
        lambda: run(merge(NAMED["sd15"].model, ratio=0.0), NAMED["sd15"]),
        "that is on",
    ),
    "no prompt where its shape is unknown": (
        lambda: run(merge(NAMED["flux"].model), NAMED["flux"]),
        "Connect `positive`",
    ),
    "video and sound for a model without": (
        lambda: BiGainBenchmark.execute(
            merge(NAMED["sd15"].model), latent(NAMED["ltxav"]), THIS, 1, 0.5
        ),
        "a latent of one stream",
    ),
    "the latent of another model": (
        lambda: BiGainBenchmark.execute(
            merge(NAMED["sd15"].model), {"samples": torch.ones(1, 16, 8, 8)}, THIS, 1, 0.5
        ),
        "a latent of shape",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused(case):
    attempt, words = REFUSED[case]
    with pytest.raises(ValueError, match=f"BiGain: expected .*{words}|BiGain: expected {words}"):
        attempt()


def test_the_bundled_model_needs_no_prompt(bundled):
    image = {"samples": torch.zeros(1, 3, 32, 32)}
    found = rows(BiGainBenchmark.execute(bundled, image, ALL, 1, 0.5).args[0])
    assert len(found) == 1 + METHODS


def test_every_round_counts():
    case = NAMED["sd15"]
    resting = core.uncompressed(merge(case.model))
    image, prompts = latent(case)["samples"], [core.empty_prompt(resting)]
    found = core.measure(resting, image, prompts, {}, rounds=4)
    assert [len(row.times.seconds) for row in found.measured.values()] == [4]
    assert found.latent == tuple(image.shape)


def test_numbers_in_the_chart_stand_behind_the_line_of_the_ceiling():
    """Here the line is far behind the bar: half of the operations take a fifth of the time."""
    taken = {"off": (1.0, 100), "fast": (0.2, 50)}
    measured = {
        name: Measured(Times((seconds,) * 3), flops, 0.0, None, 1)
        for name, (seconds, flops) in taken.items()
    }
    chart = benchmark_chart(Benchmark(measured, "cpu", (1, 4, 8, 8)))[0]
    bar = chart[EDGE + 2 * ROW : EDGE + 3 * ROW, EDGE + NAMES :]  # with what follows it
    dark = ((bar * 255 - torch.tensor(INK)).abs() < 1).all(-1).any(0).nonzero().flatten()
    end = ((bar * 255 - torch.tensor(BEST)).abs() < 1).all(-1).any(0).nonzero().max()
    behind = dark[dark > end]
    assert behind.min() > 2 * end  # the line, at half of "off"
    assert (behind > behind.min() + 4).any()  # and the numbers
