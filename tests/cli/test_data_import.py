"""`bcnet data import` says what it found, wrote and could not take, and what to do next."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.conftest import Bcnet
from tests.importers.pictures import make_coco


def write(folder: Path, count: int = 5, *, without_mask: int = 0, damaged: int = 0) -> Path:
    """Write a COCO file whose first annotations have no mask and whose last photos are damaged."""
    content = make_coco(folder / "photos", count)
    for annotation in content["annotations"][:without_mask]:
        annotation["segmentation"] = []
    for image in content["images"][count - damaged :]:
        (folder / "photos" / image["file_name"]).write_text("no picture")
    (folder / "my set.json").write_text(json.dumps(content))
    return folder / "my set.json"


def test_a_clean_set_is_split_and_the_next_commands_can_be_pasted(bcnet: Bcnet, tmp_path: Path) -> None:
    source = write(tmp_path)
    done = bcnet("data", "import", source, "-o", "my root", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("│")] == [
        ["│", "train", "│", "4", "│", "8", "│"],
        ["│", "val", "│", "1", "│", "2", "│"],
    ]
    said = done.stderr.splitlines()[-3:]
    assert said == [
        "wrote my root",
        "next  bcnet viz 'my root/annotations/instances_val2017.json' --images 'my root/val2017' -o truth",
        "next  bcnet train --data-root 'my root' --run-dir runs/first",
    ]
    trained = bcnet("train", "tiny", "--data-root", "my root", "--dry-run", "--device", "cpu", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr


def test_what_is_left_out_is_named_on_the_screen_and_in_the_record(bcnet: Bcnet, tmp_path: Path) -> None:
    source = write(tmp_path, without_mask=1, damaged=2)
    done = bcnet("data", "import", source, "--images", tmp_path / "photos", "-o", tmp_path / "root", "--json")
    record = json.loads((tmp_path / "root/import.json").read_text())
    assert json.loads(done.stdout) == record
    assert (record["images"], record["instances"]) == (3, 5)
    assert record["left_out"] == {"mask_missing": 1, "photo_damaged": 2, "image_left_out": 4}
    assert record["first_ids"].keys() == {**record["repaired"], **record["left_out"]}.keys()
    shown = bcnet("data", "import", source, "-o", tmp_path / "root", "--overwrite")
    assert "left out" in shown.stdout
    assert "03.png, 04.png" in shown.stdout


def test_a_source_that_is_none_of_the_formats_is_refused_with_their_list(bcnet: Bcnet, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("nothing")
    for source, said in {"folder": "none of the formats", "nowhere": "does not exist"}.items():
        done = bcnet("data", "import", source, "-o", "root", cwd=tmp_path)
        assert done.returncode == 3
        assert said in done.stderr.splitlines()[0]
    (tmp_path / "export.zip").write_bytes(b"PK")
    done = bcnet("data", "import", "export.zip", "-o", "root", cwd=tmp_path)
    assert (done.returncode, "unpack it" in done.stderr) == (3, True)
    done = bcnet("data", "import", "folder", "-o", "root", "--from", "cocoo", cwd=tmp_path)
    assert (done.returncode, "formats: auto" in done.stderr) == (2, True)
    assert not (tmp_path / "root").exists()


def test_wrong_options_are_usage_errors(bcnet: Bcnet, tmp_path: Path) -> None:
    source = write(tmp_path)
    for words in (["--val", "20"], ["--val", "1"], ["--seed", "-1"]):
        assert bcnet("data", "import", source, "-o", tmp_path / "root", *words).returncode == 2
    assert bcnet("data", "import", source, "-o", tmp_path).returncode == 2
    assert not (tmp_path / "root").exists()


def test_a_dry_run_writes_nothing(bcnet: Bcnet, tmp_path: Path) -> None:
    done = bcnet("data", "import", write(tmp_path), "-o", tmp_path / "root", "--dry-run")
    assert done.returncode == 0
    assert "would write" in done.stderr
    assert not (tmp_path / "root").exists()


def test_a_pipe_is_no_data_set(bcnet: Bcnet, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = bcnet("data", "import", "pipe", "-o", "root", cwd=tmp_path)
    assert (done.returncode, "is a pipe or a device" in done.stderr) == (3, True)
