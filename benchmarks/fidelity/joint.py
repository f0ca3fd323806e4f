"""One layer in which text and image attend to each other: `python -m benchmarks.fidelity.joint`.

Made layers on photographs (see layers.py) with a prompt of random tokens in front of the image, and
rotary positions unless told otherwise. What is told of the image and of the text is the error of
the outputs of their queries. Methods go by values or, where the line says so, by keys and values as
they come to attention. Rotary keys are tokens that exist or, as with `blend_rotary`, blended.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.demo_report import table
from benchmarks.fidelity.intervals import Figure, relative, resamples
from benchmarks.fidelity.layers import MadeLayer, Tokens
from benchmarks.fidelity.photos import PHOTOS
from benchmarks.fidelity.settings import CANDIDATE, METHODS, RIVAL
from bigain_core.methods import Method
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.centred_keys import CentredPlan, keys_with_values

MERGING = "key merging 2"
LAYERS = {
    "1024 tokens, 128 channels a head, little noise": MadeLayer(32, 0.1, 1024, rotary=True),
    "4096 tokens, 128 channels a head, little noise": MadeLayer(64, 0.1, 1024, rotary=True),
    "4096 tokens, 40 channels a head, little noise": MadeLayer(64, 0.1, rotary=True),
    "4096 tokens, 40 channels a head, much noise": MadeLayer(64, 0.4, rotary=True),
    "16384 tokens, 40 channels a head, little noise": MadeLayer(128, 0.1, rotary=True),
    "4096 tokens, 40 channels a head, little noise, no rotary positions": MadeLayer(64, 0.1),
}


@dataclass(frozen=True)
class Way:
    """A method, whether it goes by keys and values, and whether keys are blended where rotated."""

    method: Method
    by_keys: bool = False
    blended: bool = False


PAIRS = METHODS[CANDIDATE]
BESIDE = f"{CANDIDATE}, by values", f"{MERGING}, by values"
WAYS: Mapping[str, Way] = {
    RIVAL: Way(METHODS[RIVAL]),
    "ToDo 2, random places": Way(METHODS["ToDo 2, random places"]),
    BESIDE[1]: Way(METHODS[MERGING]),
    f"{MERGING}, by values, blended": Way(METHODS[MERGING], blended=True),
    f"{MERGING}, by both": Way(METHODS[MERGING], by_keys=True),
    f"{MERGING}, by both, blended": Way(METHODS[MERGING], by_keys=True, blended=True),
    BESIDE[0]: Way(PAIRS),
    f"{CANDIDATE}, by values, blended": Way(PAIRS, blended=True),
    f"{CANDIDATE}, by both, blended": Way(PAIRS, by_keys=True, blended=True),
    f"{CANDIDATE}, centred": Way(PAIRS.after_projection, by_keys=True),
}


def sequence(tokens: Tokens, text: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (1, text + N, C): a prompt without positions, then the image."""
    draw = torch.Generator().manual_seed(number)
    width = tokens.normed.shape[2]
    prompt = functional.layer_norm(torch.randn(1, text, width, generator=draw), (width,))
    both = zip(tokens.weights, tokens.projected(), strict=True)
    q, k, v = (torch.cat((prompt @ weight.T, image), dim=1) for weight, image in both)
    return q, k, v


def attention(
    given: tuple[Tensor, Tensor, Tensor], tokens: Tokens, text: int, way: Way | None = None
) -> tuple[Tensor, Tensor]:
    """What `compared` queries of the image see, and those of the text: (1, n, C) each."""
    q, k, v = given
    heads, mask = tokens.heads, None
    if way is not None:
        grid, method, image = tokens.grid, way.method, [x[:, text:] for x in given]
        metric = keys_with_values(*image[1:]) if way.by_keys else image[2]
        plan = method.plan(metric, grid, DenoisingProgress(0.5), 0)
        if isinstance(plan, CentredPlan):
            short_k, short_v, bias = plan.attended(*image, heads)
        else:
            positions = plan if way.blended or not tokens.rotary else plan.unblended()
            short_k, short_v = positions.context(image[1]), plan.context(image[2])
            alike = torch.full(short_k.shape[:2], log(grid.tokens / short_k.shape[1]))
            bias = (alike if plan.key_bias is None else plan.key_bias)[:, None]
        mask = functional.pad(bias, (text, 0))[:, :, None]  # text keys weigh as themselves
        k, v = (torch.cat((x[:, :text], s), 1) for x, s in ((k, short_k), (v, short_v)))
    asking = torch.cat((q[:, :text], q[:, text + tokens.compared]), dim=1)
    parts = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (asking, k, v))
    out = functional.scaled_dot_product_attention(*parts, mask).transpose(1, 2).flatten(2)
    return out[:, text:], out[:, :text]


@torch.inference_mode()
def errors(layer: MadeLayer, text: int, photos: int) -> dict[str, Tensor]:
    """(photos, 4) by way: sums of squares of error and plain output, of image and text."""
    found: dict[str, list] = {name: [] for name in WAYS}
    for number, photo in enumerate(PHOTOS[:photos]):
        tokens = layer.tokens(None, photo, number)
        given = sequence(tokens, text, number)
        plain = attention(given, tokens, text)
        for name, way in WAYS.items():
            pairs = zip(attention(given, tokens, text, way), plain, strict=True)
            sums = [(x.double().square().sum().item()) for a, b in pairs for x in (a - b, b)]
            found[name].append(sums)
    return {name: torch.tensor(sums, dtype=torch.float64) for name, sums in found.items()}


def rows(found: Mapping[str, Tensor]) -> list[list[str]]:
    """Errors of the image with intervals, also as shares of the `BESIDE`, and those of the text."""
    weights = resamples(len(found[RIVAL]))
    image, text = (
        {name: relative(weights, *sums[:, part].unbind(1)) for name, sums in found.items()}
        for part in ([0, 1], [2, 3])
    )
    return [
        [
            name,
            str(Figure.of(own)),
            *(str(Figure.of(own / image[other])) for other in BESIDE),
            *(str(Figure.of(text[name] / text[other])) for other in BESIDE),
        ]
        for name, own in image.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--text", type=int, default=256, help="tokens of the prompt")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = [f"{part}, of {name}" for part in ("image", "text") for name in BESIDE]
    for name, layer in LAYERS.items():
        found = rows(errors(layer, args.text, args.photos))
        print(f"\n{args.photos} photographs, {name}:\n")
        print(table(["method", "image", *columns], found), flush=True)


if __name__ == "__main__":
    main()
