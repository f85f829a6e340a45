"""One process at a time writes an output; what a killed one left is cleared away by the next one."""

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from bcnet_core.errors import BCNetError
from bcnet_core.files import claims
from bcnet_core.files.claims import claimed, locked
from bcnet_core.files.json_files import write_json
from bcnet_core.files.outputs import atomic_directory, atomic_file, claim_together


def refused(path: Path) -> BCNetError | None:
    """The error that another thread gets when it claims an output."""
    found: list[BCNetError] = []

    def claim_it() -> None:
        try:
            with claimed(path):
                pass
        except BCNetError as error:
            found.append(error)

    other = threading.Thread(target=claim_it)
    other.start()
    other.join()
    return found[0] if found else None


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LOCK_SECONDS", 0.0)


def test_only_one_claims_an_output(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("x.json")
    with claimed(tmp_path / "x.json"):
        for name in ("x.json", "link.json", "../" + tmp_path.name + "/x.json"):
            error = refused(tmp_path / name)
            assert error is not None and error.exit_code == 2
            assert f"`{tmp_path / name}` is being written by another process" in error.message
        assert refused(tmp_path / "y.json") is None
        write_json(tmp_path / "x.json", 1)  # who claimed it may write it, again and again
        write_json(tmp_path / "x.json", 2)
    assert refused(tmp_path / "x.json") is None
    assert {path.name for path in tmp_path.iterdir()} == {"link.json", "x.json"}


def test_who_claims_a_folder_has_what_is_in_it(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "d") as folder:
        write_json(folder / "a.json", 1)
        assert [path.name for path in folder.iterdir()] == ["a.json"]
        assert refused(tmp_path / "d") is not None
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "a.json"]


def test_folders_that_were_made_for_nothing_go(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "there/new/newer/x"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    for name in (".x.json.lock", ".part.x.json", "other"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".part.d/deep").mkdir(parents=True)
    (tmp_path / ".d.lock").touch()
    write_json(tmp_path / "x.json", 1)
    with atomic_directory(tmp_path / "d"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", "d", "other"}


def test_a_folder_that_had_to_make_room_comes_back(tmp_path: Path) -> None:
    """The process was killed between the two renames, or behind them."""
    (tmp_path / ".old.d").mkdir()
    (tmp_path / ".old.d/old").touch()
    (tmp_path / ".part.d").mkdir()
    with claim_together(tmp_path / "d"):
        assert [path.name for path in tmp_path.iterdir() if path.name != ".d.lock"] == ["d"]
        assert (tmp_path / "d/old").exists()
    (tmp_path / ".old.d").mkdir()
    with claim_together(tmp_path / "d"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "old"]


def test_a_failing_rename_keeps_the_old_folder(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "d") as folder:
        (folder / "old").touch()
    with pytest.raises(BCNetError, match="cannot write"), atomic_directory(tmp_path / "d") as folder:
        folder.rmdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "old"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the file itself is the lock; only a person can tell that it is nobody's any more."""

    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with claimed(tmp_path / "x"):
        error = refused(tmp_path / "x")
        assert error is not None and error.exit_code == 2
        assert "is being written by another process, or was by one that was killed" in error.message
        assert error.hints == (f"if none is at work there: rm '{tmp_path}/.x.lock'",)
    assert refused(tmp_path / "x") is None
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking it, its holder ended, and somebody else made it anew."""
    real = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        (tmp_path / "lock").unlink()
        real(descriptor, operation)

    monkeypatch.setattr(claims, "LOCK_SECONDS", 1.0)
    monkeypatch.setattr(fcntl, "flock", late)
    busy = BCNetError("busy")
    with locked(tmp_path / "lock", busy, owns=tmp_path):
        assert (tmp_path / "lock").exists()
        monkeypatch.setattr(claims, "LOCK_SECONDS", 0.0)
        with pytest.raises(BCNetError, match="busy"), locked(tmp_path / "lock", busy, owns=tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_forked_process_holds_no_lock(tmp_path: Path) -> None:
    """A loader of images may live on for seconds when the process that trains was killed."""
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        with claimed(tmp_path / "x"):
            if not os.fork():
                os.close(wait[1])
                os.write(ready[1], b"!")
                os.read(wait[0], 1)  # until the test has ended
                os._exit(0)
            os.read(ready[0], 1)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / ".x.lock").exists()
    assert refused(tmp_path / "x") is None
    assert not list(tmp_path.iterdir())
    for end in (*ready, *wait):
        os.close(end)
