"""The settings of the bilayer head in detectron2's yacs configs, and conversion between recipes and configs.

`MODEL.BCNET` holds the settings of our schema under the same names, in capitals, with the same defaults.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, get_cfg
from pydantic import ValidationError

from bcnet_core.config.choices import BackboneName, BackboneStyle
from bcnet_core.config.schema import LossConfig, ModelConfig, Recipe
from bcnet_core.engine.state import full_rate
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.model.backbones import PixelFormat, pixel_format

ELSEWHERE = {
    "detector", "backbone", "backbone_style", "channels_last", "frozen_stages", "channels", "anchor_scale",
    "proposals_per_image", "box_rois_per_image", "detections_per_image", "proposal_objectness", "proposal_box",
}  # fmt: skip
"""Settings that detectron2 has keys of its own for, or no use."""
MODEL_KEYS = tuple(key for key in ModelConfig.model_fields if key not in ELSEWHERE)
LOSS_KEYS = tuple(key for key in LossConfig.model_fields if key not in ELSEWHERE)
SMOOTH_L1_BETA = 1 / 9
"""Beta of torchvision's box losses; detectron2's default is 0."""
RESNETS: dict[BackboneName, tuple[int, int, int]] = {
    "r18": (18, 1, 64), "r50": (50, 1, 64), "r101": (101, 1, 64), "x101": (101, 32, 8),
}  # fmt: skip
"""Depth, groups and width per group of the backbones that both libraries have; `tiny` is our own in both."""


def add_bcnet_config(cfg: CfgNode) -> None:
    """Add the settings of the bilayer head to a detectron2 config, in place; call it before merging a file.

    Adds `MODEL.BCNET` (our `model.*` in capitals), `MODEL.BCNET.LOSS` (our `loss.*`), `INPUT.OCCLUDERS` (our
    `data.occluders`), `INPUT.FLIP_PROBABILITY` and `INPUT.SCALE_JITTER`.
    """
    model, loss = ModelConfig(), LossConfig()
    cfg.MODEL.BCNET = CfgNode({key.upper(): getattr(model, key) for key in MODEL_KEYS})
    cfg.MODEL.BCNET.LOSS = CfgNode({key.upper(): getattr(loss, key) for key in LOSS_KEYS})
    cfg.INPUT.OCCLUDERS = "auto"
    cfg.INPUT.FLIP_PROBABILITY = 0.5
    cfg.INPUT.SCALE_JITTER = ()


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
    """Read the settings of the mask head and of FCOS.

    Args:
        cfg: a config with our settings.
        channels: channels of the feature pyramid.

    Raises:
        BCNetError: if a setting is out of its range.
    """
    settings = {key: cfg.MODEL.BCNET[key.upper()] for key in MODEL_KEYS}
    try:
        return ModelConfig(**settings, channels=channels, detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE)
    except ValidationError as error:
        raise _invalid(error, "MODEL.BCNET") from None


def loss_from_config(cfg: CfgNode) -> LossConfig:
    """Read the forms and weights of the losses.

    Raises:
        BCNetError: if a setting is out of its range.
    """
    try:
        return LossConfig(**{key: cfg.MODEL.BCNET.LOSS[key.upper()] for key in LOSS_KEYS})
    except ValidationError as error:
        raise _invalid(error, "MODEL.BCNET.LOSS") from None


def _invalid(error: ValidationError, node: str) -> BCNetError:
    first = error.errors()[0]
    key = ".".join([node, *(str(part).upper() for part in first["loc"])])
    return usage_error(f"detectron2 config: {key}: {first['msg']}")


def loss_weights(loss: LossConfig) -> dict[str, float]:
    """Return the weights of the loss terms that our own modules compute, by name."""
    return {key: value for key, value in loss.model_dump(include=set(LOSS_KEYS)).items() if not isinstance(value, str)}


def config_from_recipe(recipe: Recipe, *, num_classes: int) -> CfgNode:
    """Convert a recipe to a detectron2 config; data sets and output folder are left unset.

    Args:
        recipe: the recipe.
        num_classes: K.

    Raises:
        BCNetError: if the recipe asks for something that detectron2's trainer or its Faster R-CNN does not have.
    """
    _check_supported(recipe)
    cfg = fresh_config()
    cfg.SEED = recipe.seed
    _set_model(cfg, recipe, num_classes)
    _set_fcos(cfg) if recipe.model.detector == "fcos" else _set_faster_rcnn(cfg, recipe)
    _set_input(cfg, recipe)
    _set_solver(cfg, recipe)
    return cfg


def _check_supported(recipe: Recipe) -> None:
    solver, model, two_stage = recipe.solver, recipe.model, recipe.model.detector == "faster_rcnn"
    asked = {
        "solver.accumulate": solver.accumulate > 1,
        "solver.ema": solver.ema > 0,
        "solver.compile": solver.compile,
        f"model.backbone={model.backbone}": model.backbone != "tiny" and model.backbone not in RESNETS,
        "model.mask_proposals=jittered with faster_rcnn": two_stage and model.mask_proposals == "jittered",
        "loss.classification other than 1 with faster_rcnn": two_stage and recipe.loss.classification != 1,
    }
    given = [name for name, value in asked.items() if value]
    if given:
        raise usage_error(
            f"the detectron2 backend does not have {', '.join(given)}", "leave it out, or use --backend torchvision"
        )


def _set_model(cfg: CfgNode, recipe: Recipe, num_classes: int) -> None:
    model = recipe.model
    pixels = pixel_format(model.backbone, model.backbone_style)
    cfg.INPUT.FORMAT = "BGR" if pixels.bgr else "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(pixels.mean), list(pixels.std)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.BACKBONE.FREEZE_AT = model.frozen_stages
    cfg.MODEL.FPN.OUT_CHANNELS = model.channels
    if model.backbone == "tiny":
        cfg.MODEL.BACKBONE.NAME = "build_tiny_pyramid_backbone"
    else:
        resnets = cfg.MODEL.RESNETS
        resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = RESNETS[model.backbone]
        resnets.RES2_OUT_CHANNELS = 64 if model.backbone == "r18" else 256
        resnets.STRIDE_IN_1X1 = model.backbone_style == "caffe" and model.backbone not in {"x101", "r18"}
    for key in MODEL_KEYS:
        cfg.MODEL.BCNET[key.upper()] = getattr(model, key)
    for key in LOSS_KEYS:
        cfg.MODEL.BCNET.LOSS[key.upper()] = getattr(recipe.loss, key)
    cfg.TEST.DETECTIONS_PER_IMAGE = model.detections_per_image


def _set_fcos(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "BilayerFCOS"
    if cfg.MODEL.BACKBONE.NAME != "build_tiny_pyramid_backbone":
        cfg.MODEL.BACKBONE.NAME = "build_fcos_resnet_fpn_backbone_p5"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]


def _set_faster_rcnn(cfg: CfgNode, recipe: Recipe) -> None:
    model, loss, tiny = recipe.model, recipe.loss, recipe.model.backbone == "tiny"
    levels = range(3, 6) if tiny else range(2, 7)
    names = [f"p{level}" for level in levels]
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    if not tiny:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[model.anchor_scale * 2**level] for level in levels]
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    rpn = cfg.MODEL.RPN
    rpn.IN_FEATURES = names
    rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST = 2 * model.candidates_per_level, model.candidates_per_level
    rpn.POST_NMS_TOPK_TRAIN = rpn.POST_NMS_TOPK_TEST = model.proposals_per_image
    rpn.SMOOTH_L1_BETA = SMOOTH_L1_BETA
    rpn.LOSS_WEIGHT = float(loss.proposal_objectness)
    rpn.BBOX_REG_LOSS_WEIGHT = float(loss.proposal_box)
    heads = cfg.MODEL.ROI_HEADS
    heads.NAME, heads.IN_FEATURES = "StandardROIHeads", names[:4]
    heads.BATCH_SIZE_PER_IMAGE = model.box_rois_per_image
    heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST = float(model.score_threshold), float(model.nms_iou)
    box = cfg.MODEL.ROI_BOX_HEAD
    box.NAME, box.NUM_FC, box.POOLER_RESOLUTION = "FastRCNNConvFCHead", 2, 7
    box.FC_DIM = model.box_head_channels
    box.SMOOTH_L1_BETA = SMOOTH_L1_BETA
    box.BBOX_REG_LOSS_WEIGHT = float(loss.box)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "BilayerMaskRCNNHead"


def _set_input(cfg: CfgNode, recipe: Recipe) -> None:
    data, source = recipe.data, cfg.INPUT
    source.MIN_SIZE_TRAIN, source.MAX_SIZE_TRAIN = tuple(data.train_sizes) or (data.min_size,), data.max_size
    source.MIN_SIZE_TEST, source.MAX_SIZE_TEST = data.min_size, data.max_size
    source.OCCLUDERS, source.FLIP_PROBABILITY = data.occluders, float(data.flip)
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
    settings |= {
        "detector": "fcos" if fcos else "faster_rcnn", "backbone": name, "backbone_style": style,
        "channels": cfg.MODEL.FPN.OUT_CHANNELS, "frozen_stages": cfg.MODEL.BACKBONE.FREEZE_AT,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
    }  # fmt: skip
    if two_stage:
        rpn, heads = cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS
        stride = 8 if name == "tiny" else 4
        settings |= {
            "anchor_scale": cfg.MODEL.ANCHOR_GENERATOR.SIZES[0][0] // stride,
            "proposals_per_image": rpn.POST_NMS_TOPK_TEST, "candidates_per_level": rpn.PRE_NMS_TOPK_TEST,
            "box_rois_per_image": heads.BATCH_SIZE_PER_IMAGE,
            "box_head_channels": cfg.MODEL.ROI_BOX_HEAD.FC_DIM, "score_threshold": heads.SCORE_THRESH_TEST,
            "nms_iou": heads.NMS_THRESH_TEST, "mask_proposals": "decoded",
        }  # fmt: skip
    sizes = {"min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": max(cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST)}
    try:
        return Recipe.model_validate({"model": settings, "data": sizes})
    except ValidationError as error:
        raise _invalid(error, "as a recipe") from None


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
    if cfg.MODEL.BACKBONE.NAME == "build_tiny_pyramid_backbone":
        return "tiny"
    if not cfg.MODEL.BACKBONE.NAME.startswith(("build_resnet_fpn_", "build_fcos_resnet_fpn_")):
        return None
    if resnets.NORM != "FrozenBN" or any(resnets.DEFORM_ON_PER_STAGE) or cfg.MODEL.FPN.NORM:
        return None
    shape = (resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP)
    return next((name for name, known in RESNETS.items() if known == shape), None)
