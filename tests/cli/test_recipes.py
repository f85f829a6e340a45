"""`bcnet recipes list | show | copy | check`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bcnet_cli.commands import recipes
from bcnet_core.config.load import load_recipe
from bcnet_core.errors import BCNetError, ExitCode

TINY = "# tiny: for tests\n# Trains: [bold]nothing[/bold]\nseed: 5\nsolver: {lr: 0.5}\n"


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "large_one.yaml").write_text("# Trains: a large one\n")
    monkeypatch.setattr("bcnet_core.config.recipe_files.SHIPPED", folder)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(recipes.app, arguments)


def refused(*arguments: str) -> BCNetError:
    error = run(*arguments).exception
    assert isinstance(error, BCNetError)
    assert error.exit_code == ExitCode.USAGE
    return error


def test_list() -> None:
    result = run("list")
    assert result.exit_code == 0
    assert result.stdout == "large_one  a large one\ntiny       tiny: for tests\n"


def test_list_as_json() -> None:
    assert json.loads(run("list", "--json").stdout) == {
        "large_one": "a large one",
        "tiny": "tiny: for tests",
    }


def test_show_prints_purpose_value_and_meaning() -> None:
    result = run("show", "tiny", "solver.milestones=[1,2]", "data.root=[red]x")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:3] == ["tiny: for tests", "Trains: [bold]nothing[/bold]", ""]
    rows = {line.split()[0]: line for line in lines[3:]}
    meaning = "learning rate after the warm-up, for lr_batch_size images"
    assert rows["solver.lr"].split(maxsplit=2) == ["solver.lr", "0.5", meaning]
    assert rows["solver.milestones"].split()[1] == "[1,2]"
    assert rows["data.root"].split()[1] == "[red]x"
    assert len({line.index(line.split(maxsplit=2)[2]) for line in rows.values()}) == 1, "columns are aligned"


def test_show_as_json() -> None:
    shown = json.loads(run("show", "tiny", "seed=8", "--json").stdout)
    assert (shown["seed"], shown["solver"]["lr"]) == (8, 0.5)


def test_show_rejects_the_same_errors_as_training() -> None:
    assert refused("show", "tiny", "solver.leaning_rate=1").hints[0].startswith("did you mean: solver.lr")
    assert refused("show", "tinny").hints[0] == "did you mean: tiny"


def test_copy_then_check() -> None:
    result = run("copy", "tiny", "-o", "sub/own.yaml")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "wrote sub/own.yaml\nnext  bcnet recipes check sub/own.yaml\n"
    assert Path("sub/own.yaml").read_text() == TINY
    assert load_recipe("sub/own.yaml") == load_recipe("tiny")
    checked = run("check", "sub/own.yaml", "solver.lr=1")
    assert checked.exit_code == 0
    assert checked.stdout.startswith("OK: ")


def test_copy_dry_run_writes_nothing() -> None:
    result = run("copy", "tiny", "-o", "own.yaml", "--dry-run")
    assert result.exit_code == 0
    assert "would write own.yaml" in result.stderr
    assert not Path("own.yaml").exists()


def test_copy_replaces_only_with_overwrite() -> None:
    own = Path("own.yaml")
    own.write_text("seed: 1")
    assert "exists already" in refused("copy", "tiny", "-o", "own.yaml").message
    assert own.read_text() == "seed: 1"
    assert run("copy", "tiny", "-o", "own.yaml", "--overwrite").exit_code == 0
    assert own.read_text() == TINY


def test_copy_rejects_a_folder_even_with_overwrite() -> None:
    folder = Path("folder.yaml")
    folder.mkdir()
    assert "is a folder" in refused("copy", "tiny", "-o", "folder.yaml", "--overwrite").message
    assert folder.is_dir()


def test_copy_rejects_a_name_that_could_not_be_used_later() -> None:
    assert "must end in .yaml" in refused("copy", "tiny", "-o", "own").message
    assert "unknown recipe" in refused("copy", "nothing", "-o", "own.yaml").message
    assert not Path("own.yaml").exists()


def test_check_reports_every_error() -> None:
    Path("own.yaml").write_text("sede: 1\nsolver: {lr: -1}\n")
    error = refused("check", "own.yaml", "data.flip=3")
    assert error.message == "3 settings cannot be used"
    assert {"unknown setting `sede`", "`data.flip` must be less than or equal to 1, not `3`"} <= set(error.hints)
