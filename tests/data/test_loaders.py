import json
from pathlib import Path

import pytest

from bcnet_core import BCNetError
from bcnet_core.config.data import DataConfig, DatasetConfig
from bcnet_core.config.load import load_recipe
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import open_training_set, read_annotations, read_truth


def test_a_missing_data_root_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BCNetError, match="no data root was given") as caught:
        open_training_set(Recipe(data=DataConfig()))
    assert caught.value.exit_code == 2 and "--data-root" in caught.value.hints[0]


def test_a_set_without_occluders_is_an_error_unless_the_recipe_allows_it(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    for annotation in content["annotations"]:
        annotation["bg_object_segmentation"] = []
    (tmp_path / "none.json").write_text(json.dumps(content))
    train = DatasetConfig(annotations=tmp_path / "none.json", images=Path("train"))
    data = DataConfig(root=scenes, train=train)
    with pytest.raises(
        BCNetError, match=r"no instance in .* has an occluder, so layer 1 has nothing to learn"
    ) as caught:
        open_training_set(Recipe(data=data))
    assert caught.value.exit_code == 3 and "data.occluders=derive" in caught.value.hints[0]
    assert open_training_set(Recipe(data=data.model_copy(update={"occluders": "derive"})))[0].occluder_share > 0
    assert open_training_set(Recipe(data=data.model_copy(update={"allow_no_occluders": True})))[0].occluder_share == 0
    open_training_set(Recipe(data=data, model=ModelConfig(layers=1)))
    for annotation in content["annotations"]:
        del annotation["bg_object_segmentation"]
    alone = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    (tmp_path / "none.json").write_text(json.dumps(content | {"annotations": list(alone.values())}))
    with pytest.raises(BCNetError, match="has an occluder") as caught:
        open_training_set(Recipe(data=data))
    assert not any("derive" in hint for hint in caught.value.hints), "they are derived already"


def test_a_truth_with_an_unreadable_whole_mask_is_scored_without_it_where_whole_masks_are(
    scenes: Path, tmp_path: Path
) -> None:
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    content["annotations"][0]["amodal_segmentation"] = "?"
    (tmp_path / "truth.json").write_text(json.dumps(content))
    data = DataConfig(root=scenes, val=DatasetConfig(annotations=tmp_path / "truth.json", images=Path("train")))
    whole, part = (read_truth(data, data.val, reads_wholes=reads).annotations for reads in (False, True))
    assert whole == content["annotations"] and part == content["annotations"][1:]


def test_missing_images_are_counted_before_training(scenes: Path, tmp_path: Path) -> None:
    train = DatasetConfig(annotations=Path("annotations/instances_train.json"), images=tmp_path)
    with pytest.raises(BCNetError, match="12 of 12 images are not in") as caught:
        open_training_set(Recipe(data=DataConfig(root=scenes, train=train)))
    assert caught.value.exit_code == 3


def test_a_missing_annotation_file_names_the_files_of_the_data_root(tmp_path: Path) -> None:
    for name in ("instances_train2017.json", "captions_train2017.json", "instances_val2017.json"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / name).write_text("{}")
    (tmp_path / "train2017").mkdir()
    shapes = load_recipe("shapes", data_root=tmp_path).data
    with pytest.raises(BCNetError, match=r"has no `annotations/instances_train\.json`, which `data\.train") as caught:
        open_training_set(Recipe(data=shapes))
    assert caught.value.exit_code == 3
    assert "annotations/instances_val2017.json" in caught.value.hints[0] and "train2017" in caught.value.hints[0]
    assert caught.value.hints[1] == (
        "name them: data.train.annotations=annotations/instances_train2017.json data.train.images=train2017"
    )
    with pytest.raises(BCNetError, match=r"`data\.val\.annotations` names") as caught:
        read_annotations(shapes, shapes.val)
    assert "data.val.annotations=annotations/instances_val2017.json data.val.images=FOLDER" in caught.value.hints[1]
    with pytest.raises(BCNetError, match=r"has no `annotations/[^`]*`$") as caught:
        read_annotations(shapes, shapes.test, configurable=False)
    assert "data.test" not in "".join(caught.value.hints)


def test_a_missing_data_root_and_a_missing_absolute_path_are_named(tmp_path: Path) -> None:
    data = DataConfig(root=tmp_path / "gone")
    with pytest.raises(BCNetError, match=r"the data root `.*gone` does not exist"):
        read_annotations(data, data.train)
    train = DatasetConfig(annotations=tmp_path / "my.json", images=tmp_path)
    with pytest.raises(BCNetError, match=r"the annotation file `.*my\.json` of the recipe does not exist"):
        read_annotations(DataConfig(train=train), train)
