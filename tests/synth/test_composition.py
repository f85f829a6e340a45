"""Pasted scenes: layer order, hidden shares and pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.synth.bank import LARGEST, Cutout
from bcnet_core.synth.composition import SMALLEST, PasteRule, compose_pasted, prepare

SIZE = (120, 160)


def disc(height: int, width: int, *, color: int = 200, source: int = 7, soft: bool = False) -> Cutout:
    """An ellipse that fills its window."""
    y, x = np.mgrid[:height, :width]
    far = np.hypot((y - (height - 1) / 2) / (height / 2), (x - (width - 1) / 2) / (width / 2))
    alpha = np.clip((1 - far) * min(height, width) / 4 + 0.5, 0, 1) if soft else (far < 1).astype(float)
    return Cutout(np.full((height, width, 3), color, np.uint8), alpha.astype(np.float32), label=1, source=source)


def random_discs(rng: np.random.Generator, count: int) -> list[Cutout]:
    sides = rng.integers(15, 70, size=(count, 2)).tolist()
    return [disc(h, w, color=20 * number + 20, source=number, soft=True) for number, (h, w) in enumerate(sides)]


def background() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 10, size=(*SIZE, 3), dtype=np.uint8)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 7), st.sampled_from([(0.2, 0.6), (0.05, 0.2), (0.5, 0.9), (0.3, 0.31)]))
def test_every_object_is_unhidden_or_hidden_as_requested(seed: int, count: int, occlusion: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    cutouts = random_discs(rng, count)
    scene = compose_pasted(rng, cutouts, background(), occlusion=occlusion)
    if scene is None:
        return
    hidden = [item.occlusion_rate for item in scene.objects if item.occlusion_rate > 0]
    assert hidden, "at least one is hidden"
    assert all(occlusion[0] <= rate <= occlusion[1] for rate in hidden)
    above = np.zeros(SIZE, dtype=bool)
    for layer, item in reversed(list(enumerate(scene.objects))):
        assert item.layer == layer
        assert item.source is not None
        assert item.amodal.sum() == cutouts[item.source].mask.sum(), "whole objects lie inside the scene"
        assert np.array_equal(item.visible, item.amodal & ~above)
        above |= item.amodal
    assert [item.source for item in scene.objects] == sorted(item.source or 0 for item in scene.objects)


def test_most_requests_can_be_met() -> None:
    rng = np.random.default_rng(0)
    scenes = [compose_pasted(rng, random_discs(rng, 5), background(), occlusion=(0.2, 0.6)) for _ in range(200)]
    made = [scene for scene in scenes if scene is not None]
    assert len(made) > 190
    rates = np.array([item.occlusion_rate for scene in made for item in scene.objects])
    assert np.mean(rates > 0) > 0.3
    quarters, _ = np.histogram(rates[rates > 0], bins=4, range=(0.2, 0.6))
    assert quarters.min() > 0.1 * quarters.sum(), "all rates occur"


def test_the_picture_agrees_with_the_masks() -> None:
    rng = np.random.default_rng(3)
    behind = background()
    before = behind.copy()
    scene = compose_pasted(rng, random_discs(rng, 6), behind, occlusion=(0.2, 0.6))
    assert scene is not None
    assert np.array_equal(behind, before)
    for item in scene.objects:
        seen = scene.image[item.visible].astype(int)
        color = 20 * (item.source or 0) + 20
        assert np.abs(np.median(seen) - color) <= 1
        # a pixel of the mask shows the object to half or more
        assert np.mean(np.abs(seen - color) <= 0.5 * np.abs(color - 130) + 75) > 0.95
    covered = np.any([item.amodal for item in scene.objects], axis=0)
    changed = (scene.image != behind).any(axis=2)
    assert changed[covered].mean() > 0.99
    assert changed[~covered].sum() < 0.35 * covered.sum(), "soft edges reach a little farther"
    assert changed.mean() < 0.9


def test_the_same_state_gives_the_same_scene() -> None:
    cutouts = random_discs(np.random.default_rng(1), 5)
    scenes = [compose_pasted(np.random.default_rng(9), cutouts, background(), occlusion=(0.2, 0.6)) for _ in range(2)]
    assert scenes[0] is not None
    assert scenes[1] is not None
    assert np.array_equal(scenes[0].image, scenes[1].image)
    other = compose_pasted(np.random.default_rng(10), cutouts, background(), occlusion=(0.2, 0.6))
    assert other is None or not np.array_equal(scenes[0].image, other.image)


@pytest.mark.parametrize(
    "cutouts",
    [[], [disc(40, 40)], [disc(60, 60), disc(16, 16)], [disc(200, 40), disc(40, 40)]],
    ids=["nothing", "one alone", "too small to hide half", "too large for the scene"],
)
def test_an_impossible_request_gives_no_scene(cutouts: list[Cutout]) -> None:
    for seed in range(10):
        assert compose_pasted(np.random.default_rng(seed), cutouts, background(), occlusion=(0.5, 0.9)) is None


def test_an_object_without_a_pixel_is_left_out() -> None:
    empty = Cutout(np.zeros((30, 30, 3), np.uint8), np.full((30, 30), 0.4, np.float32), 0, 99)
    rng = np.random.default_rng(0)
    scene = compose_pasted(rng, [empty, disc(40, 40), disc(40, 40)], background(), occlusion=(0.2, 0.6))
    assert scene is not None
    assert [item.source for item in scene.objects] == [7, 7]


def test_prepared_objects_have_the_wanted_size_and_a_soft_edge() -> None:
    rng = np.random.default_rng(0)
    for scale in (0.6, 1.0, 1.7):
        prepared = prepare(rng, disc(60, 80), scale=scale, side=400)
        assert prepared.alpha.shape == (round(60 * scale), round(80 * scale)) == prepared.image.shape[:2]
        area = np.pi / 4 * 60 * 80 * scale**2
        assert 0.85 * area < prepared.mask.sum() < area, "a little inside of the outline"
        soft = (prepared.alpha > 0.02) & (prepared.alpha < 0.98)
        assert soft.sum() > 0.5 * np.pi * 70 * scale, "a pixel or more along the outline"
    assert (prepared.label, prepared.source) == (1, 7)


def test_prepared_objects_are_neither_tiny_nor_larger_than_the_scene() -> None:
    rng = np.random.default_rng(0)
    large = prepare(rng, disc(300, 100), scale=3, side=200)
    assert max(large.alpha.shape) == round(LARGEST * 200)
    tiny = prepare(rng, disc(60, 60), scale=0.01, side=200)
    assert np.sqrt(tiny.alpha.sum()) == pytest.approx(SMALLEST, rel=0.15)


def test_half_of_the_objects_are_mirrored() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = 255
    lopsided = Cutout(image, np.ones((40, 60), np.float32), 0, 1)
    rng = np.random.default_rng(0)
    left = [prepare(rng, lopsided, scale=1, side=400).image[:, :30].mean() > 128 for _ in range(200)]
    assert 70 < sum(left) < 130


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"occlusion": (0.0, 0.5)}, "above 0"),
        ({"occlusion": (0.5, 0.4)}, "0.5 to 0.4"),
        ({"occlusion": (0.5, 0.95)}, "0.9"),
        ({"occlusion": (float("nan"), 0.5)}, "nan"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (2.0, 1.0)}, "scale"),
        ({"scale": (1.0, 11.0)}, "scale"),
        ({"objects": (1, 5)}, "from 2"),
        ({"objects": (5, 4)}, "5 to 4"),
    ],
)
def test_invalid_rules_are_errors(wrong: dict[str, tuple[float, float]], words: str) -> None:
    with pytest.raises(BCNetError, match=words) as caught:
        PasteRule(**wrong)  # type: ignore[arg-type]
    assert caught.value.exit_code == ExitCode.USAGE
