"""The same detector in both backends: every tensor comes back, and both find the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("detectron2", reason="detectron2 is not installed")

import detectron2
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from bcnet_core import load_detector, masks
from bcnet_core.annotations.coco import Record, read_coco
from bcnet_core.backends import convert, converted_files
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import BCNetError
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.integrations.detectron2.converting import compare
from bcnet_core.integrations.detectron2.predicting import load_detectron2, predict_set
from bcnet_core.integrations.detectron2.stored import read_stored
from bcnet_core.model.detectors import build_detector
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from bcnet_core.weights.importing import import_weights
from bcnet_core.weights.loading import load_weights
from tests.conftest import Bcnet

CATEGORIES: list[Record] = [{"id": 5, "name": "box"}, {"id": 2, "name": "ball"}, {"id": 9, "name": "cone"}]
SMALL = ["data.min_size=96", "data.max_size=160", "data.train_sizes=[]", "model.score_threshold=0.0",
         "model.channels=32", "model.detections_per_image=20", "model.candidates_per_level=50"]  # fmt: skip
MODELS = {
    "fcos": ["tiny", "model.detector=fcos"],
    "faster_rcnn": ["tiny"],
    "faster_rcnn, conv": ["tiny",
                               "model.rpn_convs=2", "model.box_head=conv", "model.box_head_channels=64",
                               "model.anchor_scale=[3,6]"],
    "fcos, geometry of torchvision": ["tiny", "model.detector=fcos", "model.geometry=torchvision"],
    "fcos, amodal": ["tiny", "model.detector=fcos", "model.amodal=true"],
    "faster_rcnn, amodal": ["tiny", "model.amodal=true", "data.boxes=visible"],
}  # fmt: skip
LARGE = {
    "fcos": ["fcos_r50", "model.backbone=r18"],
    "fcos, plain": ["fcos_r50_plain", "model.backbone=r18"],
    "faster_rcnn, RGB": ["faster_rcnn_r50", "model.backbone_style=torchvision", "model.backbone=r18"],
    "fcos, RGB": ["fcos_r50", "model.backbone_style=torchvision"],
    "faster_rcnn": ["faster_rcnn_r50"],
}


def image() -> NDArray[np.uint8]:
    small = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    return np.ascontiguousarray(small.repeat(20, 0).repeat(20, 1))  # 120 x 160, patches


def checkpoint(path: Path, words: list[str], categories: list[Record] = CATEGORIES) -> Path:
    """One with weights that are not all the same anywhere, and that find things all over the image."""
    torch.manual_seed(0)
    recipe = load_recipe(words[0], [*words[1:], *SMALL])
    detector = build_detector(recipe, categories)
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if name.endswith("running_var"):
                tensor.fill_(4.0)
            elif name.endswith(("running_mean", "bias")) and "cls" not in name and "classes" not in name:
                tensor.add_(0.01 * torch.randn_like(tensor))
            elif name.endswith("logits.weight") and "masks" in name:
                tensor.normal_(std=0.05)
    save_checkpoint(path, Checkpoint(5, recipe.model_dump(mode="json"), categories, detector.state_dict(), {}))
    return path


@pytest.mark.parametrize(
    "words", [*MODELS.values(), *(pytest.param(words, marks=pytest.mark.slow) for words in LARGE.values())],
    ids=[*MODELS, *LARGE],
)  # fmt: skip
def test_a_detector_converted_to_detectron2_and_back_is_unchanged(tmp_path: Path, words: list[str]) -> None:
    ours = checkpoint(tmp_path / "ours.pt", words)
    there = convert(ours, "detectron2", picture=image(), outputs=converted_files(tmp_path / "theirs.pth", "detectron2"))
    back = convert(tmp_path / "theirs.pth", "torchvision", picture=image(), outputs=[tmp_path / "back.pt"])
    for difference in (there, back):
        assert difference.found == (20, 20)
        assert difference.alike == 20  # within 0.01 pixels and 0.0001 of a probability
    first, second = read_checkpoint(ours), read_checkpoint(tmp_path / "back.pt")
    assert first.recipe == second.recipe
    assert second.categories == CATEGORIES
    assert second.step == 5
    assert first.model.keys() == second.model.keys()
    for name, tensor in first.model.items():
        if "box_predictor.bbox_pred" in name:  # the background's boxes are nowhere in detectron2
            assert torch.equal(tensor[4:], second.model[name][4:]), name
        else:
            assert torch.equal(tensor, second.model[name]), name


def test_detectron2_runs_a_checkpoint_of_the_torchvision_backend(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "ours.pt", LARGE["faster_rcnn"])
    difference = compare(load_detector(path, device="cpu"), load_detectron2(path, device="cpu"), image())
    assert difference.found == (20, 20)
    assert difference.alike == 20


def test_a_small_difference_is_detected(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "ours.pt", MODELS["fcos"])
    ours, theirs = load_detector(path, device="cpu"), load_detectron2(path, device="cpu")
    with torch.no_grad():
        theirs.model.heads.masks.head.occluder_mask.logits.bias.add_(0.001)
    assert compare(ours, theirs, image()).alike == 0
    theirs = load_detectron2(path, device="cpu")
    with torch.no_grad():
        theirs.model.heads.boxes.distances.bias.add_(0.1)  # of a stride, at every side
    assert compare(ours, theirs, image()).alike == 0


def test_a_checkpoint_of_another_detectron2_program_needs_its_config(tmp_path: Path) -> None:
    """Without what bcnet writes into checkpoints its config says what it is, and a COCO file what its classes are."""
    ours = checkpoint(tmp_path / "ours.pt", LARGE["faster_rcnn, RGB"])
    stored = read_stored(ours)
    torch.save({"model": stored.tensors, "iteration": 99}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(stored.origin.config)
    (tmp_path / "coco.json").write_text(
        '{"images": [], "annotations": [], "categories": [{"id": 3, "name": "c"}, {"id": 1, "name": "a"}, '
        '{"id": 2, "name": "b"}]}'
    )
    with pytest.raises(BCNetError, match="does not say what detector it is of"):
        convert(tmp_path / "model_final.pth", "torchvision")
    convert(
        tmp_path / "model_final.pth",
        "torchvision",
        config=tmp_path / "config.yaml",
        categories=tmp_path / "coco.json",
        outputs=[tmp_path / "back.pt"],
    )
    loaded = read_checkpoint(tmp_path / "back.pt")
    assert [category["name"] for category in loaded.categories] == ["a", "b", "c"]
    assert loaded.step == 100
    with pytest.raises(BCNetError, match="do not fit"):  # COCO has 80 classes
        convert(tmp_path / "model_final.pth", "torchvision", config=tmp_path / "config.yaml")


@pytest.mark.parametrize("model", ["fcos, amodal", "faster_rcnn, amodal"])
def test_whole_masks_give_the_same_results_in_both_backends(scenes: Path, tmp_path: Path, model: str) -> None:
    """Every key of a result, also who hides whom; and scores of the visible part by detectron2's evaluator."""
    coco = read_coco(scenes / "annotations/instances_val.json")
    path = checkpoint(tmp_path / "ours.pt", MODELS[model], coco.categories)
    if model.startswith("fcos"):  # detectron2 leaves out boxes without an area: these have one
        content = read_checkpoint(path)
        content.model["heads.boxes.distances.bias"].add_(2)  # strides
        save_checkpoint(path, content)
    ours = predict_images(load_detector(path, device="cpu"), coco.images, scenes / "val", reporter=SilentReporter())
    kept = {"kept": 20, "counted": 100, "device": "cpu", "processes": 1}
    theirs, scores = predict_set(path, coco, scenes / "val", coco.categories, **kept)
    assert scores.keys() == {"bbox", "segm"}
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        np.testing.assert_allclose(one["amodal_bbox"], other["amodal_bbox"], atol=0.02)
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=1)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["occlusion_rate"] == pytest.approx(other["occlusion_rate"], abs=0.02)
        for key in ("segmentation", "amodal_segmentation"):
            assert masks.area(one[key]) == 0 == masks.area(other[key]) or masks.iou(one[key], other[key]) > 0.98
    pairs, others = ({(n, k) for n, one in enumerate(found) for k in one["hides"]} for found in (ours, theirs))
    assert len(pairs ^ others) <= 0.02 * len(pairs) > 0, "maps of an untrained head are almost equal, so some pairs tie"
    assert any(0 < one["occlusion_rate"] < 1 for one in theirs)


def test_the_config_alone_says_that_a_detector_is_amodal(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": [], "categories": CATEGORIES}))
    stored = read_stored(checkpoint(tmp_path / "ours.pt", MODELS["faster_rcnn, amodal"]))
    torch.save({"model": stored.tensors}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(stored.origin.config)
    words = {"config": tmp_path / "config.yaml", "categories": tmp_path / "coco.json"}
    convert(tmp_path / "model_final.pth", "torchvision", outputs=[tmp_path / "back.pt"], **words)
    detector = load_detector(tmp_path / "back.pt", device="cpu")
    assert "amodal_mask" in detector.heads.masks.head.outputs and not detector.amodal_boxes


def test_files_that_cannot_be_converted_are_rejected(tmp_path: Path) -> None:
    ours = checkpoint(tmp_path / "ours.pt", MODELS["fcos"])
    with pytest.raises(BCNetError, match="of the torchvision backend already") as error:
        convert(ours, "torchvision")
    assert error.value.hints == ("to the other: --to detectron2",)
    content: dict[str, Any] = {"model": {"a": torch.zeros(1)}, "bcnet": {"config": "A: 1"}}
    torch.save(content, tmp_path / "broken.pth")
    with pytest.raises(BCNetError, match="does not describe its detector"):
        convert(tmp_path / "broken.pth", "torchvision")
    with pytest.raises(BCNetError, match="does not exist"):
        convert(tmp_path / "missing.pth", "torchvision")


def test_import_points_to_the_conversion(tmp_path: Path) -> None:
    ours = checkpoint(tmp_path / "ours.pt", MODELS["fcos"])
    convert(ours, "detectron2", outputs=converted_files(tmp_path / "theirs.pth", "detectron2"))
    with pytest.raises(BCNetError, match="nothing to import") as error:
        import_weights(tmp_path / "theirs.pth")
    assert "bcnet weights convert" in error.value.hints[0]


def test_the_convert_command(tmp_path: Path, bcnet: Bcnet) -> None:
    checkpoint(tmp_path / "ours.pt", MODELS["fcos"])
    ended = bcnet("weights", "convert", "ours.pt", "--to", "detectron2", "-o", "x.pth", "--dry-run", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "would write x.pth, x.yaml" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.pt"]
    ended = bcnet("weights", "convert", "ours.pt", "--to", "detectron2", "-o", "x.pth", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "compared on 20 instances, which all match" in ended.stderr
    assert "next  bcnet eval x.pth --backend detectron2" in ended.stderr
    ended = bcnet("weights", "convert", "x.pth", "--to", "torchvision", "-o", "ours.pt", cwd=tmp_path)
    assert ended.returncode == 2
    assert "exists" in ended.stderr
    ended = bcnet("weights", "convert", "x.pth", "--to", "torchvision", "-o", "y.pt", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert load_detector(tmp_path / "y.pt", device="cpu").class_names == ["box", "ball", "cone"]


def test_an_imported_model_with_batch_norms_computes_the_same(tmp_path: Path) -> None:
    """As in detectron2's Misc/mask_rcnn_R_50_FPN_3x_syncbn: BatchNorm in the pyramid and the heads is folded."""
    cfg = get_cfg()
    configs = Path(detectron2.__file__).parent / "model_zoo/configs"
    cfg.merge_from_file(str(configs / "Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_BOX_HEAD.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    torch.manual_seed(0)
    theirs = build_model(cfg).eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "norm.weight", "norm.bias")):
            tensor.normal_(std=0.5).add_("weight" in name)
    torch.save({"model": theirs.state_dict()}, tmp_path / "model_final.pth")
    imported, report = import_weights(tmp_path / "model_final.pth")
    assert report.fresh.keys() == {"heads.roi_heads.masks"}
    recipe = Recipe.model_validate(imported.recipe)
    ours = build_detector(recipe, imported.categories).eval()
    load_weights(ours, recipe, imported, tmp_path / "init.pt")
    pixels, features = torch.randn(1, 3, 64, 64), torch.randn(2, 256, 14, 14)
    with torch.no_grad():
        levels = [level for _, level in sorted(theirs.backbone(pixels).items())]
        for level, expected in zip(ours.backbone(pixels), levels, strict=True):
            assert (level - expected).abs().max() < 1e-4 * expected.abs().max()
        pooled = torch.randn(5, 256, 7, 7)
        box_head = ours.heads.roi_heads.box_head(pooled)
        torch.testing.assert_close(box_head, theirs.roi_heads.box_head(pooled), rtol=1e-4, atol=1e-4)
        expected = features
        for layer in theirs.roi_heads.mask_head.conv_norm_relus:
            expected = layer(expected)
        for conv in ours.heads.roi_heads.masks.head.occludee.convs:
            features = torch.relu(conv(features))
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
