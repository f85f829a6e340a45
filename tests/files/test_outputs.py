import os
from pathlib import Path

import pytest

from bcnet_core import BCNetError
from bcnet_core.files.json_files import write_json
from bcnet_core.files.outputs import atomic_directory, atomic_file, check_output_file, check_output_folder


def test_a_file_is_complete_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "deep/down/x.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(ZeroDivisionError), atomic_file(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "new" and list(target.parent.iterdir()) == [target]


def test_a_directory_is_complete_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "d"
    with atomic_directory(target) as temporary:
        (temporary / "a").write_text("1")
    with atomic_directory(target) as temporary:
        (temporary / "b").write_text("2")
    assert [path.name for path in target.iterdir()] == ["b"]
    with pytest.raises(KeyboardInterrupt), atomic_directory(target) as temporary:  # noqa: PT012
        (temporary / "c").write_text("3")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "b"]


def test_an_existing_output_is_rejected(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, "é"]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{"a":[1,"\\u00e9"]}'
    with pytest.raises(BCNetError, match=r"x\.json` exists already") as caught:
        check_output_file(tmp_path / "x.json")
    assert caught.value.exit_code == 2
    check_output_file(tmp_path / "x.json", overwrite=True)
    (tmp_path / "empty").mkdir()
    check_output_folder(tmp_path / "empty")
    with pytest.raises(BCNetError, match="exists already"):
        check_output_folder(tmp_path)
    check_output_folder(tmp_path, overwrite=True)


def test_an_impossible_output_is_rejected_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "file/x.json", "Not a directory"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / ("x" * 300), "cannot be used"),
    ):
        with pytest.raises(BCNetError, match=words) as caught:
            check_output_file(path, overwrite=True)
        assert caught.value.exit_code == 2
    with pytest.raises(BCNetError, match="is a file"):
        check_output_folder(tmp_path / "file", overwrite=True)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_json(tmp_path / "link.json", [])
    with atomic_directory(tmp_path / "link") as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real.json").read_text() == "[]"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/new").exists()
    assert len(list(tmp_path.iterdir())) == 4


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BCNetError, match="cannot write") as caught:
        write_json(tmp_path / "file/x.json", 1)
    assert caught.value.exit_code == 1
