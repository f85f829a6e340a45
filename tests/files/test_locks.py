"""One process at a time writes an output; the next one clears what a killed process left."""

import errno
import os
import signal
import threading
from functools import partial
from pathlib import Path

import filelock
import pytest

from bcnet_core.errors import BCNetError
from bcnet_core.files import outputs
from bcnet_core.files.json_files import write_json
from bcnet_core.files.outputs import (
    atomic_directory,
    atomic_file,
    check_output_folder,
    hold_lock,
    locked_output,
    reserve_outputs,
)


def error_elsewhere(path: Path) -> BCNetError | None:
    """Return the error that another thread gets when it locks an output."""
    found: list[BCNetError] = []

    def lock_it() -> None:
        try:
            with locked_output(path):
                pass
        except BCNetError as error:
            found.append(error)

    other = threading.Thread(target=lock_it)
    other.start()
    other.join()
    return found[0] if found else None


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "LOCK_SECONDS", 0.0)


def test_only_one_locks_an_output(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("x.json")
    with locked_output(tmp_path / "x.json"):
        for name in ("x.json", "link.json", "../" + tmp_path.name + "/x.json"):
            error = error_elsewhere(tmp_path / name)
            assert error is not None and error.exit_code == 2
            assert f"`{tmp_path / name}` is being written by another process" in error.message
        assert error_elsewhere(tmp_path / "y.json") is None
        write_json(tmp_path / "x.json", 1)  # the holder may write it, again and again
        write_json(tmp_path / "x.json", 2)
        assert error_elsewhere(tmp_path / "x.json") is not None
    assert error_elsewhere(tmp_path / "x.json") is None
    assert {path.name for path in tmp_path.iterdir()} == {"link.json", "x.json"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which no file can be created")
def test_a_lock_file_that_cannot_be_created_is_not_reported_as_held() -> None:
    for path in (Path("/proc/x.json"), Path("/proc/self/x.json")):
        with pytest.raises(BCNetError, match=f"cannot write `{path}`: No such file or directory") as caught:
            write_json(path, 1)
        assert caught.value.exit_code == 1


def test_files_can_be_written_into_a_locked_folder(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "d") as folder:
        write_json(folder / "a.json", 1)
        assert [path.name for path in folder.iterdir()] == ["a.json"]
        assert error_elsewhere(tmp_path / "d") is not None
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "a.json"]


def test_an_output_that_appears_before_the_lock_is_taken_is_rejected(tmp_path: Path) -> None:
    checked = []

    def check(path: Path) -> None:
        checked.append(path)
        if len(checked) == 2:
            raise BCNetError("exists already")

    with pytest.raises(BCNetError, match="exists already"), reserve_outputs(tmp_path / "x", check=check):
        pass
    assert not list(tmp_path.iterdir())


def test_new_parent_folders_that_stay_empty_are_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "there/new/newer/x"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in (".x.json.lock", ".part.x.json", "other"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".part.d/deep").mkdir(parents=True)
    (tmp_path / ".d.lock").touch()
    write_json(tmp_path / "x.json", 1)
    with atomic_directory(tmp_path / "d"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", "d", "other"}


def test_a_folder_that_was_moved_away_but_not_replaced_is_restored(tmp_path: Path) -> None:
    """The process was killed between the two renames, or after them."""
    reserve = partial(reserve_outputs, check=partial(check_output_folder, overwrite=True))
    (tmp_path / ".old.d").mkdir()
    (tmp_path / ".old.d/old").touch()
    (tmp_path / ".part.d").mkdir()
    with reserve(tmp_path / "d"):
        assert [path.name for path in tmp_path.iterdir() if path.name != ".d.lock"] == ["d"]
        assert (tmp_path / "d/old").exists()
    (tmp_path / ".old.d").mkdir()
    with reserve(tmp_path / "d"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "old"]


def test_a_failing_rename_keeps_the_old_folder(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "d") as folder:
        (folder / "old").touch()
    with pytest.raises(BCNetError, match="cannot write"), atomic_directory(tmp_path / "d") as folder:
        folder.rmdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "old"]


def test_a_file_system_without_locks_is_written_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(lock: filelock.FileLock) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "_acquire", fail)
    write_json(tmp_path / "x", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError, match="Is a directory"), hold_lock(tmp_path / "lock", BCNetError("busy")):
        pass


def test_a_forked_process_holds_no_lock(tmp_path: Path) -> None:
    """A data loader worker may live on for seconds after the training process was killed."""
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        with locked_output(tmp_path / "x"):
            if not os.fork():
                os.close(wait[1])
                os.write(ready[1], b"!")
                os.read(wait[0], 1)  # until the test has ended
                os._exit(0)
            os.read(ready[0], 1)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / ".x.lock").exists()
    assert error_elsewhere(tmp_path / "x") is None
    assert not list(tmp_path.iterdir())
    for end in (*ready, *wait):
        os.close(end)
