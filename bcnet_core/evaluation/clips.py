"""Clips: videos, or folders of frames, as images that are predicted one by one, and the tracks of their instances."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.evaluation.inputs import NO_SIZE, image_records, matches_of
from bcnet_core.evaluation.tracks import Frame, Tracker
from bcnet_core.files.image_headers import SUFFIXES as IMAGE_SUFFIXES
from bcnet_core.files.images import image_files
from bcnet_core.files.videos import inspect_video
from bcnet_core.masks.order import FrontPair
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Instances


class Clips(NamedTuple):
    """Clips and their frames, in the order of time.

    Attributes:
        videos: a record for each clip: `id` from 1, `file_name` (of the video or folder), `width`, `height`, `length`
            (number of frames), and of a video `announced`, the number of frames that it claims to have.
        images: entries of a COCO file's `images`, one for each frame: `id`, `file_name` (of the video or picture),
            `width`, `height`, `video_id`, `frame` (from 0) and, of a video, `time` in seconds.
        short: names of videos that end early.
    """

    videos: list[Record]
    images: list[Record]
    short: list[str]


def is_frame(image: Record) -> bool:
    """Return whether an entry of `Clips.images` is a frame inside a video, rather than a picture."""
    return "time" in image


def find_clips(names: Sequence[str]) -> list[Path]:
    """Return the clips that a command line names, each once: videos, folders of frames, and patterns of them.

    Raises:
        BCNetError: if a name or pattern names nothing, or a folder holds no image.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        clips = [path] if path.exists() else matches_of(name)
        if not clips:
            raise data_error(f"`{name}` names no video", "give videos, folders of frames, or a pattern: 'clips/*.mp4'")
        found |= dict.fromkeys(clips)
    for path in found:
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            raise data_error(
                f"`{path}` is a picture, not a video", f"give the folder of a clip's frames: '{path.parent}'"
            )
        if path.is_dir() and not image_files(path):
            raise data_error(
                f"`{path}` contains no image, so it is no folder of frames", f"its videos are a pattern: '{path}/*.mp4'"
            )
    return list(found)


def read_clips(paths: Sequence[Path], *, reporter: Reporter) -> Clips:
    """List the frames of clips; those of videos are counted by decoding them.

    Raises:
        BCNetError: if a video cannot be read or holds no frame, or the frames of a folder have several sizes.
    """
    clips = Clips([], [], [])
    for number, path in enumerate(paths, start=1):
        images, announced = _folder_frames(path) if path.is_dir() else _video_frames(path, clips.short, reporter)
        size = {"width": images[0]["width"], "height": images[0]["height"]}
        clips.videos.append({"id": number, "file_name": str(path), **size, "length": len(images), **announced})
        before = len(clips.images)
        clips.images.extend(
            {**image, "id": before + place, "video_id": number, "frame": place - 1}
            for place, image in enumerate(images, start=1)
        )
    return clips


def _video_frames(path: Path, short: list[str], reporter: Reporter) -> tuple[list[Record], Record]:
    info = inspect_video(path, reporter=reporter)
    if info.ends_early:
        short.append(str(path))
    height, width = info.size
    name = str(path)
    return (
        [{"file_name": name, "width": width, "height": height, "time": time} for time in info.times],
        {"announced": info.announced},
    )


def _folder_frames(folder: Path) -> tuple[list[Record], Record]:
    files = image_files(folder)
    folders = list(dict.fromkeys(path.parent for path in files))
    if len(folders) > 1:
        raise data_error(
            f"the frames in `{folder}` lie in {len(folders):,} folders, `{folders[0]}` and `{folders[1]}` "
            + ("among them" if len(folders) > 2 else "are they"),
            f"give the folder of each clip: '{folder}/*'",
        )
    images = image_records(sorted(files, key=_numerically), None)
    sizes: dict[tuple[int, int], str] = {}
    for image in images:
        sizes.setdefault((image["height"], image["width"]), image["file_name"])
    sizes.pop(NO_SIZE, None)  # told when the pixels are read
    if len(sizes) > 1:
        (first, one), (second, other) = list(sizes.items())[:2]
        raise data_error(
            f"the frames in `{folder}` have several sizes: `{Path(one).name}` has {first[1]} x {first[0]} pixels, "
            f"`{Path(other).name}` {second[1]} x {second[0]}",
            "give a folder for each clip",
        )
    return images, {}


def _numerically(path: Path) -> list[tuple[int, str]]:
    """Return the key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def short_error(clips: Clips) -> BCNetError:
    """Return the error about videos that end early; what could be read of them is written."""
    read = {video["file_name"]: (video["length"], video["announced"]) for video in clips.videos if "announced" in video}
    length, announced = read[clips.short[0]]
    more = f" (and {len(clips.short) - 1:,} more videos)" if len(clips.short) > 1 else ""
    return BCNetError(
        f"`{clips.short[0]}` ends early: {length:,} of {announced:,} frames can be read, and have results{more}",
        "copy or record it again",
    )


def tracked(
    images: Sequence[Record], read: Callable[[], Iterator[Instances]], *, begin: float
) -> Iterator[tuple[Instances, list[int]]]:
    """Yield the instances of each frame that belong to a track, with the numbers of their tracks.

    A track has the class that the scores of its instances vote for. Frames are read twice; what is held of each is a
    number for every instance.

    Args:
        images: frames, those of a clip together and in the order of time.
        read: starts to read the instances of the frames.
        begin: score from which a detection begins a track.
    """
    numbers: list[NDArray[np.int32]] = []
    votes: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    clip, first = None, 1
    for image, found in zip(images, read(), strict=True):
        if image["video_id"] != clip:
            clip, tracker = image["video_id"], Tracker(begin=begin, first=first)
        now = tracker.update(frame_of(found))
        first = max([first, *(number + 1 for number in now)])
        numbers.append(np.array(now, np.int32))
        for number, label, score in zip(now, found.labels.tolist(), found.scores.tolist(), strict=True):
            votes[number][label] += score
    label_of = {number: max(scores, key=lambda label: scores[label]) for number, scores in votes.items()}
    for known, found in zip(numbers, read(), strict=True):
        kept = np.flatnonzero(known)
        tracks = known[kept].tolist()
        labels = np.array([label_of[number] for number in tracks], np.int64)
        yield _chosen(found, kept)._replace(labels=labels), tracks


def frame_of(found: Instances) -> Frame:
    """Return instances as a tracker takes them."""
    return Frame(
        found.masks["occludee_mask"], found.scores.tolist(), found.labels.tolist(), found.masks.get("amodal_mask"),
        found.order or (),
    )  # fmt: skip


def _chosen(found: Instances, kept: NDArray[np.intp]) -> Instances:
    """Return the instances at these positions, in rising order."""
    place = {index: position for position, index in enumerate(kept.tolist())}
    pairs = None
    if found.order is not None:
        pairs = [
            FrontPair(place[front], place[back]) for front, back in found.order if front in place and back in place
        ]
    rles = {name: [values[index] for index in place] for name, values in found.masks.items()}
    return Instances(found.boxes[kept], found.scores[kept], found.labels[kept], found.image_size, rles, pairs)


def number_results(results: Iterable[Record], tracks: Sequence[int]) -> list[Record]:
    """Return COCO results with the `track_id` of each."""
    return [{**result, "track_id": track} for result, track in zip(results, tracks, strict=True)]
