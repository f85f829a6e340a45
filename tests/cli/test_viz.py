"""The `bcnet viz` command."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from bcnet_cli.commands.viz import viz
from bcnet_core.annotations.coco import read_coco
from bcnet_core.errors import BCNetError, ExitCode
from tests.conftest import Bcnet

MINI = Path(__file__).parents[2].parent / "shared/data/coco-mini"
app = typer.Typer()
app.command()(viz)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> BCNetError:
    error = run(*arguments).exception
    assert isinstance(error, BCNetError)
    return error


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two images of 64 x 48 with one square each, in COCO's layout; a hostile name in the json."""
    (tmp_path / "val/deeper").mkdir(parents=True)
    names = ["a.png", "deeper/b.png"]
    for name in names:
        Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "val" / name)
    content: dict[str, Any] = {
        "images": [
            {"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names, start=1)
        ],
        "categories": [{"id": 1, "name": "<b>box</b>"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": [5, 5, 30, 30],
             "segmentation": [[5, 5, 35, 5, 35, 35, 5, 35]]}
            for n in (1, 2)
        ],
    }  # fmt: skip
    path = tmp_path / "annotations" / "instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path


def test_ground_truth(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    assert "wrote" in result.stderr
    assert "out/index.html" in result.stderr.replace("\n", "")
    assert [line.split()[-2] for line in result.stdout.splitlines() if "│" in line] == ["2", "0", "2", "0"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;b&gt;box" in page
    assert "<b>box" not in page
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2 * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "out", "val"]


def test_boxes_of_other_objects_are_drawn_and_noted(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    first = [one for one in content["annotations"] if one["image_id"] == content["images"][0]["id"]]
    x, y, width, height = first[0]["bbox"]
    first[0]["bbox"] = [x, y, x + width, y + height]  # corners
    (tmp_path / "corners.json").write_text(json.dumps(content))
    pages = []
    for name, options in (("some", []), ("all", ["--boxes"])):
        words = ("--images", scenes / "val", "--limit", "1", "--format", "svg", *options)
        done = bcnet("viz", tmp_path / "corners.json", "-o", tmp_path / name, *words)
        assert done.returncode == 0, done.stderr
        note = f"1 of {len(first)} instances have no mask, or a box that does not fit their mask"
        assert note in (tmp_path / name / "index.html").read_text()
        (panel,) = (tmp_path / name / "pictures").glob("*-instances.svg")
        pages.append(panel.read_text().count("<path"))
    assert pages == [len(first) + 1, 2 * len(first)]


def test_who_is_in_front_is_drawn_on_request(bcnet: Bcnet, scenes: Path, source: Path, tmp_path: Path) -> None:
    arrows = []
    for name, options in (("plain", []), ("order", ["--order"])):
        words = ("--images", scenes / "val", "--limit", "2", "--format", "svg", *options)
        done = bcnet("viz", scenes / "annotations/instances_val.json", "-o", tmp_path / name, *words)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
        panels = [path.read_text() for path in (tmp_path / name / "pictures").glob("*-whole.svg")]
        assert len(panels) == 2 and any("url(#hatch" in panel for panel in panels)
        arrows.append(sum(panel.count("<polygon") for panel in panels))
    assert arrows[0] == 0 and arrows[1] > 0
    result = run(source, "-o", tmp_path / "none", "--order")
    assert result.exit_code == 0 and "no order is drawn" in result.stderr
    error = refused(source, "-o", tmp_path / "no", "--order", "--layer", "occluder")
    assert error.exit_code == ExitCode.USAGE and not (tmp_path / "no").exists()


def test_chosen_images(source: Path, tmp_path: Path) -> None:
    assert run(source, "-o", tmp_path / "out", "--ids", "2").exit_code == 0
    assert all(path.name.startswith("0001-b-") for path in (tmp_path / "out" / "pictures").iterdir())
    assert run(source, "-o", tmp_path / "one", "--limit", "1").exit_code == 0
    assert all(path.name.startswith("0001-a-") for path in (tmp_path / "one" / "pictures").iterdir())


def test_a_results_file(source: Path, tmp_path: Path) -> None:
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.8, "bbox": [5, 5, 30, 30],
         "segmentation": [[5, 5, 35, 5, 35, 35, 5, 35]]}
    ]  # fmt: skip
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert run(path, "--gt", source, "-o", tmp_path / "out").exit_code == 0
    assert "box&lt;/b&gt; 0.80" in (tmp_path / "out" / "index.html").read_text()
    assert run(path, "--gt", source, "-o", tmp_path / "worst", "--worst", "1").exit_code == 0
    assert all(path.name.startswith("0001-b-") for path in (tmp_path / "worst" / "pictures").iterdir())
    error = refused(path, "-o", tmp_path / "no", "--images", tmp_path / "val")
    assert error.exit_code == ExitCode.BAD_DATA and "--gt GROUND_TRUTH" in error.hints[0]
    assert "--worst compares predictions" in refused(source, "-o", tmp_path / "no", "--worst", "1").message
    path.write_text(json.dumps([{key: value for key, value in results[0].items() if key != "segmentation"}]))
    assert "holds boxes but no masks" in refused(path, "--gt", source, "-o", tmp_path / "no").message
    assert not (tmp_path / "no").exists()


def test_an_existing_output_is_refused(source: Path, tmp_path: Path) -> None:
    run(source, "-o", tmp_path / "out")
    assert "exists already" in refused(source, "-o", tmp_path / "out").message
    assert run(source, "-o", tmp_path / "out", "--overwrite", "--limit", "1").exit_code == 0
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 6
    assert "not a gallery" in refused(source, "-o", tmp_path / "val", "--overwrite").message
    assert (tmp_path / "val" / "a.png").exists()


def test_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "would draw 2 pictures" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_image_is_a_warning(source: Path, tmp_path: Path) -> None:
    (tmp_path / "val" / "a.png").unlink()
    result = run(source, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "warning" in result.stderr
    assert "a.png" in result.stderr
    assert [line.split()[-2] for line in result.stdout.splitlines() if "│" in line] == ["2", "1", "1", "0"]


def test_all_images_missing_leaves_nothing(source: Path, tmp_path: Path) -> None:
    for name in ("a.png", "deeper/b.png"):
        (tmp_path / "val" / name).unlink()
    error = refused(source, "-o", tmp_path / "out")
    assert error.exit_code == ExitCode.BAD_DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "val"]


def test_bad_ids(source: Path, tmp_path: Path) -> None:
    for ids in ("1,x", "", "1,,2", "99"):
        error = refused(source, "-o", tmp_path / "out", "--ids", ids)
        assert error.exit_code == ExitCode.USAGE


def rows(result: Result) -> dict[str, str]:
    """The table of a gallery."""
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in result.stdout.splitlines() if "│" in line]
    return dict(cells)


def test_layer_format_and_number_of_rois(source: Path, tmp_path: Path) -> None:
    result = run(
        source, "-o", tmp_path / "out", "--layer", "occludee", "--format", "svg", "--rois", "0", "--limit", "1"
    )
    assert result.exit_code == 0, result.exception
    names = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert names == [f"0001-a-{key}.svg" for key in ("boundaries", "image", "instances", "occludee")]
    assert run(source, "-o", tmp_path / "no", "--format", "gif").exit_code == ExitCode.USAGE
    assert run(source, "-o", tmp_path / "no", "--layer", "third").exit_code == ExitCode.USAGE
    assert not (tmp_path / "no").exists()


def test_the_worst_of_results_by_either_measure(source: Path, tmp_path: Path) -> None:
    square = {"category_id": 1, "bbox": [5, 5, 30, 30], "segmentation": [[5, 5, 35, 5, 35, 35, 5, 35]]}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": 2, "score": 0.1, **square}]))
    for by, first in (("iou", "a"), ("ap", "a")):
        result = run(path, "--gt", source, "-o", tmp_path / by, "--worst", "2", "--by", by)
        assert rows(result)["true instances that were missed"] == "1", result.exception
        page = (tmp_path / by / "index.html").read_text()
        assert page.index("<small>1</small>") < page.index(f"0001-{first}-")
    error = refused(path, "--gt", source, "-o", tmp_path / "no", "--worst", "1", "--most-occluded", "1")
    assert "exclude each other" in error.message and not (tmp_path / "no").exists()


def test_a_model_on_its_validation_set(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    truth = scenes / "annotations/instances_val.json"
    result = run(untrained, "--gt", truth, "-o", tmp_path / "out", "--device", "cpu", "--limit", "2")
    assert result.exit_code == 0, result.exception
    counts, known = rows(result), json.loads(truth.read_text())["annotations"]
    assert counts["pictures"] == "2" and int(counts["instances"]) == 10
    assert int(counts["true instances"]) == sum(one["image_id"] in (1, 2) for one in known)
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2 * (9 + 3)
    missing = tmp_path / "few"
    shutil.copytree(scenes / "val", missing)
    next(missing.iterdir()).unlink()
    worst = run(
        untrained, "--gt", truth, "--images", missing, "-o", tmp_path / "worst", "--device", "cpu", "--worst", "3"
    )
    assert worst.exit_code == 0, worst.exception
    assert rows(worst)["pictures"] == "3" and rows(worst)["images that could not be read"] == "0"
    assert "1 of 6 images are not in" in worst.stderr.replace("\n", " ")


def test_a_model_on_any_images(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "deep"
    shutil.copytree(scenes / "val", folder)
    common = ("--images", tmp_path / "photos", "--device", "cpu")
    result = run(untrained, *common, "-o", tmp_path / "out", "--ids", "2,5")
    assert result.exit_code == 0, result.exception
    assert rows(result)["pictures"] == "2" and "true instances" not in rows(result)
    assert 'data-range="3"' not in (tmp_path / "out" / "index.html").read_text()  # no IoU to filter by
    for option, said in (("--worst", "compares predictions"), ("--most-occluded", "rank images by occlusion")):
        assert said in refused(untrained, *common, "-o", tmp_path / "no", option, "1").message
    (folder / "000.png").write_bytes(b"no image")
    damaged = run(untrained, *common, "-o", tmp_path / "damaged", "--limit", "2")
    assert damaged.exit_code == 0 and rows(damaged)["images that could not be read"] == "1", damaged.exception
    (tmp_path / "none").mkdir()
    error = refused(untrained, "--images", tmp_path / "none", "-o", tmp_path / "no")
    assert "contains no image" in error.message and not (tmp_path / "no").exists()
    among = refused(untrained, *common, "-o", folder / "gallery")
    assert "would be taken for photos" in among.message and not (folder / "gallery").exists()


def test_a_model_on_a_video(untrained: Path, tmp_path: Path) -> None:
    video, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (128, 96))
    for level in (50, 90, 130):
        writer.write(np.full((96, 128, 3), level, np.uint8))
    writer.release()
    arguments = (untrained, "--video", video, "-o", output, "--device", "cpu", "--score", "0")
    result = run(*arguments)
    assert result.exit_code == 0, result.exception
    assert "15 instances in 3 frames" in result.stdout
    assert cv2.VideoCapture(str(output)).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert "exists already" in refused(*arguments).message
    assert run(*arguments, "--overwrite", "--layer", "occluder").exit_code == 0
    assert refused(untrained, "--video", video, "-o", video, "--overwrite").exit_code == ExitCode.USAGE
    assert "leave out --ids" in refused(*arguments, "--ids", "1").hints[0]
    assert "cannot write a video" in refused(untrained, "--video", video, "-o", tmp_path / "out").message
    assert run(untrained, "--video", video, "-o", tmp_path / "dry.mp4", "--dry-run").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_links_and_names_never_lead_outside_the_output(source: Path, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "0001-a-image.jpg").write_text("mine")
    assert run(source, "-o", tmp_path / "out").exit_code == 0
    shutil.rmtree(tmp_path / "out" / "pictures")
    (tmp_path / "out" / "pictures").symlink_to(treasure)
    assert run(source, "-o", tmp_path / "out", "--overwrite").exit_code == 0
    assert not (tmp_path / "out" / "pictures").is_symlink()
    assert [path.read_text() for path in treasure.iterdir()] == ["mine"]
    content = json.loads(source.read_text())
    for record, name in zip(
        content["images"], (str(tmp_path / "val" / "a.png"), str(tmp_path / "val/deeper/b.png")), strict=True
    ):
        record["file_name"] = name
    source.write_text(json.dumps(content))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert run(source, "-o", tmp_path / "more").exit_code == 0
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(new) == 1 + 2 * 6 and all(path.is_relative_to(tmp_path / "more") for path in new)


def test_a_detector(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bcnet_core.structures import Detections
    from bcnet_core.visualization import sources

    class Blind:
        categories = ({"id": 1, "name": "<b>box</b>"},)

        def predict(self, images: list[Any], /) -> list[Detections]:
            height, width = images[0].shape[:2]
            none, maps = torch.zeros(0), torch.zeros(0, 28, 28)
            return [
                Detections(
                    torch.zeros(0, 4),
                    none,
                    none.long(),
                    (height, width),
                    {"occludee_mask": maps, "occluder_mask": maps},
                )
            ]

    opened = sources.PictureSource(read_coco(source), tmp_path / "val", tmp_path / "run")
    monkeypatch.setattr(sources, "open_source", lambda *_, **__: opened)
    asked: list[tuple[Path, str, str]] = []

    def load(path: Path, *, device: str, backend: str, runtime: Any) -> Blind:
        asked.append((path, device, backend))
        return Blind()

    monkeypatch.setattr("bcnet_core.backends.load_detector", load)
    result = run(tmp_path / "run", "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.exception
    assert asked == [(tmp_path / "run", "cpu", "torchvision")]
    assert "nothing was found here" in (tmp_path / "out" / "index.html").read_text()
    Blind.categories = ({"id": 1, "name": "ball"},)
    error = refused(tmp_path / "run", "-o", tmp_path / "no", "--device", "cpu")
    assert "they differ" in error.message and f"--images {tmp_path / 'val'}" in error.hints[2]
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(not MINI.exists(), reason="needs ../shared")
def test_real_images(tmp_path: Path) -> None:
    result = run(MINI / "annotations/instances_val2017.json", "-o", tmp_path / "out", "--most-occluded", "3")
    assert result.exit_code == 0, result.exception
    assert len(list((tmp_path / "out" / "pictures").glob("*-roi*.jpg"))) == 9
    listed = run(MINI / "annotations/image_info_test-dev2017.json", "-o", tmp_path / "test", "--limit", "2")
    assert listed.exit_code == 0, listed.exception
    assert "no instance is annotated here" in (tmp_path / "test" / "index.html").read_text()
