"""Tracks over frames of drawn discs, whose numbers are known: none may change its own, whatever hides it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from bcnet_core import masks
from bcnet_core.evaluation.tracks import HIDDEN_FRAMES, OPEN_FRAMES, Frame, Tracker
from bcnet_core.masks.order import FrontPair, front_pairs

SIZE = (120, 200)
Path = Callable[[int], tuple[float, float, float]]
"""Center and radius of a disc in a frame, pixels."""


def disc(
    x: float, y: float, radius: float, size: tuple[int, int] = SIZE
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


def seen(
    discs: Sequence[tuple[float, float, float]], size: tuple[int, int] = SIZE, *, amodal: bool = False
) -> tuple[list[int], Frame]:
    """Return what an exact detector sees of discs, the first in front, and which: those of which a tenth is visible."""
    taken, found = np.zeros(size, bool), []
    for index, one in enumerate(discs):
        whole = disc(*one, size)
        if (whole & ~taken).sum() > 0.1 * whole.sum():
            found.append((index, masks.encode(whole & ~taken), masks.encode(whole)))
        taken |= whole
    if not found:
        return [], Frame([], [], [])
    known, visible, wholes = (list(part) for part in zip(*found, strict=True))
    order = front_pairs(visible, wholes, least=0) if amodal else []
    return known, Frame(visible, [0.9] * len(known), ["disc"] * len(known), wholes if amodal else None, order)


def follow(paths: Sequence[Path], frames: int, *, amodal: bool) -> list[set[int]]:
    """Return the numbers that each disc had."""
    tracker, numbers = Tracker(), [set[int]() for _ in paths]
    for frame in range(frames):
        known, found = seen([path(frame) for path in paths], amodal=amodal)
        for index, number in zip(known, tracker.update(found), strict=True):
            numbers[index].add(number)
    return numbers


@pytest.mark.parametrize("amodal", [False, True])
@pytest.mark.parametrize(
    "paths",
    [
        [lambda t: (100, 60, 30), lambda t: (20 + 2 * t, 60, 15)],
        [lambda t: (100, 60, 30), lambda t: (20 + t, 60, 15)],
        [lambda t: (180 - 2 * t, 60, 18), lambda t: (20 + 2 * t, 60, 18), lambda t: (100, 10 + t, 18)],
        [lambda t: (100, 60, 12), lambda t: (100 - 2.5 * (t - 40), 60, 25)],
    ],
    ids=["behind a large one", "slowly", "three of one size meet", "a small one before a large one"],
)
def test_numbers_stay_over_occlusion(paths: Sequence[Path], amodal: bool) -> None:
    assert follow(paths, 80, amodal=amodal) == [{number} for number in range(1, len(paths) + 1)]


def test_an_object_that_is_hidden_for_long_returns_with_its_number() -> None:
    """It is hidden for more frames than a track is waited for in the open."""
    wall, ball = (lambda t: (100.0, 60.0, 50.0)), (lambda t: (15 + 1.5 * t, 60.0, 16.0))
    hidden = [frame for frame in range(120) if len(seen([wall(frame), ball(frame)])[0]) == 1]
    assert OPEN_FRAMES < len(hidden) < HIDDEN_FRAMES
    assert follow([wall, ball], 120, amodal=False) == [{1}, {2}]


def blink(
    tracker: Tracker, visible: list[masks.RLE], others: list[masks.RLE], frames: int, hides: bool = False
) -> list[int]:
    """Show masks beside a ball, then for so many frames the others only, then again the masks; return their numbers."""
    both = [*visible, *others]
    order = [FrontPair(0, 1)] if hides else []
    tracker.update(Frame(both, [0.9] * len(both), [0] * len(both), order=order))
    for _ in range(frames):
        tracker.update(Frame(visible, [0.9] * len(visible), [0] * len(visible)))
    return tracker.update(Frame(both, [0.9] * len(both), [0] * len(both), order=order))


def test_a_track_lives_longer_behind_another_than_in_the_open() -> None:
    far, ball = masks.from_box(150, 60, 190, 100, *SIZE), masks.from_box(30, 30, 50, 50, *SIZE)
    assert blink(Tracker(), [far], [ball], OPEN_FRAMES) == [1, 2]
    assert blink(Tracker(), [far], [ball], OPEN_FRAMES + 1) == [1, 3]
    over = masks.from_box(20, 30, 45, 90, *SIZE)
    beside = masks.difference(ball, over)
    tracker = Tracker()
    tracker.update(Frame([ball], [0.9], [0]))
    for _ in range(HIDDEN_FRAMES):
        tracker.update(Frame([over], [0.9], [0]))
    assert tracker.update(Frame([over, beside], [0.9, 0.9], [0, 0])) == [2, 1]


def test_what_was_known_to_be_behind_a_track_does_not_hide_it() -> None:
    ball, behind = masks.from_box(30, 30, 50, 50, *SIZE), masks.from_box(0, 0, 200, 120, *SIZE)
    assert blink(Tracker(), [behind], [ball], OPEN_FRAMES + 1) == [1, 2]
    tracker = Tracker()
    tracker.update(Frame([ball, behind], [0.9, 0.9], [0, 0], order=[FrontPair(0, 1)]))
    for _ in range(OPEN_FRAMES + 1):
        tracker.update(Frame([behind], [0.9], [0]))
    assert tracker.update(Frame([behind, ball], [0.9, 0.9], [0, 0])) == [2, 3]


def test_weak_detections_continue_tracks_and_begin_none() -> None:
    one, other = masks.from_box(10, 10, 40, 40, *SIZE), masks.from_box(100, 10, 140, 40, *SIZE)
    tracker = Tracker(begin=0.5)
    assert tracker.update(Frame([one, other], [0.9, 0.4], [0, 0])) == [1, 0]
    assert tracker.update(Frame([other, one], [0.4, 0.11], [0, 0])) == [0, 1]
    assert tracker.update(Frame([one], [0.09], [0])) == [0]
    assert tracker.update(Frame([one], [0.3], [0])) == [0], "a weak detection finds no lost track again"
    assert tracker.update(Frame([one, other], [0.5, 0.5], [0, 0])) == [1, 2]


def test_classes_flicker_but_decide_between_equals() -> None:
    one = masks.from_box(10, 10, 40, 40, *SIZE)
    tracker = Tracker()
    assert tracker.update(Frame([one, one], [0.9, 0.8], ["cup", "bowl"])) == [1, 2]
    assert tracker.update(Frame([one, one], [0.9, 0.8], ["bowl", "cup"])) == [2, 1]
    assert tracker.update(Frame([one], [0.9], ["vase"])) != [3]


def test_empty_masks_and_frames_have_no_tracks() -> None:
    empty, one = masks.from_box(0, 0, 0, 0, *SIZE), masks.from_box(10, 10, 40, 40, *SIZE)
    tracker = Tracker(first=7)
    assert tracker.update(Frame([], [], [])) == []
    assert tracker.update(Frame([empty, one], [0.9, 0.8], [0, 0])) == [0, 7]
    assert tracker.update(Frame([empty], [0.9], [0])) == [0]
    assert tracker.update(Frame([one], [0.9], [0])) == [7]


def test_a_track_ends_where_it_leaves_the_image() -> None:
    tracker = Tracker()
    for x in (160, 168, 176, 184):
        assert tracker.update(Frame([masks.from_box(x, 50, x + 20, 70, *SIZE)], [0.9], [0])) == [1]
    tracker.update(Frame([], [], []))
    tracker.update(Frame([], [], []))
    assert tracker.update(Frame([masks.from_box(184, 50, 200, 70, *SIZE)], [0.9], [0])) == [2]


@pytest.mark.parametrize(("amodal", "least"), [(False, 0.9), (True, 0.98)])
def test_fifty_discs_keep_their_numbers_for_three_hundred_frames(amodal: bool, least: float) -> None:
    """Identities are measured as IDF1 is: detections of the best assignment of tracks to discs, among all."""
    size = (180, 320)
    random = np.random.default_rng(0)
    start, speed = random.uniform((10, 10), (310, 170), (50, 2)), random.uniform(-1.5, 1.5, (50, 2))
    radii = random.uniform(5, 12, 50)

    def place(frame: int) -> list[tuple[float, float, float]]:
        """Discs are reflected at the edges."""
        period = 2 * np.array([320, 180])
        where = (start + speed * frame) % period
        x, y = np.minimum(where, period - where).T
        return list(zip(x.tolist(), y.tolist(), radii.tolist(), strict=True))

    def drawn(frame: int) -> tuple[list[int], Frame]:
        """Paint the discs from back to front, so that each is seen where no later one is."""
        labels = np.zeros(size, np.uint8)
        for number, (x, y, radius) in reversed(list(enumerate(place(frame), start=1))):
            cv2.circle(labels, (round(x), round(y)), round(radius), number, -1)
        visible = masks.from_labels(labels)
        wholes = []
        for number in visible:
            x, y, radius = place(frame)[number - 1]
            pad = round(radius)
            alone = cv2.circle(np.zeros((2 * pad + 1, 2 * pad + 1), np.uint8), (pad, pad), pad, 1, -1)
            wholes.append(masks.from_window(alone > 0, round(x) - pad, round(y) - pad, *size))
        known, count = list(visible), len(visible)
        return known, Frame(list(visible.values()), [0.9] * count, [0] * count, wholes if amodal else None)

    frames = [drawn(frame) for frame in range(300)]
    tracker, table = Tracker(), np.zeros((51, 400), int)
    began = time.perf_counter()
    for known, found in frames:
        for index, number in zip(known, tracker.update(found), strict=True):
            table[index, number] += 1
    seconds = time.perf_counter() - began
    kept = table[linear_sum_assignment(table, maximize=True)].sum() / table.sum()
    assert kept >= least
    assert seconds < 60
