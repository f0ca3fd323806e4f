"""How good a model of drawings is: `python -m benchmarks.judge_drawings FILE`, half an hour.

A judge, a small convolutional network that learns from the drawings alone, says whether generated
images show what was asked for. The paper's plan ranks held-out drawings among all names. Both are
done without compression and as BiGain (Auto) does it, in turn, so that times, images at the same
seeds and rankings can be compared. Interrupt it whenever you like: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from benchmarks.classifier_bundled import read_lines
from benchmarks.data import SIZE as JUDGED_SIZE
from benchmarks.data import Images
from benchmarks.demo_drawing import GAP, to_image
from benchmarks.dit_runner import DiTRunner, load_dit
from benchmarks.drawings import (
    CACHE,
    CLASS_NAMES,
    SIZE,
    Drawings,
    held_out,
    names_of,
    read_drawings,
    trained,
)
from benchmarks.paper.judge import Judge, train
from benchmarks.timing import gain
from benchmarks.training import SEEDS_APART
from bigain_core.classification import TrialPlan, classify, mcnemar, wilson_interval
from bigain_core.compression.automatic import AUTO, automatic_rules
from bigain_core.compression.rules import Compression
from bigain_core.measure.flops import projections_shortened
from bigain_core.measure.similarity import ssim
from bigain_core.measure.timing import Spread
from bigain_core.models.checkpoint import read_checkpoint
from bigain_core.models.dit import DiT

OFF, PLACED = "off", "BiGain (Auto)"
JUDGE_STEPS, BATCH = 1500, 64
GUIDANCE = 2.5
FOLDER = Path("build/judge_drawings")


def settings(dit: DiT) -> dict[str, DiTRunner]:
    rules = automatic_rules(AUTO, projections_shortened, dit.config.depth)
    return {OFF: DiTRunner(dit), PLACED: DiTRunner(dit, Compression(rules))}


# Judging


def judged(judge: Judge, pixels: Tensor) -> Tensor:
    """Places in CLASS_NAMES (B,) of what images (B, 3, S, S) in [-1, 1] show."""
    with torch.no_grad():
        return judge(functional.adaptive_avg_pool2d(pixels, JUDGED_SIZE))[1].argmax(1)


def drawn(drawings: Drawings, pairs: Tensor, generator: torch.Generator, size: int) -> Images:
    return Images(drawings.images(pairs, generator, size), names_of(pairs))


def trained_judge(drawings: Drawings, pairs: Tensor, path: Path, steps: int) -> Judge:
    """From the file if it is there; it has seen these pairs."""
    judge = Judge(len(CLASS_NAMES))
    if path.exists():
        judge.load_state_dict(load_file(path))
        return judge.eval()

    def batch(generator: torch.Generator) -> Images:
        chosen = pairs[torch.randint(len(pairs), (BATCH,), generator=generator)]
        return drawn(drawings, chosen, generator, JUDGED_SIZE)

    judge = train(batch, steps, 0, len(CLASS_NAMES))
    save_file(judge.state_dict(), path)
    return judge


def known(judge: Judge, drawings: Drawings, pairs: Tensor) -> str:
    """In how many of the pairs, drawn once, it sees their name."""
    shown = drawn(drawings, pairs, torch.Generator().manual_seed(SEEDS_APART - 2), SIZE)
    return share((judged(judge, shown.pixels) == shown.labels).tolist())


# Work that can be taken up again


def generated(
    runners: dict[str, DiTRunner], judge: Judge, rounds: int, steps: int, folder: Path
) -> list[dict]:
    """One line per round: an image of every name under each setting, at the same seeds."""
    path, labels = folder / "generated.jsonl", torch.arange(len(CLASS_NAMES))
    lines = read_lines(path)
    for number in tqdm(range(len(lines), rounds), desc="sampling", initial=len(lines)):
        line, images = {}, {}
        for setting in list(runners)[:: -1 if number % 2 else 1]:
            start = perf_counter()
            seed = SEEDS_APART * (1 + number)
            pixels = runners[setting].sample(labels.tolist(), steps, GUIDANCE, seed)
            seconds = perf_counter() - start
            images[setting] = (pixels.movedim(1, -1) / 2 + 0.5).clamp(0, 1)
            right = judged(judge, pixels.clamp(-1, 1)) == labels
            line[setting] = {"seconds": seconds, "right": right.tolist()}
            sheet(images[setting]).save(folder / f"{number} {setting}.png")
        line["ssim"] = ssim(images[OFF], images[PLACED]).tolist()
        append(path, line)
    return read_lines(path)


def ranked(
    runners: dict[str, DiTRunner], drawings: Drawings, count: int, folder: Path
) -> list[dict]:
    """One line per held-out drawing: what each setting takes it for."""
    path, pairs = folder / "ranked.jsonl", held_out().nonzero()[:, 0]
    lines = read_lines(path)
    for number in tqdm(range(len(lines), count), desc="ranking", initial=len(lines)):
        generator = torch.Generator().manual_seed(SEEDS_APART * (1 + number))
        images = drawn(drawings, pairs[[number % len(pairs)]], generator, SIZE)
        line = {"label": images.labels.item()}
        for setting in list(runners)[:: -1 if number % 2 else 1]:
            denoiser = runners[setting].denoiser(range(len(CLASS_NAMES)))
            start = perf_counter()
            found = classify(denoiser, images.pixels, CLASS_NAMES, TrialPlan(), number)
            line[setting] = {"seconds": perf_counter() - start, "best": found.best[0]}
        append(path, line)
    return read_lines(path)


def append(path: Path, line: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def sheet(images: Tensor) -> Image.Image:
    """Images (B, S, S, 3) in [0, 1] in rows of 12."""
    side = images.shape[1] + GAP
    page = Image.new("RGB", (12 * side, -(-len(images) // 12) * side), "white")
    for number, image in enumerate(images):
        page.paste(to_image(image), (number % 12 * side, number // 12 * side))
    return page


# Report


def share(right: Sequence[bool]) -> str:
    """Such as 40 of 48, 0.833 (0.704 to 0.913)."""
    hits, (low, high) = sum(right), wilson_interval(sum(right), len(right))
    return f"{hits} of {len(right)}, {hits / len(right):.3f} ({low:.3f} to {high:.3f})"


def faster(lines: Sequence[dict]) -> str:
    return gain(Spread.of([line[OFF]["seconds"] / line[PLACED]["seconds"] for line in lines]))


def report(generated: Sequence[dict], ranked: Sequence[dict]) -> list[str]:
    """Lines of text; shares with 95 % intervals, gains and similarity between quartiles."""
    right = {s: [k for line in generated for k in line[s]["right"]] for s in (OFF, PLACED)}
    best = {s: [line[s]["best"] == line["label"] for line in ranked] for s in (OFF, PLACED)}
    alike = Spread.of([value for line in generated for value in line["ssim"]])
    return [
        *(f"generated, {s}: the judge sees the name in {share(right[s])}" for s in right),
        f"generating is faster by {faster(generated)}",
        f"SSIM at the same seeds {alike.median:.3f} ({alike.low:.3f} to {alike.high:.3f})",
        *(f"held-out drawings, {s}: right on {share(best[s])}" for s in best),
        f"McNemar p = {mcnemar(best[OFF], best[PLACED]):.3g}",
        f"ranking is faster by {faster(ranked)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="results; one per model")
    parser.add_argument("--cache", type=Path, default=CACHE, help="archives of the drawings")
    parser.add_argument("--rounds", type=int, default=4, help="images of each name")
    parser.add_argument("--steps", type=int, default=25, help="of sampling")
    parser.add_argument("--images", type=int, default=int(held_out().sum()), help="to be ranked")
    parser.add_argument("--judge-steps", type=int, default=JUDGE_STEPS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    drawings = read_drawings(args.cache)
    runners = settings(load_dit(read_checkpoint(args.model)).to(args.device))
    pairs, unseen = (kind.nonzero()[:, 0] for kind in (trained() | held_out(), held_out()))
    judge = trained_judge(drawings, pairs, args.folder / "judge.safetensors", args.judge_steps)
    print(f"the judge knows the drawings themselves in {known(judge, drawings, pairs)}")
    taught = trained().nonzero()[:, 0]
    pupil = trained_judge(drawings, taught, args.folder / "pupil.safetensors", args.judge_steps)
    print(f"a judge of the trained drawings alone, held-out ones: {known(pupil, drawings, unseen)}")
    images = generated(runners, judge, args.rounds, args.steps, args.folder)
    answers = ranked(runners, drawings, args.images, args.folder)
    print("\n".join(report(images, answers)))


if __name__ == "__main__":
    main()
