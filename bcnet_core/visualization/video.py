"""Videos with a detector's predictions drawn on them; one frame is held at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from bcnet_core.config.choices import LayerChoice
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.files.videos import open_video
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Predictor
from bcnet_core.visualization.draw import paint
from bcnet_core.visualization.drawing import Image
from bcnet_core.visualization.instances import detect
from bcnet_core.visualization.panels import draw_panels
from bcnet_core.visualization.picture import Instance, Picture, mask_ious, match_greedily

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""Codecs that OpenCV's wheels can write, by suffix."""
PANEL_KEYS: dict[LayerChoice, tuple[str, ...]] = {
    "both": ("instances", "occluder"),
    "occludee": ("instances",),
    "occluder": ("occluder",),
}
"""Panels side by side in a frame."""
SAME_IOU = 0.3
"""Mask IoU from which an instance keeps its color from one frame to the next."""
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

    An instance that is found again in the next frame keeps its color. Sound is not copied. The output has the frames
    and the rate of the source, and appears only when complete. `layer` "occludee" or "occluder" draws one panel alone;
    `boxes` draws the boxes of the instances, too.
    """
    check_video_suffix(output.resolve())
    with open_video(source) as capture, atomic_file(output) as temporary:
        announced = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        writer, frames, instances = None, 0, 0
        try:
            with reporter.progress("frames", announced) as progress:
                for image, found in _drawn_frames(detector, capture, score=score, layer=layer, boxes=boxes):
                    writer = writer or _open_writer(temporary, image, rate if 0 < rate < 1000 else RATE)
                    writer.write(np.ascontiguousarray(image[..., ::-1]))
                    frames, instances = frames + 1, instances + found
                    progress.advance(note=f"{found} instances")
        finally:
            if writer is not None:
                writer.release()
        if not frames:
            raise data_error(f"`{source}` holds no frame that OpenCV can read")
        if _count(temporary) != frames:  # OpenCV does not report a full disk
            raise BCNetError(f"`{output}` could not be written in full", "is there room on the disk?")
    return VideoSummary(frames, instances, frames >= announced)


def follow(before: Sequence[Instance], now: Sequence[Instance], fresh: Iterator[int]) -> tuple[Instance, ...]:
    """Give the instances of a frame, best first, the colors they had in the previous frame, else fresh ones."""
    matches = match_greedily(mask_ious(now, before), SAME_IOU)
    return tuple(
        replace(instance, color=next(fresh) if match is None else before[match].color)
        for instance, match in zip(now, matches, strict=True)
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
    before: tuple[Instance, ...] = ()
    fresh = count()
    while (read := capture.read())[0] and read[1].size:
        frame = np.ascontiguousarray(read[1][..., ::-1])
        before = follow(before, detect(detector, frame, score=score, at_least=0), fresh)
        height, width = frame.shape[:2]
        panels = draw_panels(Picture("", frame, before), layer=layer, boxes=boxes, size=(height, width))
        image = np.concatenate([paint(panels[key]) for key in PANEL_KEYS[layer]], axis=1)
        bottom, right = height % 2, image.shape[1] % 2  # codecs reject odd sizes
        yield np.asarray(cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.uint8), len(before)


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
