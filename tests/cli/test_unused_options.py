"""An option that was typed but has no effect together with the others is an error, not silently ignored."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bcnet_cli.app import app
from tests.conftest import Bcnet

CASES = [
    ("annotate --check coco.json --format rle", "--format has no meaning with --check"),
    ("annotate --check coco.json --tolerance 2 --format rle", "--format and --tolerance have no meaning with --check"),
    ("eval --results r.json --gt coco.json --gpus 2", "--gpus has no meaning with --results"),
    ("eval --results r.json --gt coco.json --test-dev", "--test-dev has no meaning with --results"),
    ("eval --results r.json --gt coco.json --seed 1", "--seed has no meaning with --results"),
    ("eval runs/x --resamples 10", "--resamples has no meaning with a run"),
    ("eval --compare a.json b.json --gt coco.json --occ -o out", "--occ and --output have no meaning with --compare"),
    ("viz runs/x --video in.mp4 -o out.mp4 --rois 2", "--rois has no meaning with --video"),
    ("viz runs/x --video in.mp4 -o out.mp4 --images pictures", "--images has no meaning with --video"),
    ("train tiny --workers 2", "--workers has no meaning without --scan-images"),
    ("train --backend detectron2 --d2-config a.yaml --scan-images", "--scan-images has no meaning with --d2-config"),
]


@pytest.mark.parametrize(("line", "message"), CASES)
def test_an_option_without_effect_is_named(bcnet: Bcnet, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    done = bcnet(*line.split(), cwd=tmp_path)
    assert done.returncode == 2 and message in " ".join(done.stderr.split()), done.stderr
    assert "leave out --" in done.stderr and not done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]


def test_defaults_and_environment_variables_do_not_count_as_typed(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 9, "width": 9}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0,
                         "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}],
        "categories": [{"id": 1, "name": "thing"}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (tmp_path / "r.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}]')
    arguments = ["eval", "--results", str(tmp_path / "r.json"), "--gt", str(tmp_path / "coco.json")]
    done = CliRunner().invoke(app, arguments, env={"BCNET_DATA": str(tmp_path)})
    assert done.exit_code == 0, done.output
