"""Which images results are about."""

from pathlib import Path

import pytest

from bcnet_core.annotations.coco import CocoFile
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.evaluation.image_list import listing_path, refuse_other_images
from bcnet_core.files.json_files import write_json


def listed(*names: str) -> dict[str, list[dict[str, object]]]:
    images = [{"id": number, "file_name": name, "width": 4, "height": 3} for number, name in enumerate(names, 1)]
    return {"images": list(images), "annotations": [], "categories": []}


@pytest.mark.parametrize(
    ("predicted", "true", "alike"),
    [
        ("a.png", "a.png", True),
        ("/data/val/a.png", "a.png", True),
        ("/data/val/a.png", "val/a.png", True),
        ("../val/a.png", "coco/val/a.png", True),
        ("b.png", "a.png", False),
        ("val/b.png", "val/a.png", False),
        ("train/a.png", "val/a.png", False),
    ],
)
def test_names_of_one_id_are_compared(tmp_path: Path, predicted: str, true: str, alike: bool) -> None:
    results = tmp_path / "found.json"
    write_json(listing_path(results), listed("same.png", predicted, "more.png"))
    truth = CocoFile(tmp_path / "truth.json", listed("same.png", true))
    if alike:
        refuse_other_images(results, truth)
        return
    with pytest.raises(BCNetError, match="1 of 2 ids") as caught:
        refuse_other_images(results, truth)
    assert f"the first, 2, for `{predicted}`, not `{true}`" in caught.value.message
    assert caught.value.exit_code == ExitCode.BAD_DATA and "--ids-from" in caught.value.hints[0]


def test_without_a_listing_of_ours_nothing_is_refused(tmp_path: Path) -> None:
    results, truth = tmp_path / "found.json", CocoFile(tmp_path / "truth.json", listed("a.png"))
    refuse_other_images(results, truth)
    listing_path(results).write_text("[1, 2]")
    refuse_other_images(results, truth)
