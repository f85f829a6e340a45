import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcnet_core import BCNetError
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import DataConfig, DatasetConfig
from bcnet_core.data.loaders import StepSampler, open_training_set, read_annotations


def sampler(**options: Any) -> StepSampler:
    return StepSampler(
        **{
            "wide": np.zeros(10, bool),
            "batch_size": 4,
            "first_step": 0,
            "last_step": 9,
            "seed": 1,
            "rank": 0,
            "world_size": 1,
            **options,
        }
    )


def test_every_epoch_sees_every_image_once_in_a_new_order() -> None:
    drawn = [position for step in sampler(last_step=5) for position, _ in step]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_wide_images_and_others_come_in_steps_of_their_own() -> None:
    wide = np.arange(50) % 3 == 0
    steps = list(sampler(wide=wide, last_step=25))
    kinds = [len({bool(wide[position]) for position, _ in step}) for step in steps]
    assert kinds.count(1) >= 20  # two epochs; what is left of both kinds ends each of them
    drawn = [position for step in steps for position, _ in step]
    assert sorted(drawn[:50]) == sorted(drawn[50:]) == list(range(50)) and drawn[:50] != drawn[50:]
    halves = zip(*(sampler(wide=wide, last_step=25, rank=rank, world_size=2) for rank in (0, 1)), strict=True)
    assert [first + second for first, second in halves] == steps
    assert list(sampler(wide=wide, first_step=9, last_step=25)) == steps[9:]


def test_processes_share_each_step() -> None:
    whole = list(sampler())
    halves = zip(sampler(rank=0, world_size=2), sampler(rank=1, world_size=2), strict=True)
    assert [first + second for first, second in halves] == whole


def test_a_resumed_run_sees_what_it_would_have_seen() -> None:
    assert list(sampler(first_step=4)) == list(sampler())[4:]
    assert len(sampler(first_step=4)) == 5


def test_no_two_samples_share_a_seed() -> None:
    seeds = [seed for step in sampler(last_step=500) for _, seed in step]
    assert len(set(seeds)) > 0.999 * len(seeds)
    assert {seed for step in sampler(seed=2) for _, seed in step}.isdisjoint(seeds)


def test_a_missing_data_root_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BCNetError, match="no data root was given") as caught:
        open_training_set(DataConfig())
    assert caught.value.exit_code == 2 and "--data-root" in caught.value.hints[0]


def test_a_set_without_occluders_is_refused_unless_it_may_be(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    for annotation in content["annotations"]:
        annotation["bg_object_segmentation"] = []
    (tmp_path / "none.json").write_text(json.dumps(content))
    train = DatasetConfig(annotations=tmp_path / "none.json", images=Path("train"))
    data = DataConfig(root=scenes, train=train)
    with pytest.raises(
        BCNetError, match=r"no instance in .* has an occluder, so layer 1 has nothing to learn"
    ) as caught:
        open_training_set(data)
    assert caught.value.exit_code == 3 and "data.occluders=derive" in caught.value.hints[0]
    assert open_training_set(data.model_copy(update={"occluders": "derive"}))[0].occluder_share > 0
    assert open_training_set(data.model_copy(update={"allow_no_occluders": True}))[0].occluder_share == 0
    open_training_set(data, need_occluders=False)
    for annotation in content["annotations"]:
        del annotation["bg_object_segmentation"]
    alone = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    (tmp_path / "none.json").write_text(json.dumps(content | {"annotations": list(alone.values())}))
    with pytest.raises(BCNetError, match="has an occluder") as caught:
        open_training_set(data)
    assert not any("derive" in hint for hint in caught.value.hints), "they are derived already"


def test_missing_images_are_counted_before_training(scenes: Path, tmp_path: Path) -> None:
    train = DatasetConfig(annotations=Path("annotations/instances_train.json"), images=tmp_path)
    with pytest.raises(BCNetError, match="12 of 12 training images do not exist") as caught:
        open_training_set(DataConfig(root=scenes, train=train))
    assert caught.value.exit_code == 3


def test_a_missing_annotation_file_names_the_files_of_the_data_root(tmp_path: Path) -> None:
    for name in ("instances_train2017.json", "captions_train2017.json", "instances_val2017.json"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / name).write_text("{}")
    (tmp_path / "train2017").mkdir()
    shapes = load_recipe("shapes", data_root=tmp_path).data
    with pytest.raises(BCNetError, match=r"has no `annotations/instances_train\.json`, which `data\.train") as caught:
        open_training_set(shapes)
    assert caught.value.exit_code == 3
    assert "annotations/instances_val2017.json" in caught.value.hints[0] and "train2017" in caught.value.hints[0]
    assert caught.value.hints[1] == (
        "name them: data.train.annotations=annotations/instances_train2017.json data.train.images=train2017"
    )
    with pytest.raises(BCNetError, match=r"`data\.val\.annotations` names") as caught:
        read_annotations(shapes, shapes.val)
    assert "data.val.annotations=annotations/instances_val2017.json data.val.images=FOLDER" in caught.value.hints[1]
    with pytest.raises(BCNetError, match=r"`data\.test\.annotations` names") as caught:
        read_annotations(shapes, shapes.test, configurable=False)
    assert "data.test.annotations=" not in "".join(caught.value.hints)


def test_a_missing_data_root_and_a_missing_absolute_path_are_named(tmp_path: Path) -> None:
    data = DataConfig(root=tmp_path / "gone")
    with pytest.raises(BCNetError, match=r"the data root `.*gone` does not exist"):
        read_annotations(data, data.train)
    train = DatasetConfig(annotations=tmp_path / "my.json", images=tmp_path)
    with pytest.raises(BCNetError, match=r"the annotation file `.*my\.json` of the recipe does not exist"):
        read_annotations(DataConfig(train=train), train)
