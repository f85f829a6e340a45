"""Published checkpoints under bcnet's names: every tensor is placed, or dropped with a reason."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18, resnet34, resnet50, resnet101, resnext101_32x8d, wide_resnet50_2
from torchvision.ops import FrozenBatchNorm2d

from bcnet_core import BCNetError
from bcnet_core.config.choices import BackboneName
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.weights.foreign import FROZEN_NORM_EPS, Converted, count_parts
from bcnet_core.weights.from_mmdetection import read_meta
from bcnet_core.weights.importing import fit, recognize
from bcnet_core.weights.loading import model_shapes

PARITY = Path(__file__).parent.parent / "parity"
FILE = Path("weights.pth")


def constant(number: int, shape: Iterable[int]) -> Tensor:
    """A tensor of one value, which takes the memory of one number."""
    return torch.tensor(float(number)).expand(tuple(shape))


def release(depth: int = 50) -> dict[str, Tensor]:
    """A checkpoint like the official one: its names and shapes, every tensor filled with its number."""
    shapes = json.loads((PARITY / f"official_keys_r{depth}.json").read_text())["shapes"]
    return {name: constant(number, shape) for number, (name, shape) in enumerate(shapes.items())}


def detectron2_rcnn(*, masks: int = 80, classes: int = 80) -> dict[str, Tensor]:
    """A Mask R-CNN R50 of detectron2's zoo, less what holds no weights."""
    body = {name: tuple(t.shape) for name, t in release().items() if name.startswith("backbone.bottom_up.")}
    more: dict[str, tuple[int, ...]] = {}
    for level, channels in ((2, 256), (3, 512), (4, 1024), (5, 2048)):
        more |= {f"backbone.fpn_lateral{level}.weight": (256, channels, 1, 1)}
        more |= {f"backbone.fpn_output{level}.weight": (256, 256, 3, 3)}
    rpn, roi = "proposal_generator.rpn_head", "roi_heads"
    more |= {
        f"{rpn}.conv.weight": (256, 256, 3, 3),
        f"{rpn}.objectness_logits.weight": (3, 256, 1, 1),
        f"{rpn}.anchor_deltas.weight": (12, 256, 1, 1),
        f"{roi}.box_head.fc1.weight": (1024, 256 * 7 * 7),
        f"{roi}.box_head.fc2.weight": (1024, 1024),
        f"{roi}.box_predictor.cls_score.weight": (classes + 1, 1024),
        f"{roi}.box_predictor.bbox_pred.weight": (4 * classes, 1024),
        **{f"{roi}.mask_head.mask_fcn{number}.weight": (256, 256, 3, 3) for number in range(1, 5)},
        f"{roi}.mask_head.deconv.weight": (256, 256, 2, 2),
        f"{roi}.mask_head.predictor.weight": (masks, 256, 1, 1),
    }
    biases = {
        name.replace("weight", "bias"): shape[: 2 if "deconv" in name else 1][-1:] for name, shape in more.items()
    }
    anchors = {"proposal_generator.anchor_generator.cell_anchors.0": (3, 4), "pixel_mean": (3, 1, 1)}
    shapes = body | more | biases | anchors
    return {name: constant(number, shape) for number, (name, shape) in enumerate(shapes.items())}


def torchvision_backbone(make: Callable[[], torch.nn.Module]) -> dict[str, Tensor]:
    """A ResNet of torchvision, every tensor filled with its number."""
    with torch.device("meta"):
        state = make().state_dict()
    return {name: constant(number, tensor.shape) for number, (name, tensor) in enumerate(state.items())}


def caffe2(spelling: dict[str, str], make: Callable[[], torch.nn.Module] = resnet50) -> dict[str, Tensor]:
    """An ImageNet ResNet as Caffe2 pickled it; `spelling` tells how the parts of its BatchNorms are called."""
    pickled = {"conv1_b": torch.zeros(64), "fc1000_w": torch.zeros(1000, 2048), "fc1000_b": torch.zeros(1000)}
    for name, tensor in torchvision_backbone(make).items():
        if (found := re.fullmatch(r"(?:layer(\d)\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(\w+)", name)) is None:
            continue
        stage, block, kind, number, leaf = found.groups()
        is_norm = kind == "bn" or (kind, number) == ("downsample.", "1")
        branch = "branch1" if kind == "downsample." else f"branch2{'abc'[int(number) - 1]}"
        stem = "res_conv1" if is_norm else "conv1"
        prefix = stem if stage is None else f"res{int(stage) + 1}_{block}_{branch}"
        if not is_norm:
            pickled[f"{prefix}_w"] = tensor
        elif leaf in spelling:
            pickled[f"{prefix}_bn_{spelling[leaf]}"] = tensor
    return pickled


def assert_accounted_for(converted: Converted, given: dict[str, Tensor]) -> None:
    """Every tensor of the file is in one place, or dropped for a reason."""
    placed = {name for sources in converted.sources.values() for name in sources}
    assert placed.isdisjoint(converted.dropped)
    assert placed | converted.dropped.keys() == given.keys()
    assert converted.sources.keys() <= converted.tensors.keys()


@pytest.mark.parametrize(("depth", "backbone"), [(50, "r50"), (101, "r101")])
def test_every_tensor_of_the_release_is_placed(depth: int, backbone: str) -> None:
    given = release(depth)
    converted = recognize(given, FILE)
    assert (converted.detector, converted.backbone, converted.style) == ("fcos", backbone, "caffe")
    assert converted.complete and not converted.dropped
    assert len(converted.tensors) == len(given) - 4  # five scales become one tensor
    assert_accounted_for(converted, given)
    for ours, theirs in {
        "backbone.body.conv1.weight": "backbone.bottom_up.stem.conv1.weight",
        "backbone.body.bn1.running_var": "backbone.bottom_up.stem.conv1.norm.running_var",
        "backbone.body.layer1.0.downsample.0.weight": "backbone.bottom_up.res2.0.shortcut.weight",
        "backbone.body.layer4.0.downsample.1.bias": "backbone.bottom_up.res5.0.shortcut.norm.bias",
        "backbone.body.layer3.5.bn2.weight": "backbone.bottom_up.res4.5.conv2.norm.weight",
        "backbone.fpn.inner_blocks.0.0.weight": "backbone.fpn_lateral3.weight",
        "backbone.fpn.layer_blocks.2.0.bias": "backbone.fpn_output5.bias",
        "backbone.fpn.extra_blocks.p7.weight": "backbone.top_block.p7.weight",
        "heads.boxes.class_tower.10.weight": "head.cls_tower.10.weight",
        "heads.boxes.box_tower.3.bias": "head.bbox_tower.3.bias",
        "heads.boxes.distances.bias": "head.bbox_pred.bias",
        "heads.masks.head.occluder.convs.0.weight": "mask_head.boundary_fcn1.weight",
        "heads.masks.head.occludee.convs.3.bias": "mask_head.mask_fcn4.bias",
        "heads.masks.head.occluder.attention.norm.running_mean": "mask_head.blocker_bound_bo.running_mean",
        "heads.masks.head.occludee_boundary.upsample.weight": "mask_head.boundary_deconv.weight",
        "heads.masks.head.occluder_mask.logits.bias": "mask_head.predictor_bo.bias",
    }.items():
        assert torch.equal(converted.tensors[ours], given[theirs]), ours
    levels = [given[f"head.scales.{level}.scale"].item() for level in range(5)]
    assert converted.tensors["heads.boxes.scales"].tolist() == levels


def test_unknown_tensors_of_the_release_are_left_over() -> None:
    unknown = {"mask_head.extra_fcn1.weight": torch.zeros(2), "proposal_generator.x": torch.zeros(1)}
    assert unknown.keys() <= recognize(release() | unknown, FILE).tensors.keys()


MSRA = {"weight": "s", "bias": "b"}
ZOO = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
FAIR = {"weight": "s", "bias": "bias", "running_mean": "rm", "running_var": "riv"}


BACKBONES = {"r50": resnet50, "r101": resnet101, "x101": resnext101_32x8d}


@pytest.mark.parametrize("spelling", [MSRA, ZOO, FAIR], ids=["s b", "gamma beta", "s bias rm riv"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_tensor_of_a_caffe2_backbone_is_placed(backbone: str, spelling: dict[str, str]) -> None:
    given = caffe2(spelling, BACKBONES[backbone])
    converted = recognize(given, FILE)
    assert (converted.detector, converted.backbone, converted.style) == (None, backbone, "caffe")
    state = {f"backbone.body.{name}": tensor for name, tensor in torchvision_backbone(BACKBONES[backbone]).items()}
    expected = {name: t for name, t in state.items() if not re.search(r"\.fc\.|num_batches", name)}
    assert converted.tensors.keys() == expected.keys()
    for name, tensor in converted.tensors.items():
        assert tensor.shape == expected[name].shape
        if name.rsplit(".", 1)[1] in spelling:
            assert torch.equal(tensor, expected[name]), name
    assert_accounted_for(converted, given)
    assert converted.dropped.keys() == {"conv1_b", "fc1000_w", "fc1000_b"}
    assert converted.dropped["fc1000_w"] == "the ImageNet classifier"


def test_a_norm_without_statistics_computes_the_same_affine_map() -> None:
    given = caffe2(MSRA) | {"res_conv1_bn_s": torch.rand(64) + 0.5, "res_conv1_bn_b": torch.randn(64)}
    tensors = recognize(given, FILE).tensors
    norm = FrozenBatchNorm2d(64)
    norm.load_state_dict({part: tensors[f"backbone.body.bn1.{part}"] for part in norm.state_dict()})
    x = torch.randn(2, 64, 5, 5)
    affine = x * given["res_conv1_bn_s"].view(-1, 1, 1) + given["res_conv1_bn_b"].view(-1, 1, 1)
    assert torch.equal(norm(x), affine)


def test_other_tensors_of_a_caffe2_pickle_are_dropped_with_a_reason() -> None:
    converted = recognize(caffe2(ZOO) | {"pred_w": torch.zeros(3), "conv1_w_momentum": torch.zeros(3)}, FILE)
    assert converted.dropped["pred_w"] == "the ImageNet classifier"
    assert converted.dropped["conv1_w_momentum"] == "the state of an optimizer"


def test_a_second_spelling_of_a_tensor_is_dropped_with_a_reason() -> None:
    converted = recognize(caffe2(ZOO) | {"res_conv1_bn_s": torch.zeros(64)}, FILE)
    assert converted.dropped["res_conv1_bn_s"] == "`res_conv1_bn_gamma` has the same place"


def test_a_mask_rcnn_is_placed_except_for_its_class_specific_masks() -> None:
    given = detectron2_rcnn()
    converted = recognize(given, FILE)
    assert (converted.detector, converted.backbone, converted.style) == ("faster_rcnn", "r50", "caffe")
    assert not converted.complete
    assert_accounted_for(converted, given)
    assert converted.dropped.keys() == {
        "roi_heads.mask_head.predictor.weight", "roi_heads.mask_head.predictor.bias", "pixel_mean",
        "proposal_generator.anchor_generator.cell_anchors.0",
    }  # fmt: skip
    assert "class-agnostic" in converted.dropped["roi_heads.mask_head.predictor.bias"]
    for ours, theirs in {
        "backbone.fpn.inner_blocks.0.0.weight": "backbone.fpn_lateral2.weight",
        "backbone.fpn.layer_blocks.3.0.bias": "backbone.fpn_output5.bias",
        "heads.rpn.head.conv.0.0.weight": "proposal_generator.rpn_head.conv.weight",
        "heads.rpn.head.cls_logits.bias": "proposal_generator.rpn_head.objectness_logits.bias",
        "heads.rpn.head.bbox_pred.weight": "proposal_generator.rpn_head.anchor_deltas.weight",
        "heads.roi_heads.box_head.fc6.weight": "roi_heads.box_head.fc1.weight",
        "heads.roi_heads.box_head.fc7.bias": "roi_heads.box_head.fc2.bias",
        "heads.roi_heads.masks.head.occludee.convs.0.weight": "roi_heads.mask_head.mask_fcn1.weight",
        "heads.roi_heads.masks.head.occludee_mask.upsample.weight": "roi_heads.mask_head.deconv.weight",
    }.items():
        assert torch.equal(converted.tensors[ours], given[theirs]), ours


def test_class_agnostic_masks_are_placed() -> None:
    converted = recognize(detectron2_rcnn(masks=1), FILE)
    assert converted.tensors["heads.roi_heads.masks.head.occludee_mask.logits.weight"].shape == (1, 256, 1, 1)
    assert not any("mask_head" in name for name in converted.dropped)


def test_the_background_moves_to_label_0() -> None:
    prefix, given = "roi_heads.box_predictor.", detectron2_rcnn(classes=2)
    given[f"{prefix}cls_score.weight"] = torch.tensor([1.0, 2.0, 0.0]).view(3, 1).repeat(1, 1024)
    given[f"{prefix}cls_score.bias"] = torch.tensor([1.0, 2.0, 0.0])
    given[f"{prefix}bbox_pred.bias"] = torch.arange(1.0, 9.0)
    tensors = recognize(given, FILE).tensors
    ours = f"heads.{prefix}"
    assert tensors[f"{ours}cls_score.weight"][:, 7].tolist() == tensors[f"{ours}cls_score.bias"].tolist() == [0, 1, 2]
    assert tensors[f"{ours}bbox_pred.bias"].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert tensors[f"{ours}bbox_pred.weight"].shape == (12, 1024)


def test_class_agnostic_boxes_are_dropped() -> None:
    given = detectron2_rcnn()
    for part, shape in (("weight", (4, 1024)), ("bias", (4,))):
        given[f"roi_heads.box_predictor.bbox_pred.{part}"] = torch.zeros(shape)
    converted = recognize(given, FILE)
    assert "one box for all classes" in converted.dropped["roi_heads.box_predictor.bbox_pred.weight"]
    assert "heads.roi_heads.box_predictor.cls_score.weight" in converted.tensors


def with_norms(given: dict[str, Tensor], layers: Iterable[str], parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same layers as detectron2 stores them with a norm: without a bias, with the norm's tensors."""
    given = {name: tensor for name, tensor in given.items() if name.removesuffix(".bias") not in set(layers)}
    for layer in layers:
        given |= {f"{layer}.norm.{part}": tensor.clone() for part, tensor in parts.items()}
    return given


def batch_norm() -> dict[str, Tensor]:
    return {
        "weight": torch.rand(256) + 0.5, "bias": torch.randn(256), "running_mean": torch.randn(256),
        "running_var": torch.rand(256) + 0.1, "num_batches_tracked": torch.tensor(7),
    }  # fmt: skip


NORMED = [
    "backbone.fpn_lateral2", "backbone.fpn_output2", "backbone.fpn_lateral5", "backbone.fpn_output5",
    *(f"roi_heads.mask_head.mask_fcn{number}" for number in range(1, 5)),
]  # fmt: skip
"""Layers with norms, as in detectron2's Misc/mask_rcnn_R_50_FPN_3x_syncbn."""


def fitted(given: dict[str, Tensor]) -> Converted:
    found = recognize(given, FILE)
    recipe = Recipe(model=ModelConfig(detector="faster_rcnn"))
    fit(found, model_shapes(recipe, classes=found.classes or 1), FILE)
    return found


def test_batch_norms_are_folded_into_their_convolutions() -> None:
    given = detectron2_rcnn()
    for layer in NORMED:
        given[f"{layer}.weight"] = torch.randn(given[f"{layer}.weight"].shape) / 50
    given = with_norms(given, NORMED, batch_norm())
    for name in [name for name in given if name.startswith("backbone.bottom_up.") and name.endswith("running_var")]:
        given[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    found = fitted(given)
    assert_accounted_for(found, given)
    assert all(name.endswith("num_batches_tracked") for name in found.dropped if ".norm." in name)
    for layer, ours in {
        "backbone.fpn_lateral2": "backbone.fpn.inner_blocks.0.0",
        "backbone.fpn_output5": "backbone.fpn.layer_blocks.3.0",
        "roi_heads.mask_head.mask_fcn4": "heads.roi_heads.masks.head.occludee.convs.3",
    }.items():
        weight, norm = given[f"{layer}.weight"], torch.nn.BatchNorm2d(256, eps=FROZEN_NORM_EPS).eval()
        norm.load_state_dict({part: given[f"{layer}.norm.{part}"] for part in norm.state_dict()})
        x = torch.randn(2, weight.shape[1], 8, 8)
        expected = norm(torch.nn.functional.conv2d(x, weight))
        folded = torch.nn.functional.conv2d(x, found.tensors[f"{ours}.weight"], found.tensors[f"{ours}.bias"])
        torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-5)


def test_convolutions_with_other_norms_are_dropped_whole() -> None:
    parts = {part: tensor for part, tensor in batch_norm().items() if part in {"weight", "bias"}}
    found = fitted(with_norms(detectron2_rcnn(), NORMED, parts))
    dropped = {name for name, reason in found.dropped.items() if "a norm that bcnet does not have" in reason}
    assert dropped == {f"{layer}.{part}" for layer in NORMED for part in ("weight", "norm.weight", "norm.bias")}
    assert not any(name.startswith("heads.roi_heads.masks.") for name in found.tensors), "nor what reads their output"


def test_a_layer_without_its_bias_is_dropped_whole() -> None:
    given = detectron2_rcnn()
    del given["backbone.fpn_lateral3.bias"]
    found = fitted(given)
    assert found.dropped["backbone.fpn_lateral3.weight"] == (
        "`backbone.fpn.inner_blocks.1.0.bias` is missing in the file, (256,) in bcnet"
    )
    assert "backbone.fpn.inner_blocks.1.0.weight" not in found.tensors


def with_convolutions(numbers: Iterable[int]) -> dict[str, Tensor]:
    """detectron2's box head of its newest baselines: convolutions with norms, and one linear layer."""
    given = {name: tensor for name, tensor in detectron2_rcnn().items() if "box_head.fc2" not in name}
    given |= {f"roi_heads.box_head.conv{number}.weight": constant(number, (256, 256, 3, 3)) for number in numbers}
    return with_norms(given, [f"roi_heads.box_head.conv{number}" for number in numbers], batch_norm())


def test_a_box_head_with_four_convolutions_and_more_of_the_rpn_are_placed() -> None:
    given, rpn = with_convolutions(range(1, 5)), "proposal_generator.rpn_head.conv"
    for part in ("weight", "bias"):
        given[f"{rpn}.conv0.{part}"] = given.pop(f"{rpn}.{part}")
        given[f"{rpn}.conv1.{part}"] = given[f"{rpn}.conv0.{part}"] + 1
    found = recognize(given, FILE)
    assert_accounted_for(found, given)
    assert found.settings == {"rpn_convs": 2, "box_head": "conv"}
    fit(found, model_shapes(Recipe(model=ModelConfig(detector="faster_rcnn", **found.settings)), classes=80), FILE)
    assert not any("box_head" in name or "rpn" in name for name in found.dropped if not name.endswith("tracked"))
    ours = found.tensors
    assert torch.equal(ours["heads.rpn.head.conv.1.0.bias"], given[f"{rpn}.conv1.bias"])
    assert torch.equal(ours["heads.roi_heads.box_head.5.weight"], given["roi_heads.box_head.fc1.weight"])
    assert "heads.roi_heads.box_head.3.0.bias" in ours and "heads.roi_heads.box_head.fc6.weight" not in ours


def test_a_box_head_with_other_convolutions_is_dropped_whole() -> None:
    given = with_convolutions([1, 2])
    found = fitted(given)
    assert_accounted_for(found, given)
    assert "other layers than four convolutions" in found.dropped["roi_heads.box_head.fc1.weight"]
    assert not any(name.startswith("heads.roi_heads.box_") for name in found.tensors) and found.classes is None


def test_a_mask_head_with_more_convolutions_is_dropped_whole() -> None:
    given = detectron2_rcnn(masks=1)
    given |= {f"roi_heads.mask_head.mask_fcn{number}.weight": constant(0, (256, 256, 3, 3)) for number in range(5, 9)}
    found = fitted(given)
    assert_accounted_for(found, given)
    dropped = {name for name, reason in found.dropped.items() if "other convolutions than bcnet's four" in reason}
    assert dropped == {name for name in given if ".mask_head." in name}


def test_backbones_with_other_layers_are_rejected() -> None:
    given = detectron2_rcnn()
    offsets = {"backbone.bottom_up.res3.0.conv2_offset.weight": torch.zeros(18, 128, 3, 3)}
    with pytest.raises(BCNetError, match="whose backbone has deformable convolutions, bcnet's backbones do not"):
        recognize(given | offsets, FILE)
    with pytest.raises(BCNetError, match="whose backbone has GroupNorm"):
        recognize({name: tensor for name, tensor in given.items() if ".running_" not in name}, FILE)


def test_only_the_backbone_of_another_detector_is_placed() -> None:
    given = {name: tensor for name, tensor in release().items() if name.startswith("backbone.")}
    converted = recognize(given | {"head.cls_subnet.0.weight": torch.zeros(2)}, FILE)
    assert converted.detector is None and converted.backbone == "r50"
    assert all(name.startswith("backbone.body.") for name in converted.tensors)
    assert {"head.cls_subnet.0.weight", "backbone.fpn_lateral3.weight"} <= converted.dropped.keys()


@pytest.mark.parametrize("backbone", ["r18", *BACKBONES])
def test_every_tensor_of_a_torchvision_backbone_is_placed(backbone: str) -> None:
    given = torchvision_backbone({"r18": resnet18, **BACKBONES}[backbone])
    converted = recognize(given, FILE)
    assert (converted.detector, converted.backbone, converted.style) == (None, backbone, "torchvision")
    assert {f"backbone.body.{name}" for name in given if not name.startswith("fc.")} == (
        converted.tensors.keys() | {f"backbone.body.{name}" for name in given if name.endswith("tracked")}
    )
    assert_accounted_for(converted, given)
    assert converted.dropped["fc.weight"] == "the ImageNet classifier"


def test_unknown_files_are_rejected() -> None:
    with pytest.raises(BCNetError, match=r"no checkpoint that bcnet knows: it holds 2 tensors, named `a`, `b`$"):
        recognize({"a": torch.zeros(1), "b": torch.zeros(1)}, FILE)
    for make, message in ((resnet34, r"\(3, 4, 6, 3\) blocks"), (wide_resnet50_2, r"width \(128, 128\)")):
        with pytest.raises(BCNetError, match=f"its backbone is none that bcnet has: .*{message}"):
            recognize(torchvision_backbone(make), FILE)
    with pytest.raises(BCNetError, match="but holds no backbone"):
        recognize({"mask_head.predictor.weight": torch.zeros(1), "layer1": torch.zeros(1)}, FILE)


def test_tensors_are_counted_by_part() -> None:
    names = ["heads.roi_heads.masks.head.x", "backbone.body.a", "backbone.body.b", "heads.boxes.scales"]
    assert count_parts(names) == {"backbone.body": 2, "heads.boxes": 1, "heads.roi_heads.masks": 1}


# --- mmdetection


MMDETECTION = {
    r"backbone\.body\.(.+)": r"backbone.\1",
    r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(\w+)": r"neck.lateral_convs.\1.conv.\2",
    r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(\w+)": r"neck.fpn_convs.\1.conv.\2",
    r"heads\.rpn\.head\.conv\.0\.0\.(\w+)": r"rpn_head.rpn_conv.\1",
    r"heads\.rpn\.head\.cls_logits\.(\w+)": r"rpn_head.rpn_cls.\1",
    r"heads\.rpn\.head\.bbox_pred\.(\w+)": r"rpn_head.rpn_reg.\1",
    r"heads\.roi_heads\.box_head\.fc6\.(\w+)": r"roi_head.bbox_head.shared_fcs.0.\1",
    r"heads\.roi_heads\.box_head\.fc7\.(\w+)": r"roi_head.bbox_head.shared_fcs.1.\1",
    r"heads\.roi_heads\.box_predictor\.cls_score\.(\w+)": r"roi_head.bbox_head.fc_cls.\1",
    r"heads\.roi_heads\.box_predictor\.bbox_pred\.(\w+)": r"roi_head.bbox_head.fc_reg.\1",
    r"heads\.roi_heads\.masks\.head\.occludee\.convs\.(\d)\.(\w+)": r"roi_head.mask_head.convs.\1.conv.\2",
    r"heads\.roi_heads\.masks\.head\.occludee_mask\.upsample\.(\w+)": r"roi_head.mask_head.upsample.\1",
}
"""Names in bcnet's Faster R-CNN, and in mmdetection's."""


def mmdetection(*, classes: int = 80, backbone: BackboneName = "r50") -> dict[str, Tensor]:
    """A Mask R-CNN of mmdetection, every tensor filled with its number."""
    recipe = Recipe(model=ModelConfig(detector="faster_rcnn", backbone=backbone))
    given: dict[str, Tensor] = {"backbone.bn1.num_batches_tracked": torch.tensor(7)}
    for number, (name, shape) in enumerate(model_shapes(recipe, classes=classes).items()):
        for ours, theirs in MMDETECTION.items():
            if found := re.fullmatch(ours, name):
                given[found.expand(theirs)] = constant(number, shape)
    predictor = "roi_head.bbox_head.fc_reg."  # no boxes of the background
    given |= {f"{predictor}{part}": given[f"{predictor}{part}"][4:] for part in ("weight", "bias")}
    logits = {"weight": (classes, 256, 1, 1), "bias": (classes,)}
    return given | {f"roi_head.mask_head.conv_logits.{part}": constant(0, shape) for part, shape in logits.items()}


def test_every_tensor_of_mmdetection_is_placed_except_for_its_class_specific_masks() -> None:
    given = mmdetection()
    found = fitted(given)
    assert (found.detector, found.backbone, found.classes) == ("faster_rcnn", "r50", 80) and not found.complete
    assert_accounted_for(found, given)
    assert found.dropped.keys() == {
        "backbone.bn1.num_batches_tracked",
        "roi_head.mask_head.conv_logits.weight",
        "roi_head.mask_head.conv_logits.bias",
    }
    shapes = model_shapes(Recipe(model=ModelConfig(detector="faster_rcnn")), classes=80)
    fresh = {name for name in shapes if name not in found.tensors}
    assert fresh and all(name.startswith("heads.roi_heads.masks.head.") for name in fresh)
    for ours, number in zip(shapes, range(len(shapes)), strict=True):
        if ours in found.tensors and "bbox_pred" not in ours:
            assert found.tensors[ours].flatten()[-1] == number, ours


def test_the_background_of_mmdetection_moves_to_label_0() -> None:
    given = mmdetection(classes=2)
    given["roi_head.bbox_head.fc_cls.bias"] = torch.tensor([1.0, 2.0, 0.0])
    given["roi_head.bbox_head.fc_reg.bias"] = torch.arange(1.0, 9.0)
    tensors = fitted(given).tensors
    assert tensors["heads.roi_heads.box_predictor.cls_score.bias"].tolist() == [0, 1, 2]
    assert tensors["heads.roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "more",
    [
        "bbox_head.conv_cls.weight",  # FCOS
        "roi_head.bbox_head.0.fc_cls.weight",  # Cascade R-CNN
        "roi_head.mask_head.convs.4.conv.weight",
        "roi_head.bbox_head.shared_convs.0.conv.weight",
        "neck.lateral_convs.0.gn.weight",
        "rpn_head.rpn_conv.0.conv.weight",
        "backbone.layer2.0.conv2.conv_offset.weight",
        "backbone.layer2.0.conv2.1.weight",
        "backbone.stem.0.weight",
    ],
)
def test_other_detectors_of_mmdetection_are_rejected(more: str) -> None:
    message = (
        f"of mmdetection that bcnet does not have: 1 tensors are no part of its Faster R-CNN, the first is `{more}`"
    )
    with pytest.raises(BCNetError, match=re.escape(message)) as caught:
        recognize(mmdetection() | {more: torch.zeros(1)}, FILE)
    assert "Faster and Mask R-CNN of mmdetection 2 and 3" in caught.value.hints[0]


CONFIG = "model = dict(\n    data_preprocessor=dict(bgr_to_rgb={}),\n    backbone=dict(\n        style='{}'))\n"


@pytest.mark.parametrize(
    ("meta", "backbone", "style", "said"),
    [
        ({"cfg": CONFIG.format(True, "pytorch")}, "r50", "torchvision", None),
        ({"cfg": CONFIG.format(False, "caffe")}, "r50", "caffe", None),
        ({"config": "img_norm_cfg = dict(to_rgb=False)\nstyle='caffe'"}, "r101", "caffe", None),
        ({"cfg": CONFIG.format(False, "pytorch")}, "x101", "caffe", None),
        ({}, "r50", "torchvision", "RGB images and torchvision style are assumed"),
        ({}, "x101", "caffe", "BGR images and caffe style are assumed"),
    ],
)
def test_the_config_of_mmdetection_tells_the_style(
    meta: dict[str, Any], backbone: BackboneName, style: str, said: str | None
) -> None:
    given = mmdetection(backbone=backbone)
    found = recognize(given, FILE)
    read_meta(found, {"meta": meta, "state_dict": given}, FILE)
    assert (found.backbone, found.style) == (backbone, style)
    assert (said is None) == (found.origin == "a Faster or Mask R-CNN of mmdetection")
    assert said is None or said in found.origin


def test_a_style_of_mmdetection_that_bcnet_does_not_have_is_rejected() -> None:
    found = recognize(mmdetection(), FILE)
    with pytest.raises(BCNetError, match="with BGR images and strides of the other style, by its config"):
        read_meta(found, {"meta": {"cfg": CONFIG.format(False, "pytorch")}}, FILE)
