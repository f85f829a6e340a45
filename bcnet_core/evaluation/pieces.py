"""Pieces of instances: what a detector found in one view of an image, and several of them as one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.files.windows import Window
from bcnet_core.masks.indexed import Extent, IndexedMask, hull, overlap
from bcnet_core.structures import Instances

AGREE = 0.5
"""IoU from which two masks, in the pixels that both views show, are of one object."""
NEAR_EDGE = 0.01
"""Distance to an edge of a tile, in sides of it, up to which an instance may be cut there: masks are coarse."""

ALONE = 0.5
"""Factor for the score of what only the view of the whole image shows: it is often a heap of small objects."""


class View(NamedTuple):
    """What was found in one view of an image.

    Attributes:
        window: a tile, or all of the image, at low resolution.
        instances: in the frame of the image.
    """

    window: Window
    instances: Instances

    @property
    def extent(self) -> Extent:
        """The pixels that it shows."""
        x, y, width, height = self.window
        return x, y, x + width, y + height


class Piece:
    """One instance of one view.

    Attributes:
        view: position of the view.
        index: position in the instances of the view.
        shown: the pixels that the view shows.
        is_overview: whether the view is all of the image.
        score: in [0, 1].
        label: index of its class.
        box: (4,) float32, the detected box, xyxy.
        masks: by the names of their maps.
        visible: its visible mask.
        whole: its whole mask, if it was predicted.
        extent: the pixels of its masks.
        is_cut: whether it comes close to an edge of its tile that is not one of the image.
    """

    def __init__(self, view: View, number: int, index: int) -> None:
        found = view.instances
        self.view, self.index, self.shown = number, index, view.extent
        self.is_overview = view.window.is_whole(found.image_size)
        self.score, self.label, self.box = float(found.scores[index]), int(found.labels[index]), found.boxes[index]
        self.masks = {name: rles[index] for name, rles in found.masks.items()}
        self.visible = IndexedMask(self.masks["occludee_mask"])
        self.whole = IndexedMask(self.masks["amodal_mask"]) if "amodal_mask" in self.masks else None
        self.extent = hull(*(one.extent for one in (self.visible, self.whole) if one is not None and one.area))
        self.is_cut = self._is_cut(*found.image_size)

    def _is_cut(self, height: int, width: int) -> bool:
        left, top, right, bottom = self.shown
        near = max(1, NEAR_EDGE * max(right - left, bottom - top))
        first, last = self.box.tolist(), self.extent if self.extent[2] else self.box.tolist()
        return (
            (left > 0 and min(first[0], last[0]) < left + near)
            or (top > 0 and min(first[1], last[1]) < top + near)
            or (right < width and max(first[2], last[2]) > right - near)
            or (bottom < height and max(first[3], last[3]) > bottom - near)
        )

    @property
    def longer_side(self) -> int:
        """Height or width of its masks, pixels."""
        x0, y0, x1, y1 = self.extent
        return max(x1 - x0, y1 - y0)

    def agreement(self, other: Piece) -> float | None:
        """Return the IoU of two pieces in the pixels that both views show, of whole masks if nothing is visible.

        None if neither has a pixel there: nothing tells whether they are one object.
        """
        within = overlap(self.shown, other.shown)
        found = self.visible.agreement(other.visible, within)
        if found is None and self.whole is not None and other.whole is not None:
            return self.whole.agreement(other.whole, within)
        return found


class Group:
    """Pieces of different views that are one object.

    Attributes:
        pieces: the pieces.
        views: the views that show them.
        label: index of its class.
        best_score: the best of theirs: the view that shows an object best is surest of it.
        score: the same, but `ALONE` times that if only the view of the whole image shows it.
        box: (4,) float32, xyxy.
        is_fragment: whether no view shows all of it.
        masks: by the names of their maps: those of the view that shows all of it, if there is one, else their unions.
        visible: its visible mask.
    """

    def __init__(self, pieces: Sequence[Piece], stride: int) -> None:
        self.pieces, self.views = list(pieces), {piece.view for piece in pieces}
        self.label, self.best_score = pieces[0].label, max(piece.score for piece in pieces)
        best = _best(pieces, stride)
        tiles = [piece for piece in pieces if not piece.is_overview]
        self.score = self.best_score * (1 if tiles else ALONE)
        self.is_fragment = best is None and len(tiles) == len(pieces)
        taken = tiles if best is None else [best]
        corners = np.stack([piece.box for piece in taken])
        self.box: NDArray[np.float32] = np.concatenate([corners[:, :2].min(0), corners[:, 2:].max(0)])
        self.masks = {name: masks.union([piece.masks[name] for piece in taken]) for name in taken[0].masks}
        self.visible = taken[0].visible if len(taken) == 1 else IndexedMask(self.masks["occludee_mask"])

    @property
    def extent(self) -> Extent:
        """The pixels of its visible mask."""
        return self.visible.extent

    def contradicts(self, other: Group) -> bool:
        """Return whether one view shows both, or two views that show the same pixels do not agree on them."""
        if not self.views.isdisjoint(other.views):
            return True
        found = (one.agreement(another) for one in self.pieces for another in other.pieces)
        return any(agreement is not None and agreement < AGREE for agreement in found)


def _best(pieces: Sequence[Piece], stride: int) -> Piece | None:
    """Return the piece that shows all of an object, if there is one.

    No edge cuts it, and no other goes beyond its tile. Without one, it is that of the image as a whole where it is the
    only one, or the object is larger than the stride of the tiles, so that they show parts of it.
    """
    tiles = [piece for piece in pieces if not piece.is_overview]
    around = hull(*(piece.extent for piece in pieces if piece.extent[2]))
    complete = [piece for piece in tiles if not piece.is_cut and overlap(piece.shown, around) == around]
    if complete:
        return max(complete, key=lambda piece: piece.score)
    for piece in pieces:
        if piece.is_overview and (not tiles or piece.longer_side > stride):
            return piece
    return None
