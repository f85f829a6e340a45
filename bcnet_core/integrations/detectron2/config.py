"""The settings of the bilayer head in detectron2's yacs configs, and conversion between recipes and configs.

`MODEL.BCNET` holds the settings of our schema under the same names, in capitals, with the same defaults.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, TypeVar

from detectron2.config import CfgNode, get_cfg
from pydantic import BaseModel, ValidationError

from bcnet_core.config.choices import BackboneName, BackboneStyle, BoxHead
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import LossConfig, Recipe
from bcnet_core.engine.optimizer import full_rate
from bcnet_core.errors import usage_error
from bcnet_core.model.backbones import RESNETS, pixel_format
from bcnet_core.model.head import roi_side
from bcnet_core.model.pixels import PixelFormat

ELSEWHERE = {
    "detector", "backbone", "backbone_style", "channels_last", "frozen_stages", "channels", "anchor_scale",
    "proposals_per_image", "box_rois_per_image", "detections_per_image", "proposal_objectness", "proposal_box",
    "rpn_convs", "box_head",
}  # fmt: skip
"""Settings that detectron2 has keys of its own for, or no use."""
MODEL_KEYS = tuple(key for key in ModelConfig.model_fields if key not in ELSEWHERE)
LOSS_KEYS = tuple(key for key in LossConfig.model_fields if key not in ELSEWHERE)
SMOOTH_L1_BETA = 1 / 9
"""Beta of torchvision's box losses; detectron2's default is 0."""
TINY = "build_tiny_pyramid_backbone"
"""Name in detectron2 of the backbone `tiny`, which is our own there, too."""
PLACES = {
    "channels": "MODEL.FPN.OUT_CHANNELS", "frozen_stages": "MODEL.BACKBONE.FREEZE_AT",
    "detections_per_image": "TEST.DETECTIONS_PER_IMAGE",
}  # fmt: skip
"""Places of the settings of a model that detectron2 has keys of its own for."""
RCNN_PLACES = {
    "proposals_per_image": "MODEL.RPN.POST_NMS_TOPK_TEST", "candidates_per_level": "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "box_rois_per_image": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "box_head_channels": "MODEL.ROI_BOX_HEAD.FC_DIM",
    "score_threshold": "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "nms_iou": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
}  # fmt: skip
"""Further ones of a Faster R-CNN."""
Settings = TypeVar("Settings", bound=BaseModel)


def add_bcnet_config(cfg: CfgNode) -> None:
    """Add the settings of the bilayer head to a detectron2 config, in place; call it before merging a file.

    Adds `MODEL.BCNET` (our `model.*` in capitals), `MODEL.BCNET.LOSS` (our `loss.*`), `INPUT.OCCLUDERS` and
    `INPUT.BOXES` (our `data.occluders` and `data.boxes`), `INPUT.FLIP_PROBABILITY` and `INPUT.SCALE_JITTER`.
    """
    cfg.MODEL.BCNET = _bcnet_node(ModelConfig(), LossConfig())
    cfg.INPUT.OCCLUDERS = cfg.INPUT.BOXES = "auto"
    cfg.INPUT.FLIP_PROBABILITY, cfg.INPUT.SCALE_JITTER = 0.5, ()


def _bcnet_node(model: ModelConfig, loss: LossConfig) -> CfgNode:
    node = CfgNode({key.upper(): getattr(model, key) for key in MODEL_KEYS})
    node.LOSS = CfgNode({key.upper(): getattr(loss, key) for key in LOSS_KEYS})
    return node


def fresh_config() -> CfgNode:
    """Return detectron2's defaults with our settings added."""
    cfg = get_cfg()
    add_bcnet_config(cfg)
    return cfg


def config_from_yaml(text: str) -> CfgNode:
    """Return a mutable config from the yaml of its `dump`."""
    cfg = fresh_config()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    return cfg


def model_from_config(cfg: CfgNode, channels: int) -> ModelConfig:
    """Read the settings of the mask head and of FCOS, on a feature pyramid of some channels.

    Raises:
        BCNetError: if a setting is out of its range.
    """
    settings = {key: cfg.MODEL.BCNET[key.upper()] for key in MODEL_KEYS}
    settings |= {"channels": channels, "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE}
    return validated(ModelConfig, settings, "MODEL.BCNET")


def loss_from_config(cfg: CfgNode) -> LossConfig:
    """Read the forms and weights of the losses.

    Raises:
        BCNetError: if a setting is out of its range.
    """
    settings = {key: cfg.MODEL.BCNET.LOSS[key.upper()] for key in LOSS_KEYS}
    return validated(LossConfig, settings, "MODEL.BCNET.LOSS")


def validated(kind: type[Settings], settings: dict[str, Any], node: str) -> Settings:
    """Validate settings that a config has under `node`; one that is out of its range is a `BCNetError`."""
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([node, *(str(part).upper() for part in first["loc"])])
        raise usage_error(f"detectron2 config: {key}: {first['msg']}") from None


def loss_weights(loss: LossConfig) -> dict[str, float]:
    """Return the weights of the loss terms that our own modules compute, by name."""
    return {key: value for key, value in loss.model_dump(include=set(LOSS_KEYS)).items() if not isinstance(value, str)}


def config_from_recipe(recipe: Recipe, *, num_classes: int) -> CfgNode:
    """Convert a recipe to a detectron2 config for K classes; data sets and output folder are left unset.

    Raises:
        BCNetError: if the recipe asks for something that detectron2's trainer or its Faster R-CNN does not have.
    """
    _check_supported(recipe)
    recipe = recipe.model_copy(update={"model": recipe.model.for_training_set(objects=0)})
    cfg = fresh_config()
    cfg.SEED = recipe.seed
    _set_model(cfg, recipe, num_classes)
    if recipe.model.detector == "faster_rcnn":
        _set_faster_rcnn(cfg, recipe)
    _set_input(cfg, recipe)
    _set_solver(cfg, recipe)
    return cfg


def _check_supported(recipe: Recipe) -> None:
    solver, model, two_stage = recipe.solver, recipe.model, recipe.model.detector == "faster_rcnn"
    asked = {
        "data.copy_paste": recipe.data.copy_paste.probability > 0,
        "data.color_jitter": recipe.data.color_jitter is not None,
        "data.flip_vertical": recipe.data.flip_vertical > 0,
        "solver.accumulate": solver.accumulate > 1,
        "solver.ema": solver.ema > 0,
        "solver.compile": solver.compile,
        "solver.patience": solver.patience > 0,
        f"model.backbone={model.backbone}": model.backbone != "tiny" and model.backbone not in RESNETS,
        "model.frozen_norm=false": not model.frozen_norm and model.backbone in RESNETS,
        "model.geometry=torchvision with faster_rcnn": two_stage and model.geometry != "exact",
        f"model.nms={model.nms} with faster_rcnn": two_stage and model.nms != "box",
        "model.class_agnostic_nms with faster_rcnn": two_stage and model.class_agnostic_nms,
        "loss.classification other than 1 with faster_rcnn": two_stage and recipe.loss.classification != 1,
    }
    given = [name for name, value in asked.items() if value]
    if given:
        raise usage_error(
            f"the detectron2 backend does not have {', '.join(given)}", "leave it out, or use --backend torchvision"
        )


def _set_model(cfg: CfgNode, recipe: Recipe, num_classes: int) -> None:
    model, is_fcos = recipe.model, recipe.model.detector == "fcos"
    pixels = pixel_format(model.backbone, model.backbone_style)
    cfg.INPUT.FORMAT = "BGR" if pixels.bgr else "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(pixels.mean), list(pixels.std)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.META_ARCHITECTURE = "BilayerFCOS" if is_fcos else "GeneralizedRCNN"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    resnets = cfg.MODEL.RESNETS
    resnets.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = [f"res{stage}" for stage in range(3 if is_fcos else 2, 6)]
    if model.backbone == "tiny":
        cfg.MODEL.BACKBONE.NAME = TINY
    else:
        cfg.MODEL.BACKBONE.NAME = "build_fcos_resnet_fpn_backbone_p5" if is_fcos else "build_resnet_fpn_backbone"
        shape = RESNETS[model.backbone]
        resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = shape.depth, shape.groups, shape.width
        resnets.RES2_OUT_CHANNELS = 256 if shape.is_bottleneck else 64
        resnets.STRIDE_IN_1X1 = model.backbone_style == "caffe" and shape.is_bottleneck and shape.groups == 1
    cfg.MODEL.BCNET = _bcnet_node(model, recipe.loss)
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = roi_side(model.map_side)
    _write(cfg, model, PLACES)


def _write(cfg: CfgNode, model: ModelConfig, places: dict[str, str]) -> None:
    cfg.merge_from_list([part for key, place in places.items() for part in (place, getattr(model, key))])


def _read(cfg: CfgNode, places: dict[str, str]) -> dict[str, Any]:
    return {key: reduce(getattr, place.split("."), cfg) for key, place in places.items()}


def _set_faster_rcnn(cfg: CfgNode, recipe: Recipe) -> None:
    model, loss = recipe.model, recipe.loss
    _write(cfg, model, RCNN_PLACES)
    levels = range(3, 6) if model.backbone == "tiny" else range(2, 7)
    names = [f"p{level}" for level in levels]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[scale * 2**level for scale in model.anchor_scale] for level in levels]
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    rpn = cfg.MODEL.RPN
    rpn.IN_FEATURES, rpn.CONV_DIMS = names, [-1] * model.rpn_convs
    rpn.PRE_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TRAIN = 2 * model.candidates_per_level, model.proposals_per_image
    rpn.SMOOTH_L1_BETA = SMOOTH_L1_BETA
    rpn.LOSS_WEIGHT = float(loss.proposal_objectness)
    rpn.BBOX_REG_LOSS_WEIGHT = float(loss.proposal_box)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.IN_FEATURES = "BilayerROIHeads", names[:4]
    box = cfg.MODEL.ROI_BOX_HEAD
    box.NAME, box.POOLER_RESOLUTION, box.CONV_DIM = "FastRCNNConvFCHead", 7, model.channels
    box.NUM_CONV, box.NUM_FC = (0, 2) if model.box_head == "linear" else (4, 1)
    box.SMOOTH_L1_BETA = SMOOTH_L1_BETA
    box.BBOX_REG_LOSS_WEIGHT = float(loss.box)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "BilayerMaskRCNNHead"


def _set_input(cfg: CfgNode, recipe: Recipe) -> None:
    data, source = recipe.data, cfg.INPUT
    source.MIN_SIZE_TRAIN, source.MAX_SIZE_TRAIN = tuple(data.train_sizes) or (data.min_size,), data.max_size
    source.MIN_SIZE_TEST, source.MAX_SIZE_TEST = data.min_size, data.max_size
    source.OCCLUDERS, source.BOXES, source.FLIP_PROBABILITY = data.occluders, data.boxes, float(data.flip)
    source.SCALE_JITTER = tuple(data.scale_jitter or ())
    cfg.DATALOADER.NUM_WORKERS = data.workers
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = data.group_aspects


def _set_solver(cfg: CfgNode, recipe: Recipe) -> None:
    """Set what detectron2 itself reads; `trainer` takes optimizer and learning rates from the recipe."""
    ours, solver = recipe.solver, cfg.SOLVER
    solver.IMS_PER_BATCH, solver.MAX_ITER = ours.batch_size, ours.steps
    solver.BASE_LR, solver.WEIGHT_DECAY = full_rate(ours), float(ours.weight_decay)
    solver.STEPS = tuple(step for step in ours.milestones if step < ours.steps)
    solver.WARMUP_ITERS, solver.WARMUP_FACTOR = ours.warmup_steps, 0.001
    solver.AMP.ENABLED = ours.precision != "fp32"
    solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = ours.checkpoint_every, ours.eval_every


def recipe_from_config(cfg: CfgNode) -> Recipe:
    """Convert the model and the input sizes of a config to a recipe; data sets and solver are the defaults.

    Raises:
        BCNetError: if the torchvision backend does not have the config's detector or its backbone.
    """
    meta, backbone = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME
    fcos, name = meta == "BilayerFCOS", _backbone_name(cfg)
    two_stage = meta == "GeneralizedRCNN" and cfg.MODEL.ROI_HEADS.NAME in {"StandardROIHeads", "BilayerROIHeads"}
    if not (fcos or two_stage) or name is None:
        raise usage_error(
            f"the torchvision backend does not have this detector: {meta}, {cfg.MODEL.ROI_HEADS.NAME}, {backbone}",
            "it has FCOS and Faster R-CNN on ResNet-18, 50, 101 and ResNeXt-101 32x8d with frozen BatchNorm and FPN",
        )
    style: BackboneStyle = "caffe" if cfg.INPUT.FORMAT == "BGR" else "torchvision"
    _check_pixels(cfg, name, pixel_format(name, style))
    settings: dict[str, Any] = {key: cfg.MODEL.BCNET[key.upper()] for key in MODEL_KEYS}
    settings |= {"detector": "fcos" if fcos else "faster_rcnn", "backbone": name, "backbone_style": style}
    settings |= _read(cfg, PLACES)
    if two_stage:
        scales = _anchor_scales(cfg, first_stride=8 if name == "tiny" else 4)
        settings |= {**_read(cfg, RCNN_PLACES), "anchor_scale": scales}
        settings |= {"geometry": "exact", "nms": "box", "class_agnostic_nms": False}
        if cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads":
            settings["mask_proposals"] = "decoded"
        box_head: BoxHead = "conv" if cfg.MODEL.ROI_BOX_HEAD.NUM_CONV else "linear"
        settings |= {"rpn_convs": len(cfg.MODEL.RPN.CONV_DIMS), "box_head": box_head}
    sizes = {"min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": max(cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST)}
    return validated(Recipe, {"model": settings, "data": {**sizes, "boxes": cfg.INPUT.BOXES}}, "as a recipe")


def _anchor_scales(cfg: CfgNode, *, first_stride: int) -> tuple[int, ...]:
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    scales = tuple(int(size / first_stride) for size in anchors.SIZES[0])
    levels = range(len(cfg.MODEL.RPN.IN_FEATURES))
    wanted = [[scale * first_stride * 2**level for scale in scales] for level in levels]
    if [list(sizes) for sizes in anchors.SIZES] != wanted or [list(one) for one in anchors.ASPECT_RATIOS] != [
        [0.5, 1.0, 2.0]
    ]:
        raise usage_error(
            "the torchvision backend does not have this config's anchors: "
            f"SIZES {anchors.SIZES}, ASPECT_RATIOS {anchors.ASPECT_RATIOS}",
            f"it has the same multiples of the stride on every level, such as {wanted}, and the ratios 0.5, 1 and 2",
        )
    return scales


def _check_pixels(cfg: CfgNode, name: BackboneName, pixels: PixelFormat) -> None:
    given = (*cfg.MODEL.PIXEL_MEAN, *cfg.MODEL.PIXEL_STD)
    wanted = (*pixels.mean, *pixels.std)
    if any(abs(one - other) > 0.01 for one, other in zip(wanted, given, strict=True)):
        raise usage_error(
            "the torchvision backend does not normalize images by this config's PIXEL_MEAN and PIXEL_STD",
            f"for {name} and {cfg.INPUT.FORMAT} it has {', '.join(f'{value:g}' for value in wanted)}",
        )


def _backbone_name(cfg: CfgNode) -> BackboneName | None:
    """Return our name of a config's backbone, None if we do not have it."""
    resnets = cfg.MODEL.RESNETS
    if cfg.MODEL.BACKBONE.NAME == TINY:
        return "tiny"
    if not cfg.MODEL.BACKBONE.NAME.startswith(("build_resnet_fpn_", "build_fcos_resnet_fpn_")):
        return None
    if resnets.NORM != "FrozenBN" or any(resnets.DEFORM_ON_PER_STAGE) or cfg.MODEL.FPN.NORM:
        return None
    given = (resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP)
    return next((name for name, shape in RESNETS.items() if (shape.depth, shape.groups, shape.width) == given), None)
