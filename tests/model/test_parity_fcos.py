"""The whole FCOS detector against recordings of the official code; tolerances are ten times its own noise.

The official code rasterises polygons at 28 x 28 for its mask targets, which this project does not, so the test does.
"""

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from bcnet_core.data.dataset import Targets
from bcnet_core.masks.crops import crop_rles
from bcnet_core.model.detectors import Detector, to_detections
from bcnet_core.model.fcos import assign, fcos_losses
from bcnet_core.model.losses import bilayer_losses, target_maps
from bcnet_core.model.rois import RoIs, pool_rois
from bcnet_core.weights.checkpoint import save_checkpoint
from bcnet_core.weights.from_detectron2 import fcos_name
from bcnet_core.weights.importing import import_weights
from bcnet_core.weights.loading import Trained, read_trained
from tests.model.test_parity import OFFICIAL, PARITY
from tests.parity.rule import checksum, image_for, input_for, weights_for

Recording = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def official() -> Recording:
    with np.load(PARITY / "fcos_model.npz") as recorded:
        return dict(recorded)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The way that a user brings the release in: import, then load."""
    shapes = json.loads((PARITY / "official_keys_r50.json").read_text())["shapes"]
    folder = tmp_path_factory.mktemp("release")
    state = {key: torch.as_tensor(weights_for(key, shape, "open")) for key, shape in shapes.items()}
    torch.save({"model": state}, folder / "official.pth")
    checkpoint, report = import_weights(folder / "official.pth")
    assert report.whole and not report.dropped and not any(report.fresh.values())
    save_checkpoint(folder / "ours.pt", checkpoint)
    (folder / "official.pth").unlink()
    trained = read_trained(folder / "ours.pt")
    (folder / "ours.pt").unlink()
    return trained


@pytest.fixture(scope="module")
def detector(trained: Trained) -> Detector:
    return trained.build("cpu")


def rgb(name: str, height: int, width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image_for(name, height, width, "open")[..., ::-1])


def assert_like(ours: torch.Tensor, recorded: NDArray[Any]) -> None:
    difference = np.abs(checksum(ours.detach().numpy()) - recorded).max()
    assert difference <= 1e-4 * np.abs(recorded).max()


def polygons_in_box(polygons: list[list[float]], box: NDArray[np.float64], side: int = 28) -> NDArray[np.bool_]:
    if not polygons:
        return np.zeros((side, side), bool)
    scale = side / np.maximum(box[2:] - box[:2], 0.1)
    moved = [((np.array(polygon).reshape(-1, 2) - box[:2]) * scale).ravel().tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, side, side))).astype(bool)


@pytest.mark.parametrize(("image", "height", "width"), [("a", 256, 320), ("b", 199, 263)])
def test_detections_equal_the_official_ones(
    detector: Detector, official: Recording, image: str, height: int, width: int
) -> None:
    detector.eval()
    with torch.inference_mode():
        batch = detector.preprocess([torch.from_numpy(rgb(image, height, width).transpose(2, 0, 1).copy())])
        features = detector.backbone(batch.tensors)
        outputs = detector.heads.boxes(features)
        (found,) = detector.heads.detect(features, batch)
    assert_like(batch.tensors, official[f"{image}_input_checksum"])
    starts = np.cumsum([0, *outputs.levels])
    for level, feature in enumerate(features):
        assert_like(feature, official[f"{image}_p{level + 3}_checksum"])
        part = slice(starts[level], starts[level + 1])
        distances = outputs.distances[:, part] * outputs.strides[part, None]
        for name, values in (
            ("cls", outputs.classes[:, part]),
            ("reg", distances),
            ("ctr", outputs.centerness[:, part, None]),
        ):
            maps = values.transpose(1, 2).reshape(1, -1, *feature.shape[2:])  # (1, channels, h, w)
            assert_like(maps, official[f"{image}_head_{name}_p{level + 3}_checksum"])
    boxes, scores, labels = found.proposals
    np.testing.assert_allclose(boxes, official[f"{image}_sel_boxes"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(scores, official[f"{image}_sel_scores"], rtol=0, atol=1e-5)
    assert labels.tolist() == official[f"{image}_sel_classes"].tolist()
    for ours, theirs in OFFICIAL.items():
        logits = official[f"{image}_logits_{theirs}"][:, 0]
        np.testing.assert_allclose(found.logits[ours], logits, rtol=0, atol=1e-3)
    out_height, out_width = official[f"{image}_out_hw"].tolist()
    final = to_detections(found, (height, width), (out_height, out_width))
    np.testing.assert_allclose(final.boxes, official[f"{image}_boxes"], rtol=0, atol=1e-2)
    packed = np.packbits(final.masks.numpy().reshape(len(boxes), -1), axis=1)
    wrong = np.unpackbits(packed ^ official[f"{image}_masks_full_packed"]).sum()
    assert wrong <= 1e-5 * final.masks.numel()


def test_predict_equals_the_official_detections(detector: Detector, official: Recording) -> None:
    (found,) = detector.eval().predict([rgb("a", 256, 320)], resize=False)
    np.testing.assert_allclose(found.boxes, official["a_boxes"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(found.scores, official["a_scores"], rtol=0, atol=1e-5)
    for ours, theirs in OFFICIAL.items():
        probabilities = torch.from_numpy(official[f"a_logits_{theirs}"][:, 0]).sigmoid()
        torch.testing.assert_close(found.maps[ours], probabilities, rtol=0, atol=1e-3)


def test_pooled_rois_equal_the_official_ones(official: Recording) -> None:
    shapes = official["pool_feature_shapes"].tolist()
    features = [torch.from_numpy(input_for(f"pool_p{level}", shape, "open")) for level, shape in enumerate(shapes, 3)]
    boxes = torch.from_numpy(official["pool_boxes"]).reshape(-1, 4)
    images = torch.arange(2).repeat_interleave(20)
    pooled = pool_rois(features, boxes, images, strides=(8, 16, 32, 64, 128))
    np.testing.assert_allclose(pooled[:, [0, 5]], official["pool_out_channels_0_and_5"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pooled.mean((2, 3))[:, :8], official["pool_out_roi_mean"], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def batch() -> tuple[list[torch.Tensor], list[Targets], list[Any], list[Any]]:
    images, targets, polygons, occluders = [], [], [], []
    for entry in json.loads((PARITY / "fcos_train.json").read_text())["images"]:
        pixels = rgb(entry["name"], entry["height"], entry["width"])
        images.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        nothing = crop_rles([None] * len(entry["boxes"]))
        boxes, labels = torch.tensor(entry["boxes"]), torch.tensor(entry["classes"])
        targets.append(Targets(boxes, labels, nothing, nothing, nothing, torch.tensor([1.0, 0, 1, 0])))
        polygons += entry["polygons"]
        occluders += entry["bo_polygons"]
    return images, targets, polygons, occluders


def polygon_targets(rois: RoIs, polygons: list[Any], occluders: list[Any]) -> dict[str, torch.Tensor]:
    boxes, instances = rois.boxes.double().numpy(), rois.instances.tolist()
    occludee, occluder = (
        torch.from_numpy(np.stack([polygons_in_box(of[i], box) for i, box in zip(instances, boxes, strict=True)]))
        for of in (polygons, occluders)
    )
    return target_maps({"occludee": occludee, "occluder": occluder})


def test_a_training_step_equals_the_official_one(trained: Trained, official: Recording, batch: Any) -> None:
    images, targets, polygons, occluders = batch
    detector = trained.restore("cpu").train()
    features = detector.backbone(detector.preprocess(images).tensors)
    outputs = detector.heads.boxes(features)
    for level, count in enumerate(outputs.levels):
        start = sum(outputs.levels[:level])
        assigned = [assign(outputs, one.boxes, one.labels, num_classes=80) for one in targets]
        labels = torch.cat([label[start : start + count] for label, _ in assigned])
        distances = torch.cat([distance[start : start + count] for _, distance in assigned])[labels < 80]
        assert labels.tolist() == official[f"train_labels_p{level + 3}"].tolist()
        np.testing.assert_allclose(distances, official[f"train_reg_targets_pos_p{level + 3}"], rtol=1e-5, atol=1e-5)
    losses = fcos_losses(
        outputs, [one.boxes for one in targets], [one.labels for one in targets], normalizer="official", giou="official"
    )
    rois = detector.heads.training_rois(outputs, targets, [0, 1])
    for image in range(2):
        expected = official[f"train_mask_roi_boxes_{image}"]
        np.testing.assert_allclose(rois.boxes[rois.images == image], expected, rtol=0, atol=1e-3)
    logits = detector.heads.masks(features, rois.boxes, rois.images)
    wanted = polygon_targets(rois, polygons, occluders)
    losses |= bilayer_losses(logits, wanted, rois.keys, sampling="official")
    losses = {name: loss * getattr(detector.loss_weights, name) for name, loss in losses.items()}
    named = {
        "loss_cls": "classification", "loss_reg": "box", "loss_centerness": "centerness",
        "loss_mask": "occludee_mask", "loss_mask_bo": "occluder_mask",
        "loss_boundary": "occludee_boundary", "loss_boundary_bo": "occluder_boundary",
    }  # fmt: skip
    recorded = dict(zip(official["train_loss_names"].tolist(), official["train_losses"].tolist(), strict=True))
    assert recorded.keys() == named.keys()
    for theirs, ours in named.items():
        assert float(losses[ours].detach()) == pytest.approx(recorded[theirs], rel=1e-4)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: value.grad for name, value in detector.named_parameters() if value.requires_grad}
    scales = gradients.pop("heads.boxes.scales")
    gradients |= {f"heads.boxes.scales.{level}": scales[level] for level in range(5)}
    norms = dict(zip(official["train_grad_names"].tolist(), official["train_grad_norm"].tolist(), strict=True))
    assert {fcos_name(key) for key in norms} == gradients.keys()  # the same layers are frozen
    for key, norm in norms.items():
        assert float(gradients[fcos_name(key)].norm()) == pytest.approx(norm, rel=1e-2, abs=1e-6)
