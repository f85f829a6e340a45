"""`bcnet predict --video` on drawn videos."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from bcnet_core.evaluation.parts import Part
from bcnet_core.evaluation.prediction_file import PredictionFile
from bcnet_core.evaluation.tiles import Tiling, tile_windows
from bcnet_core.files import videos
from bcnet_core.files.windows import Window
from bcnet_core.structures import Instances
from tests.conftest import Bcnet
from tests.visualization.test_video import make_video


def size_of(path: Path) -> tuple[int, int]:
    """Return the (height, width) of a video."""
    with videos.open_video(path) as capture:
        return round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), round(capture.get(cv2.CAP_PROP_FRAME_WIDTH))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "in.mp4", frames=5)


def test_results_and_tracks_agree(untrained: Path, video: Path, bcnet: Bcnet) -> None:
    out = video.with_name("out.json")
    arguments = ("predict", untrained, video, "--video", "--score", "0", "--device", "cpu", "-o", out)
    done = bcnet(*arguments, "--json", "--format", "ytvis")
    assert done.returncode == 0, done.stderr
    counts, results = json.loads(done.stdout), json.loads(out.read_text())
    assert counts["images"] == 5 and counts["detections"] == len(results)
    assert (
        counts["tracks"] == len({one["track_id"] for one in results}) == len({one["track_id"] for one in results[:5]})
    )
    tracks = json.loads(out.with_name("out_ytvis").joinpath("results.json").read_text())
    found = [one for track in tracks for one in track["segmentations"] if one]
    assert len(tracks) == counts["tracks"] and len(found) == len(results)
    for refused, said in (("--ids-from", "--ids-from has no meaning with --video"), ("--format", "format of photos")):
        again = bcnet(*arguments, "--overwrite", refused, "labels")
        assert again.returncode == 2 and said in again.stderr


def test_frames_are_predicted_in_tiles(
    untrained: Path, video: Path, bcnet: Bcnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = video.with_name("out.json"), list[tuple[int, Window | None]]()
    original = PredictionFile.append

    def remember(file: PredictionFile, part: Part, found: Instances) -> None:
        seen.append((part.image["frame"], part.window))
        original(file, part, found)

    monkeypatch.setattr(PredictionFile, "append", remember)
    options = ("--video", "--tile", "80", "--score", "0", "--device", "cpu", "-o", out, "--json")
    done = bcnet("predict", untrained, video, *options)
    assert done.returncode == 0, done.stderr
    height, width = size_of(video)
    windows = tile_windows(height, width, Tiling(80, 0.2))
    assert len(windows) > 2 and seen == [(frame, window) for frame in range(5) for window in windows]
    counts, results = json.loads(done.stdout), json.loads(out.read_text())
    assert counts["images"] == 5 and counts["tracks"] == len({one["track_id"] for one in results}) > 0
    assert all(one["segmentation"]["size"] == [height, width] for one in results)


def test_an_interrupted_video_resumes_with_the_frames_that_are_left(
    untrained: Path, video: Path, bcnet: Bcnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = video.with_name("whole.json"), video.with_name("out.json")
    arguments = ("predict", untrained, video, "--video", "--score", "0", "--device", "cpu", "-o")
    assert bcnet(*arguments, whole).returncode == 0
    seen: list[int] = []
    original = PredictionFile.append

    def fail_at_three(file: PredictionFile, part: Part, found: Instances) -> None:
        seen.append(part.image["frame"])
        if len(seen) == 3:
            raise KeyboardInterrupt
        original(file, part, found)

    monkeypatch.setattr(PredictionFile, "append", fail_at_three)
    assert bcnet(*arguments, out).returncode == 130 and not out.exists()
    assert bcnet(*arguments, out).returncode == 0
    assert seen == [0, 1, 2, 2, 3, 4] and out.read_bytes() == whole.read_bytes()


def test_a_video_that_ends_early_is_written_and_fails(
    untrained: Path, video: Path, bcnet: Bcnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "announced_frames", lambda capture: 99)
    out = video.with_name("out.json")
    done = bcnet("predict", untrained, video, "--video", "--device", "cpu", "-o", out)
    assert done.returncode == 1 and "ends early: 5 of 99 frames can be read" in " ".join(done.stderr.split())
    assert out.exists()
