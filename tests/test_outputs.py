from pathlib import Path

import pytest

from bcnet_core import BCNetError
from bcnet_core.outputs import atomic_directory, atomic_file, refuse_existing, write_json


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


def test_what_exists_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, "é"]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{"a":[1,"é"]}'
    with pytest.raises(BCNetError, match=r"x\.json` exists already") as caught:
        refuse_existing(tmp_path / "x.json")
    assert caught.value.exit_code == 2
    refuse_existing(tmp_path / "x.json", overwrite=True)
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BCNetError, match="cannot write") as caught:
        write_json(tmp_path / "file/x.json", 1)
    assert caught.value.exit_code == 1
