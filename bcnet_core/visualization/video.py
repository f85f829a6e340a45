"""What a detector finds in a video, drawn frame by frame; one frame is held at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from bcnet_core.config.choices import LayerChoice
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Predictor
from bcnet_core.visualization.detected import detect
from bcnet_core.visualization.draw import paint_drawing
from bcnet_core.visualization.drawing import Image
from bcnet_core.visualization.panels import render
from bcnet_core.visualization.picture import Instance, Picture, mask_ious

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""What OpenCV's own wheels can write, by suffix."""
SAME_IOU = 0.3
"""An instance keeps its color from one frame to the next from this mask IoU on."""
RATE = 25.0
"""Frames a second of a video that does not say."""


class VideoSummary(NamedTuple):
    """What was drawn.

    Attributes:
        frames: in the video.
        instances: shown in all frames together.
        complete: whether all the frames that the file promises could be read.
    """

    frames: int
    instances: int
    complete: bool


def refuse_unknown_suffix(output: Path) -> None:
    """Refuse to write a kind of video that OpenCV's wheels cannot write.

    Raises:
        BCNetError: naming those that they can.
    """
    if output.suffix.lower() not in CODECS:
        raise usage_error(f"no video can be written as `{output.name}`", f"a name that ends in {', '.join(CODECS)}")


def draw_video(
    detector: Predictor, source: Path, output: Path, *, score: float, layer: LayerChoice, reporter: Reporter
) -> VideoSummary:
    """Draw what a detector finds in every frame: the instances, and beside them the occluder layer.

    An instance that is found again in the next frame keeps its color. Sound is not copied.

    Args:
        detector: predicts one frame at a time.
        source: a video that OpenCV reads.
        output: a video of as many frames of the same rate; appears only when it is complete.
        score: detections below it are left out.
        layer: "both" draws two pictures side by side, "occludee" and "occluder" one of them.
        reporter: told of the progress.

    Raises:
        BCNetError: if the video cannot be read or written.
    """
    refuse_unknown_suffix(output.resolve())
    with _reader(source) as capture, atomic_file(output) as temporary:
        first = _read(capture)
        if first is None:
            raise data_error(f"`{source}` holds no frame that OpenCV can read")
        promised = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        drawn = _drawn_frames(detector, capture, first, score=score, layer=layer)
        frames, instances = _write(temporary, drawn, rate if 0 < rate < 1000 else RATE, promised, reporter)
        if _count(temporary) != frames:
            raise BCNetError(f"`{output}` could not be written in full", "is there room on the disk?")
    return VideoSummary(frames, instances, frames >= promised)


def follow(before: Sequence[Instance], now: Sequence[Instance], fresh: Iterator[int]) -> tuple[Instance, ...]:
    """The instances of a frame, in the colors that they had in the frame before.

    Args:
        before: the instances of that frame.
        now: those of this one, the best first; each takes the color of the one of its category that it covers best.
        fresh: the numbers of new colors.
    """
    ious = mask_ious(now, before)
    followed = []
    for index, layers in enumerate(now):
        best = int(ious[index].argmax()) if before else 0
        known = bool(before) and ious[index, best] >= SAME_IOU
        followed.append(replace(layers, color=before[best].color if known else next(fresh)))
        if known:
            ious[:, best] = 0
    return tuple(followed)


def _drawn_frames(
    detector: Predictor,
    capture: Any,  # noqa: ANN401  (cv2.VideoCapture)
    first: Image,
    *,
    score: float,
    layer: LayerChoice,
) -> Iterator[tuple[Image, int]]:
    """Each frame with what is drawn on it, and the number of its instances."""
    before: tuple[Instance, ...] = ()
    fresh = count()
    frame: Image | None = first
    keys = {"both": ("instances", "occluder"), "occludee": ("instances",), "occluder": ("occluder",)}[layer]
    while frame is not None:
        found, sure = detect(detector, frame, score=score)
        before = follow(before, found[:sure], fresh)
        height, width = frame.shape[:2]
        scenes = render(Picture("", frame, before), layer=layer, rois=0, size=(height, width)).panels
        yield _even(np.concatenate([paint_drawing(scenes[key]) for key in keys], axis=1)), sure
        frame = _read(capture)


def _even(image: Image) -> Image:
    """The image with its last row or column once more where their number is odd, which codecs refuse."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE))
    return image


def _write(
    path: Path, drawn: Iterator[tuple[Image, int]], rate: float, promised: int, reporter: Reporter
) -> tuple[int, int]:
    """Write all frames; returns their number and that of their instances."""
    writer, frames, instances = None, 0, 0
    try:
        with reporter.progress("frames", promised) as progress:
            for image, found in drawn:
                if writer is None:
                    code = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
                    writer = cv2.VideoWriter(str(path), code, rate, (image.shape[1], image.shape[0]))
                    if not writer.isOpened():
                        raise BCNetError(f"OpenCV cannot write a `{path.suffix}` video here", "try another suffix")
                writer.write(np.ascontiguousarray(image[..., ::-1]))
                frames, instances = frames + 1, instances + found
                progress.advance(note=f"{found} instances")
    finally:
        if writer is not None:
            writer.release()
    return frames, instances


def _count(path: Path) -> int:
    """How many frames of a video can be decoded."""
    with _reader(path) as capture:
        frames = 0
        while capture.grab():
            frames += 1
        return frames


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    """An open video, which nothing but an error of ours says anything about."""
    if not path.is_file():
        raise data_error(f"the video `{path}` does not exist")
    log = getattr(cv2.utils, "logging", cv2)  # OpenCV 4 has its log level in cv2 itself
    level = log.setLogLevel(0)  # nothing
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise data_error(f"`{path}` is no video that OpenCV can read", "convert it to mp4")
        yield capture
    finally:
        capture.release()
        log.setLogLevel(level)


def _read(capture: Any) -> Image | None:  # noqa: ANN401  (cv2.VideoCapture)
    """The next frame as (H, W, 3) uint8 RGB."""
    there, frame = capture.read()
    return np.ascontiguousarray(frame[..., ::-1]) if there and math.prod(frame.shape) else None
