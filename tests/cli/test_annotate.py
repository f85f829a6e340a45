"""The command `bcnet annotate`."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from bcnet_cli.commands.annotate import annotate
from bcnet_core import __version__
from bcnet_core.annotations.coco import CocoFile
from bcnet_core.errors import BCNetError, ExitCode
from benchmarks.speed.annotate import repeat

KEY = "bg_object_segmentation"
MISSING = {
    "missing": {
        "meaning": "occludes nobody: no segmentation", "count": 1, "annotations": [{"id": 10, "image_id": 1}],
    }
}  # fmt: skip
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


def test_writes_the_file_and_a_summary(source: Path, tmp_path: Path) -> None:
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
    assert f"bcnet viz '{output}' --images IMAGES -o viz" in result.stderr
    assert source.read_bytes() == before
    assert names(output.parent) == ["out.json"]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("instances_train2017.json", "tiny"), ("instances_train.json", "shapes"), ("instances_val2017.json", None)],
)
def test_the_next_command_fits_the_source(source: Path, tmp_path: Path, name: str, recipe: str | None) -> None:
    root, output = tmp_path / "root", tmp_path / "out.json"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    shown = run(source.rename(root / "annotations" / name), "-o", output).stderr
    if recipe is None:
        assert f"bcnet viz {output} --images {root / 'val2017'} -o viz" in shown and "bcnet train" not in shown
    else:
        assert f"bcnet train {recipe} --data-root {root} data.train.annotations={output}" in shown


def test_stdout_holds_only_the_json(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "out.json", "--json", "--format", "rle")
    assert json.loads(result.stdout) == {
        "images": 1, "instances": 3, "with_occluder": 2, "skipped": MISSING, "repeated_ids": [],
    }  # fmt: skip
    entry = json.loads((tmp_path / "out.json").read_text())["annotations"][0][KEY]
    assert entry["size"] == [48, 64]


def test_options_reach_the_rule(source: Path, tmp_path: Path) -> None:
    # the squares have an IoU of 231 / 651 with the pixel that the official code adds, of 200 / 600 without
    for options in (["--min-area", "200"], ["--min-iou", "0.5"], ["--min-iou", "0.34", "--pixel", "0"]):
        result = run(source, "-o", tmp_path / "out.json", "--json", "--dry-run", *options)
        assert json.loads(result.stdout)["with_occluder"] == 0
    result = run(source, "-o", tmp_path / "out.json", "--json", "--dry-run", "--min-iou", "0.34")
    assert json.loads(result.stdout)["with_occluder"] == 2


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "sub" / "out.json", "--dry-run")
    assert result.exit_code == 0
    assert "would write" in result.stderr
    assert names(tmp_path) == ["in.json"]


def test_a_dry_run_shows_the_exact_size(source: Path, tmp_path: Path) -> None:
    for name in ("out.json", "out.json.gz"):
        result = run(source, "-o", tmp_path / name, "--dry-run", "--json")
        run(source, "-o", tmp_path / name)
        assert json.loads(result.stdout)["expected_bytes"] == (tmp_path / name).stat().st_size
    assert "expected size" in run(source, "-o", tmp_path / "new.json", "--dry-run").stdout


def test_the_report_lists_skipped_annotations(source: Path, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "out.json", "--report", tmp_path / "report.json", "--min-area", "500")
    assert "report.json" in result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    small = {"meaning": "has no occluder: too few pixels", "count": 2}
    assert report == {
        "bcnet": __version__, "file": "in.json",
        "rule": {"min_iou": 0.05, "min_area": 500, "crowd": False, "pixel": 1.0},
        "images": 1, "instances": 3, "with_occluder": 0, "repeated_ids": [],
        "skipped": MISSING | {"small": small | {"annotations": [{"id": one, "image_id": 1} for one in (12, 11)]}},
    }  # fmt: skip
    error = refused(source, "-o", tmp_path / "new.json", "--report", tmp_path / "new.json")
    assert "two outputs" in error.message
    assert refused(source, "-o", tmp_path / "new.json", "--report", source, "--overwrite").exit_code == ExitCode.USAGE
    assert refused(source, "-o", tmp_path / "new.json", "--report", tmp_path / "report.json").message.endswith(
        "exists already"
    )
    assert not (tmp_path / "new.json").exists()


def test_all_outputs_are_written_or_none(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    error = run(source, "-o", tmp_path / "out.json", "--report", "/proc/bcnet/report.json").exception
    assert isinstance(error, BCNetError)
    assert names(tmp_path) == ["file", "in.json"]


def test_unusable_paths_are_one_sentence(source: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    long = tmp_path / ("x" * 300)
    for output in (tmp_path / "loop", tmp_path / "loop" / "x.json", long):
        assert refused(source, "-o", output).exit_code == ExitCode.USAGE
    for given in (tmp_path / "loop", long):
        assert refused(given, "-o", tmp_path / "out.json").exit_code in (ExitCode.USAGE, ExitCode.BAD_DATA)
    assert names(tmp_path) == ["in.json", "loop"]


def test_repeated_ids_are_a_warning(source: Path, tmp_path: Path) -> None:
    source.write_text(source.read_text().replace('"id": 11', '"id": 12'))
    result = run(source, "-o", tmp_path / "out.json")
    assert "shares its id with another: annotation 12" in result.stderr
    found = [one[KEY] for one in json.loads((tmp_path / "out.json").read_text())["annotations"]]
    assert found == [[[10, 0, 10, 20, 20, 20, 20, 0]], [[10, 0, 10, 20, 20, 20, 20, 0]], []]


def test_a_check_shows_the_iou_with_exact_regions(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    run(source, "-o", output)
    before = output.read_bytes()
    result = run("--check", output, "--report", tmp_path / "check.json")
    assert result.exit_code == 0
    assert "IoU with the exact region: least" in result.stdout
    assert output.read_bytes() == before
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["iou"] == {"mean": 1.0, "median": 1.0, "least": 1.0}
    assert report["findings"] == {}


def test_a_check_fails_on_an_invalid_file(source: Path, tmp_path: Path) -> None:
    error = refused("--check", source)
    assert error.exit_code == ExitCode.BAD_DATA
    assert "3 annotations have no `bg_object_segmentation`" in error.message
    run(source, "-o", tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text().replace("[[10,0,10,20,20,20,20,0]]", "[[10,0,10,20,40,20,40,0]]", 1)
    (tmp_path / "far.json").write_text(text.replace(f'"{KEY}":[]', f'"{KEY}":"?"'))
    result = run("--check", tmp_path / "far.json", "--json")
    assert isinstance(result.exception, BCNetError)
    assert "1 annotations have an occluder that leaves their box" in result.exception.message
    assert "1 annotations have an occluder that cannot be read" in result.exception.message
    found = json.loads(result.stdout)
    assert found["farthest_beyond_box"] == 20
    assert {name: one["annotations"] for name, one in found["findings"].items()} == {
        "unreadable": [{"id": 10, "image_id": 1}],
        "outside": [{"id": 12, "image_id": 1}],
        "inexact": [{"id": 12, "image_id": 1}],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no input"),
        (["in.json"], "no output"),
        (["in.json", "--check", "in.json"], "reads one file"),
        (["--check", "in.json", "-o", "out.json"], "reads one file"),
        (["in.json", "-o", "out.json", "--tolerance", "-1"], "tolerance"),
        (["in.json", "-o", "out.json", "--tolerance", "nan"], "tolerance"),
    ],
)
def test_contradictory_arguments_are_usage_errors(
    source: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(source.parent)
    error = refused(*arguments)
    assert words in error.message
    assert error.exit_code == ExitCode.USAGE
    assert names(source.parent) == ["in.json"]


def test_gzip_by_name_with_reproducible_bytes(source: Path, tmp_path: Path) -> None:
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
def test_the_input_is_never_overwritten(source: Path, tmp_path: Path, link: str) -> None:
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


def test_a_missing_input_is_an_error(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.json", "-o", tmp_path / "out.json").exit_code == ExitCode.BAD_DATA


def test_an_invalid_rule_is_a_usage_error(source: Path, tmp_path: Path) -> None:
    assert refused(source, "-o", tmp_path / "out.json", "--min-iou", "nan").exit_code == ExitCode.USAGE


def is_running(pid: str) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the workers in /proc")
def test_ctrl_c_leaves_nothing_behind(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    (tmp_path / "in.json").write_text(json.dumps(repeat(CocoFile(scenes, content), 20_000)))
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background is deaf
    line = f"{heard}; from bcnet_cli.app import main; main()"
    arguments = ["annotate", tmp_path / "in.json", "-o", tmp_path / "out.json", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", line, *map(str, arguments)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while len(workers := children.read_text().split()) < 3:  # two, and the tracker of their resources
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, shown = process.communicate(timeout=180)
    assert process.returncode == ExitCode.INTERRUPTED, shown
    assert "Traceback" not in shown
    assert names(tmp_path) == ["in.json"]
    deadline = time.monotonic() + 10
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives the command"
        time.sleep(0.05)
