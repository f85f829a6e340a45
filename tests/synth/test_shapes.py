"""Composed scenes: masks, layers and picture tell the same story."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcnet_core.synth import shapes
from bcnet_core.synth.shapes import CLASSES, MIN_SIDE, MIN_VISIBLE, Scene, compose_scene


def compose(seed: int, height: int = 128, width: int = 128) -> Scene:
    return compose_scene(np.random.default_rng(seed), height=height, width=width)


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [compose(seed) for seed in range(80)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(MIN_SIDE, 150), width=st.integers(MIN_SIDE, 150))
def test_every_pixel_belongs_to_the_topmost_amodal_mask(seed: int, height: int, width: int) -> None:
    scene = compose(seed, height, width)
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert [item.layer for item in scene.objects] == list(range(len(scene.objects)))
    topmost = np.full((height, width), -1)
    for item in scene.objects:
        topmost[item.amodal] = item.layer
    for item in scene.objects:
        assert np.array_equal(item.visible, topmost == item.layer)
    assert np.sum([item.visible for item in scene.objects], axis=0).max() == 1


def test_no_object_is_hidden_and_rates_are_the_hidden_share(many: list[Scene]) -> None:
    for scene in many:
        assert scene.objects[-1].occlusion_rate == 0
        for item in scene.objects:
            hidden = (item.amodal & ~item.visible).sum() / item.amodal.sum()
            assert item.occlusion_rate == pytest.approx(hidden)
            assert hidden <= 1 - MIN_VISIBLE


def test_same_state_same_scene_other_seed_other_scene() -> None:
    first, again, other = compose(5), compose(5), compose(6)
    assert np.array_equal(first.image, again.image)
    assert all(np.array_equal(a.visible, b.visible) for a, b in zip(first.objects, again.objects, strict=True))
    assert not np.array_equal(first.image, other.image)


def test_number_size_and_classes_are_as_promised(many: list[Scene]) -> None:
    counts = [len(scene.objects) for scene in many]
    assert set(counts) <= {1, 2, 3, 4, 5, 6}
    assert np.mean([count >= 3 for count in counts]) > 0.95
    objects = [item for scene in many for item in scene.objects]
    sides = [max(np.ptp(axis) + 1 for axis in item.amodal.nonzero()) for item in objects]
    assert min(sides) >= 14
    assert max(sides) <= 70
    labels = np.bincount([item.label for item in objects], minlength=len(CLASSES))
    assert len(labels) == len(CLASSES)
    assert labels.min() > 0.2 * labels.sum()


def test_overlap_is_frequent_but_not_extreme(many: list[Scene]) -> None:
    rates = np.array([item.occlusion_rate for scene in many for item in scene.objects])
    assert 0.3 < (rates >= 0.1).mean() < 0.6
    assert 0.15 < (rates >= 0.3).mean() < 0.4


def test_colours_do_not_tell_the_class(many: list[Scene]) -> None:
    objects = [(scene.image[item.visible].mean(0), item.label) for scene in many for item in scene.objects]
    means = [np.mean([colour for colour, label in objects if label == wanted], axis=0) for wanted in range(3)]
    assert np.ptp(means, axis=0).max() < 40


@pytest.mark.parametrize("seed", [0, 2, 18, 30])
def test_the_picture_shows_what_the_masks_say(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer drawn white, all else black: the white pixels are the layer's visible mask."""
    plain = compose(seed)
    monkeypatch.setattr(shapes, "_background", lambda _rng, h, w: np.zeros((h, w, 3), dtype=np.float32))
    monkeypatch.setattr(shapes, "_shade", lambda _slant, distance, *_, **__: np.ones_like(distance))
    for item in plain.objects:
        calls = iter(range(len(plain.objects)))

        def surface(*args: np.ndarray, calls=calls, layer=item.layer) -> np.ndarray:  # noqa: ANN001
            return np.full((*args[1].shape, 3), float(next(calls) == layer))

        monkeypatch.setattr(shapes, "_surface", surface)
        shown = compose(seed).image[..., 0] / 255
        assert not (shown > 0.55)[~item.visible].any()
        inside = cv2.erode(item.visible.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert (shown[inside] > 0.3).all()
        if item.layer == len(plain.objects) - 1:
            clear = np.abs(shown - 0.5) > 0.05
            assert np.array_equal((shown > 0.5)[clear], item.visible[clear])


def test_objects_stand_out_from_the_background(many: list[Scene]) -> None:
    def colourfulness(pixels: np.ndarray) -> float:
        return float(np.ptp(pixels.astype(int), axis=-1).mean())

    for scene in many[:20]:
        covered = np.any([item.amodal for item in scene.objects], axis=0)
        assert colourfulness(scene.image[covered]) > 1.3 * colourfulness(scene.image[~covered])


def test_a_side_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="64 pixels or more"):
        compose(0, MIN_SIDE - 1, 200)
