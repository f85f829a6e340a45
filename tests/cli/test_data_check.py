"""`bcnet data check` exits with 0 where all trains, and with 3, a table and a way out where not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tests.conftest import Bcnet
from tests.importers.pictures import make_coco


def write(folder: Path, *, faulty: bool) -> Path:
    """Write a COCO file of three photos; the first instance has no mask, and the second no box, if it is faulty."""
    content = make_coco(folder / "photos", 3)
    if faulty:
        content["annotations"][0]["segmentation"] = []
        del content["annotations"][1]["bbox"]
    (folder / "my set.json").write_text(json.dumps(content))
    return folder / "my set.json"


def test_a_sound_file_passes(bcnet: Bcnet, tmp_path: Path) -> None:
    done = bcnet("data", "check", write(tmp_path, faulty=False), "--images", tmp_path / "photos", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"images": 3, "instances": 6, "trainable": 6, "findings": []}


def test_faults_are_counted_and_the_import_that_mends_them_can_be_pasted(bcnet: Bcnet, tmp_path: Path) -> None:
    source = write(tmp_path, faulty=True)
    before = source.read_bytes()
    done = bcnet("data", "check", source.name, "--images", "photos", cwd=tmp_path)
    assert done.returncode == 3
    assert "2 of 6 instances do not train" in done.stderr
    for cell in ("have no mask", "16.7%", "way out"):
        assert cell in done.stdout
    line = next(line for line in done.stderr.splitlines() if "bcnet data import" in line)
    words = shlex.split(line[line.index("bcnet ") :])
    mended = bcnet(*words[1:], cwd=tmp_path)
    assert mended.returncode == 0, mended.stderr
    root = tmp_path / words[-1]
    again = bcnet("data", "check", root / "annotations/instances_train2017.json", "--images", root / "train2017")
    assert again.returncode == 0, again.stderr
    assert source.read_bytes() == before


def test_json_has_every_kind_with_its_ids_and_way_out(bcnet: Bcnet, tmp_path: Path) -> None:
    done = bcnet("data", "check", write(tmp_path, faulty=True), "--json")
    assert done.returncode == 3
    report = json.loads(done.stdout)
    found = {one["kind"]: (one["count"], one["ids"]) for one in report["findings"]}
    assert found == {"mask_missing": (1, [1]), "box_missing": (1, [2])}
    assert all(one["way_out"] for one in report["findings"])
    assert (report["instances"], report["trainable"]) == (6, 4)


def test_what_is_no_data_set_is_one_sentence(bcnet: Bcnet, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"images": [')
    (tmp_path / "list.json").write_text("[]")
    for name in ("broken.json", "list.json", "nowhere.json"):
        done = bcnet("data", "check", name, "--json", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert name in done.stderr.splitlines()[0]
