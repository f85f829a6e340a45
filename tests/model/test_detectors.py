import socket
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from bcnet_core import BCNetError, masks
from bcnet_core.config.data import DataConfig
from bcnet_core.config.load import load_recipe
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import LossConfig, Recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.data.transforms import resize
from bcnet_core.masks.crops import crop_rles
from bcnet_core.model.detectors import Detector, build_detector

CATEGORIES = [{"id": 7, "name": "disc"}, {"id": 9, "name": "box"}]
MASK_TERMS = {"occludee_mask", "occludee_boundary", "occluder_mask", "occluder_boundary"}
BOX_TERMS = {
    "fcos": {"classification", "box", "centerness"},
    "faster_rcnn": {"proposal_objectness", "proposal_box", "classification", "box"},
}


def build(kind: str = "fcos", *, classes: int = 2, **settings: object) -> Detector:
    torch.manual_seed(0)
    small = {"backbone": "tiny", "channels": 32, "tower_convs": 1, "anchor_scale": 4, "score_threshold": 0.0}
    recipe = Recipe(
        data=DataConfig(min_size=64, max_size=96),
        model=ModelConfig.model_validate({"detector": kind, **small, **settings}),
    )
    categories = CATEGORIES if classes == 2 else [{"id": i + 1, "name": f"thing {i}"} for i in range(classes)]
    return build_detector(recipe, categories)


@pytest.fixture(params=["fcos", "faster_rcnn"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return build(request.param)


def targets(count: int, *, box: tuple[float, ...] = (10.0, 10, 40, 30)) -> Targets:
    mask = np.zeros((64, 64), bool)
    x0, y0, x1, y1 = map(int, box)
    mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    rles = [masks.encode(mask)] * count
    boxes = torch.tensor([list(map(float, box))]).repeat(count, 1)
    placement = torch.tensor([1.0, 0, 1, 0])
    return Targets(
        boxes,
        torch.zeros(count, dtype=torch.int64),
        crop_rles(rles),
        crop_rles(rles),
        crop_rles([None] * count),
        placement,
    )


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def step(detector: Detector, wanted: list[Targets]) -> dict[str, torch.Tensor]:
    losses = detector(images(*[(64, 64)] * len(wanted)), wanted, list(range(len(wanted))))
    torch.stack(list(losses.values())).sum().backward()
    return losses


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("proposals", ["decoded", "jittered"])
@pytest.mark.parametrize("counts", [(2, 1), (3, 0), (0, 0)])
def test_all_terms_are_finite_and_reach_every_weight(kind: str, proposals: str, counts: tuple[int, int]) -> None:
    detector = build(kind, mask_proposals=proposals)
    losses = step(detector, [targets(count) for count in counts])
    assert losses.keys() == BOX_TERMS[kind] | MASK_TERMS
    assert all(loss.isfinite() for loss in losses.values())
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters() if parameter.grad is not None)


TORCHVISION = {"geometry": "torchvision", "rpn_convs": 2, "box_head": "conv", "box_head_channels": 64}


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_heads_and_geometry_of_torchvision_train_and_infer(kind: str) -> None:
    detector = build(kind, **TORCHVISION)
    losses = step(detector, [targets(2), targets(0)])
    assert all(loss.isfinite() for loss in losses.values())
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []
    convs = {name for name in detector.state_dict() if "box_head" in name or "rpn.head.conv" in name}
    assert len(convs) == {"fcos": 0, "faster_rcnn": 2 * (2 + 4 + 1)}[kind]
    (found,) = detector.eval().predict([np.zeros((33, 70, 3), np.uint8)])
    assert found.boxes.isfinite().all() and len(found.boxes) > 0


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        (1, targets(2)),
        (1203, targets(2)),
        (2, targets(500)),
        (2, targets(1, box=(20, 20, 21, 21))),
        (2, targets(1, box=(20.2, 20.2, 20.3, 20.25))),
    ],
    ids=["one class", "1,203 classes", "500 instances", "one pixel", "less than a pixel"],
)
def test_extreme_images_train_and_infer(kind: str, classes: int, wanted: Targets) -> None:
    detector = build(kind, classes=classes)
    losses = step(detector, [wanted])
    assert all(loss.isfinite() for loss in losses.values())
    (found,) = detector.eval().predict([np.zeros((64, 64, 3), np.uint8)])
    assert found.scores.isfinite().all() and int(found.labels.max()) < classes


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (33, 31)])
def test_images_may_have_any_size(detector: Detector, size: tuple[int, int]) -> None:
    for resized in (True, False):
        (found,) = detector.eval().predict([np.full((*size, 3), 90, np.uint8)], resize=resized)
        assert found.masks.shape[1:] == size and found.boxes.isfinite().all()


@pytest.mark.parametrize(("kind", "proposals"), [("fcos", "jittered"), ("faster_rcnn", "decoded")])
def test_random_choices_follow_from_the_seeds(kind: str, proposals: str) -> None:
    detector, wanted = build(kind, mask_proposals=proposals), [targets(30), targets(2)]
    sizes = ((128, 128), (128, 128))  # more anchors than torchvision samples
    first, again = (detector(images(*sizes), wanted, [1, 2]) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    before = torch.random.get_rng_state()
    other = detector(images(*sizes), wanted, [3, 4])
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ({"layers": 1}, {"occludee_mask", "occludee_boundary"}),
        ({"boundary": False}, {"occludee_mask", "occluder_mask"}),
        ({"layers": 1, "boundary": False, "attention": False}, {"occludee_mask"}),
    ],
)
def test_ablations_train_and_leave_out_their_maps(kind: str, settings: dict[str, object], terms: set[str]) -> None:
    detector = build(kind, **settings)
    for wanted in (targets(2), targets(0)):
        losses = step(detector, [wanted])
        assert losses.keys() == BOX_TERMS[kind] | terms and all(loss.isfinite() for loss in losses.values())
    (found,) = detector.eval().predict([np.zeros((64, 64, 3), np.uint8)])
    assert {name for name in MASK_TERMS if getattr(found, name) is not None} == terms


def test_images_are_padded_right_and_below(detector: Detector) -> None:
    batch = detector.preprocess(
        [torch.full((3, 20, 40), 255, dtype=torch.uint8), torch.zeros(3, 33, 10, dtype=torch.uint8)]
    )
    assert batch.image_sizes == [(20, 40), (33, 10)] and batch.tensors.shape == (2, 3, 64, 64)
    assert batch.tensors[0, :, 20:].abs().sum() == batch.tensors[0, :, :, 40:].abs().sum() == 0
    assert float(batch.tensors[0, 0, 0, 0]) == pytest.approx((255 - 123.675) / 58.395)


def test_predictions_lie_in_the_input_image(detector: Detector) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 120, 3)).astype(np.uint8)
    (found,) = detector.eval().predict([image])
    count = len(found.boxes)
    assert 0 < count <= 100
    assert found.masks.shape == (count, 48, 120) and found.masks.dtype == torch.bool
    assert found.boxes.min() >= 0 and found.boxes[:, 2].max() <= 120 and found.boxes[:, 3].max() <= 48
    assert set(found.labels.tolist()) <= {0, 1} and (found.scores.diff() <= 0).all()
    for name in MASK_TERMS:
        maps = getattr(found, name)
        assert maps.shape == (count, 28, 28) and 0 <= maps.min() <= maps.max() <= 1


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_an_empty_result_has_no_rows(kind: str) -> None:
    detector = build(kind, score_threshold=1.0)
    (found,) = detector.eval().predict([np.zeros((40, 40, 3), np.uint8)])
    assert found.boxes.shape == (0, 4) and found.masks.shape == (0, 40, 40)
    assert found.occluder_mask is not None and found.occluder_mask.shape == (0, 28, 28)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_predict_rejects_anything_but_images(image: np.ndarray) -> None:
    with pytest.raises(BCNetError, match="uint8 RGB"):
        build().eval().predict([image])


def test_errors_of_predict_suggest_what_was_meant() -> None:
    detector, image = build().eval(), np.zeros((40, 50, 3), np.uint8)
    for one in (image, "picture.png", Path("picture.png")):
        with pytest.raises(BCNetError, match="takes a list") as caught:
            detector.predict(one)
        assert "predict([image])" in caught.value.hints[0]
    for other in (Image.fromarray(image), torch.from_numpy(image), None):
        with pytest.raises(BCNetError, match=f"this one is a {type(other).__name__}"):
            detector.predict([other])
    (found,) = detector.predict([image])
    found.boxes.mul_(2)  # results are ordinary tensors


def test_paths_are_read(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match=r"nowhere\.jpg"):
        detector.eval().predict([tmp_path / "nowhere.jpg"])


def test_a_resized_image_gives_boxes_and_masks_of_its_own_size() -> None:
    """A picture and its reduction are the same network input, so the answers differ in scale alone."""
    large = np.random.default_rng(1).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    small = resize(large, 64, 64)
    detector = build(detections_per_image=5).eval()
    (one,) = detector.predict([small])
    (two,) = detector.predict([large])
    torch.testing.assert_close(two.boxes, 2 * one.boxes, rtol=0, atol=1e-3)
    assert two.masks.shape[1:] == (128, 128)


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_loss_weights_are_applied(kind: str) -> None:
    detector = build(kind, mask_proposals="jittered")
    before = detector(images((64, 64)), [targets(2)], [1])
    detector.loss_weights = LossConfig(box=2.5, occluder_mask=0.5)
    after = detector(images((64, 64)), [targets(2)], [1])
    terms = BOX_TERMS[kind] | MASK_TERMS
    ratio = {name: float(after[name].detach() / before[name].detach()) for name in terms if before[name] > 0}
    assert ratio == pytest.approx({name: 2.0 if name in {"box", "occluder_mask"} else 1.0 for name in ratio}, rel=1e-3)
    assert {"box", "occluder_mask"} <= ratio.keys()


@pytest.mark.parametrize(("backbone", "style"), [("r18", "torchvision"), ("r50", "caffe"), ("r50", "torchvision")])
@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_all_but_the_frozen_stages_of_a_resnet_train(kind: str, backbone: str, style: str) -> None:
    detector = build(kind, backbone=backbone, backbone_style=style, anchor_scale=8)
    losses = step(detector, [targets(2)])
    assert all(loss.isfinite() for loss in losses.values())
    missing = {name.rsplit(".", 1)[0] for name, parameter in detector.named_parameters() if parameter.grad is None}
    assert missing == {name for name in missing if name.startswith(("backbone.body.conv1", "backbone.body.layer1"))}
    assert "backbone.body.conv1" in missing


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_detectors_train_and_infer_in_half_precision(kind: str, dtype: torch.dtype) -> None:
    detector, image = build(kind), np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    with torch.autocast("cpu", dtype):
        losses = step(detector, [targets(2), targets(0)])
        (found,) = detector.eval().predict([image])
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    tensors = [found.boxes, found.scores, found.labels, *found.maps.values()]
    assert len(tensors) == 7 and {part.dtype for part in tensors} == {torch.float32, torch.int64}
    (exact,) = detector.predict([image])
    assert abs(float(found.scores[0] - exact.scores[0])) < 0.02 and found.occluder_mask.isfinite().all()


def _with_and_without_objects(rank: int, port: int) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for kind, classes in product(("fcos", "faster_rcnn"), (1, 2, 1203)):
        model = DistributedDataParallel(build(kind, classes=classes))
        for wanted in (targets(0), targets(2), targets(500), targets(1, box=(20.2, 20.2, 20.3, 20.25))):
            mine = wanted if rank else targets(0)  # the other process never has an object
            losses = model(images((64, 64)), [mine], [rank])
            assert all(loss.isfinite() for loss in losses.values())
            torch.stack(list(losses.values())).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_without_objects_do_not_hang_or_break_the_others() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_with_and_without_objects, args=(port,), nprocs=2)


def test_faster_rcnn_has_no_official_mask_proposals() -> None:
    with pytest.raises(BCNetError, match="mask_proposals=official"):
        load_recipe("tiny", ["model.detector=faster_rcnn", "model.mask_proposals=official"])
