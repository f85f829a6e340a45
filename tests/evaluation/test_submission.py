import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import BCNetError, masks
from bcnet_core.annotations.coco import CocoFile
from bcnet_core.evaluation.submission import write_submission

LIST = CocoFile(
    Path("image_info_test-dev2017.json"),
    {"images": [{"id": 4, "file_name": "4.jpg", "width": 8, "height": 6}], "categories": [{"id": 1, "name": "x"}]},
)


def result(**changes: Any) -> dict[str, Any]:
    segmentation = masks.to_json(masks.from_box(0, 0, 1, 1, 6, 8))
    return {
        "image_id": 4,
        "category_id": 1,
        "bbox": [0, 0, 1, 1],
        "score": 0.5,
        "segmentation": segmentation,
        **changes,
    }


def test_the_zip_holds_one_file_of_the_right_name_and_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_submission(tmp_path / name, LIST, [[result()]])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["detections_test-dev2017_bcnet_results.json"]
        assert json.loads(archive.read(archive.namelist()[0])) == [result()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 5}, "image 5 is not in"),
        ({"category_id": 2}, "category 2 is not in"),
        ({"segmentation": {"size": [8, 6], "counts": "0k1"}}, r"an RLE of size \[8, 6\] in an image of 6 x 8"),
        ({"score": float("nan")}, "its score is nan"),
        ({"score": 1.5}, "its score is 1.5"),
        ({"segmentation": None}, "it has no mask"),
    ],
)
def test_what_the_server_would_refuse_is_refused_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BCNetError, match=message):
        write_submission(tmp_path / "a.zip", LIST, [[result()], [result(**changes)]])
    assert list(tmp_path.iterdir()) == []


def test_more_than_a_hundred_detections_are_refused(tmp_path: Path) -> None:
    write_submission(tmp_path / "a.zip", LIST, [[result()]] * 100)
    with pytest.raises(BCNetError, match="image 4 has more than 100 detections"):
        write_submission(tmp_path / "b.zip", LIST, [[result()] * 101])
