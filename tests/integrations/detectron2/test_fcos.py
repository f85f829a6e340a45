"""The whole one-stage detector through detectron2, against recordings of the official code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances

import bcnet_core
from bcnet_core.errors import BCNetError
from bcnet_core.integrations.detectron2 import BilayerFCOS, CroppedMasks, bilayer_fcos
from bcnet_core.integrations.detectron2.predicting import Detectron2Detector
from bcnet_core.weights.checkpoint import save_checkpoint
from bcnet_core.weights.importing import import_weights
from tests.model.test_parity import OFFICIAL, PARITY
from tests.model.test_parity_fcos import polygon_targets, rgb
from tests.parity.rule import weights_for


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    with np.load(PARITY / "fcos_model.npz") as recorded:
        return dict(recorded)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detectron2Detector:
    """The official checkpoint: imported, then loaded into detectron2."""
    folder: Path = tmp_path_factory.mktemp("release")
    shapes = json.loads((PARITY / "official_keys_r50.json").read_text())["shapes"]
    state = {key: torch.as_tensor(weights_for(key, shape, "open")) for key, shape in shapes.items()}
    torch.save({"model": state}, folder / "official.pth")
    checkpoint, _ = import_weights(folder / "official.pth")
    save_checkpoint(folder / "ours.pt", checkpoint)
    loaded = bcnet_core.load_detector(folder / "ours.pt", device="cpu", backend="detectron2")
    for file in folder.iterdir():
        file.unlink()
    return loaded


@pytest.mark.parametrize(("image", "height", "width"), [("a", 256, 320), ("b", 199, 263)])
def test_the_official_checkpoint_predicts_the_recorded_instances(
    detector: Detectron2Detector, official: dict[str, Any], image: str, height: int, width: int
) -> None:
    assert isinstance(detector.model, BilayerFCOS)
    out_height, out_width = official[f"{image}_out_hw"].tolist()
    pixels = torch.from_numpy(rgb(image, height, width)[..., ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        (raw,) = detector.model.inference([{"image": pixels}], do_postprocess=False)
        (final,) = detector.model([{"image": pixels, "height": out_height, "width": out_width}])
    np.testing.assert_allclose(raw.pred_boxes.tensor, official[f"{image}_sel_boxes"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(raw.scores, official[f"{image}_sel_scores"], rtol=0, atol=1e-5)
    assert raw.pred_classes.tolist() == official[f"{image}_sel_classes"].tolist()
    fields = {"occludee_mask": "pred_masks", "occludee_boundary": "pred_occludee_boundaries",
              "occluder_mask": "pred_occluder_masks", "occluder_boundary": "pred_occluder_boundaries"}  # fmt: skip
    for ours, theirs in OFFICIAL.items():
        expected = torch.from_numpy(official[f"{image}_logits_{theirs}"]).sigmoid()
        torch.testing.assert_close(raw.get(fields[ours]), expected, rtol=0, atol=1e-4)
    instances = final["instances"]
    np.testing.assert_allclose(instances.pred_boxes.tensor, official[f"{image}_boxes"], rtol=0, atol=1e-2)
    packed = np.packbits(instances.pred_masks.numpy().reshape(len(instances), -1), axis=1)
    wrong = np.unpackbits(packed ^ official[f"{image}_masks_full_packed"]).sum()
    assert wrong <= 1e-4 * instances.pred_masks.numel()  # detectron2 pastes by itself


def test_predict_returns_the_recorded_instances(detector: Detectron2Detector, official: dict[str, Any]) -> None:
    (found,) = detector.predict([rgb("a", 256, 320)], resize=False)
    np.testing.assert_allclose(found.boxes, official["a_boxes"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(found.scores, official["a_scores"], rtol=0, atol=1e-5)
    for ours, theirs in OFFICIAL.items():
        probabilities = torch.from_numpy(official[f"a_logits_{theirs}"][:, 0]).sigmoid()
        torch.testing.assert_close(getattr(found, ours), probabilities, rtol=0, atol=1e-4)


def test_a_training_step(
    detector: Detectron2Detector, official: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official code rasterises polygons at 28 x 28 for its mask targets, which this project does not."""
    batch, polygons, occluders = [], [], []
    for entry in json.loads((PARITY / "fcos_train.json").read_text())["images"]:
        instances = Instances((entry["height"], entry["width"]))
        instances.gt_boxes = Boxes(torch.tensor(entry["boxes"]))
        instances.gt_classes = torch.tensor(entry["classes"])
        nothing = [None] * len(entry["boxes"])
        instances.gt_masks = instances.gt_occluders = CroppedMasks.from_segmentations(nothing, *instances.image_size)
        pixels = rgb(entry["name"], entry["height"], entry["width"])[..., ::-1].transpose(2, 0, 1).copy()
        batch.append({"image": torch.from_numpy(pixels), "instances": instances})
        polygons += entry["polygons"]
        occluders += entry["bo_polygons"]
    monkeypatch.setattr(
        "bcnet_core.model.mask_branch.bilayer_targets",
        lambda targets, rois, *, size, names: polygon_targets(rois, polygons, occluders),
    )
    losses = detector.model.train()(batch)
    named = {
        "loss_cls": "classification", "loss_reg": "box", "loss_centerness": "centerness",
        "loss_mask": "occludee_mask", "loss_mask_bo": "occluder_mask",
        "loss_boundary": "occludee_boundary", "loss_boundary_bo": "occluder_boundary",
    }  # fmt: skip
    recorded = dict(zip(official["train_loss_names"].tolist(), official["train_losses"].tolist(), strict=True))
    for theirs, ours in named.items():
        assert float(losses[f"loss_{ours}"].detach()) == pytest.approx(recorded[theirs], rel=1e-4)
    assert losses.keys() == {f"loss_{name}" for name in named.values()}


def test_instances_without_occluders_are_rejected() -> None:
    model = instantiate(bilayer_fcos(num_classes=3))
    instances = Instances((64, 64))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]])), torch.tensor([1])
    instances.gt_masks = CroppedMasks.from_segmentations([np.ones((64, 64), bool)], 64, 64)
    with pytest.raises(BCNetError, match="no occluder regions"):
        model([{"image": torch.zeros(3, 64, 64), "instances": instances}])


def test_other_mask_types_are_rejected() -> None:
    model = instantiate(bilayer_fcos(num_classes=3))
    instances = Instances((64, 64))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]])), torch.tensor([1])
    instances.gt_masks = instances.gt_occluders = BitMasks(torch.ones(1, 64, 64))
    with pytest.raises(BCNetError, match="masks of type BitMasks") as error:
        model([{"image": torch.zeros(3, 64, 64), "instances": instances}])
    assert "BilayerDatasetMapper" in error.value.hints[0]


def test_the_lazy_config_trains() -> None:
    model = instantiate(bilayer_fcos(num_classes=3))
    assert model.loss_weights["box"] == 1.25
    instances = Instances((64, 64))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]])), torch.tensor([1])
    full = CroppedMasks.from_segmentations([np.ones((64, 64), bool)], 64, 64)
    instances.gt_masks = instances.gt_occluders = full
    losses = model([{"image": torch.zeros(3, 64, 64), "instances": instances}])
    sum(losses.values()).backward()
    assert model.heads.masks.head.occluder.convs[0].weight.grad.abs().sum() > 0
