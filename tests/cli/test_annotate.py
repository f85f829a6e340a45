"""`bcnet annotate` from outside."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from bcnet_cli.commands.annotate import annotate
from bcnet_core.errors import BCNetError, ExitCode

KEY = "bg_object_segmentation"
app = typer.Typer()
app.command()(annotate)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--workers", "1"])


def refused(*arguments: str | Path) -> BCNetError:
    error = run(*arguments).exception
    assert isinstance(error, BCNetError)
    return error


def square(x: float) -> dict[str, Any]:
    return {"bbox": [x, 0, 20, 20], "segmentation": [[x, 0, x + 20, 0, x + 20, 20, x, 20]]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two overlapping squares and one annotation without a segmentation."""
    shared = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    content = {
        "info": {"description": "ä [bold]"},
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 12, **shared, **square(0)},
            {"id": 11, **shared, **square(10)},
            {"id": 10, **shared, "bbox": [50, 30, 5, 5]},
        ],
        "categories": [{"id": 1, "name": "x"}],
    }
    path = tmp_path / "in.json"
    path.write_text(json.dumps(content))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_the_file_and_tells_what_it_found(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    output = tmp_path / "new folder" / "out.json"
    result = run(source, "-o", output)
    assert result.exit_code == 0, result.output
    content = json.loads(output.read_text(encoding="utf-8"))
    found = [one.pop(KEY) for one in content["annotations"]]
    assert content == json.loads(before)
    assert found == [[[10, 0, 10, 20, 20, 20, 20, 0]], [[10, 0, 10, 20, 20, 20, 20, 0]], []]
    assert "66.7%" in result.stdout
    assert "no segmentation" in result.stdout
    assert "annotation 10" in result.stderr
    assert f"bcnet train tiny --data-root DATA 'data.train.annotations={output}'" in result.stderr
    assert source.read_bytes() == before
    assert names(output.parent) == ["out.json"]


def test_json_goes_to_stdout_alone(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "out.json", "--json", "--format", "rle")
    assert json.loads(result.stdout) == {
        "images": 1, "instances": 3, "with_occluder": 2, "skipped": {"missing": {"count": 1, "ids": [10]}},
    }  # fmt: skip
    entry = json.loads((tmp_path / "out.json").read_text())["annotations"][0][KEY]
    assert entry["size"] == [48, 64]


def test_options_reach_the_rule(source: Path, tmp_path: Path) -> None:
    for options in (["--min-area", "200"], ["--min-iou", "0.5"]):
        result = run(source, "-o", tmp_path / "out.json", "--json", "--dry-run", *options)
        assert json.loads(result.stdout)["with_occluder"] == 0


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "sub" / "out.json", "--dry-run")
    assert result.exit_code == 0
    assert "would write" in result.stderr
    assert names(tmp_path) == ["in.json"]


def test_gzip_by_name_with_the_same_bytes_every_time(source: Path, tmp_path: Path) -> None:
    for name in ("a.json.gz", "b.json.gz", "c.json"):
        assert run(source, "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "c.json").read_bytes()
    assert run(tmp_path / "a.json.gz", "-o", tmp_path / "again.json").exit_code == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "c.json").read_bytes()


def test_an_output_that_exists_needs_overwrite(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    output.write_text("precious")
    assert refused(source, "-o", output).exit_code == ExitCode.USAGE
    assert output.read_text() == "precious"
    assert run(source, "-o", output, "--overwrite").exit_code == 0
    assert KEY in output.read_text()


@pytest.mark.parametrize("link", ["same", "relative", "symlink", "hardlink", "link_as_input"])
def test_the_input_is_never_written_over(source: Path, tmp_path: Path, link: str) -> None:
    before = source.read_bytes()
    other = tmp_path / "other.json"
    if link == "hardlink":
        os.link(source, other)
    elif link in {"symlink", "link_as_input"}:
        other.symlink_to(source)
    given, output = {
        "same": (source, source),
        "relative": (source, tmp_path / "nowhere" / ".." / "in.json"),
        "link_as_input": (other, source),
    }.get(link, (source, other))
    error = refused(given, "-o", output, "--overwrite")
    assert "input itself" in error.message
    assert error.exit_code == ExitCode.USAGE
    assert source.read_bytes() == before
    assert set(names(tmp_path)) <= {"in.json", "other.json"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": [], "categories": []}', '{"images": {}}'])
def test_bad_input_leaves_nothing_behind(tmp_path: Path, text: str) -> None:
    (tmp_path / "in.json").write_text(text)
    assert refused(tmp_path / "in.json", "-o", tmp_path / "out.json").exit_code == ExitCode.BAD_DATA
    assert names(tmp_path) == ["in.json"]


def test_a_missing_input(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.json", "-o", tmp_path / "out.json").exit_code == ExitCode.BAD_DATA


def test_a_senseless_rule(source: Path, tmp_path: Path) -> None:
    assert refused(source, "-o", tmp_path / "out.json", "--min-iou", "nan").exit_code == ExitCode.USAGE
