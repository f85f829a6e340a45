"""JSON files: errors about one that is missing, and what one holds."""

import gzip
from pathlib import Path

import pytest

from bcnet_core.errors import BCNetError
from bcnet_core.files.json_files import begins_list, read_json


def test_hidden_files_are_not_suggested(tmp_path: Path) -> None:
    for name in (".a.json.lock", ".hidden.json", "a.json", "b.json.gz"):
        (tmp_path / name).touch()
    with pytest.raises(BCNetError, match="does not exist") as caught:
        read_json(tmp_path / "none.json")
    assert caught.value.hints == ("json files there: a.json · b.json.gz",)


@pytest.mark.parametrize("start", [b"[", b" \n\t[1", b"\xef\xbb\xbf[]"])
def test_a_list_is_told_from_an_object_by_its_beginning(tmp_path: Path, start: bytes) -> None:
    plain, packed, other = tmp_path / "a.json", tmp_path / "a.json.gz", tmp_path / "b.json"
    plain.write_bytes(start)
    packed.write_bytes(gzip.compress(start))
    other.write_bytes(start.replace(b"[", b"{"))
    assert begins_list(plain) and begins_list(packed) and not begins_list(other)


def test_a_file_that_cannot_be_read_begins_no_list(tmp_path: Path) -> None:
    (tmp_path / "broken.json.gz").write_bytes(b"[")
    assert not any(begins_list(tmp_path / name) for name in ("broken.json.gz", "missing.json", "."))
