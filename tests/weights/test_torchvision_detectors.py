"""torchvision's detectors, imported: the same boxes and scores as torchvision's own code, on random weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from bcnet_core import BCNetError
from bcnet_core.annotations.coco import coco_categories
from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.mask_branch import Found
from bcnet_core.weights.checkpoint import Checkpoint
from bcnet_core.weights.importing import import_weights, recognize
from bcnet_core.weights.loading import load_weights
from tests.weights.test_families import assert_accounted_for, constant
from tests.weights.test_importing import SHAPES, coco_file, saved

FILE = Path("x.pth")
COCO_IDS = [category["id"] for category in coco_categories()]
DETECTORS = {
    "fcos": partial(
        detection.FCOS,
        backbone=partial(
            resnet_fpn_backbone, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
        ),
    ),
    "faster": partial(detection.FasterRCNN, backbone=resnet_fpn_backbone),
    "mask": partial(detection.MaskRCNN, backbone=resnet_fpn_backbone),
    "faster v2": detection.fasterrcnn_resnet50_fpn_v2,
    "mask v2": detection.maskrcnn_resnet50_fpn_v2,
}  # fmt: skip
TENSORS = {"fcos": 319, "faster": 295, "mask": 307, "faster v2": 404, "mask v2": 432}
"""Number of tensors of the published files; those of v2 count the batches of their norms."""


def built(kind: str, classes: int = 91, **settings: Any) -> nn.Module:
    """torchvision's detector with the norms of its published weights, and with fresh weights."""
    make: Any = DETECTORS[kind]
    if "v2" in kind:
        model: nn.Module = make(weights=None, weights_backbone=None, num_classes=classes, **settings)
        return model.eval()
    backbone = make.keywords["backbone"](backbone_name="resnet50", weights=None)
    return make.func(backbone=backbone, num_classes=classes, **settings).eval()  # type: ignore[no-any-return]


def unresized(image: Tensor, target: None) -> tuple[Tensor, None]:
    return image, target


@torch.no_grad()
def randomized(model: nn.Module, picture: Tensor) -> nn.Module:
    """Draw all weights, also those of the norms, so that there are boxes of many classes from all levels."""
    model.transform.resize = unresized  # the two libraries interpolate differently
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.register_forward_pre_hook(_draw_norm)
    images, _ = model.transform([picture])
    features = model.backbone(images.tensors)
    heads = [(model.head, list(features.values()))] if isinstance(model, detection.FCOS) else [
        (model.rpn.head, list(features.values())), (model.roi_heads.box_head, torch.randn(40, 256, 7, 7)),
    ]  # fmt: skip
    spreads = {"cls_logits": 2.0, "bbox_ctrness": 1.0, "bbox_reg": 2.0, "bbox_pred": 0.3, "cls_score": 2.0}
    for name, module in model.named_modules():
        if (spread := spreads.get(name.rpartition(".")[2])) is not None:
            module.register_forward_pre_hook(partial(_draw_outputs, spread=spread))
    for head, given in heads:
        found = head(given)
    if not isinstance(model, detection.FCOS):
        model.roi_heads.box_predictor(found)
        bias = model.roi_heads.box_predictor.cls_score.bias
        bias[[row for row in range(1, len(bias)) if len(bias) == 91 and row not in COCO_IDS]] = -30  # as training does
        bias[0] += 3  # most proposals hold nothing
    for module in model.modules():
        module._forward_pre_hooks.clear()
    return model


def _draw_norm(norm: Any, given: tuple[Tensor]) -> None:
    x = given[0]
    size = x.shape[1]
    norm.weight.copy_(torch.rand(size) + 0.5)
    norm.bias.copy_(torch.randn(size) / 5)
    norm.running_mean.copy_(x.mean((0, 2, 3)) + torch.randn(size) / 10)
    norm.running_var.copy_(x.var((0, 2, 3)) * (torch.rand(size) + 0.7) + 1e-7)


def _draw_outputs(layer: Any, given: tuple[Tensor], *, spread: float) -> None:
    nn.init.normal_(layer.weight, std=spread / (given[0].std() * layer.weight[0].numel() ** 0.5))
    nn.init.normal_(layer.bias, std=0.2)


class Imported(NamedTuple):
    """A detector of torchvision, and bcnet's from its state dict."""

    theirs: nn.Module
    ours: Detector
    checkpoint: Checkpoint


def imported(kind: str, folder: Path, picture: Tensor, *, proposals: int) -> Imported:
    more = {} if kind == "fcos" else {"rpn_post_nms_top_n_test": proposals}
    theirs = randomized(built(kind, **more), picture)
    if kind in {"faster", "mask"}:
        overwrite_eps(theirs, 0.0)  # as torchvision does for the published weights
    torch.save(theirs.state_dict(), folder / "x.pth")
    checkpoint, report = import_weights(folder / "x.pth")
    (folder / "x.pth").unlink()
    assert set(report.fresh) == {"heads.masks" if kind == "fcos" else "heads.roi_heads.masks"} and report.classes == 80
    settings = {"score_threshold": 0.05, "nms_iou": 0.5, "proposals_per_image": proposals}
    recipe = Recipe.model_validate({"model": {**checkpoint.recipe["model"], **settings}})
    ours = build_detector(recipe, coco_categories()).eval()
    ours.load_state_dict(checkpoint.model, strict=False)
    ours.heads.masks.find = lambda _, found: [Found(one, {}) for one in found]  # type: ignore[method-assign]
    if "mask" in kind:
        theirs.roi_heads.mask_roi_pool = None
    return Imported(theirs, ours, checkpoint)


class Agreement(NamedTuple):
    """Comparison of two sets of boxes: largest differences of those that match, in pixels, and their share."""

    boxes: float
    scores: float
    share: float
    count: int


def compared(ours: tuple[Tensor, Tensor, Tensor], theirs: tuple[Tensor, Tensor, Tensor]) -> Agreement:
    """Match boxes (N, 4), scores (N,) and labels (N,): among near-equals, NMS may keep another box of the two."""
    distance = (ours[0][:, None] - theirs[0]).abs().amax(2).masked_fill(ours[2][:, None] != theirs[2], torch.inf)
    nearest, index = distance.min(1)
    alike, count = nearest < 0.1, max(len(ours[0]), len(theirs[0]))
    if not alike.any():
        return Agreement(torch.inf, torch.inf, 0.0, count)
    scores = (ours[1] - theirs[1][index]).abs()[alike].max()
    return Agreement(float(nearest[alike].max()), float(scores), int(alike.sum()) / count, count)


@torch.no_grad()
def agreements(pair: Imported, pictures: list[Tensor]) -> dict[str, list[Agreement]]:
    """Compare proposals and detections of a batch (R-CNN), or the boxes and scores of all locations (FCOS)."""
    theirs, ours = pair.theirs, pair.ours
    batch = ours.preprocess(pictures)
    features = ours.backbone(batch.tensors)
    images, _ = theirs.transform([picture / 255 for picture in pictures])
    levels = theirs.backbone(images.tensors)
    assert images.image_sizes == batch.image_sizes and images.tensors.shape == batch.tensors.shape
    if isinstance(theirs, detection.FCOS):
        outputs, expected = ours.heads.boxes(features), theirs.head(list(levels.values()))
        anchors = torch.stack(theirs.anchor_generator(images, list(levels.values())))
        boxes = theirs.box_coder.decode(expected["bbox_regression"], anchors)
        classes, centers = expected["cls_logits"][..., COCO_IDS].sigmoid(), expected["bbox_ctrness"].sigmoid()
        got = (outputs.classes.sigmoid() * outputs.centerness.sigmoid()[..., None]).sqrt()
        distance, score = (outputs.boxes() - boxes).abs(), (got - (classes * centers).sqrt()).abs()
        every = zip(distance, score, strict=True)
        return {"locations": [Agreement(float(d.max()), float(s.max()), 1.0, len(d)) for d, s in every]}
    named = {str(level): x for level, x in enumerate(features)}
    proposals = [ours.heads.rpn(batch, named)[0], theirs.rpn(images, levels)[0]]
    found = [one.proposals for one in ours.heads.detect(features, batch)]
    expected, _ = theirs.roi_heads(levels, proposals[1], images.image_sizes)
    labels = torch.tensor(COCO_IDS)
    none = [torch.zeros(len(one)) for one in proposals[0]]
    return {
        "proposals": [
            compared((one, zero, zero), (other, zero[: len(other)], zero[: len(other)]))
            for one, other, zero in zip(*proposals, none, strict=True)
        ],
        "detections": [
            compared((one.boxes, one.scores, labels[one.labels]), (other["boxes"], other["scores"], other["labels"]))
            for one, other in zip(found, expected, strict=True)
        ],
    }


def pictures_of(*sizes: tuple[int, int]) -> list[Tensor]:
    """Noise of all frequencies: of fine noise alone, deep features are nearly constant, and rounding errors grow."""
    pictures = []
    for height, width in sizes:
        parts = [torch.rand(1, 3, -(-height // step), -(-width // step)) for step in (1, 4, 16, 64)]
        grown = [functional.interpolate(part, (height, width), mode="bilinear")[0] for part in parts]
        pictures.append((torch.stack(grown).mean(0) * 255).byte())
    return pictures


@pytest.mark.parametrize("kind", ["fcos", "faster", "mask v2"])
def test_boxes_and_scores_are_those_of_torchvision(tmp_path: Path, kind: str) -> None:
    """Two pictures, whose P6 and P7 are rounded up: half of 96 pixels is not a stride of 64."""
    torch.manual_seed(0)
    pictures = pictures_of((96, 160), (75, 150))
    pair = imported(kind, tmp_path, pictures[0] / 255, proposals=40)
    for name, part in agreements(pair, pictures).items():
        for found in part:
            assert found.count >= 30 and found.share >= 0.95, (name, found)
            assert found.boxes < 0.1 and found.scores < 0.02, (name, found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DETECTORS)
def test_photos_give_the_boxes_of_torchvision(tmp_path: Path, coco_mini: Path, kind: str) -> None:
    """The figures of docs/weights.md: run with -s. The second photo's sides are no multiples of 32."""
    torch.manual_seed(0)
    pictures = []
    for name, size in (("000000000139.jpg", (640, 480)), ("000000000802.jpg", (801, 603))):
        picture = Image.open(coco_mini / "val2017" / name).convert("RGB").resize(size)
        pictures.append(torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy()))
    pair = imported(kind, tmp_path, pictures[0] / 255, proposals=300)
    found = agreements(pair, pictures)
    print(kind, found)  # noqa: T201
    assert all(one.share >= 0.95 and one.boxes < 0.1 and one.scores < 0.005 for part in found.values() for one in part)


def names_of(kind: str, classes: int = 91) -> dict[str, Tensor]:
    """The state dict of a detector: every tensor holds its own number, and takes the memory of one."""
    with torch.device("meta"):
        state = built(kind, classes).state_dict()
    return {name: constant(number, tensor.shape) for number, (name, tensor) in enumerate(state.items(), 1)}


def released(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of the files of the first generation."""
    old = {}
    for name, tensor in tensors.items():
        renamed = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name.replace("rpn.head.conv.0.0", "rpn.head.conv"))
        renamed = re.sub(r"mask_head\.(\d)\.0", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}", renamed)
        old[renamed] = tensor
    return old


@pytest.mark.parametrize("kind", DETECTORS)
def test_every_tensor_but_the_masks_of_the_classes_is_placed(tmp_path: Path, kind: str) -> None:
    given = names_of(kind)
    assert len(given) == TENSORS[kind]
    checkpoint, report = import_weights(saved(tmp_path / "x.pth", given))
    counters = {name for name in given if name.endswith("num_batches_tracked")}
    unused = {name for names in report.dropped.values() for name in names}
    assert unused == counters | {name for name in given if "mask_fcn_logits" in name}
    assert sum(report.fresh.values()) == (40 if "mask" in kind else 50), "none outside the mask head"
    assert sum(report.placed.values()) == {
        "fcos": 320, "faster": 295, "mask": 305, "faster v2": 303, "mask v2": 313
    }[kind]  # fmt: skip
    assert checkpoint.categories == coco_categories()
    recognized = recognize(given, FILE)
    assert_accounted_for(recognized, given)
    model = checkpoint.recipe["model"]
    assert (model["geometry"], model["backbone_style"], model["backbone"]) == ("torchvision", "torchvision", "r50")
    heads = (model["rpn_convs"], model["box_head"], model["box_head_channels"], model["tower_convs"])
    assert heads == ((2, "conv", 1024, 4) if "v2" in kind else (1, "linear", 1024, 4))
    told = {"geometry": "torchvision"} | ({"rpn_convs": 2, "box_head": "conv"} if "v2" in kind else {})
    assert report.settings == told, "what a recipe has to set"


@pytest.mark.parametrize("kind", ["faster", "mask"])
def test_files_of_the_first_generation_have_older_names(kind: str) -> None:
    given = names_of(kind)
    old = released(given)
    assert old.keys() != given.keys() and "rpn.head.conv.weight" in old
    ours, expected = recognize(old, FILE), recognize(given, FILE)
    assert ours.tensors.keys() == expected.tensors.keys() and ours.settings == expected.settings
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert_accounted_for(ours, old)


@pytest.mark.parametrize("kind", ["faster", "faster v2"])
def test_the_outputs_of_cocos_ids_are_kept_after_the_background(kind: str) -> None:
    given = names_of(kind)
    given["roi_heads.box_predictor.cls_score.bias"] = torch.arange(91.0)
    given["roi_heads.box_predictor.bbox_pred.bias"] = torch.arange(4 * 91.0)
    tensors = recognize(given, FILE).tensors
    kept = [0, *COCO_IDS]
    assert tensors["heads.roi_heads.box_predictor.cls_score.bias"].tolist() == kept
    boxes = tensors["heads.roi_heads.box_predictor.bbox_pred.bias"].view(-1, 4)
    assert boxes[:, 0].tolist() == [4 * row for row in kept] and (boxes.diff(dim=1) == 1).all()


def test_fcos_has_no_background() -> None:
    given = names_of("fcos") | {"head.classification_head.cls_logits.bias": torch.arange(91.0)}
    found = recognize(given, FILE)
    assert found.tensors["heads.boxes.classes.bias"].tolist() == COCO_IDS and found.classes == 80
    assert found.tensors["heads.boxes.scales"].tolist() == [1] * 5


@pytest.mark.parametrize("kind", ["fcos", "mask"])
def test_own_classes_lie_behind_the_background(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "x.pth", names_of(kind, classes=4))
    with pytest.raises(BCNetError, match="tells 3 classes apart, COCO has 80"):
        import_weights(path)
    checkpoint, report = import_weights(path, categories=coco_file(tmp_path / "cats.json", SHAPES))
    assert checkpoint.categories == SHAPES and report.classes == 3


def test_the_masks_of_an_only_class_are_kept() -> None:
    name = "roi_heads.mask_predictor.mask_fcn_logits.bias"
    found = recognize(names_of("mask", classes=2) | {name: torch.tensor([5.0, 6.0])}, FILE)
    assert found.tensors["heads.roi_heads.masks.head.occludee_mask.logits.bias"].tolist() == [6]
    assert not found.dropped


def test_frozen_norms_of_the_first_generation_have_no_epsilon() -> None:
    given = names_of("faster")
    parts = {"weight": torch.rand(64) + 0.5, "bias": torch.randn(64), "running_mean": torch.randn(64)}
    parts["running_var"] = torch.logspace(-12, 0, 64)  # dead channels, too
    given |= {f"backbone.body.bn1.{part}": tensor for part, tensor in parts.items()}
    theirs, ours = FrozenBatchNorm2d(64, eps=0.0), FrozenBatchNorm2d(64)
    theirs.load_state_dict(parts)
    x = torch.randn(1, 64, 5, 5)
    for change, is_same in (({}, True), ({"backbone.body.bn1.num_batches_tracked": torch.tensor(7)}, False)):
        found = recognize(given | change, FILE)
        ours.load_state_dict({part: found.tensors[f"backbone.body.bn1.{part}"] for part in parts})
        expected = theirs(x)
        largest = expected.abs().amax((0, 2, 3), keepdim=True)  # those of a dead channel cancel
        assert bool(((ours(x) - expected).abs() <= 1e-5 * largest).all()) == is_same
        assert ("epsilon of 0" in found.origin) == is_same, "a guess is said"
    deeper = {name.replace("layer3.0", f"layer3.{block}"): tensor for name, tensor in given.items()
              if "layer3.0" in name and "downsample" not in name for block in range(6, 23)}  # fmt: skip
    found = recognize(given | deeper, FILE)
    assert found.backbone == "r101" and torch.equal(found.tensors["backbone.body.bn1.weight"], parts["weight"])


OTHERS: dict[str, Callable[..., nn.Module]] = {
    "torchvision's Keypoint R-CNN": detection.keypointrcnn_resnet50_fpn,
    "torchvision's RetinaNet": detection.retinanet_resnet50_fpn,
    "torchvision's SSD": detection.ssd300_vgg16,
    "a detector of torchvision over another backbone than a ResNet": detection.fasterrcnn_mobilenet_v3_large_fpn,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_detectors_are_refused(kind: str) -> None:
    with torch.device("meta"):
        state = OTHERS[kind](weights=None, weights_backbone=None).state_dict()
    with pytest.raises(BCNetError, match=f"`x.pth` is {kind}, which bcnet does not take$") as caught:
        recognize(state, FILE)
    assert "it takes FCOS, Faster R-CNN and Mask R-CNN" in caught.value.hints[0]


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("fcos", "head.classification_head.cls_logits.bias"),
        ("fcos", "backbone.fpn.extra_blocks"),
        ("faster", "rpn.head.conv"),
        ("faster", "roi_heads.box_head.fc7"),
        ("mask v2", "roi_heads.box_head.2.1.running_mean"),
        ("faster", "backbone.body.layer2.0.conv1"),
    ],
)
def test_half_files_are_refused(tmp_path: Path, kind: str, lost: str) -> None:
    given = {name: tensor for name, tensor in names_of(kind).items() if not name.startswith(lost)}
    with pytest.raises(BCNetError, match=r"but its tensors do not fit: .* missing") as caught:
        import_weights(saved(tmp_path / "x.pth", given))
    assert caught.value.exit_code == 3


def test_norms_that_do_not_fit_their_convolutions_are_told(tmp_path: Path) -> None:
    given = names_of("mask v2") | {"roi_heads.box_head.1.1.weight": torch.ones(3)}
    with pytest.raises(BCNetError, match=r"its tensors do not fit: 4 left over, 1 missing"):
        import_weights(saved(tmp_path / "x.pth", given))


def test_a_second_spelling_of_a_tensor_is_dropped_with_a_reason() -> None:
    given = names_of("faster") | {"rpn.head.conv.weight": torch.zeros(1)}
    found = recognize(given, FILE)
    assert found.dropped == {"rpn.head.conv.weight": "`rpn.head.conv.0.0.weight` has the same place"}


def test_half_a_one_stage_detector_is_refused() -> None:
    given = {name: tensor for name, tensor in names_of("fcos").items() if ".regression_head." not in name}
    with pytest.raises(BCNetError, match="is half a one-stage detector of torchvision"):
        recognize(given, FILE)


def test_other_widths_are_told(tmp_path: Path) -> None:
    narrow = detection.FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 91)
    narrow.roi_heads.box_head = detection.faster_rcnn.TwoMLPHead(256 * 49, 64)
    narrow.roi_heads.box_predictor = detection.faster_rcnn.FastRCNNPredictor(64, 91)
    checkpoint, _ = import_weights(saved(tmp_path / "x.pth", narrow.state_dict()))
    assert (checkpoint.recipe["model"]["backbone"], checkpoint.recipe["model"]["box_head_channels"]) == ("r18", 64)
    odd = names_of("faster") | {"backbone.fpn.layer_blocks.0.0.weight": torch.zeros(100, 256, 3, 3)}
    with pytest.raises(
        BCNetError, match=r"R-CNN .*but of a size that bcnet does not have: `channels`: .* multiple of 32"
    ):
        import_weights(saved(tmp_path / "x.pth", odd))
    anchors = names_of("faster") | {"rpn.head.cls_logits.weight": torch.zeros(9, 256, 1, 1)}
    with pytest.raises(BCNetError, match="0 left over, 0 missing, 1 of another shape"):
        import_weights(saved(tmp_path / "x.pth", anchors))


def test_fcos_over_resnet18_needs_bcnets_levels(tmp_path: Path) -> None:
    backbone = partial(resnet_fpn_backbone, backbone_name="resnet18", weights=None)
    levels = backbone(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    checkpoint, _ = import_weights(saved(tmp_path / "x.pth", detection.FCOS(levels, 91).state_dict()))
    assert (checkpoint.recipe["model"]["detector"], checkpoint.recipe["model"]["backbone"]) == ("fcos", "r18")
    with pytest.raises(BCNetError, match="looks like torchvision's FCOS, but its tensors do not fit: 4 left over"):
        import_weights(saved(tmp_path / "x.pth", detection.FCOS(backbone(), 91).state_dict()))


def test_a_start_of_another_geometry_is_refused() -> None:
    recipe = Recipe.model_validate({"model": {"backbone": "tiny", "channels": 32, "geometry": "torchvision"}})
    detector = build_detector(recipe, SHAPES)
    exact = Recipe.model_validate({"model": {"backbone": "tiny", "channels": 32}})
    checkpoint = Checkpoint(0, exact.model_dump(mode="json"), SHAPES, detector.state_dict(), {}, part_of=999)
    with pytest.raises(BCNetError, match="of fcos tiny, this model is fcos tiny in torchvision's geometry") as caught:
        load_weights(detector, recipe, checkpoint, FILE)
    assert "model.geometry=exact" in caught.value.hints[0]
