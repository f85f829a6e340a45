"""Videos with a detector's predictions drawn on them; one frame is held at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from bcnet_core.config.choices import LayerChoice
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.evaluation.tracks import Frame, Tracker
from bcnet_core.files.outputs import atomic_file
from bcnet_core.files.videos import announced_frames, frame_rate, no_frame, open_video
from bcnet_core.masks.order import FrontPair
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Predictor
from bcnet_core.visualization.draw import paint
from bcnet_core.visualization.drawing import Image
from bcnet_core.visualization.instances import detect
from bcnet_core.visualization.panels import draw_panels
from bcnet_core.visualization.picture import Instance, Picture

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""Codecs that OpenCV's wheels can write, by suffix."""
PANEL_KEYS: dict[LayerChoice, tuple[str, ...]] = {
    "both": ("instances", "occluder"),
    "occludee": ("instances",),
    "occluder": ("occluder",),
}
"""Panels side by side in a frame."""
RATE = 25.0
"""Frames per second of a video that does not specify them."""


class VideoSummary(NamedTuple):
    """Counts of a drawn video; `complete` if all frames that the file announces could be read."""

    frames: int
    instances: int
    complete: bool


def check_video_suffix(output: Path) -> None:
    """Require a suffix of a video that OpenCV's wheels can write."""
    if output.suffix.lower() not in CODECS:
        raise usage_error(f"cannot write a video as `{output.name}`", f"a name that ends in {', '.join(CODECS)}")


def draw_video(
    detector: Predictor,
    source: Path,
    output: Path,
    *,
    score: float,
    layer: LayerChoice,
    boxes: bool = False,
    reporter: Reporter,
) -> VideoSummary:
    """Draw a detector's predictions on every frame: the instances, and beside them the occluder layer.

    An instance keeps its color and the number of its track, see `bcnet_core.evaluation.tracks`. No sound is copied. The
    output has the frames and the rate of the source, and appears only when complete. `layer` "occludee" or "occluder"
    draws one panel alone; `boxes` draws the boxes of the instances, too.
    """
    check_video_suffix(output.resolve())
    with open_video(source) as capture, atomic_file(output) as temporary:
        announced, rate = announced_frames(capture), frame_rate(capture) or RATE
        writer, frames, instances = None, 0, 0
        try:
            with reporter.progress("frames", announced) as progress:
                for image, found in _drawn_frames(detector, capture, score=score, layer=layer, boxes=boxes):
                    writer = writer or _open_writer(temporary, image, rate)
                    writer.write(np.ascontiguousarray(image[..., ::-1]))
                    frames, instances = frames + 1, instances + found
                    progress.advance(note=f"{found} instances")
        finally:
            if writer is not None:
                writer.release()
        if not frames:
            raise no_frame(source)
        if _count(temporary) != frames:  # OpenCV does not report a full disk
            raise BCNetError(f"`{output}` could not be written in full", "is there room on the disk?")
    return VideoSummary(frames, instances, frames >= announced)


def with_tracks(tracker: Tracker, found: Sequence[Instance]) -> tuple[Instance, ...]:
    """Give the instances of the next frame, best first, the numbers of their tracks, and a color for each number."""
    seen = [one for one in found if one.occludee is not None]
    wholes = [one.whole for one in seen if one.whole is not None]
    order = [FrontPair(front, back) for front, one in enumerate(seen) for back in one.hides or ()]
    numbers = tracker.update(
        Frame(
            [one.occludee for one in seen if one.occludee is not None], [one.score or 0.0 for one in seen],
            [one.category for one in seen], wholes if len(wholes) == len(seen) else None, order,
        )
    )  # fmt: skip
    return tuple(
        replace(one, color=track - 1, category=f"{one.category} {track}") if track else one
        for one, track in zip(seen, numbers, strict=True)
    )


def _drawn_frames(
    detector: Predictor,
    capture: Any,  # noqa: ANN401  (cv2.VideoCapture)
    *,
    score: float,
    layer: LayerChoice,
    boxes: bool,
) -> Iterator[tuple[Image, int]]:
    """Yield each frame with the predictions drawn on it, and the number of its instances."""
    tracker = Tracker(begin=score)
    while (read := capture.read())[0] and read[1].size:
        frame = np.ascontiguousarray(read[1][..., ::-1])
        found = with_tracks(tracker, detect(detector, frame, score=score, at_least=0))
        height, width = frame.shape[:2]
        panels = draw_panels(Picture("", frame, found), layer=layer, boxes=boxes, size=(height, width))
        image = np.concatenate([paint(panels[key]) for key in PANEL_KEYS[layer]], axis=1)
        bottom, right = height % 2, image.shape[1] % 2  # codecs reject odd sizes
        yield np.asarray(cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.uint8), len(found)


def _open_writer(path: Path, image: Image, rate: float) -> cv2.VideoWriter:
    """Open a video for frames of the size of an image."""
    code = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(str(path), code, rate, (image.shape[1], image.shape[0]))
    if not writer.isOpened():
        raise BCNetError(f"OpenCV cannot write a `{path.suffix}` video here", "try another suffix")
    return writer


def _count(path: Path) -> int:
    """Count the frames of a video that can be decoded."""
    with open_video(path) as capture:
        frames = 0
        while capture.grab():
            frames += 1
        return frames
