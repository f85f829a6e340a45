"""Videos with predictions drawn on them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bcnet_core import masks
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.evaluation.tracks import Tracker
from bcnet_core.reporting import SilentReporter
from bcnet_core.structures import Detections
from bcnet_core.visualization import drawing, video
from bcnet_core.visualization.picture import Instance
from bcnet_core.visualization.video import VideoSummary, draw_video, with_tracks


def make_video(path: Path, *, frames: int = 6, size: tuple[int, int] = (120, 90)) -> Path:
    """Gray frames, each a little lighter than the one before, ten a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 60 + 5 * number, np.uint8))
    writer.release()
    return path


class Mover:
    """Finds a box that moves to the right, and a weak one."""

    categories = ({"id": 1, "name": "box"},)

    def __init__(self) -> None:
        self.frames: list[tuple[int, ...]] = []

    def predict(self, images: list[Any], /) -> list[Detections]:
        (image,) = images
        self.frames.append(image.shape)
        x = 5.0 + 4 * len(self.frames)
        maps = torch.full((2, 28, 28), 0.9)
        boxes = torch.tensor([[x, 20, x + 40, 60], [60, 20, 100, 70]])
        scores, labels = torch.tensor([0.9, 0.2]), torch.zeros(2, dtype=torch.int64)
        return [Detections(boxes, scores, labels, image.shape[:2], {"occludee_mask": maps, "occluder_mask": maps * 0})]


def draw_it(source: Path, output: Path, detector: Mover, **options: Any) -> VideoSummary:
    return draw_video(
        detector, source, output, **{"score": 0.5, "layer": "both", "reporter": SilentReporter(), **options}
    )


def frames_of(path: Path) -> list[Any]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = capture.read()
        if not there:
            return frames
        frames.append(frame[..., ::-1])


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".MP4"])
def test_every_frame_is_drawn(tmp_path: Path, suffix: str) -> None:
    detector, output = Mover(), tmp_path / f"out{suffix}"
    assert draw_it(make_video(tmp_path / "in.mp4"), output, detector) == (6, 6, True)
    assert detector.frames == [(90, 120, 3)] * 6
    frames = frames_of(output)
    assert len(frames) == 6 and frames[0].shape == (90, 240, 3)  # instances, and the occluder layer beside them
    assert cv2.VideoCapture(str(output)).get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    orange = np.array(drawing.instance_color(0))
    for number, frame in enumerate(frames, start=1):
        inside = frame[30:50, 5 + 4 * number + 10 : 5 + 4 * number + 30].reshape(-1, 3).mean(axis=0)
        ground = 55 + 5 * number
        assert np.abs(inside - (ground + (orange - ground) * 0.45)).max() < 20
        assert np.abs(frame[80:, :120].reshape(-1, 3).mean(axis=0) - ground).max() < 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", output.name]


def test_one_layer_and_odd_sizes(tmp_path: Path) -> None:
    source = tmp_path / "in.png"  # a video of one frame
    cv2.imwrite(str(source), np.full((91, 121, 3), 100, np.uint8))
    assert draw_it(source, tmp_path / "out.mp4", Mover(), layer="occludee").frames == 1
    assert frames_of(tmp_path / "out.mp4")[0].shape == (92, 122, 3)


def test_colors_and_numbers_follow_their_instances() -> None:
    def box(x: int) -> Instance:
        return Instance("box", (x, 0, x + 20, 20), masks.from_box(x, 0, x + 20, 20, 50, 100), score=0.9)

    tracker = Tracker()
    frames = [with_tracks(tracker, [box(x) for x in places]) for places in ((0, 50), (52, 2, 80), (4, 54))]
    assert [[one.color for one in frame] for frame in frames] == [[0, 1], [1, 0, 2], [0, 1]]
    assert frames[1][0].label == "box 2 0.90"


def test_files_that_are_not_videos_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = make_video(tmp_path / "in.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "junk.mp4").write_bytes(b"no video " * 99)
    (tmp_path / "empty.mp4").touch()
    for name in ("cut.mp4", "junk.mp4", "empty.mp4", "none.mp4"):
        with pytest.raises(BCNetError, match=name) as error:
            draw_it(tmp_path / name, tmp_path / "out.mp4", Mover())
        assert error.value.exit_code == ExitCode.BAD_DATA
    with pytest.raises(BCNetError, match="cannot write a video") as error:
        draw_it(tmp_path / "in.mp4", tmp_path / "out.gif", Mover())
    assert error.value.exit_code == ExitCode.USAGE
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    class Failing(Mover):
        def predict(self, images: list[Any], /) -> list[Detections]:
            if len(self.frames) == 3:
                raise KeyboardInterrupt
            return super().predict(images)

    source = make_video(tmp_path / "in.mp4")
    with pytest.raises(KeyboardInterrupt):
        draw_it(source, tmp_path / "out.mp4", Failing())
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_an_incomplete_video_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / "in.mp4")
    monkeypatch.setattr(video, "_count", lambda path: 5)  # as on a full disk, where OpenCV says nothing
    with pytest.raises(BCNetError, match="could not be written in full"):
        draw_it(source, tmp_path / "out.mp4", Mover())
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
