"""Write tracks in the formats of video benchmarks: MOTS and YouTube-VIS."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import usage_error
from bcnet_core.evaluation.photo_results import PhotoResults, WritePhoto, prepared
from bcnet_core.files.outputs import atomic_directory

MOST_OF_A_CLASS = 999
"""Instances of a class in a clip that MOTS can number: an id is 1,000 x class + number."""


@contextmanager
def mots(place: Path, _listing: Record) -> Iterator[WritePhoto]:
    """Write a folder of MOTS txt files, one for each clip (https://www.vision.rwth-aachen.de/page/mots).

    A line is `frame id class height width rle`: frames are counted from 0, as KITTI MOTS does; the class is the
    category id, and the id 1,000 x class + the number of the track among those of its class in the clip, from 1.
    """
    with atomic_directory(place) as folder:
        ids: dict[tuple[str, int], int] = {}  # by clip and track
        counts: Counter[tuple[str, int]] = Counter()

        def write(photo: PhotoResults) -> int:
            image = photo.image
            with prepared(folder / f"{photo.name}.txt").open("a", encoding="utf-8") as out:
                for result in photo.results:
                    key, label = (photo.name, result["track_id"]), result["category_id"]
                    if key not in ids:
                        counts[photo.name, label] += 1
                        ids[key] = 1000 * label + counts[photo.name, label]
                        if counts[photo.name, label] > MOST_OF_A_CLASS:
                            raise usage_error(
                                f"`{photo.name}` has more than {MOST_OF_A_CLASS} tracks of category {label}, which "
                                "MOTS cannot number",
                                "keep fewer with --score, or leave out --format mots",
                            )
                    rle = result["segmentation"]["counts"].decode()
                    out.write(f"{image['frame']} {ids[key]} {label} {image['height']} {image['width']} {rle}\n")
            return 0

        yield write


@contextmanager
def youtube_vis(place: Path, listing: Record) -> Iterator[WritePhoto]:
    """Write a folder with the `results.json` of YouTube-VIS (https://youtube-vos.org/dataset/vis).

    It is a list of tracks, each with its `video_id`, `category_id`, `score` (the mean of its instances') and
    `segmentations`, one for each frame, which are null where it was not found. The masks of one clip are in memory.
    """
    lengths = {video["id"]: video["length"] for video in listing["videos"]}
    with atomic_directory(place) as folder, (folder / "results.json").open("w", encoding="utf-8") as out:
        clip, comma = None, ""
        tracks: dict[int, list[tuple[int, Record]]] = defaultdict(list)

        def end_clip() -> None:
            nonlocal comma
            for found in tracks.values():
                out.write(comma + json.dumps(_track(found, clip, lengths[clip]), separators=(",", ":")))
                comma = ","
            tracks.clear()

        def write(photo: PhotoResults) -> int:
            nonlocal clip
            if photo.image["video_id"] != clip:
                end_clip()
                clip = photo.image["video_id"]
            for result in photo.results:
                tracks[result["track_id"]].append((photo.image["frame"], result))
            return 0

        out.write("[")
        yield write
        end_clip()
        out.write("]")


def _track(found: list[tuple[int, Record]], video_id: Any, length: int) -> Record:  # noqa: ANN401  (as the file has it)
    """Return one entry of YouTube-VIS results."""
    segmentations: list[Record | None] = [None] * length
    for frame, result in found:
        segmentations[frame] = masks.to_json(result["segmentation"])
    score = sum(result["score"] for _, result in found) / len(found)
    label = found[0][1]["category_id"]
    return {"video_id": video_id, "category_id": label, "score": score, "segmentations": segmentations}
