"""Images that the bundled model is trained and measured on."""

import torch

from benchmarks.data import (
    CLASS_NAMES,
    SHAPE_CLASSES,
    SHAPES,
    TEXTURES,
    held_out_digits,
    held_out_shapes,
    scanned_digits,
    shape_images,
    shape_masks,
    texture_waves,
    training_batch,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_class_has_its_own_name():
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == len(SHAPES) * len(TEXTURES) + 10
    assert CLASS_NAMES[0] == "plain disc"
    assert CLASS_NAMES[SHAPE_CLASSES - 1] == "falling-striped cross"
    assert CLASS_NAMES[-1] == "digit 9"


def test_a_batch_is_repeatable_and_in_range():
    batch, again = (training_batch(20, 0.3, (0.1, 0.2), seeded()) for _ in range(2))
    assert torch.equal(batch.pixels, again.pixels) and torch.equal(batch.labels, again.labels)
    assert batch.pixels.shape == (20, 3, 32, 32)
    assert batch.pixels.min() >= -1 and batch.pixels.max() <= 1
    assert (batch.labels[:14] < SHAPE_CLASSES).all() and (batch.labels[14:] >= SHAPE_CLASSES).all()


def test_drawing_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    training_batch(8, 0.5, (0.1, 0.2), seeded())
    held_out_shapes(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_textures_have_the_periods_their_names_promise():
    waves = texture_waves(torch.arange(len(TEXTURES)), seeded())
    plain, checkered, rows, columns, rising, falling = waves
    assert torch.equal(plain, torch.zeros(32, 32))
    for wave in (checkered, rows, columns, rising, falling):
        assert set(wave.unique().tolist()) == {-1.0, 1.0}
        assert wave.mean() == 0
    for across in (0, 1):
        assert torch.equal(checkered.roll(1, across), -checkered)
    assert torch.equal(rows.roll(1, 0), -rows) and torch.equal(rows.roll(1, 1), rows)
    assert torch.equal(columns.roll(1, 1), -columns) and torch.equal(columns.roll(1, 0), columns)
    assert torch.equal(rising.roll((1, -1), (0, 1)), rising)
    assert torch.equal(falling.roll((1, 1), (0, 1)), falling)
    for diagonal in (rising, falling):
        assert torch.equal(diagonal.roll(2, 0), -diagonal)


def test_silhouettes_differ_from_their_background_and_from_each_other():
    masks = shape_masks(torch.arange(len(SHAPES)).repeat(20), seeded()).view(20, len(SHAPES), -1)
    assert masks.min() >= 0 and masks.max() <= 1
    area = masks.mean(2)
    assert (area > 0.05).all() and (area < 0.7).all()
    centre = masks.unflatten(2, (32, 32))[:, :, 15:17, 15:17].mean((2, 3))
    hollow = centre.mean(0) < 0.5
    assert [name for name, empty in zip(SHAPES, hollow, strict=True) if empty] == ["ring"]


def test_a_higher_contrast_brings_out_the_texture():
    labels = torch.full((50,), TEXTURES.index("checkered"))
    faint, bold = (shape_images(labels, seeded(), (c, c)) for c in (0.04, 0.2))

    def detail(pixels):
        return (pixels[..., 1:] - pixels[..., :-1])[:, :, 14:18, 14:18].abs().mean()

    assert detail(bold) > 1.5 * detail(faint)


def test_held_out_digits_are_a_quarter_of_the_scans_each_once():
    _, targets, held_out = scanned_digits()
    images = held_out_digits()
    assert held_out.sum() == len(targets) // 4 == len(images.labels)
    assert torch.equal(images.labels - SHAPE_CLASSES, targets[held_out])


def test_training_draws_no_held_out_digit(monkeypatch):
    drawn = []

    def record(indices, generator):
        drawn.extend(indices.tolist())
        return torch.zeros(len(indices), 3, 32, 32)

    monkeypatch.setattr("benchmarks.data.digit_images", record)
    training_batch(4000, 1.0, (0.1, 0.1), seeded())
    held_out = scanned_digits()[2]
    assert len(set(drawn)) > 1000
    assert not held_out[drawn].any()


def test_held_out_shapes_take_the_classes_in_turn():
    images = held_out_shapes(SHAPE_CLASSES + 2)
    assert images.labels.tolist() == [*range(SHAPE_CLASSES), 0, 1]
    assert not torch.equal(images.pixels, held_out_shapes(SHAPE_CLASSES + 2, seed=2).pixels)
