"""The command `bcnet split-occ`."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from bcnet_cli.commands.split_occ import split_occ
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.files.images import read_image

app = typer.Typer()
app.command()(split_occ)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def refused(*arguments: str | Path) -> BCNetError:
    error = run(*arguments).exception
    assert isinstance(error, BCNetError)
    return error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Image 1 with two boxes of IoU 1/3, image 2 with one box."""
    boxes = [(1, [0, 0, 20, 20]), (1, [10, 0, 20, 20]), (2, [0, 0, 20, 20])]
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 1, "bbox": box} for n, (image, box) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "x"}],
    }
    path = tmp_path / "in.json"
    path.write_text(json.dumps(content))
    return path


def test_writes_the_split_and_its_manifest(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "occ.json")
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["in.json", "occ.json", "occ.manifest.json"]
    content = json.loads((tmp_path / "occ.json").read_text())
    assert ([one["id"] for one in content["images"]], len(content["annotations"])) == ([1], 2)
    assert json.loads((tmp_path / "occ.manifest.json").read_text())["image_ids"] == [1]
    assert "occluded (iou >= 0.2)" in result.stdout
    assert "Occlusion per instance" not in result.stdout
    assert f"bcnet viz {tmp_path / 'occ.json'}" in result.stderr


def test_the_same_input_and_options_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        assert run(source, "-o", tmp_path / folder / "occ.json.gz").exit_code == 0
    for name in ("occ.json.gz", "occ.manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_stats_prints_histograms(source: Path, tmp_path: Path) -> None:
    lines = run(source, "-o", tmp_path / "occ.json", "--stats", "--dry-run").stdout.splitlines()
    row = next(line for line in lines if "0.3 - 0.4" in line)
    assert row.split()[5:9:2] == ["2", "2"]
    assert row.count("#") == 30
    assert len([line for line in lines if " - " in line]) == 2 * 10, "of instances and of images"
    levels = [line.replace("│", " ").split() for line in lines if "heavy" in line]
    assert levels == [["heavy", "(from", "0.2)", "2", "2"], ["heavy", "(from", "0.2)", "1", "1"]]


def test_the_plot_has_reproducible_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        result = run(source, "-o", tmp_path / f"{name}.json", "--plot", tmp_path / f"{name}.png")
        assert result.exit_code == 0
        assert f"{name}.png" in result.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = read_image(tmp_path / "a.png")
    assert (pixels == (0x00, 0x77, 0xBB)).all(axis=2).sum() > 1000, "bars of the split"
    assert (pixels == (0xBB, 0xBB, 0xBB)).all(axis=2).sum() > 1000, "bars of the source"


def test_a_file_name_with_math_symbols_can_be_plotted(source: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a$x_$.json"
    odd.write_bytes(source.read_bytes())
    assert run(odd, "-o", tmp_path / "occ.json", "--plot", tmp_path / "occ.png").exit_code == 0
    assert (tmp_path / "occ.png").is_file()


def test_all_outputs_are_written_or_none(source: Path, tmp_path: Path) -> None:
    before = names(tmp_path)
    error = run(source, "-o", tmp_path / "occ.json", "--plot", "/proc/bcnet/occ.png").exception
    assert isinstance(error, BCNetError)
    assert names(tmp_path) == before


def test_a_plot_that_cannot_be_written_is_an_early_error(source: Path, tmp_path: Path) -> None:
    for plot in (tmp_path / "occ.jpg", tmp_path / "occ.json"):
        error = refused(source, "-o", tmp_path / "occ.json", "--plot", plot)
        assert (error.exit_code, error.hints) == (ExitCode.USAGE, ("--plot occlusion.png",))
    (tmp_path / "taken.png").write_text("precious")
    error = refused(source, "-o", tmp_path / "occ.json", "--plot", tmp_path / "taken.png")
    assert "exists already" in error.message
    assert not (tmp_path / "occ.json").exists()


def test_json_is_the_manifest(source: Path, tmp_path: Path) -> None:
    result = run(
        source, "-o", tmp_path / "occ.json", "--json", "--measure", "min", "--threshold", "0.5", "--pairs", "all"
    )
    manifest = json.loads(result.stdout)
    assert manifest == json.loads((tmp_path / "occ.manifest.json").read_text())
    assert manifest["rule"] == {"threshold": 0.5, "measure": "min", "pairs": "all", "same_class": False, "crowd": False}


def test_ids_take_exactly_these_images(source: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("2")
    assert run(source, "-o", tmp_path / "occ.json", "--ids", tmp_path / "ids.txt").exit_code == 0
    assert json.loads((tmp_path / "occ.manifest.json").read_text())["image_ids"] == [2]
    (tmp_path / "ids.txt").write_text("2 3")
    error = refused(source, "-o", tmp_path / "other.json", "--ids", tmp_path / "ids.txt")
    assert error.exit_code == ExitCode.BAD_DATA
    assert "other.json" not in names(tmp_path)


def test_nothing_occluded_is_a_warning(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "occ.json", "--threshold", "0.9")
    assert result.exit_code == 0
    assert "warning" in result.stderr


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    assert run(source, "-o", tmp_path / "occ.json", "--dry-run").exit_code == 0
    assert names(tmp_path) == ["in.json"]


@pytest.mark.parametrize("taken", ["occ.json", "occ.manifest.json"])
def test_outputs_that_exist_need_overwrite(source: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    assert refused(source, "-o", tmp_path / "occ.json").exit_code == ExitCode.USAGE
    assert (tmp_path / taken).read_text() == "precious"
    assert names(tmp_path) == sorted(["in.json", taken])
    assert run(source, "-o", tmp_path / "occ.json", "--overwrite").exit_code == 0


def test_no_input_is_overwritten(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (tmp_path / "link.json").symlink_to(source)
    ids = tmp_path / "occ.manifest.json"
    ids.write_text("[1]")
    for arguments in (["-o", source], ["-o", tmp_path / "link.json"], ["-o", tmp_path / "occ.json", "--ids", ids]):
        assert "input itself" in refused(source, *arguments, "--overwrite").message
    assert source.read_bytes() == before
    assert ids.read_text() == "[1]"


def test_an_invalid_threshold_is_a_usage_error(source: Path, tmp_path: Path) -> None:
    assert refused(source, "-o", tmp_path / "occ.json", "--threshold", "0").exit_code == ExitCode.USAGE
