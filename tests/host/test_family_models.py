"""What the attention of each family sees, measured: the ground on which its compression stands.

Nothing here is taken from the pack. One network call of a real sampling run is repeated with the
image, the text or the reference images changed, and the keys of its attention layers tell which
of them are tokens of what.
"""

import re
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy.utils import pack_latents, unpack_latents

from tests.host.compressing import pool
from tests.host.families import CASES, NAMED, for_cases, for_cases_and_sizes, parametrized
from tests.host.families.case import Layer, packed, sample
from tests.host.recording import OVERRIDE, Recorder, grid, layer_of

every_case, every_case_and_size = for_cases(CASES), for_cases_and_sizes(CASES)


@dataclass(frozen=True)
class Keys:
    """The keys of one attention call; `distance` is how far a change of the inputs moves each."""

    module: str
    layer: Layer | None
    options: bool
    mask: torch.Tensor | None
    distance: dict  # from a change to (N,)

    def moved_by(self, change):
        return (self.distance[change] > 1e-3).tolist()


@dataclass(frozen=True)
class Measured:
    """The first network call of a run, and how much it matters in which order a layer's keys are.

    Changes are the kinds of inputs that are others, and the places where a pixel is.
    """

    keys: list[Keys]
    effects: dict[str, float]

    def first_of_each_layer(self):
        """In the order of the network; padding is part of what it pads behind the first of them."""
        first = {}
        for keys in self.keys:
            if keys.layer is not None:
                first.setdefault(keys.layer.modules, keys)
        return list(first.values())


@cache
def measured(case, size):
    results = []

    def network_call(executor, x, t, c_concat, c_crossattn, control, transformer_options, **conds):
        given = {"x": x, "c_concat": c_concat, "c_crossattn": c_crossattn, **conds}

        def run(change=dict, reversed_at=None):
            inputs = change({name: copied(value) for name, value in given.items()})
            with Recorder(case, reversed_at) as recorder:
                options = {**transformer_options, OVERRIDE: recorder.override}
                latents, *others = (inputs.pop(name) for name in ("x", "c_concat", "c_crossattn"))
                prediction = executor(latents, t, *others, control, options, **inputs)
            return prediction, recorder.calls

        if not results:
            results.append(measure(case, size, run, given))
        return x  # nobody looks at the image

    model = case.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "record", network_call)
    sample(case, model, size, steps=1)
    return results[0]


def measure(case, size, run, given):
    """`run(change, reversed_at)` makes the call with what `change` makes of its inputs, a dict."""
    plain, calls = run()
    changes = {"image": in_the_image(other), "text": changing(*case.text)}
    if given.keys() & case.references:
        changes["reference"] = changing(*case.references)
    if case.audio:
        changes["audio"] = in_the_sound(other)
    changes |= {spot: brighter_at(*spot) for spot in spots(size)}
    distances = {"reference": distance(calls, calls)}  # where there is none
    distances |= {name: distance(calls, run(change)[1]) for name, change in changes.items()}
    keys = [
        Keys(
            call.module,
            layer_of(case, call.module),
            call.options,
            call.mask,
            {change: found[n] for change, found in distances.items()},
        )
        for n, call in enumerate(calls)
    ]
    effects = {}
    if size == case.sizes[0]:
        for module in (one.module for one in keys if one.layer):
            difference = run(reversed_at=module)[0] - plain
            effects[module] = float(difference.norm() / plain.norm())
    return Measured(keys, effects)


def copied(value):
    if isinstance(value, list):
        return [copied(item) for item in value]
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return value.clone() if torch.is_tensor(value) else value


def other(value):
    if isinstance(value, dict):  # MiniMax H3 puts all of its conditions into one
        return {k: other(v) if k.endswith("_latents") else v for k, v in value.items()}
    return [other(item) for item in value] if isinstance(value, list) else value.flip(-1) + 1


def changing(*names):
    return lambda inputs: inputs | {k: other(inputs[k]) for k in names if k in inputs}


def spots(size):
    """Two places of a latent (row, column)."""
    return [(int(size[0] * 0.3), int(size[1] * 0.27)), (int(size[0] * 0.75), int(size[1] * 0.72))]


def in_the_image(change, in_sound=lambda sound: sound):
    def changed(inputs):
        x = inputs["x"]
        if x.ndim > 3:
            return inputs | {"x": change(x)}
        image, sound = unpack_latents(x, inputs["latent_shapes"])
        return inputs | {"x": pack_latents((change(image), in_sound(sound)))[0]}

    return changed


def in_the_sound(change):
    return in_the_image(lambda image: image, change)


def brighter_at(row, column):
    def brighter(image):
        frame = image[:, :, -1] if image.ndim == 5 else image
        frame[:, :, row, column] += 1
        return image

    return in_the_image(brighter)


def distance(calls, after):
    """How far each key has moved, in the image where it moved most: (N,) for each call."""
    assert [call.module for call in calls] == [call.module for call in after]
    pairs = zip(calls, after, strict=True)
    return [(one.keys - two.keys).abs().sum(dim=2).amax(dim=0) for one, two in pairs]


def kinds_of_tokens(case, layer, size):
    """The kind of each key as the case declares it: a list of N words."""
    frames, rows, columns = grid(case, layer, size)
    tokens = frames * rows * columns
    whole = (("image", tokens), ("padding", -tokens % layer.multiple))
    parts = (*layer.prefix, *whole, *layer.suffix)
    return [kind for kind, count in parts for _ in range(count)]


@every_case
def test_sampling_gives_the_same_finite_latent_twice(case):
    first, again = (sample(case, case.model, steps=1) for _ in range(2))
    assert first.shape == packed(case.noise()).shape
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)


@for_cases(case for case in CASES if len(case.sizes) == 1)
def test_a_case_of_one_size_is_one_whose_network_fails_in_the_host_at_others(case):
    height, width = case.sizes[0]
    with pytest.raises((AssertionError, RuntimeError)):
        sample(case, case.model, (height + 1, width + 1))


@every_case_and_size
def test_keys_are_of_the_kinds_that_the_case_declares(case, size):
    found = measured(case, size).first_of_each_layer()
    assert {keys.layer for keys in found} == set(case.layers)
    for place, keys in enumerate(found):
        kinds = kinds_of_tokens(case, keys.layer, size)
        for changed in ("image", "text", "reference", *(["audio"] if case.audio else [])):
            moved = keys.moved_by(changed)
            mixed = {"padding"} if place else set()
            if changed in keys.layer.mixed:
                mixed |= set(keys.layer.mixed) - {changed}
            wrong = [
                (position, kind)
                for position, (kind, moves) in enumerate(zip(kinds, moved, strict=True))
                if kind not in mixed and moves != (kind == changed)
            ]
            assert not wrong, f"{keys.module}: {changed} and the keys {wrong}"


@every_case_and_size
def test_tokens_of_the_image_are_in_raster_order(case, size):
    """A pixel of the last frame moves the token of its patch; convolutions may carry it away."""
    for place, keys in enumerate(measured(case, size).first_of_each_layer()):
        layer = keys.layer
        frames, rows, columns = grid(case, layer, size)
        for row, column in spots(size):
            start = sum(count for _, count in layer.prefix)
            token = int(keys.distance[row, column].argmax()) - start
            found = token // (rows * columns), token // columns % rows, token % columns
            expected = frames - 1, row // layer.patch, column // layer.patch
            away = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            assert away <= layer.spread, f"{keys.module}: {found}, expected {expected}"
            if not place and not layer.spread:
                assert sum(keys.moved_by((row, column))) == 1


@every_case
def test_no_other_attention_layer_sees_the_image(case):
    for keys in measured(case, case.sizes[0]).keys:
        declared = bool(keys.layer or re.fullmatch(case.apart, keys.module))
        assert any(keys.moved_by("image")) == declared, keys.module


@every_case
def test_every_layer_reaches_the_prediction(case):
    effects = measured(case, case.sizes[0]).effects
    assert effects and min(effects.values()) > 1e-3, effects


@every_case
def test_attention_is_given_the_transformer_options_unless_the_case_says_not(case):
    found = measured(case, case.sizes[0]).keys
    assert {keys.options for keys in found if keys.layer} == {case.blind is None}


@every_case
def test_masks_hide_the_image_only_where_the_case_says_so(case):
    hidden = []
    for keys in measured(case, case.sizes[0]).keys:
        if keys.layer and keys.mask is not None:
            kinds = kinds_of_tokens(case, keys.layer, case.sizes[0])
            image = keys.mask[..., [n for n, kind in enumerate(kinds) if kind == "image"]]
            hidden.append(bool((image == 0 if image.dtype == torch.bool else image < 0).any()))
    assert any(hidden) == case.mask_hides_image


WITHOUT_TOKENS = {"wan_animate": "face_video_pixels", "wan_humo": "audio_embed"}


@parametrized("case, entry", {name: (NAMED[name], WITHOUT_TOKENS[name]) for name in WITHOUT_TOKENS})
def test_what_reaches_a_video_between_its_layers_reaches_a_shortened_one(case, entry):
    def without(number):
        [[tokens, entries]] = case.conditioning(number)
        return [[tokens, {key: entries[key] for key in entries if key != entry}]]

    model = pool(case.model)
    whole, changed = (
        sample(replace(case, conditioning=c), model) for c in (case.conditioning, without)
    )
    assert (whole - changed).abs().max() > 1e-3
