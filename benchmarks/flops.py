"""Operations of a network call, plain and compressed: `python -m benchmarks.flops`.

Prints two Markdown tables: the paper's Tables 3 and 10 beside our counts, and what both operators
save in each model at three image sizes. Counts are GFLOP for one sample, a multiply and an add
counted as two. A ceiling is plain operations by compressed ones: what a speed-up could reach if all
operations took the same time, which they do not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.demo_backend import CallFlops
from benchmarks.demo_report import Row, table
from benchmarks.methods import OFF, methods
from benchmarks.outlines.dit_outline import DIT_XL_2, dit_outline
from benchmarks.outlines.outline import Outline
from benchmarks.outlines.unet_outline import SD_1, SD_2, SD_XL, unet_outline
from bigain_core.compression.automatic import STRENGTHS, automatic_rules
from bigain_core.compression.presets import PRESETS
from bigain_core.compression.rules import Compression, Rule
from bigain_core.measure.flops import projections_shortened
from bigain_core.methods import BlockMerging, SimilarityPruning
from bigain_core.placement import Placement, named_placement
from bigain_core.tokens.grid import TokenGrid

LATENT_SCALE = 8  # pixels per side of a latent
SIZES = (512, 1024, 2048)
TEN_BLOCKS = named_placement("blocks 1-5 and 7-11 (published)")
# Placement() is the finest level that has attention, and every block of a transformer.
MODELS = {
    "SD 1.5": (unet_outline, SD_1, Placement()),
    "SD 2.0": (unet_outline, SD_2, Placement()),
    "SDXL": (unet_outline, SD_XL, Placement()),
    "DiT-XL/2, all blocks": (dit_outline, DIT_XL_2, Placement()),
    "DiT-XL/2, ten blocks": (dit_outline, DIT_XL_2, TEN_BLOCKS),
}

# The paper's Tables 3 and 10: Stable Diffusion 2.0 with a latent of 64 x 64. Table 10 repeats the
# figures of Table 3 and adds those of the hybrids of Table 9.
PRINTED = {
    "Table 3: ToMe 0.7": 704.87,
    "Table 3: L-GTM 0.7": 704.99,
    "Table 3: L-GTM 0.7, cached assignment": 698.88,
    "Table 3: adaptive block merge 0.7": 695.08,
    "Table 3: SiTo 0.7": 748.49,
    "Table 3: ToDo factor 2": 717.44,
    "Table 3: IE-KVD factor 2": 717.44,
    "Table 9: L-GTM encoder, IE-KVD decoder": 716.23,
    "Table 9: IE-KVD encoder, L-GTM decoder": 712.49,
}

# Where the published code does more than ours for the same result


class ScoredTwice(BlockMerging):
    """It computes the scores a second time and drops them."""

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        return 2 * super().decision_flops(width, grid)


class AllPairs(SimilarityPruning):
    """It multiplies all tokens with all and reads every similarity from there."""

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        return 2 * grid.tokens**2 * width


DEARER = {
    "Table 3: adaptive block merge 0.7": Compression((Rule(ScoredTwice(0.7)),)),
    "Table 3: SiTo 0.7": Compression((Rule(AllPairs(0.7)),)),
}
POOLED_AFTER_PROJECTION = (
    "Table 9: L-GTM encoder, IE-KVD decoder",
    "Table 9: IE-KVD encoder, L-GTM decoder",
)


def count(outline: Outline, compression: Compression) -> CallFlops:
    return CallFlops.from_log(outline.flops, outline.log(compression))


def published_count(outline: Outline, name: str) -> CallFlops:
    """The count of a preset with the work of the published code."""
    if name in POOLED_AFTER_PROJECTION:
        outline = replace(outline, layer_flops=projections_shortened)
    return count(outline, DEARER.get(name, PRESETS[name]))


def published_rows() -> Iterator[Row]:
    outline = unet_outline(SD_2, 64, 64)
    for name, printed in PRINTED.items():
        published, ours = published_count(outline, name), count(outline, PRESETS[name])
        figures = (printed, published.compressed / 1e9, ours.compressed / 1e9)
        yield [name, *(f"{figure:.2f}" for figure in figures), f"{ours.ceiling:.2f}x"]


def model_rows() -> Iterator[Row]:
    """Every model at every size under both operators."""
    for model, (outline_of, config, placement) in MODELS.items():
        for pixels in SIZES:
            outline = outline_of(config, pixels // LATENT_SCALE, pixels // LATENT_SCALE)
            row = [f"{model}, {pixels} px", f"{outline.flops / 1e9:.1f}"]
            for name, compression in methods(placement).items():
                if name != OFF:
                    flops = count(outline, compression)
                    row += [f"{flops.compressed / 1e9:.1f}", f"{flops.ceiling:.2f}x"]
            yield row


def automatic_rows() -> Iterator[Row]:
    """Gains that BiGain (Auto) leaves at most, by strength."""
    for model in ("SD 1.5", "SDXL", "DiT-XL/2, all blocks"):
        outline_of, config, _ = MODELS[model]
        for pixels in SIZES:
            outline = outline_of(config, pixels // LATENT_SCALE, pixels // LATENT_SCALE)
            blocks = len(outline.layers)
            rules = (automatic_rules(name, outline.layer_flops, blocks) for name in STRENGTHS)
            gains = [count(outline, Compression(some)).ceiling for some in rules]
            yield [f"{model.split(', ')[0]}, {pixels} px", *(f"{gain:.2f}x" for gain in gains)]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    operators = [name for name in methods(Placement()) if name != OFF]
    head = [cell for name in operators for cell in (name, "ceiling")]
    plain = unet_outline(SD_2, 64, 64).flops / 1e9
    print(f"GFLOP of SD 2.0 at 512 px; plain {plain:.2f}, printed 804.26. Operations, not time.\n")
    columns = ["preset", "printed", "published code", "ours", "ceiling"]
    print(table(columns, list(published_rows())))
    print("\nGFLOP of a network call; UNets are compressed at their finest attention level.\n")
    print(table(["model", "plain", *head], list(model_rows())))
    print("\nGains that the presets of BiGain (Auto) leave at most.\n")
    print(table(["model", *STRENGTHS], list(automatic_rows())))


if __name__ == "__main__":
    main()
