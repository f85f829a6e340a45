"""Errors about a JSON file that is missing."""

from pathlib import Path

import pytest

from bcnet_core.errors import BCNetError
from bcnet_core.files.json_files import read_json


def test_hidden_files_are_not_suggested(tmp_path: Path) -> None:
    for name in (".a.json.lock", ".hidden.json", "a.json", "b.json.gz"):
        (tmp_path / name).touch()
    with pytest.raises(BCNetError, match="does not exist") as caught:
        read_json(tmp_path / "none.json")
    assert caught.value.hints == ("json files there: a.json · b.json.gz",)
