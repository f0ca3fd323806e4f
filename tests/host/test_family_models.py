"""What the attention of each family sees, measured: the ground on which its compression stands.

Nothing here is taken from the pack. One network call of a real sampling run is repeated with the
picture, the text or the reference images changed, and the keys of its attention layers tell which
of them are tokens of what.
"""

import re
from functools import cache

import pytest
import torch
from comfy.patcher_extension import WrappersMP

from tests.host.families import CASES, every_case, every_case_and_size, parametrized
from tests.host.families.case import sample
from tests.host.watching import OVERRIDE, Watch, grid, layer_of


def first_network_call(case, size, experiment):
    """`experiment(run)` in the first network call of a sampling run.

    `run(change, reversed_at)` makes that call with what `change` makes of its inputs, a dict, and
    returns the prediction and the attention calls.
    """
    results = []

    def network_call(executor, x, t, c_concat, c_crossattn, control, transformer_options, **conds):
        def run(change=dict, reversed_at=None):
            inputs = {"x": x, "c_concat": c_concat, "c_crossattn": c_crossattn, **conds}
            inputs = change({name: copied(value) for name, value in inputs.items()})
            with Watch(executor.class_obj.diffusion_model, case.blind, reversed_at) as watch:
                options = {**transformer_options, OVERRIDE: watch.override}
                latents, *others = (inputs.pop(name) for name in ("x", "c_concat", "c_crossattn"))
                return executor(latents, t, *others, control, options, **inputs), watch.calls

        if not results:
            results.append(experiment(run))
        return x  # nobody looks at the image

    model = case.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", network_call)
    sample(case, model, size, steps=1)
    return results[0]


@cache
def first_calls(case):
    """Attention calls of the first network call, and of the same with another image."""
    return first_network_call(case, None, lambda run: (run()[1], run(changing("x"))[1]))


def copied(value):
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value.clone() if torch.is_tensor(value) else value


def other(value):
    return [other(item) for item in value] if isinstance(value, list) else value.flip(-1) + 1


def changing(*names):
    return lambda inputs: inputs | {k: other(inputs[k]) for k in names if k in inputs}


def distance(call, after):
    """How far each key has moved, in the image where it moved most: (N,)."""
    assert call.layer_id == after.layer_id
    return (call.keys - after.keys).abs().sum(dim=2).amax(dim=0)


def has_moved(call, after):
    return (distance(call, after) > 1e-3).tolist()


def first_of_each_layer(case, calls):
    """(index of the first attention call, layer) for each layer of the case."""
    found = {}
    for index, call in enumerate(calls):
        layer = layer_of(case, call)
        if layer is not None:
            found.setdefault(layer.modules, (index, layer))
    assert found.keys() == {layer.modules for layer in case.layers}
    return list(found.values())


def kinds_of_tokens(case, layer, size):
    """The kind of each key as the case declares it: a list of N words."""
    frames, rows, columns = grid(case, layer, size)
    tokens = frames * rows * columns
    parts = (
        *layer.before,
        ("picture", tokens),
        ("padding", -tokens % layer.multiple),
        *layer.after,
    )
    return [kind for kind, count in parts for _ in range(count)]


@every_case_and_size
def test_sampling_gives_the_same_finite_latent_twice(case, size):
    first = sample(case, case.model, size)
    assert first.shape == case.noise(size).shape
    assert torch.isfinite(first).all()
    assert torch.equal(first, sample(case, case.model, size))


@parametrized("case", {case.name: (case,) for case in CASES if len(case.sizes) == 1})
def test_a_case_of_one_size_is_one_whose_network_fails_in_the_host_at_others(case):
    height, width = case.sizes[0]
    with pytest.raises((AssertionError, RuntimeError)):
        sample(case, case.model, (height + 1, width + 1))


@every_case_and_size
def test_keys_are_of_the_kinds_that_the_case_declares(case, size):
    """Padding is part of what it pads once a layer has mixed them."""
    inputs = {"picture": ("x",), "text": case.text, "reference": case.references}

    def experiment(run):
        return run()[1], {kind: run(changing(*inputs[kind]))[1] for kind in inputs}

    calls, after = first_network_call(case, size, experiment)
    for place, (index, layer) in enumerate(first_of_each_layer(case, calls)):
        words = kinds_of_tokens(case, layer, size)
        assert calls[index].keys.shape[1] == len(words)
        for kind in inputs:
            moved = has_moved(calls[index], after[kind][index])
            mixed = {"padding"} if place else set()
            if kind in layer.mixed:
                mixed |= set(layer.mixed) - {kind}
            wrong = [
                (position, word)
                for position, word in enumerate(words)
                if word not in mixed and moved[position] != (word == kind)
            ]
            assert not wrong, f"{calls[index].layer_id}: {kind} and the keys {wrong}"


@every_case_and_size
def test_tokens_of_the_picture_are_in_raster_order(case, size):
    """A pixel of the last frame moves the token of its patch; convolutions may carry it away."""
    spots = [(int(size[0] * 0.3), int(size[1] * 0.27)), (int(size[0] * 0.75), int(size[1] * 0.72))]

    def poke(row, column):
        def change(inputs):
            frame = inputs["x"][:, :, -1] if case.frames else inputs["x"]
            frame[:, :, row, column] += 1
            return inputs

        return change

    def experiment(run):
        return run()[1], [run(poke(*spot))[1] for spot in spots]

    calls, after = first_network_call(case, size, experiment)
    for place, (index, layer) in enumerate(first_of_each_layer(case, calls)):
        frames, rows, columns = grid(case, layer, size)
        start = sum(count for _, count in layer.before)
        for (row, column), later in zip(spots, after, strict=True):
            token = int(distance(calls[index], later[index]).argmax()) - start
            found = token // (rows * columns), token // columns % rows, token % columns
            expected = frames - 1, row // layer.patch, column // layer.patch
            away = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            assert away <= layer.adapter, f"{calls[index].layer_id}: {found}, expected {expected}"
            if not place and not layer.adapter:
                assert sum(has_moved(calls[index], later[index])) == 1


@every_case
def test_no_other_attention_layer_sees_the_picture(case):
    for call, later in zip(*first_calls(case), strict=True):
        sees = any(has_moved(call, later))
        named = (
            layer_of(case, call) is not None or re.fullmatch(case.apart, call.layer_id) is not None
        )
        assert sees == named, call.layer_id


@every_case
def test_every_layer_reaches_the_prediction(case):
    def experiment(run):
        plain, calls = run()
        layers = [call.layer_id for call in calls if layer_of(case, call)]
        return plain, {layer_id: run(reversed_at=layer_id)[0] for layer_id in layers}

    plain, after = first_network_call(case, None, experiment)
    for layer_id in after:
        assert (plain - after[layer_id]).norm() > 1e-3 * plain.norm(), layer_id


@every_case
def test_attention_is_given_the_transformer_options_unless_the_case_says_not(case):
    calls, _ = first_calls(case)
    assert {call.options for call in calls if layer_of(case, call)} == {case.blind is None}


@every_case
def test_masks_hide_the_picture_only_where_the_case_says_so(case):
    hidden = []
    for call in first_calls(case)[0]:
        layer = layer_of(case, call)
        if layer is not None and call.mask is not None:
            words = kinds_of_tokens(case, layer, case.sizes[0])
            picture = call.mask[..., [n for n, word in enumerate(words) if word == "picture"]]
            hidden.append(
                bool((picture == 0 if picture.dtype == torch.bool else picture < 0).any())
            )
    assert any(hidden) == case.mask_hides_picture
