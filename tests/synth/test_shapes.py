"""Composed scenes: masks, layers and picture agree."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcnet_core.synth import outlines, shapes
from bcnet_core.synth.outlines import CLASSES, POSES, Capsule, Pose, Shape
from bcnet_core.synth.scenes import Floats, Mask, Scene
from bcnet_core.synth.shapes import MIN_SIDE, MIN_VISIBLE, compose_scene


def compose(seed: int, height: int = 128, width: int = 128, *, hard: bool = False) -> Scene:
    return compose_scene(np.random.default_rng(seed), height=height, width=width, hard=hard)


def pose_of(kind: str, seed: int) -> Pose:
    return POSES[kind](np.random.default_rng(seed))


def jointed(kind: str, seed: int, diameter: float) -> Shape:
    """Return a shape with room around it, not aligned with the pixel grid."""
    rng = np.random.default_rng(seed)
    x, y = 64 + rng.uniform(-0.5, 0.5, size=2)
    return Shape(kind, x, y, diameter / 2, angle=rng.uniform(0, 6), pose=POSES[kind](rng))


def no_seams(parts: list[Floats], *, width: float) -> Floats:
    return np.zeros_like(parts[0]) / width


def joined(mask: Mask, connectivity: int) -> bool:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)[0] == 2


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [compose(seed) for seed in range(80)]


@pytest.fixture(scope="module")
def heaps() -> list[Scene]:
    return [compose(seed, hard=True) for seed in range(40)]


@pytest.mark.parametrize("hard", [False, True])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(MIN_SIDE, 150), width=st.integers(MIN_SIDE, 150))
def test_every_pixel_belongs_to_the_topmost_amodal_mask(hard: bool, seed: int, height: int, width: int) -> None:
    scene = compose(seed, height, width, hard=hard)
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert [item.layer for item in scene.objects] == list(range(len(scene.objects)))
    topmost = np.full((height, width), -1)
    for item in scene.objects:
        topmost[item.amodal] = item.layer
    for item in scene.objects:
        assert np.array_equal(item.visible, topmost == item.layer)
    assert np.sum([item.visible for item in scene.objects], axis=0).max() == 1


def test_no_object_is_fully_hidden_and_rates_are_hidden_shares(many: list[Scene], heaps: list[Scene]) -> None:
    for scene in many + heaps:
        assert scene.objects[-1].occlusion_rate == 0
        for item in scene.objects:
            hidden = (item.amodal & ~item.visible).sum() / item.amodal.sum()
            assert item.occlusion_rate == pytest.approx(hidden)
            assert hidden <= 1 - MIN_VISIBLE


def test_the_same_seed_gives_the_same_scene() -> None:
    first, again, other = compose(5), compose(5), compose(6)
    assert np.array_equal(first.image, again.image)
    assert all(np.array_equal(a.visible, b.visible) for a, b in zip(first.objects, again.objects, strict=True))
    assert not np.array_equal(first.image, other.image)


def test_number_size_and_classes_are_as_documented(many: list[Scene]) -> None:
    counts = [len(scene.objects) for scene in many]
    assert set(counts) <= {1, 2, 3, 4, 5, 6}
    assert np.mean([count >= 3 for count in counts]) > 0.95
    objects = [item for scene in many for item in scene.objects]
    sides = [max(np.ptp(axis) + 1 for axis in item.amodal.nonzero()) for item in objects]
    assert min(sides) >= 20
    assert max(sides) <= 70
    labels = np.bincount([item.label for item in objects], minlength=len(CLASSES))
    assert CLASSES == ("disc", "box", "star", "figure", "worm")
    assert len(labels) == len(CLASSES)
    assert labels.min() > 0.6 * labels.sum() / len(CLASSES)
    areas = [np.mean([item.amodal.sum() for item in objects if item.label == label]) for label in range(len(CLASSES))]
    assert min(areas) > 0.5 * max(areas)


def test_overlap_is_frequent_but_not_extreme(many: list[Scene]) -> None:
    rates = np.array([item.occlusion_rate for scene in many for item in scene.objects])
    assert 0.3 < (rates >= 0.1).mean() < 0.6
    assert 0.15 < (rates >= 0.3).mean() < 0.4


def test_a_hard_scene_is_a_heap_of_one_class(many: list[Scene], heaps: list[Scene]) -> None:
    for scene in heaps:
        assert len({item.label for item in scene.objects}) == 1
        assert 1 <= len(scene.objects) <= 8
    assert {scene.objects[0].label for scene in heaps} == set(range(len(CLASSES)))
    assert np.mean([len(scene.objects) for scene in heaps]) > np.mean([len(scene.objects) for scene in many])
    normal, heaped = (
        np.mean([item.occlusion_rate for scene in scenes for item in scene.objects]) for scenes in (many, heaps)
    )
    assert heaped > 1.3 * normal


def test_a_hard_scene_has_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object is painted from the same state: the same colors and the same texture."""
    states: list[dict[str, object]] = []
    surface = shapes.surface

    def spy(rng: np.random.Generator, u: Floats, v: Floats, radius: float) -> Floats:
        states.append(dict(rng.bit_generator.state["state"]))
        return surface(rng, u, v, radius)

    monkeypatch.setattr(shapes, "surface", spy)
    looks = []
    for hard in (True, False):
        states.clear()
        scenes = [compose(seed, hard=hard) for seed in range(3)]
        assert len(states) == sum(len(scene.objects) for scene in scenes)
        looks.append(len({tuple(state.values()) for state in states}))
    assert looks == [3, len(states)]


def test_a_scene_is_not_hard_by_default() -> None:
    default = compose_scene(np.random.default_rng(5), height=128, width=128)
    normal, hard = compose(5, hard=False), compose(5, hard=True)
    assert np.array_equal(default.image, normal.image)
    for one, other in zip(default.objects, normal.objects, strict=True):
        assert np.array_equal(one.visible, other.visible) and np.array_equal(one.amodal, other.amodal)
    assert not np.array_equal(default.image, hard.image)


def test_colors_do_not_reveal_the_class(many: list[Scene]) -> None:
    objects = [(scene.image[item.visible].mean(0), item.label) for scene in many for item in scene.objects]
    means = [np.mean([color for color, label in objects if label == wanted], axis=0) for wanted in range(len(CLASSES))]
    assert np.ptp(means, axis=0).max() < 40


@pytest.mark.parametrize("top", CLASSES)
def test_the_picture_agrees_with_the_masks(top: str, many: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one layer drawn white and all else black, the white pixels are the layer's visible mask."""
    seed, plain = next(
        (seed, scene)
        for seed, scene in enumerate(many)
        if CLASSES[scene.objects[-1].label] == top and len(scene.objects) > 3
    )
    monkeypatch.setattr(shapes, "background", lambda _rng, h, w: np.zeros((h, w, 3), dtype=np.float32))
    monkeypatch.setattr(shapes, "shade", lambda _slant, distance, *_, **__: np.ones_like(distance))
    monkeypatch.setattr(outlines, "seams", no_seams)
    for item in plain.objects:
        calls = iter(range(len(plain.objects)))

        def surface(*args: np.ndarray, calls=calls, layer=item.layer) -> np.ndarray:  # noqa: ANN001
            return np.full((*args[1].shape, 3), float(next(calls) == layer))

        monkeypatch.setattr(shapes, "surface", surface)
        shown = compose(seed).image[..., 0] / 255
        assert not (shown > 0.55)[~item.visible].any()
        inside = cv2.erode(item.visible.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert (shown[inside] > 0.3).all()
        if item.layer == len(plain.objects) - 1:
            clear = np.abs(shown - 0.5) > 0.05
            assert np.array_equal((shown > 0.5)[clear], item.visible[clear])


def test_objects_stand_out_from_the_background(many: list[Scene]) -> None:
    def colorfulness(pixels: np.ndarray) -> float:
        return float(np.ptp(pixels.astype(int), axis=-1).mean())

    for scene in many[:20]:
        covered = np.any([item.amodal for item in scene.objects], axis=0)
        assert colorfulness(scene.image[covered]) > 1.3 * colorfulness(scene.image[~covered])


def test_a_side_that_is_too_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="64 pixels or more"):
        compose(0, MIN_SIDE - 1, 200)


# --- jointed objects


@pytest.mark.parametrize("kind", POSES)
@pytest.mark.parametrize("diameter", [18, 19, 34, 66])
def test_a_jointed_object_is_in_one_piece(kind: str, diameter: float) -> None:
    """Larger ones are connected by more than a corner."""
    for seed in range(60):
        mask = jointed(kind, seed, diameter).mask(128, 128)
        assert joined(mask, connectivity=4 if diameter > 30 else 8)


def test_jointed_objects_of_a_scene_are_in_one_piece(many: list[Scene]) -> None:
    """Also at the border of the image."""
    found = [item for scene in many for item in scene.objects if CLASSES[item.label] in POSES]
    assert len(found) > 80
    assert all(joined(item.amodal, connectivity=8) for item in found)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(list(POSES)))
def test_a_pose_fills_the_unit_disc_and_keeps_its_joints_together(seed: int, kind: str) -> None:
    pose = pose_of(kind, seed)
    ends = np.array(pose).reshape(-1, 2, 3)  # (P, 2, 3): part, end, (u, v, radius)
    assert (np.hypot(ends[..., 0], ends[..., 1]) + ends[..., 2]).max() == pytest.approx(1)
    for number, end in enumerate(ends[1:, 0], start=1):  # each part starts inside a lower one
        discs = ends[:number].reshape(-1, 3)
        assert (np.hypot(discs[:, 0] - end[0], discs[:, 1] - end[1]) < discs[:, 2] + 0.7 * end[2]).any()
    assert 5 <= len(pose) <= 7 if kind == "worm" else len(pose) == 10


@pytest.mark.parametrize("kind", POSES)
def test_poses_differ_and_the_limbs_are_thick(kind: str) -> None:
    masks = [replace(jointed(kind, 0, 40), pose=pose_of(kind, seed)).mask(128, 128) for seed in range(40)]
    pairs = [(masks[a], masks[b]) for a in range(40) for b in range(a)]
    assert np.median([(a & b).sum() / (a | b).sum() for a, b in pairs]) < 0.7
    assert max((a & b).sum() / (a | b).sum() for a, b in pairs) < 0.95
    thinnest = min(min(part.radius, part.end_radius) for seed in range(40) for part in pose_of(kind, seed))
    assert thinnest * 40 > 5.5  # pixels of width in a figure of 40


def test_every_joint_of_a_figure_varies() -> None:
    """The angle between the two parts of each limb differs from figure to figure."""
    poses = np.array([pose_of("figure", seed)[2:] for seed in range(40)]).reshape(40, 4, 2, 2, 3)
    along = poses[..., 1, :2] - poses[..., 0, :2]  # (40, limbs, parts of a limb, (u, v))
    turns = np.arctan2(along[..., 0], along[..., 1])  # (40, limbs, parts of a limb)
    bends = np.angle(np.exp(1j * (turns[..., 1] - turns[..., 0])))
    assert (bends.std(axis=0) > 0.2).all()
    assert (np.abs(bends) < 1.6).all()
    assert np.array_equal(poses[:, :, 0, 1, :2], poses[:, :, 1, 0, :2])  # both parts meet in one joint


@pytest.mark.parametrize("kind", POSES)
def test_turning_the_last_joint_moves_only_that_part(kind: str) -> None:
    shape = jointed(kind, 3, 60)
    *rest, last = shape.pose
    turned = last._replace(end_u=2 * last.u - last.end_u, end_v=2 * last.v - last.end_v)
    before, after = shape.mask(128, 128), replace(shape, pose=(*rest, turned)).mask(128, 128)
    without = replace(shape, pose=tuple(rest)).mask(128, 128)
    assert (before & ~after).sum() > 20
    assert np.array_equal(without & before, without)
    assert np.array_equal(without & after, without)


@pytest.mark.parametrize("part", [Capsule(-0.5, 0.2, 0.4, 0.3, -0.4, 0.2), Capsule(0.1, -0.2, 0.6, 0.1, -0.2, 0.6)])
def test_a_capsule_is_the_union_of_its_discs(part: Capsule) -> None:
    v, u = (np.mgrid[-30:31, -30:31] + 0.3).astype(np.float32)
    share = np.linspace(0, 1, 2001)[:, None, None]
    du, dv = u - 25 * (part.u + share * (part.end_u - part.u)), v - 25 * (part.v + share * (part.end_v - part.v))
    by_hand = (np.hypot(du, dv) - 25 * (part.radius + share * (part.end_radius - part.radius))).min(axis=0)
    assert np.allclose(outlines.capsule(u, v, 25, part), by_hand, atol=1e-3)


def test_seams_run_only_where_a_part_ends_on_a_lower_one() -> None:
    v, u = (np.mgrid[-20:21, -20:21]).astype(np.float32)
    lower, upper = np.hypot(u, v) - 15, np.hypot(u - 12, v) - 10
    lines = outlines.seams([lower, upper], width=1.0)
    assert np.array_equal(lines > 0, (lower < 0) & (np.abs(upper) < 1))
    assert lines[20, 22] == 1  # u = 2, v = 0: on the upper outline
    covered = outlines.seams([lower, upper, np.full_like(upper, -5)], width=1.0)
    assert not covered.any()
    assert not outlines.seams([lower], width=1.0).any()
    third = np.hypot(u - 18, v) - 2  # on the upper part, beside the lower one
    assert outlines.seams([lower, upper, third], width=1.0)[20, 36] == 1


def test_seams_are_drawn_darker(monkeypatch: pytest.MonkeyPatch) -> None:
    with_seams = compose(5)
    monkeypatch.setattr(outlines, "seams", no_seams)
    plain = compose(5)
    for item in plain.objects:
        darker = with_seams.image[item.visible].mean() < plain.image[item.visible].mean() - 4
        assert darker == (CLASSES[item.label] in POSES)
