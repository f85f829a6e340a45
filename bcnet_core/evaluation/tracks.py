"""Tracks: one number for an instance over the frames of a clip, by mask overlap and by who is in front.

Association follows ByteTrack (Zhang et al., ECCV 2022): confident detections are assigned first, weak ones then
continue the tracks that were left; a track without a detection lives on for a while. Masks replace its boxes. They need
no Kalman filter, whose gates and covariances are those of boxes: a mask is expected where its last displacements lead.

What overlap alone cannot do is done with occlusion. A track is compared with what can be seen of it behind the others;
where no whole masks are detected, what they cover is remembered; and one that vanishes behind another lives longer than
one that vanishes in the open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bcnet_core import masks
from bcnet_core.masks import RLE
from bcnet_core.masks.order import FrontPair, hidden_by

BEGIN = 0.5
"""Score from which a detection begins a track."""
WEAK_SHARE = 0.2
"""Share of `BEGIN` from which a detection continues a track; ByteTrack's 0.1 of 0.5."""
CONFIDENT_IOU, WEAK_IOU = 0.2, 0.5
"""IoU from which a detection continues a track; ByteTrack's values for its two rounds."""
OTHER_LABEL = 0.7
"""Factor of the IoU with a detection of another class: classes flicker, and objects of two classes meet."""
OPEN_FRAMES, HIDDEN_FRAMES = 30, 150
"""Frames that a track lives on without a detection where nothing covers it, and in all."""
GROWTH = 1.1
"""Size of a mask completed by what is covered: beyond this multiple of the most that was ever seen it is drift, and
below this multiple of what is seen as good as seen."""
COVERED = 0.5
"""Share of a lost track that others cover if it is hidden."""
SHORT, LONG = 2, 10
"""Displacements whose mean leads to the next frame, and beyond a gap, where its error grows with every frame."""


class Frame(NamedTuple):
    """The N instances of one frame, best first; all masks of one size.

    Attributes:
        visible: N masks of what is seen.
        scores: N, in [0, 1].
        labels: N classes.
        whole: N whole masks; None if the detector does not predict them.
        order: pairs of instances of which the first is known to be in front.
    """

    visible: Sequence[RLE]
    scores: Sequence[float]
    labels: Sequence[Hashable]
    whole: Sequence[RLE] | None = None
    order: Iterable[FrontPair] = ()


@dataclass(eq=False)
class _Track:
    """A live track.

    Attributes:
        mask: where it was when it was last detected, with what others covered of it.
        path: latest detections that nothing covers, each with its frame, counted from the first, and the (x, y) of its
            center.
        largest: largest number of its pixels that were seen at once.
        age: frames from the first to the latest detection.
        missed: frames since it was detected; `in_open` of them with nothing in front of it.
        hides: numbers of the tracks that were known to be behind it then.
        place: where it is expected in the current frame, but for a `rest` of a pixel, which is
            `carried` over where positions are guesses; `over` are the positions of the instances that are seen there.
    """

    number: int
    mask: RLE
    label: Hashable
    largest: int
    age: int = 0
    missed: int = 0
    in_open: int = 0
    hides: set[int] = field(default_factory=set)
    path: deque[tuple[int, NDArray[np.float64]]] = field(init=False)
    place: RLE = field(init=False)
    over: list[int] = field(init=False)
    rest: NDArray[np.float64] = field(init=False)
    carried: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def __post_init__(self) -> None:
        self.path = deque([(0, _center(self.mask))], maxlen=LONG + 1)

    def expect(self, visible: Sequence[RLE]) -> bool:
        """Set `place` and `over` for the next frame, of these visible masks; return whether it is inside the image."""
        now, here = self.path[-1]
        count = SHORT if now == self.age + self.missed else LONG
        before, there = self.path[max(-1 - count, -len(self.path))]
        moved = (here - there) / max(now - before, 1) * (self.missed + 1) + self.carried
        x, y = np.rint(moved).astype(int).tolist()
        self.rest = moved - (x, y)
        self.place = masks.shifted(self.mask, x, y) if x or y else self.mask
        self.over = np.flatnonzero(masks.overlaps([self.place], visible)).tolist()
        return masks.area(self.place) > 0

    def continue_with(self, mask: RLE, seen: int, label: Hashable, *, is_guess: bool) -> None:
        """Take a detection, of which so many pixels are seen, as the latest; the others may be a guess."""
        self.age += self.missed + 1
        self.carried = self.rest if is_guess else np.zeros(2)
        if not is_guess:
            self.path.append((self.age, _center(mask)))
        self.mask, self.label, self.largest = mask, label, max(self.largest, seen)
        self.missed = self.in_open = 0

    def lives_on(self, scene: _Scene, numbers: Sequence[int]) -> bool:
        """Count a frame without a detection, and return whether the track is still waited for."""
        cover = scene.cover(self, {index for index, number in enumerate(numbers) if number in self.hides})
        self.missed += 1
        self.in_open += cover is None or masks.area(cover) < COVERED * masks.area(self.place)
        return self.in_open <= OPEN_FRAMES and self.missed <= HIDDEN_FRAMES


def _center(mask: RLE) -> NDArray[np.float64]:
    """Return the (x, y) of the center of a mask's box."""
    x, y, width, height = masks.bounding_box(mask)
    return np.array([x + width / 2, y + height / 2])


class Tracker:
    """Numbers the instances of one clip, frame by frame; time and memory are those of the tracks that live.

    Args:
        begin: score from which a detection begins a track; a fifth of it continues one.
        first: number of the first track.
    """

    def __init__(self, *, begin: float = BEGIN, first: int = 1) -> None:
        self._begin = begin
        self._numbers = count(first)
        self._tracks: list[_Track] = []

    def update(self, frame: Frame) -> list[int]:
        """Return the number of the track of each instance of the next frame; 0 if it belongs to none."""
        scene = _Scene(frame)
        tracks = [track for track in self._tracks if track.expect(frame.visible)]
        found = [index for index, mask in enumerate(scene.whole) if masks.area(mask)]
        confident = [index for index in found if frame.scores[index] >= self._begin]
        weak = [index for index in found if WEAK_SHARE * self._begin <= frame.scores[index] < self._begin]
        matches = _assign(tracks, confident, scene, CONFIDENT_IOU)
        lost = [track for track in tracks if track not in matches.values()]
        matches |= _assign([track for track in lost if not track.missed], weak, scene, WEAK_IOU)
        lost = [track for track in lost if track not in matches.values()]
        for index, track in matches.items():
            mask, is_guess = scene.completed(track, index)
            seen = masks.area(frame.visible[index])
            track.continue_with(mask, seen, frame.labels[index], is_guess=is_guess)
        for index in confident:
            if index not in matches:
                seen = masks.area(frame.visible[index])
                matches[index] = _Track(next(self._numbers), scene.whole[index], frame.labels[index], seen)
        for index, track in matches.items():
            track.hides = {matches[behind].number for behind in scene.behind[index] if behind in matches}
        numbers = [matches[index].number if index in matches else 0 for index in range(len(scene.whole))]
        self._tracks = [*matches.values(), *(track for track in lost if track.lives_on(scene, numbers))]
        return numbers


class _Scene:
    """A frame as its tracks are compared with it.

    Attributes:
        whole: N whole masks; the visible ones if no others are detected.
        behind: N positions of the instances that are known to be behind this one.
    """

    def __init__(self, frame: Frame) -> None:
        self.visible, self.labels = frame.visible, frame.labels
        self.amodal = frame.whole is not None
        self.whole = frame.visible if frame.whole is None else frame.whole
        self.behind = hidden_by(len(frame.visible), frame.order)

    def cover(self, track: _Track, but: Collection[int]) -> RLE | None:
        """Return what lies over a track where it is expected, of instances `but` these; None if nothing does."""
        over = [self.visible[index] for index in track.over if index not in but]
        return masks.intersection(track.place, masks.union(over)) if over else None

    def completed(self, track: _Track, index: int) -> tuple[RLE, bool]:
        """Return the mask of a track's detection, with what others cover of it, and whether that is a guess."""
        if self.amodal:
            return self.whole[index], False
        seen = self.visible[index]
        cover = self.cover(track, {index, *self.behind[index]})
        both = seen if cover is None else masks.union([seen, cover])
        pixels = masks.area(seen)
        if masks.area(both) > GROWTH * max(track.largest, pixels):
            return seen, False
        return both, masks.area(both) > GROWTH * pixels

    def similarities(self, tracks: Sequence[_Track], candidates: Sequence[int]) -> NDArray[np.float64]:
        """Return the (T, C) IoUs of tracks with instances.

        Without whole masks, the part of a track that others leave to be seen may fit better than all of it.
        """
        places = [track.place for track in tracks]
        table = masks.ious(places, [self.whole[index] for index in candidates])
        for row, column in [] if self.amodal else np.argwhere(table).tolist():
            index = candidates[column]
            cover = self.cover(tracks[row], {index, *self.behind[index]})
            if cover is not None and masks.area(rest := masks.difference(places[row], cover)):
                table[row, column] = max(table[row, column], masks.iou(rest, self.visible[index]))
        same = [[track.label == self.labels[index] for index in candidates] for track in tracks]
        return np.where(same, table, OTHER_LABEL * table)


def _assign(tracks: Sequence[_Track], candidates: Sequence[int], scene: _Scene, least: float) -> dict[int, _Track]:
    """Give instances, by position, to the tracks that they continue, so that the sum of the IoUs is the greatest."""
    if not tracks or not candidates:
        return {}
    table = scene.similarities(tracks, candidates)
    table[table < least] = 0
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {candidates[column]: tracks[row] for row, column in zip(rows, columns, strict=True) if table[row, column]}
