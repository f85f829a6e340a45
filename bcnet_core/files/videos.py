"""Videos, read by OpenCV one frame at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core.errors import BCNetError, data_error
from bcnet_core.reporting import Reporter

RECENT = 4
"""Frames that a reader keeps, as many as threads may read ahead."""
SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})
"""Suffixes of videos, in lower case."""
FASTEST = 1000.0
"""Frames per second from which a rate is not believed."""


class VideoInfo(NamedTuple):
    """What a video holds.

    Attributes:
        size: (H, W) of its frames in pixels, upright.
        times: when each frame that can be read is shown, in seconds.
        announced: number of frames that the file claims to have; 0 if it claims none.
        rate: frames per second; None if the file does not tell.
    """

    size: tuple[int, int]
    times: list[float]
    announced: int
    rate: float | None

    @property
    def ends_early(self) -> bool:
        """Whether more than a second is missing; a container may round, or count the length of the sound."""
        return self.announced - len(self.times) > (self.rate or 0)


@contextmanager
def open_video(path: Path) -> Iterator[Any]:
    """Open a video as a cv2.VideoCapture, with the messages of OpenCV and ffmpeg silenced.

    Raises:
        BCNetError: if there is no such file, or it is not a video that OpenCV can read.
    """
    if path.is_dir():
        raise data_error(
            f"`{path}` is a folder, not a video", "draw its pictures one by one: bcnet viz RUN --images DIR"
        )
    if not path.is_file():
        raise data_error(f"the video `{path}` does not exist")
    log = getattr(cv2.utils, "logging", cv2)  # OpenCV 4 has its log level in cv2 itself
    level = log.setLogLevel(0)  # nothing
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise data_error(
                f"`{path}` is not a video that OpenCV can read", "is the file complete? if so, convert it to mp4"
            )
        yield capture
    finally:
        capture.release()
        log.setLogLevel(level)


def frame_rate(capture: Any) -> float | None:  # noqa: ANN401  (cv2.VideoCapture)
    """Return the frames per second of an open video; None if it does not tell."""
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < FASTEST else None


def announced_frames(capture: Any) -> int:  # noqa: ANN401
    """Return the number of frames that an open video claims to have; 0 if it claims none."""
    return max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)


def no_frame(path: Path) -> BCNetError:
    """Return the error of a video without a frame."""
    return data_error(f"`{path}` holds no frame that OpenCV can read", "is the file complete?")


def inspect_video(path: Path, *, reporter: Reporter) -> VideoInfo:
    """Count the frames of a video that can be read, which decodes all of them: what a file announces may be wrong.

    Raises:
        BCNetError: if it is no video, or holds no frame.
    """
    with open_video(path) as capture:
        announced = announced_frames(capture)
        there, first = capture.read()
        if not there or not first.size:
            raise no_frame(path)
        times: list[float] = []
        with reporter.progress(f"counting the frames of {path.name}", announced) as progress:
            while there:
                times.append(round(float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000, 3))
                progress.advance()
                there = capture.grab()
        return VideoInfo(first.shape[:2], times, announced, frame_rate(capture))


class FrameReader:
    """Reads frames by their number; the next ones cost least, an earlier one means to decode the video from its start.

    One video is open at a time. Threads may share a reader and be a little out of order: the last `RECENT` frames are
    kept.
    """

    def __init__(self) -> None:
        self._lock, self._closing = Lock(), ExitStack()
        self._capture: Any = None
        self._path: Path | None = None
        self._next = 0
        self._recent: dict[int, NDArray[np.uint8]] = {}

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def read(self, path: Path, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a frame, counted from 0, as (H, W, 3) uint8 RGB of this (H, W) in pixels.

        Raises:
            BCNetError: if the frame cannot be read, or has another size.
        """
        with self._lock:
            if path != self._path or (number < self._next and number not in self._recent):
                self._open(path)
            while number not in self._recent:
                self._advance(number)
            frame = self._recent[number]
        if frame.shape[:2] != size:
            raise data_error(
                f"frame {number:,} of `{path}` has {frame.shape[1]} x {frame.shape[0]} pixels, the first one "
                f"{size[1]} x {size[0]}",
                "convert it to a video of one size",
            )
        return np.ascontiguousarray(frame[..., ::-1])

    def _open(self, path: Path) -> None:
        self._path = None
        self._closing.close()
        self._recent.clear()
        self._capture, self._path, self._next = self._closing.enter_context(open_video(path)), path, 0

    def _advance(self, number: int) -> None:
        """Decode the next frame, on the way to this one."""
        there = bool(self._capture.grab())
        if there and self._next > number - RECENT:
            there, self._recent[self._next] = self._capture.retrieve()
            self._recent.pop(self._next - RECENT, None)
        if not there:
            self._recent.pop(self._next, None)
            raise data_error(f"frame {number:,} of `{self._path}` cannot be read any more", "has the file changed?")
        self._next += 1
