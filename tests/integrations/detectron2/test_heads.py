"""The bilayer head in detectron2: official recordings, all kinds of RoI heads, model zoo configs."""

import json
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from bcnet_core.config.load import load_recipe
from bcnet_core.errors import BCNetError
from bcnet_core.integrations.detectron2 import BilayerMaskRCNNHead, CroppedMasks, add_bcnet_config, add_bilayer_head
from bcnet_core.integrations.detectron2.config import config_from_recipe, fresh_config
from bcnet_core.integrations.detectron2.fields import map_field
from bcnet_core.maps import map_specs
from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.model.mask_branch import mask_confidence
from tests.model.test_parity import OFFICIAL, PARITY
from tests.parity.rule import input_for, weights_for

CASES = ["main", "one_occluded", "all_occluded", "first_occluded", "single_roi", "no_occluder"]


def found(count: int) -> Instances:
    instances = Instances((64, 64))
    instances.pred_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]]).repeat(count, 1))
    return instances


def test_the_head_loads_official_names_and_equals_the_recording() -> None:
    head = BilayerMaskRCNNHead(fresh_config(), ShapeSpec(channels=256, height=14, width=14))
    shapes = json.loads((PARITY / "maskhead_keys.json").read_text())
    head.load_state_dict({key: torch.as_tensor(weights_for(key, shape, "open")) for key, shape in shapes.items()})
    features = torch.from_numpy(input_for("maskhead", (6, 256, 14, 14), "open"))
    instances = [found(2), found(4)]
    with np.load(PARITY / "maskhead.npz") as official, torch.no_grad():
        assert head.eval()(features, instances) is instances
        for spec in map_specs(OFFICIAL):
            expected = torch.from_numpy(official[f"eval_{OFFICIAL[spec.name]}"]).sigmoid()
            got = torch.cat([one.get(map_field(spec)) for one in instances])
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_the_masks_have_a_say_in_the_scores() -> None:
    torch.manual_seed(0)
    head = BilayerMaskHead(32, attention=False)
    torch.nn.init.normal_(head.get_parameter("occludee_mask.logits.weight"))
    features, instances = torch.randn(3, 32, 14, 14), found(3)
    instances.scores = torch.tensor([0.9, 0.8, 0.7])
    (plain,) = BilayerMaskRCNNHead(head=head).eval()(features, [instances[:]])
    (scored,) = BilayerMaskRCNNHead(head=head, mask_scoring=True).eval()(features, [instances[:]])
    expected = (plain.scores * mask_confidence(plain.pred_masks[:, 0])).sort(descending=True)
    torch.testing.assert_close(scored.scores, expected.values)
    torch.testing.assert_close(scored.pred_occluder_masks, plain.pred_occluder_masks[expected.indices])


class Crops:
    """Masks whose crops are known."""

    def __init__(self, crops: np.ndarray) -> None:
        self.crops = torch.from_numpy(crops.astype(bool))

    def __len__(self) -> int:
        return len(self.crops)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        return self.crops


class Recorded(torch.nn.Module):
    """A head that answers with the logits of a recording."""

    occluder = torch.nn.Identity()
    mask_size = 28

    def __init__(self, logits: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.logits, self.weight = logits, torch.nn.Parameter(torch.zeros(()))

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.logits)

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: maps + self.weight for name, maps in self.logits.items()}


@pytest.mark.parametrize("case", CASES)
def test_the_losses_equal_the_recording(case: str) -> None:
    with np.load(PARITY / "loss.npz") as official:
        masks, regions = (Crops(official[f"{case}_{name}"]) for name in ("gt_masks", "gt_bo_masks"))
        losses = official[f"{case}_losses"].tolist()
    count = len(masks)
    logits = {
        name: torch.from_numpy(input_for(f"logits_{case}_{OFFICIAL[name]}", (count, 1, 28, 28), "open")[:, 0])
        for name in OFFICIAL
    }
    instances = Instances((64, 64))
    instances.proposal_boxes = Boxes(torch.zeros(count, 4))
    instances.gt_masks, instances.gt_occluders = masks, regions
    head = BilayerMaskRCNNHead(head=Recorded(logits), occluder_sampling="official")
    with EventStorage():
        got = head(torch.zeros(count, 1, 14, 14), [instances])
    names = ("loss_occludee_mask", "loss_occluder_mask", "loss_occludee_boundary", "loss_occluder_boundary")
    values = [float(got[name].detach()) * (2 if "boundary" in name else 1) for name in names]
    np.testing.assert_allclose(values, losses, atol=1e-5)


def proposals(count: int, *, occluders: bool = True, wholes: bool = False) -> Instances:
    instances = Instances((64, 64))
    instances.proposal_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]]).repeat(count, 1))
    bitmap, region = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    bitmap[10:40, 10:35], region[30:50, 20:40] = True, True
    instances.gt_masks = CroppedMasks.from_segmentations([bitmap] * count, 64, 64)
    if occluders:
        instances.gt_occluders = CroppedMasks.from_segmentations([region] * count, 64, 64)
    if wholes:
        instances.gt_wholes = CroppedMasks.from_segmentations([bitmap | region] * count, 64, 64)
    return instances


def test_a_config_s_dice_loss_is_added_to_the_masks() -> None:
    logits = {name: torch.zeros(3, 28, 28) for name in OFFICIAL}
    found = []
    for dice in (0.0, 1.0):
        recipe = load_recipe("tiny", ["model.channels=32", "model.attention=false", f"loss.mask_dice={dice}"])
        cfg = config_from_recipe(recipe, num_classes=3)
        cfg.MODEL.DEVICE = "cpu"
        head = build_model(cfg).roi_heads.mask_head.train()
        head.head, head.rois_per_image = Recorded(logits), 0
        with EventStorage():
            found.append(head(torch.zeros(3, 32, 14, 14), [proposals(3)]))
    added = {name: float((found[1][name] - loss).detach()) for name, loss in found[0].items()}
    share = 30 * 25 / (46 * 36)  # of the box, and p is 0.5 everywhere
    assert added["loss_occludee_mask"] == pytest.approx(1 - share / (0.25 + share), abs=0.01)
    assert 0 < added["loss_occluder_mask"] < 0.25, "it has the weight of its map"
    assert added["loss_occludee_boundary"] == added["loss_occluder_boundary"] == 0


@pytest.fixture
def zoo() -> Any:
    from detectron2 import model_zoo  # which warns when it is imported

    return model_zoo


@pytest.mark.parametrize(("chosen", "trained"), [("decoded", 0), ("jittered", 5)])
def test_the_ground_truth_jittered_trains_the_masks(chosen: str, trained: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proposal lies on an instance here, so that only the ground truth can train masks."""
    settings = ["model.channels=32", f"model.mask_proposals={chosen}", "model.attention=false"]
    cfg = config_from_recipe(load_recipe("tiny", settings), num_classes=3)
    cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = "cpu", False
    heads = build_model(cfg).train().roi_heads
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(heads.mask_head, "forward", lambda _, images: seen.append(boxes_of(images)) or {})
    truth, far = [proposals(2), proposals(3)], Instances((64, 64))
    for one in truth:
        one.gt_boxes, one.gt_classes = one.proposal_boxes, torch.zeros(len(one), dtype=torch.int64)
        one.remove("proposal_boxes")
    far.proposal_boxes, far.objectness_logits = Boxes(torch.tensor([[50.0, 52.0, 63.0, 63.0]])), torch.zeros(1)
    levels = {f"p{level}": torch.rand(2, 32, 64 >> level, 64 >> level) for level in (3, 4, 5)}
    torch.manual_seed(0)
    with EventStorage():
        _, losses = heads(None, levels, [far, far], truth)
    assert losses.keys() == {"loss_cls", "loss_box_reg"}
    (boxes,) = seen
    assert len(boxes) == trained
    edge = torch.tensor([3.6, 4.6] * 2)  # a tenth of the box
    moved = (boxes - torch.tensor([4.0, 4.0, 40.0, 50.0])).abs()
    assert (moved <= edge).all() and (moved > 0).all()


def boxes_of(images: list[Instances]) -> torch.Tensor:
    return torch.cat([one.proposal_boxes.tensor for one in images])


@pytest.mark.parametrize(
    ("heads", "chosen", "said"),
    [
        ("BilayerROIHeads", "official", "official is for BilayerFCOS"),
        ("BilayerCascadeROIHeads", "jittered", "a cascade trains its masks on its proposals"),
    ],
)
def test_mask_proposals_that_roi_heads_do_not_have_are_rejected(heads: str, chosen: str, said: str) -> None:
    cfg = config_from_recipe(load_recipe("tiny"), num_classes=3)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.BCNET.MASK_PROPOSALS = heads, chosen
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True  # as cascades have it
    with pytest.raises(BCNetError, match=said):
        build_model(cfg)


def small_head(**settings: Any) -> BilayerMaskRCNNHead:
    return BilayerMaskRCNNHead(head=BilayerMaskHead(32, convs=2, **settings))


def test_without_rois_the_losses_are_zero_and_have_a_graph() -> None:
    head = small_head()
    with EventStorage():
        losses = head(torch.zeros(0, 32, 14, 14), [proposals(0), proposals(0)])
    assert sorted(losses) == [f"loss_{name}" for name in sorted(OFFICIAL)]
    sum(losses.values()).backward()
    assert all(float(loss.detach()) == 0 for loss in losses.values())
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_training_data_without_occluders_is_rejected() -> None:
    features, instances = torch.zeros(2, 32, 14, 14), [proposals(2, occluders=False)]
    with EventStorage(), pytest.raises(BCNetError, match="no occluder regions") as error:
        small_head()(features, instances)
    assert "BilayerDatasetMapper" in error.value.hints[0]
    with EventStorage():
        assert "loss_occluder_mask" not in small_head(layers=1)(features, instances)


def test_the_occluder_learns_from_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    head, features = small_head(), torch.randn(4, 32, 14, 14, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    history = []
    with EventStorage() as storage:
        for _ in range(15):
            losses = head(features, [proposals(4)])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            history.append(float(losses["loss_occluder_mask"].detach()))
        assert storage.latest()["bilayer/rois_with_occluder"][0] == 1.0
    assert history[-1] < 0.5 * history[0]


def test_the_number_of_rois_is_bounded() -> None:
    head = small_head()
    head.rois_per_image, seen = 3, []
    head.head.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with EventStorage():
        head(torch.randn(7, 32, 14, 14), [proposals(5), proposals(2)])
    assert seen == [5]  # 3 of the first image, both of the second


def test_mask_rcnn_convolutions_initialize_the_occludee_layer() -> None:
    head = BilayerMaskRCNNHead(fresh_config(), ShapeSpec(channels=256, height=14, width=14))
    cfg = get_cfg()
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    theirs = ROI_MASK_HEAD_REGISTRY.get("MaskRCNNConvUpsampleHead")(cfg, ShapeSpec(channels=256, height=14, width=14))
    before = head.head.occludee_mask.logits.weight.clone()
    head.load_state_dict(theirs.state_dict(), strict=False)
    assert torch.equal(head.head.occludee.convs[3].weight, theirs.mask_fcn4.weight)
    assert torch.equal(head.head.occludee_mask.upsample.weight, theirs.deconv.weight)
    assert torch.equal(head.head.occludee_mask.logits.weight, before)  # theirs has one mask for each of 80 classes


ZOO = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml": ["MODEL.ROI_MASK_HEAD.NAME", "BilayerMaskRCNNHead"],
    "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml": ["MODEL.ROI_HEADS.NAME", "BilayerROIHeads"],
    "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml": ["MODEL.ROI_HEADS.NAME", "BilayerCascadeROIHeads"],
}
SMALL = {
    "MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "", "MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.FPN.OUT_CHANNELS": 32, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16, "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 50, "MODEL.RPN.PRE_NMS_TOPK_TEST": 50, "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "TEST.DETECTIONS_PER_IMAGE": 4,
}  # fmt: skip


def training_input(*, amodal: bool = False) -> list[dict[str, Any]]:
    given = proposals(2, wholes=amodal)
    given.gt_boxes, given.gt_classes = given.proposal_boxes, torch.tensor([3, 7])
    given.remove("proposal_boxes")
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [{"image": image, "instances": given, "height": 128, "width": 128}]


def try_model(model: torch.nn.Module, *, amodal: bool = False) -> None:
    """One training step and one prediction."""
    torch.manual_seed(0)
    with EventStorage():
        losses = model.train()(training_input(amodal=amodal))
    names = {spec.name for spec in map_specs() if amodal or spec.region != "amodal"}
    assert {name.removeprefix("loss_") for name in losses if name.endswith(("_mask", "_boundary"))} == names
    assert all(float(losses[f"loss_{name}"].detach()) > 0 for name in names if name.endswith("_mask"))
    sum(losses.values()).backward()
    assert model.roi_heads.mask_head.head.occluder.convs[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        (result,) = model.eval()(training_input())
    instances = result["instances"]
    assert len(instances) > 0
    assert instances.pred_masks.shape == (len(instances), 128, 128)
    assert instances.pred_occluder_masks.shape == (len(instances), 1, 28, 28)
    assert instances.has("pred_amodal_masks") == amodal


@pytest.mark.parametrize(("config", "settings"), ZOO.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_model_zoo_configs_accept_the_head(zoo: Any, config: str, settings: list[str]) -> None:
    cfg = get_cfg()
    add_bcnet_config(cfg)
    cfg.merge_from_file(zoo.get_config_file(config))
    cfg.merge_from_list([*settings, *(word for setting in SMALL.items() for word in setting)])
    try_model(build_model(cfg))


@pytest.mark.parametrize("name", ["BilayerROIHeads", "BilayerCascadeROIHeads"])
def test_whole_masks_train_and_are_predicted(zoo: Any, name: str) -> None:
    cfg = fresh_config()
    cfg.merge_from_file(zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"))
    cfg.merge_from_list([word for setting in SMALL.items() for word in setting])
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.BCNET.AMODAL = name, True
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = name == "BilayerCascadeROIHeads"
    try_model(build_model(cfg), amodal=True)


def test_a_predicted_whole_holds_the_visible_mask() -> None:
    torch.manual_seed(0)
    head = BilayerMaskHead(32, amodal=True)
    for name in ("occludee_mask", "amodal_mask"):
        torch.nn.init.normal_(head.get_parameter(f"{name}.logits.weight"))
    (instances,) = BilayerMaskRCNNHead(head=head).eval()(torch.randn(3, 32, 14, 14), [found(3)])
    assert (instances.pred_amodal_masks >= instances.pred_masks).all()
    assert (instances.pred_amodal_masks > instances.pred_masks).any()


@pytest.mark.parametrize(("known", "said"), [({}, "no `gt_occluders`"), ({"occluders": True}, "no `gt_wholes`")])
def test_data_without_what_the_head_learns_from_is_rejected(known: dict[str, bool], said: str) -> None:
    head = BilayerMaskRCNNHead(head=BilayerMaskHead(32, amodal=True))
    given = {"occluders": False, **known}
    with EventStorage(), pytest.raises(BCNetError, match=said) as caught:
        head(torch.randn(2, 32, 14, 14), [proposals(2, **given)])
    assert "BilayerDatasetMapper" in caught.value.hints[0] and "MODEL.BCNET." in caught.value.hints[1]


@pytest.mark.parametrize("masks", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_lazy_config_accepts_the_head(zoo: Any, masks: bool) -> None:
    cfg = zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    if not masks:
        for name in ("mask_in_features", "mask_pooler", "mask_head"):
            cfg.model.roi_heads.pop(name)
    cfg.model.roi_heads.box_predictor.test_score_thresh = -1.0
    add_bilayer_head(cfg, occluders="derive", convs=2)
    mapper = cfg.dataloader.train.mapper
    assert (mapper.occluders, mapper.amodal, mapper.amodal_boxes) == ("derive", False, False)
    try_model(instantiate(cfg.model).to("cpu"))


def test_a_lazy_config_may_ask_for_whole_masks(zoo: Any) -> None:
    cfg = zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    cfg.model.roi_heads.box_predictor.test_score_thresh = -1.0
    add_bilayer_head(cfg, convs=2, amodal=True)
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert (mapper.amodal, mapper.amodal_boxes) == (True, True)
    try_model(instantiate(cfg.model).to("cpu"), amodal=True)


def test_larger_maps_need_larger_rois(zoo: Any) -> None:
    cfg = fresh_config()
    cfg.MODEL.BCNET.MASK_SIZE = 56
    with pytest.raises(BCNetError, match=r"needs RoIs of 28 x 28 cells, this config pools 14 x 14") as caught:
        BilayerMaskRCNNHead(cfg, ShapeSpec(channels=32))
    cfg.merge_from_list(caught.value.hints[0].removeprefix("set it: ").split())
    head = BilayerMaskRCNNHead(cfg, ShapeSpec(channels=32)).eval()
    (instances,) = head(torch.randn(2, 32, 28, 28), [found(2)])
    assert instances.pred_masks.shape == (2, 1, 56, 56)
    lazy = zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    add_bilayer_head(lazy, mask_size=112)
    assert lazy.model.roi_heads.mask_pooler.output_size == 28


def test_a_model_without_roi_heads_is_rejected(zoo: Any) -> None:
    cfg = zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.py")
    with pytest.raises(BCNetError, match="no RoI heads"):
        add_bilayer_head(cfg)
