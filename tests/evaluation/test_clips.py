"""Clips: which frames there are, and the tracks of a job of frames as COCO results, MOTS and YouTube-VIS."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from bcnet_core import BCNetError, ExitCode, masks
from bcnet_core.evaluation import clip_outputs
from bcnet_core.evaluation.clips import find_clips, read_clips, short_error
from bcnet_core.evaluation.parts import Part
from bcnet_core.evaluation.prediction_file import PredictionFile
from bcnet_core.evaluation.prediction_job import PredictionJob
from bcnet_core.evaluation.prediction_outputs import output_paths, write_predictions
from bcnet_core.files import videos
from bcnet_core.files.videos import FrameReader
from bcnet_core.masks.order import FrontPair
from bcnet_core.reporting import SilentReporter
from bcnet_core.structures import Instances
from tests.visualization.test_video import frames_of, make_video

SIZE = (90, 120)
CATEGORIES = [{"id": 3, "name": "leaf"}, {"id": 8, "name": "stem"}]


def test_frames_of_videos_have_times_and_those_of_folders_their_order(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", frames=3)
    (tmp_path / "frames").mkdir()
    for number in (10, 9, 1):
        cv2.imwrite(str(tmp_path / f"frames/f{number}.png"), np.zeros((*SIZE, 3), np.uint8))
    clips = read_clips(find_clips([str(tmp_path / "*.mp4"), str(tmp_path / "frames")]), reporter=SilentReporter())
    assert [(one["id"], one["video_id"], one["frame"], one.get("time")) for one in clips.images] == [
        (1, 1, 0, 0.0), (2, 1, 1, 0.1), (3, 1, 2, 0.2), (4, 2, 0, None), (5, 2, 1, None), (6, 2, 2, None),
    ]  # fmt: skip
    assert [Path(one["file_name"]).name for one in clips.images[3:]] == ["f1.png", "f9.png", "f10.png"]
    assert {(one["height"], one["width"]) for one in clips.images + clips.videos} == {SIZE}
    assert [one["length"] for one in clips.videos] == [3, 3] and not clips.short


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "junk.mp4").write_bytes(b"no video " * 99)
    for clip in ("one", "two"):
        (tmp_path / "clips" / clip).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"clips/{clip}/0.png"), np.zeros((40, 50, 3), np.uint8))
    for number, size in enumerate([(40, 50), (60, 50)]):
        cv2.imwrite(str(tmp_path / f"mixed/{number}.png"), np.zeros((*size, 3), np.uint8))
    for name, said in (
        ("none.mp4", "names no video"), ("empty", "contains no image"), ("junk.mp4", "is not a video"),
        ("clips", "lie in 2 folders"), ("clips/one/0.png", "is a picture, not a video"),
        ("mixed", "several sizes: `0.png` has 50 x 40 pixels, `1.png` 50 x 60"),
    ):  # fmt: skip
        with pytest.raises(BCNetError, match=said) as error:
            read_clips(find_clips([str(tmp_path / name)]), reporter=SilentReporter())
        assert error.value.exit_code == ExitCode.BAD_DATA
    assert len(read_clips(find_clips([str(tmp_path / "clips/*")]), reporter=SilentReporter()).videos) == 2


def test_a_video_that_ends_early_is_told_with_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", frames=6)
    monkeypatch.setattr(videos, "announced_frames", lambda capture: 16)
    assert not read_clips([path], reporter=SilentReporter()).short, "a second may be the container's rounding"
    monkeypatch.setattr(videos, "announced_frames", lambda capture: 17)
    error = short_error(read_clips([path], reporter=SilentReporter()))
    assert "ends early: 6 of 17 frames can be read" in error.message and error.exit_code == ExitCode.FAILED


def test_frames_are_read_by_number_in_almost_any_order(tmp_path: Path) -> None:
    path, other = make_video(tmp_path / "a.mp4", frames=9), make_video(tmp_path / "b.mp4", frames=2)
    with FrameReader() as reader:
        for source, number in [(path, 0), (path, 3), (path, 1), (path, 8), (path, 8), (path, 2), (other, 1), (path, 5)]:
            assert np.array_equal(reader.read(source, number, SIZE), frames_of(source)[number])
        with pytest.raises(BCNetError, match=r"frame 9 of .* cannot be read any more"):
            reader.read(path, 9, SIZE)
        with pytest.raises(BCNetError, match="120 x 90 pixels, the first one 50 x 40"):
            reader.read(path, 1, (40, 50))


def job(folder: Path, *, disjoint: bool = False) -> PredictionJob:
    """Return two clips of 3 and 2 frames: a leaf that is once taken for a stem, a weak one that begins no track."""
    videos = [
        {"id": 1, "file_name": str(folder / "a.mp4"), "width": 120, "height": 90, "length": 3},
        {"id": 2, "file_name": str(folder / "b.mp4"), "width": 120, "height": 90, "length": 2},
    ]
    images = [
        {
            "id": number, "file_name": videos[clip]["file_name"], "width": 120, "height": 90, "video_id": clip + 1,
            "frame": frame, "time": frame / 10,
        }
        for number, (clip, frame) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)], start=1)
    ]  # fmt: skip
    file = PredictionFile(folder / "out_predictions.jsonl")
    file.open({})
    weak, still = masks.from_box(90, 60, 110, 80, *SIZE), masks.from_box(10, 10, 50, 50, *SIZE)
    for place, image in enumerate(images):
        moving = masks.from_box(40 + 4 * place, 20, 70 + 4 * place, 40, *SIZE)
        rles, scores, labels = [moving, still, weak], [0.9, 0.8, 0.3], [1 if place == 1 else 0, 1, 0]
        order = [FrontPair(0, 1), FrontPair(2, 1)]
        if place == 2:
            rles, scores, labels, order = [still], [0.8], [1], []
        found = Instances(
            np.zeros((len(rles), 4), np.float32), np.array(scores, np.float32), np.array(labels, np.int64), SIZE,
            {"occludee_mask": rles, "amodal_mask": rles}, order,
        )  # fmt: skip
        file.append(Part(image, 0), found)
    return PredictionJob(
        folder / "model.pt", "cpu", images, None, file, disjoint=disjoint, videos=videos, begin=0.5
    )  # fmt: skip


def test_results_have_tracks_and_the_class_that_scores_vote_for(tmp_path: Path) -> None:
    written = write_predictions(job(tmp_path), CATEGORIES, output_paths(tmp_path / "out.json", of_clips=True))
    assert (written.images, written.detections, written.tracks) == (5, 9, 4)
    results = json.loads((tmp_path / "out.json").read_text())
    assert [(one["image_id"], one["track_id"], one["category_id"], one["hides"]) for one in results] == [
        (1, 1, 3, [1]), (1, 2, 8, []), (2, 1, 3, [1]), (2, 2, 8, []), (3, 2, 8, []),
        (4, 3, 3, [1]), (4, 4, 8, []), (5, 3, 3, [1]), (5, 4, 8, []),
    ]  # fmt: skip
    listing = json.loads((tmp_path / "out_images.json").read_text())
    assert [one["length"] for one in listing["videos"]] == [3, 2] and listing["images"][1]["time"] == 0.1


def test_formats_of_clips_hold_the_same_tracks(tmp_path: Path) -> None:
    paths = output_paths(tmp_path / "out.json", ["mots", "ytvis"], of_clips=True)
    assert paths.is_disjoint
    write_predictions(job(tmp_path, disjoint=True), CATEGORIES, paths)
    results = json.loads((tmp_path / "out.json").read_text())
    rows = [line.split(" ") for line in (tmp_path / "out_mots/a.txt").read_text().splitlines()]
    assert [row[:5] for row in rows] == [
        ["0", "3001", "3", "90", "120"], ["0", "8001", "8", "90", "120"], ["1", "3001", "3", "90", "120"],
        ["1", "8001", "8", "90", "120"], ["2", "8001", "8", "90", "120"],
    ]  # fmt: skip
    assert [row[5] for row in rows] == [one["segmentation"]["counts"] for one in results[:5]]
    both = [{"size": list(SIZE), "counts": row[5].encode()} for row in rows[:2]]
    assert coco_mask.area(coco_mask.merge(both, intersect=True)) == 0
    assert len((tmp_path / "out_mots/b.txt").read_text().splitlines()) == 4
    tracks = json.loads((tmp_path / "out_ytvis/results.json").read_text())
    assert [(one["video_id"], one["category_id"], round(one["score"], 3)) for one in tracks] == [
        (1, 3, 0.9), (1, 8, 0.8), (2, 3, 0.9), (2, 8, 0.8),
    ]  # fmt: skip
    assert tracks[0]["segmentations"] == [results[0]["segmentation"], results[2]["segmentation"], None]
    assert [len(one["segmentations"]) for one in tracks] == [3, 3, 2, 2]


def test_more_tracks_than_mots_can_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_outputs, "MOST_OF_A_CLASS", 0)
    with pytest.raises(BCNetError, match="more than 0 tracks of category 3, which MOTS cannot number"):
        write_predictions(
            job(tmp_path, disjoint=True), CATEGORIES, output_paths(tmp_path / "out.json", ["mots"], of_clips=True)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["out_predictions.jsonl"]


def test_formats_of_photos_and_of_videos_do_not_mix(tmp_path: Path) -> None:
    for formats, of_clips, said in (
        (["labels"], True, "`labels` is a format of photos"), (["ytvis"], False, "`ytvis` is a format of videos"),
    ):  # fmt: skip
        with pytest.raises(BCNetError, match=said) as error:
            output_paths(tmp_path / "out.json", formats, of_clips=of_clips)
        assert error.value.exit_code == ExitCode.USAGE
