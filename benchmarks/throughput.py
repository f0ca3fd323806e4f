"""How fast the classifier calls the network, against direct calls in batches of every size.

    python -m benchmarks.throughput [--host PATH] [--width 320 --side 64]

A UNet with the layers of Stable Diffusion 1.5 and random weights, and the small DiT, both behind
ComfyUI's model class, with fused attention. Everything is measured in turn, round after round; a
row is one prompt at one timestep. On the CPU times are processor time, which other programs on the
machine change little; on CUDA they are those of the clock, and the device is waited for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.demo_report import Row, table
from benchmarks.dit_runner import SMALL_DIT
from benchmarks.host import enter_host
from benchmarks.networks import SD15, fill
from bigain_core.measure.timing import Spread

if TYPE_CHECKING:  # importable only inside the host
    from comfy.model_patcher import ModelPatcher

BATCHES = (1, 2, 4, 8, 16, 32)
PROMPTS = 32


@dataclass(frozen=True)
class Subject:
    """A model, latents for it (B, C, H, W) and a conditioning for each prompt."""

    name: str
    model: ModelPatcher
    latents: Tensor
    conditionings: tuple[list, ...]

    def prompts(self):
        from bigain_core.comfyui.classifying.prompts import Prompts

        labels = tuple(f"label {number}" for number in range(len(self.conditionings)))
        return Prompts(labels, self.conditionings)


def unet(width: int, side: int) -> Subject:
    """Heads have 32 channels or more: narrower ones would make softmax the whole cost."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models

    heads = {"num_heads": -1, "num_head_channels": max(32, width // 8)}
    family = type("SD15", (comfy.supported_models.SD15,), {"unet_extra_config": heads})
    config = family({**SD15, "model_channels": width})
    device = management.get_torch_device()
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    config.set_inference_dtype(dtype, None)
    network = config.get_model({}, "", device="cpu").eval()
    fill(network.diffusion_model)
    patcher = comfy.model_patcher.ModelPatcher(
        network, load_device=device, offload_device=management.unet_offload_device()
    )
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, side, side, generator=generator)
    texts = torch.randn(PROMPTS, 1, 77, 768, generator=generator)
    return Subject(f"UNet {width}", patcher, latents, tuple([[text, {}]] for text in texts))


def dit() -> Subject:
    from bigain_core.comfyui.dit_model import label_conditioning, load_dit_model

    patcher = load_dit_model(SMALL_DIT)
    config = patcher.model.diffusion_model.config
    shape = (1, config.in_channels, config.input_size, config.input_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    labels = tuple(label_conditioning([k]) for k in range(PROMPTS))
    return Subject("small DiT", patcher, latents, labels)


# Time


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def interleaved(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list]:
    """What every way gives in each round, after one that does not count."""
    found: dict[str, list] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            value = way()
            if number:
                found[name].append(value)
    return found


def middle(values: list[float], form: str = "{:.3g}") -> str:
    """Median and half the distance between the quartiles."""
    found = Spread.of(values)
    return f"{form.format(found.median)} +- {form.format((found.high - found.low) / 2)}"


# Ways to call the network


def direct(subject: Subject, batch: int, rows: int) -> float:
    """Rows per second of plain calls of the model."""
    from comfy.model_management import load_models_gpu

    load_models_gpu([subject.model])
    base, device = subject.model.model, subject.model.load_device
    latents = subject.latents.to(device).expand(batch, -1, -1, -1).contiguous()
    sigma = torch.full((batch,), 2.0, device=device)
    conds = [condition_tensors(subject, k, device) for k in range(batch)]
    extra = {key: torch.cat([cond[key] for cond in conds]) for key in conds[0]}

    def work():
        for _ in range(rows // batch):
            base.apply_model(latents, sigma, transformer_options={}, **extra).cpu()

    with torch.inference_mode():
        return rows / seconds(work)


def condition_tensors(subject: Subject, number: int, device) -> dict[str, Tensor]:
    """What the host makes of a conditioning for the network."""
    text, entries = subject.conditionings[number][0]
    made = subject.model.model.extra_conds(
        cross_attn=text, device=device, noise=subject.latents, **entries
    )
    return {key: value.cond.to(device) for key, value in made.items()}


EVERY_PROMPT = {"trials": (1,), "keep": (1,)}
STAGES = {"trials": (1, 3, 7), "keep": (8, 2, 1)}  # 32, 16 and 8 rows: last in batches of 2


def classified(model: ModelPatcher, subject: Subject, stages: dict[str, tuple]) -> float:
    """Rows per second of `classify_latents` as a whole, with a loaded model."""
    from bigain_core.classification import TrialPlan
    from bigain_core.comfyui.classifying.latent_classifier import classify_latents

    prompts, plan, rows = subject.prompts(), TrialPlan(**stages), []
    taken = seconds(lambda: classify_latents(model, subject.latents, prompts, plan, rows.append))
    return sum(rows) / taken


def outside(subject: Subject, stages: dict[str, tuple]) -> float:
    """Share of the classifier's time that is not spent in calls of the network."""
    from comfy.patcher_extension import WrappersMP

    def timed(executor, *args, **kwargs):
        start = clock()
        result = executor(*args, **kwargs)
        calls.append(clock() - start)
        return result

    model, calls = subject.model.clone(), []
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "timed", timed)
    whole = seconds(lambda: classified(model, subject, stages))
    return 1 - sum(calls) / whole


def merged(model: ModelPatcher) -> ModelPatcher:
    from bigain_core.comfyui.patching.attach import attach
    from bigain_core.compression.rules import Rule
    from bigain_core.methods import TokenMerging

    return attach(model, Rule(TokenMerging(0.7)))


def merged_apart(model: ModelPatcher) -> ModelPatcher:
    """As `merged`, but no plan is shared: nobody says which rows are copies of a latent."""
    from comfy.patcher_extension import WrappersMP

    def silent(executor, x, t, concat, text, control, options, **conditions):
        options = {key: value for key, value in options.items() if key != "cond_or_uncond"}
        return executor(x, t, concat, text, control, options, **conditions)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "silent", silent)
    return merged(model)


def deciding(subject: Subject) -> tuple[float, float]:
    """Shares of the time in which all layers and the first one decide, each for every row."""
    from bigain_core.compression.network_call import NetworkCall

    def timed(call, method, metric, grid, layer_id):
        start = clock()
        result = assign(call, method, metric, grid, layer_id)
        spent.append((layer_id.number, clock() - start))
        return result

    spent, assign = [], NetworkCall._assign
    NetworkCall._assign = timed
    try:
        model = merged_apart(subject.model)
        whole = seconds(lambda: classified(model, subject, EVERY_PROMPT))
    finally:
        NetworkCall._assign = assign
    first = sum(taken for number, taken in spent if number == 0)
    return sum(taken for _, taken in spent) / whole, first / whole


# Tables


def batches(subject: Subject, rounds: int) -> list[Row]:
    """Direct calls against the classifier."""
    ways = {f"direct, batch {n}": partial(direct, subject, n, max(n, 16)) for n in BATCHES}
    shares = {}
    for name, stages in (("every prompt", EVERY_PROMPT), ("in stages", STAGES)):
        ways[f"classifier, {name}"] = partial(classified, subject.model, subject, stages)
        shares[f"classifier, {name}"] = partial(outside, subject, stages)
    found, between = interleaved(ways, rounds), interleaved(shares, rounds)
    best = max(list(ways)[: len(BATCHES)], key=lambda name: statistics.median(found[name]))
    rows = []
    for name, speeds in found.items():
        share = middle(between[name], "{:.1%}") if name in between else ""
        of_best = middle(ratios(speeds, found[best]), "{:.2f}")
        rows.append([f"{subject.name}: {name}", middle(speeds), of_best, share])
    return rows


def ratios(values: list[float], others: list[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


def sharing(subject: Subject, rounds: int) -> str:
    """L-GTM 0.7 with one plan for all prompts in the first layer against one for each."""
    ways = {
        "each": partial(classified, merged_apart(subject.model), subject, EVERY_PROMPT),
        "once": partial(classified, merged(subject.model), subject, EVERY_PROMPT),
        "shares": partial(deciding, subject),
    }
    found = interleaved(ways, rounds)
    everywhere, first = (
        middle(list(share), "{:.2%}") for share in zip(*found["shares"], strict=True)
    )
    gain = middle(ratios(found["once"], found["each"]), "{:.3f}")
    return (
        f"L-GTM 0.7 in {subject.name}: deciding takes {everywhere} of the time, {first} in the "
        f"first layer; one decision for {PROMPTS} prompts there is {gain} times as fast"
    )


def text(subject: Subject, rounds: int) -> str:
    """One prompt through the text encoder of Stable Diffusion 1 against a row of the network."""
    import comfy.ops
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer

    tokenizer = SD1Tokenizer()
    encoder = SD1ClipModel(
        device="cpu",
        dtype=torch.float32,
        model_options={"custom_operations": comfy.ops.manual_cast},
    )
    fill(encoder)
    encoder.eval().to(subject.model.load_device)
    tokens = tokenizer.tokenize_with_weights("a photo of a cat")

    def encode():
        with torch.inference_mode():
            return seconds(lambda: encoder.encode_token_weights(tokens))

    found = interleaved({"text": encode, "row": lambda: 1 / direct(subject, 8, 16)}, rounds)
    taken = middle(ratios(found["text"], found["row"]))
    return f"Encoding a prompt takes as long as {taken} rows of {subject.name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    parser.add_argument("--width", default=64, type=int, help="channels; 320 is the real one")
    parser.add_argument("--side", default=32, type=int, help="of the latent; 64 is the real one")
    parser.add_argument("--rounds", default=5, type=int)
    args = parser.parse_args()
    enter_host(args.host, cpu=not torch.cuda.is_available())

    from comfy.cli_args import args as host_args

    host_args.use_pytorch_cross_attention = True  # fused on the CPU too
    subjects = [unet(args.width, args.side), dit()]
    head = ["calls", "rows per second", "of the best batch", "outside the network"]
    for subject in reversed(subjects):
        print(table(head, batches(subject, args.rounds)), "\n", flush=True)
    print(sharing(subjects[0], args.rounds), flush=True)
    print(text(subjects[0], args.rounds))


if __name__ == "__main__":
    main()
