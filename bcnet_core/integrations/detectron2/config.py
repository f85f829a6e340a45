"""The settings of the bilayer head in detectron2's yacs configs, and what our recipes are there.

`MODEL.BCNET` holds the settings of our schema under the same names, in capitals, with the same defaults.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, get_cfg
from pydantic import ValidationError

from bcnet_core.config.choices import BackboneName, BackboneStyle
from bcnet_core.config.schema import LossConfig, ModelConfig, Recipe
from bcnet_core.engine.optim import full_rate
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.maps import map_specs
from bcnet_core.model.backbones import pixel_format
from bcnet_core.model.detectors import build_mask_branch
from bcnet_core.model.head import BilayerMaskHead

MODEL_KEYS = (
    "layers", "attention", "boundary", "mask_convs", "mask_channels", "occluder_sampling", "mask_rois_per_image",
    "mask_proposals", "tower_convs", "score_threshold", "nms_iou", "candidates_per_level",
)  # fmt: skip
"""Of our model's settings, those that detectron2 has no key for; those from `mask_proposals` on are FCOS's."""
LOSS_KEYS = (
    *(spec.name for spec in map_specs()),
    "normalizer", "giou", "classification", "box", "centerness",
)  # fmt: skip
"""Of our losses' settings; those from `normalizer` on are FCOS's."""
SMOOTH_L1_BETA = 1 / 9
"""Of torchvision's box losses; detectron2's default is 0."""
DEPTHS = {"r18": 18, "r50": 50, "r101": 101, "x101": 101}


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
    """detectron2's defaults with ours added."""
    cfg = get_cfg()
    add_bcnet_config(cfg)
    return cfg


def head_of(cfg: CfgNode, channels: int) -> BilayerMaskHead:
    """The mask head that a config asks for, over RoI features of `channels` channels."""
    return build_mask_branch(model_of(cfg, channels), ()).head


def config_from(text: str) -> CfgNode:
    """The config that a yaml text, from its `dump`, stands for; to be changed at will."""
    cfg = fresh_config()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    return cfg


def model_of(cfg: CfgNode, channels: int) -> ModelConfig:
    """The settings of the mask head and of FCOS, as our schema has them.

    Raises:
        BCNetError: if one is out of its range.
    """
    settings = {key: cfg.MODEL.BCNET[key.upper()] for key in MODEL_KEYS}
    try:
        return ModelConfig(**settings, channels=channels, detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE)
    except ValidationError as error:
        raise _told(error, "MODEL.BCNET") from None


def loss_of(cfg: CfgNode) -> LossConfig:
    """The forms and weights of the losses, as our schema has them.

    Raises:
        BCNetError: if one is out of its range.
    """
    try:
        return LossConfig(**{key: cfg.MODEL.BCNET.LOSS[key.upper()] for key in LOSS_KEYS})
    except ValidationError as error:
        raise _told(error, "MODEL.BCNET.LOSS") from None


def _told(error: ValidationError, node: str) -> BCNetError:
    """The first thing that is wrong with a node of a config."""
    first = error.errors()[0]
    key = ".".join([node, *(str(part).upper() for part in first["loc"])])
    return usage_error(f"detectron2 config: {key}: {first['msg']}")


def loss_weights_of(cfg: CfgNode) -> dict[str, float]:
    """The weights of our loss terms by their names, as a config has them."""
    loss = loss_of(cfg)
    return {key: float(getattr(loss, key)) for key in LOSS_KEYS if key not in {"normalizer", "giou"}}


def config_of(recipe: Recipe, *, num_classes: int) -> CfgNode:
    """The detectron2 config that means the same as a recipe; its data sets and its output folder are not set.

    Args:
        recipe: ours.
        num_classes: K.

    Raises:
        BCNetError: if the recipe asks for something that detectron2's trainer or its Faster R-CNN does not have.
    """
    refuse_unknown(recipe)
    cfg = fresh_config()
    cfg.SEED = recipe.seed
    _set_model(cfg, recipe, num_classes)
    {"fcos": _set_fcos, "faster_rcnn": _set_faster_rcnn}[recipe.model.detector](cfg, recipe)
    _set_input(cfg, recipe)
    _set_solver(cfg, recipe)
    return cfg


def refuse_unknown(recipe: Recipe) -> None:
    """Refuse what detectron2's trainer or its Faster R-CNN does not have.

    Raises:
        BCNetError: naming all of it.
    """
    solver, model, two_stage = recipe.solver, recipe.model, recipe.model.detector == "faster_rcnn"
    asked = {
        "solver.accumulate": solver.accumulate > 1,
        "solver.ema": solver.ema > 0,
        "solver.compile": solver.compile,
        "model.mask_proposals=jittered with faster_rcnn": two_stage and model.mask_proposals == "jittered",
        "loss.classification other than 1 with faster_rcnn": two_stage and recipe.loss.classification != 1,
    }
    given = [name for name, value in asked.items() if value]
    if given:
        raise usage_error(
            f"the detectron2 backend does not have {', '.join(given)}", "leave it out, or use --backend torchvision"
        )


def _set_model(cfg: CfgNode, recipe: Recipe, num_classes: int) -> None:
    model, tiny = recipe.model, recipe.model.backbone == "tiny"
    pixels = pixel_format(model.backbone, model.backbone_style)
    cfg.INPUT.FORMAT = "BGR" if pixels.bgr else "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(pixels.mean), list(pixels.std)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.BACKBONE.FREEZE_AT = model.frozen_stages
    cfg.MODEL.FPN.OUT_CHANNELS = model.channels
    if not tiny:
        narrow = model.backbone == "r18"
        resnets = cfg.MODEL.RESNETS
        resnets.DEPTH = DEPTHS[model.backbone]
        resnets.RES2_OUT_CHANNELS = 64 if narrow else 256
        resnets.STRIDE_IN_1X1 = model.backbone_style == "caffe" and model.backbone not in {"x101", "r18"}
        resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = (32, 8) if model.backbone == "x101" else (1, 64)
    for key in MODEL_KEYS:
        cfg.MODEL.BCNET[key.upper()] = getattr(model, key)
    for key in LOSS_KEYS:
        cfg.MODEL.BCNET.LOSS[key.upper()] = getattr(recipe.loss, key)
    cfg.TEST.DETECTIONS_PER_IMAGE = model.detections_per_image


def _set_fcos(cfg: CfgNode, recipe: Recipe) -> None:
    tiny = recipe.model.backbone == "tiny"
    cfg.MODEL.META_ARCHITECTURE = "BilayerFCOS"
    cfg.MODEL.BACKBONE.NAME = "build_tiny_pyramid_backbone" if tiny else "build_fcos_resnet_fpn_backbone_p5"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]


def _set_faster_rcnn(cfg: CfgNode, recipe: Recipe) -> None:
    model, loss, tiny = recipe.model, recipe.loss, recipe.model.backbone == "tiny"
    levels = range(3, 6) if tiny else range(2, 7)
    names = [f"p{level}" for level in levels]
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_tiny_pyramid_backbone" if tiny else "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
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
    """What detectron2 itself reads; optimiser and learning rate are made of the recipe, see `trainer`."""
    ours, solver = recipe.solver, cfg.SOLVER
    solver.IMS_PER_BATCH, solver.MAX_ITER = ours.batch_size, ours.steps
    solver.BASE_LR, solver.WEIGHT_DECAY = full_rate(ours), float(ours.weight_decay)
    solver.STEPS = tuple(step for step in ours.milestones if step < ours.steps)
    solver.WARMUP_ITERS, solver.WARMUP_FACTOR = ours.warmup_steps, 0.001
    solver.AMP.ENABLED = ours.precision != "fp32"
    solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = ours.checkpoint_every, ours.eval_every


def recipe_of(cfg: CfgNode) -> Recipe:
    """The recipe whose model and input are those of a config; its data sets and its solver are the defaults.

    Raises:
        BCNetError: if the config's detector or its backbone is none that the torchvision backend has.
    """
    meta, backbone = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME
    fcos = meta == "BilayerFCOS"
    name = _backbone_of(cfg)
    two_stage = meta == "GeneralizedRCNN" and cfg.MODEL.ROI_HEADS.NAME in {"StandardROIHeads", "BilayerROIHeads"}
    if not (fcos or two_stage) or name is None:
        raise usage_error(
            f"the torchvision backend does not have this detector: {meta}, {cfg.MODEL.ROI_HEADS.NAME}, {backbone}",
            "it has FCOS and Faster R-CNN on ResNet-18, 50, 101 and ResNeXt-101 32x8d with frozen BatchNorm and FPN",
        )
    style: BackboneStyle = "caffe" if cfg.INPUT.FORMAT == "BGR" else "torchvision"
    pixels = pixel_format(name, style)
    given = (*cfg.MODEL.PIXEL_MEAN, *cfg.MODEL.PIXEL_STD)
    wanted = (*pixels.mean, *pixels.std)
    if any(abs(ours - theirs) > 0.01 for ours, theirs in zip(wanted, given, strict=True)):
        raise usage_error(
            "the torchvision backend normalises images otherwise than this config's PIXEL_MEAN and PIXEL_STD",
            f"for {name} and {cfg.INPUT.FORMAT} it has {', '.join(f'{value:g}' for value in wanted)}",
        )
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
        raise _told(error, "as a recipe") from None


def _backbone_of(cfg: CfgNode) -> BackboneName | None:
    """Our name of a config's backbone, None where we have none."""
    resnets = cfg.MODEL.RESNETS
    if cfg.MODEL.BACKBONE.NAME == "build_tiny_pyramid_backbone":
        return "tiny"
    if not cfg.MODEL.BACKBONE.NAME.startswith(("build_resnet_fpn_", "build_fcos_resnet_fpn_")):
        return None
    if resnets.NORM != "FrozenBN" or any(resnets.DEFORM_ON_PER_STAGE) or cfg.MODEL.FPN.NORM:
        return None
    groups = (resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP)
    known: dict[object, BackboneName] = {
        (18, (1, 64)): "r18", (50, (1, 64)): "r50", (101, (1, 64)): "r101", (101, (32, 8)): "x101",
    }  # fmt: skip
    return known.get((resnets.DEPTH, groups))
