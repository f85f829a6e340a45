"""`bcnet viz` from outside."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from bcnet_cli.commands.viz import viz
from bcnet_core.errors import BCNetError, ExitCode

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
    """Two images of 64 x 48 with one square each, in COCO's layout; hostile names in the json."""
    (tmp_path / "val").mkdir()
    names = ["a.png", "../val/../val/b.png"]
    for name in ("a.png", "b.png"):
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
    assert error.exit_code == ExitCode.BAD_DATA and "--gt FILE" in error.hints[0]
    assert "--worst judges a results file" in refused(source, "-o", tmp_path / "no", "--worst", "1").message
    path.write_text(json.dumps([{key: value for key, value in results[0].items() if key != "segmentation"}]))
    assert "holds boxes alone" in refused(path, "--gt", source, "-o", tmp_path / "no").message
    assert not (tmp_path / "no").exists()


def test_an_existing_output_is_refused(source: Path, tmp_path: Path) -> None:
    run(source, "-o", tmp_path / "out")
    assert "exists already" in refused(source, "-o", tmp_path / "out").message
    assert run(source, "-o", tmp_path / "out", "--overwrite", "--limit", "1").exit_code == 0
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 6
    assert "no gallery" in refused(source, "-o", tmp_path / "val", "--overwrite").message
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
    for name in ("a.png", "b.png"):
        (tmp_path / "val" / name).unlink()
    error = refused(source, "-o", tmp_path / "out")
    assert error.exit_code == ExitCode.BAD_DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "val"]


def test_bad_ids(source: Path, tmp_path: Path) -> None:
    for ids in ("1,x", "", "1,,2", "99"):
        error = refused(source, "-o", tmp_path / "out", "--ids", ids)
        assert error.exit_code == ExitCode.USAGE


def test_a_detector(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bcnet_core.structures import Detections
    from bcnet_core.visualization import sources

    class Blind:
        categories = ({"id": 1, "name": "box"},)

        def predict(self, images: list[Any], /) -> list[Detections]:
            height, width = images[0].shape[:2]
            none, maps = torch.zeros(0), torch.zeros(0, 28, 28)
            return [Detections(torch.zeros(0, 4), none, none.long(), (height, width), maps, maps, maps, maps)]

    place = sources.Place(source, tmp_path / "val", tmp_path / "run")
    monkeypatch.setattr(sources, "locate", lambda *_, **__: place)
    asked: list[tuple[Path, str]] = []

    def load(path: Path, *, device: str) -> Blind:
        asked.append((path, device))
        return Blind()

    monkeypatch.setattr("bcnet_core.load_detector", load)
    result = run(tmp_path / "run", "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.exception
    assert asked == [(tmp_path / "run", "cpu")]
    assert "nothing was found here" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.skipif(not MINI.exists(), reason="needs ../shared")
def test_real_images(tmp_path: Path) -> None:
    result = run(MINI / "annotations/instances_val2017.json", "-o", tmp_path / "out", "--most-occluded", "3")
    assert result.exit_code == 0, result.exception
    assert len(list((tmp_path / "out" / "pictures").glob("*-closeup*.jpg"))) == 9
    listed = run(MINI / "annotations/image_info_test-dev2017.json", "-o", tmp_path / "test", "--limit", "2")
    assert listed.exit_code == 0, listed.exception
    assert "no instance is annotated here" in (tmp_path / "test" / "index.html").read_text()
