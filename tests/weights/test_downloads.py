"""Downloads of weight files: once, checked, told, and nothing half-written; only from a server on this machine."""

import hashlib
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.downloads import cached, fetch
from bcnet_core.weights.files import named_tensors, read_weight_file


def read(path: Path) -> dict[str, torch.Tensor]:
    return named_tensors(read_weight_file(path), path)


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_a_url_is_downloaded_once_and_kept_if_readable(tmp_path: Path, server: str) -> None:
    path = fetch(f"{server}/w.pkl?version=2", SilentReporter())
    assert path.parent.parent == tmp_path / "cache/bcnet/weights" and path.name == "w.pkl"
    assert read(path)["w"].tolist() == [1, 1, 1]
    (tmp_path / "served/w.pkl").unlink()
    assert fetch(f"{server}/w.pkl?version=2", SilentReporter()) == path
    with pytest.raises(BCNetError, match=r"cannot fetch `http://.*/w\.pkl`: HTTP Error 404"):
        fetch(f"{server}/w.pkl", SilentReporter())
    with pytest.raises(BCNetError, match=r"`http://.*/page\.pkl` is not a weight file"):
        fetch(f"{server}/page.pkl", SilentReporter())
    with pytest.raises(
        BCNetError, match=r"cannot fetch `http://.*/cut\.pkl`: the connection broke off after 2,000 of 5,000 bytes"
    ):
        fetch(f"{server}/cut.pkl", SilentReporter())
    assert left_in(tmp_path / "cache") == ["w.pkl"]


def test_failed_downloads_give_clear_errors(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BCNetError, match=r"cannot fetch `http://127\.0\.0\.1:1/x`"):
        fetch("http://127.0.0.1:1/x", SilentReporter())
    with pytest.raises(BCNetError, match="is not a URL that can be fetched") as caught:
        fetch("s3://bucket/x.pkl", SilentReporter())
    assert caught.value.exit_code == 2
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BCNetError, match=r"cannot write `.*/w\.pkl`"):
        fetch(f"{server}/w.pkl", SilentReporter())


def test_paths_and_file_urls_are_used_in_place(tmp_path: Path) -> None:
    path = tmp_path / "my weights.pkl"
    assert fetch(str(path), SilentReporter()) == path
    assert fetch(path.as_uri(), SilentReporter()) == path


@pytest.mark.parametrize("url", ["http://a/%2e%2e", "http://a/..", "http://a/", "http://a/b%2Fc", "http://a/x%00y"])
def test_no_url_leaves_the_cache(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cached(url).resolve().parent.parent == tmp_path / "bcnet/weights"
    assert "\0" not in str(cached(url))


class Telling(SilentReporter):
    """Keeps what it is told, and how much progress."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.tasks: list[tuple[str, int]] = []

    def info(self, message: str) -> None:
        self.told.append(message)

    def progress(self, title: str, total: int) -> Any:
        self.tasks.append((title, total))
        return super().progress(title, total)


def digest_in(folder: Path, kind: str = "sha256") -> str:
    return f"{kind}:{hashlib.new(kind, (folder / 'served/w.pkl').read_bytes()).hexdigest()[:8]}"


def test_a_download_is_told_with_its_size(tmp_path: Path, server: str) -> None:
    (tmp_path / "served/w.pkl").write_bytes(pickle.dumps({"w": np.ones(200_000)}))
    reporter = Telling()
    path = fetch(f"{server}/w.pkl", reporter)
    assert reporter.tasks == [("MB of w.pkl", 2)] and reporter.told == [f"fetching {server}/w.pkl to {path}"]
    fetch(f"{server}/w.pkl", reporter)
    assert reporter.told[1:] == [f"fetched before: {path}"]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_the_digest_is_checked_before_a_download_is_kept(tmp_path: Path, server: str, kind: str) -> None:
    with pytest.raises(BCNetError, match=f"is not the file that was published: its {kind} begins with .*, not 0000"):
        fetch(f"{server}/w.pkl", SilentReporter(), digest=f"{kind}:0000")
    assert left_in(tmp_path / "cache") == []
    assert fetch(f"{server}/w.pkl", SilentReporter(), digest=digest_in(tmp_path, kind)).exists()


def test_offline_one_sentence_says_where_a_file_can_be_put(tmp_path: Path, server: str) -> None:
    url = f"{server}/nothing.pkl"
    with pytest.raises(BCNetError) as caught:
        fetch(url, SilentReporter(), digest=digest_in(tmp_path))
    place = cached(url)
    assert caught.value.message == (
        f"cannot fetch `{url}`: HTTP Error 404: File not found; fetch it by other means, and put it at `{place}`"
    )
    assert caught.value.exit_code == 1 and left_in(tmp_path / "cache") == []
    place.parent.mkdir(parents=True)
    place.write_bytes(pickle.dumps({"w": np.zeros(3)}))
    with pytest.raises(BCNetError, match="is not the file that was published") as caught:
        fetch(url, SilentReporter(), digest=digest_in(tmp_path))
    assert caught.value.hints == (f"remove it, and it is fetched again from {url}",) and place.exists()
    place.write_bytes((tmp_path / "served/w.pkl").read_bytes())
    assert fetch(url, SilentReporter(), digest=digest_in(tmp_path)) == place


def test_the_reason_of_a_name_that_is_not_found_is_shown_without_brackets() -> None:
    with pytest.raises(BCNetError, match=r"cannot fetch `http://127\.0\.0\.1:1/x`: \[Errno \d+\] Connection refused;"):
        fetch("http://127.0.0.1:1/x", SilentReporter())


def test_the_second_of_two_waits_for_the_first(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads hold two locks like two processes, as long as the lock is not the same object."""
    from bcnet_core.files import outputs

    monkeypatch.setattr(outputs, "LOCK_SECONDS", 0.05)
    second = Telling()
    with ThreadPoolExecutor(1) as pool, outputs.locked_output(cached(f"{server}/w.pkl")):
        waiting = pool.submit(fetch, f"{server}/w.pkl", second)
        deadline = time.monotonic() + 10
        while not second.told and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (
            second.told == [f"another process is writing {cached(f'{server}/w.pkl')}; waiting for it"]
            and not waiting.done()
        )
        cached(f"{server}/w.pkl").write_bytes((tmp_path / "served/w.pkl").read_bytes())
    assert waiting.result(10) == cached(f"{server}/w.pkl")
    assert second.tasks == [], "it was not downloaded again"
    assert left_in(tmp_path / "cache") == ["w.pkl"]
