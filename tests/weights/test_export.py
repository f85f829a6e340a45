import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.structures import Detections
from bcnet_core.weights import export
from bcnet_core.weights.traceable import TensorDetector
from tests.model.test_detectors import CATEGORIES, TORCHVISION, build

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FCOS = {"kind": "fcos", "score_threshold": 0.004}
FASTER = {"kind": "faster_rcnn", "score_threshold": 0.2}
MODELS = {
    "fcos": FCOS,
    "faster_rcnn with mask scoring": {**FASTER, "mask_scoring": True},
    "fcos with large maps and Soft-NMS": {**FCOS, "mask_size": 112, "nms": "soft"},
    "faster_rcnn with Soft-NMS": {**FASTER, "nms": "soft"},
    "fcos like torchvision": {**FCOS, **TORCHVISION},
    "faster_rcnn like torchvision": {**FASTER, **TORCHVISION},
    "fcos, amodal, without classes in NMS": {**FCOS, "amodal": True, "class_agnostic_nms": True},
    "faster_rcnn, amodal with large maps": {**FASTER, "amodal": True, "mask_size": 56},
}
BATCHES = ((1, 96, 128), (2, 64, 64), (3, 77, 150))
"""One that files are traced with, and others: none is a multiple of another's size, and one of no divisor."""


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def runner(path: Path, form: str) -> Callable[[np.ndarray], list[torch.Tensor]]:
    """Return an exported file as a function of (B, H, W, 3) images."""
    if form == "torchscript":
        model = torch.jit.load(str(path))
        return lambda images: list(model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())))
    session = pytest.importorskip("onnxruntime").InferenceSession(path.read_bytes())
    return lambda images: [
        torch.from_numpy(part) for part in session.run(None, {"images": images.transpose(0, 3, 1, 2).copy()})
    ]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "onnx") for name in MODELS),
        ("fcos with large maps and Soft-NMS", "torchscript"),
        ("faster_rcnn with mask scoring", "torchscript"),
        ("faster_rcnn like torchvision", "torchscript"),
        ("fcos, amodal, without classes in NMS", "torchscript"),
    ],
)
def test_an_exported_detector_predicts_the_same_for_any_size_and_batch(tmp_path: Path, name: str, form: str) -> None:
    detector = build(**MODELS[name]).eval()  # type: ignore[arg-type]
    path = tmp_path / "detector"
    compared = export.export_detector(detector, path, form=form, height=96, width=120)  # type: ignore[arg-type]
    assert compared.difference <= 1e-2 and compared.alike >= 0.95 * compared.instances > 0
    run, names = runner(path, form), TensorDetector(detector).outputs
    for shape in BATCHES:
        images = noise(*shape, 3)
        outputs = dict(zip(names, run(images), strict=True))
        assert outputs["image_index"].tolist() == sorted(outputs["image_index"].tolist())
        for index, pixels in enumerate(images):
            (expected,) = detector.predict([pixels], resize=False)
            got = {name: part[outputs["image_index"] == index] for name, part in outputs.items()}
            assert len(got["scores"]) == len(expected.scores) > 0
            torch.testing.assert_close(got["scores"], expected.scores, rtol=0, atol=1e-5)
            alike = matching(got, expected)
            assert alike >= 0.97 * len(expected.scores), (shape, alike)


def matching(got: dict[str, torch.Tensor], expected: Detections) -> int:
    """Return how many detections are among the outputs, in any order: equal scores are in the order of rounding."""
    distances = (expected.boxes[:, None] - got["boxes"]).abs().amax(2)
    nearest, place = distances.masked_fill(expected.labels[:, None] != got["labels"], torch.inf).min(1)
    same = nearest <= 1e-3
    for name, maps in expected.maps.items():
        same &= (maps - got[name][place]).abs().amax((1, 2)) <= 1e-4
    return int(same.sum())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_a_detector_of_a_resnet_50_is_exported(tmp_path: Path, kind: str) -> None:
    threshold = {"fcos": 0.0, "faster_rcnn": 0.2}[kind]
    detector = build(kind, backbone="r50", channels=256, tower_convs=4, score_threshold=threshold).eval()
    for name, norm in detector.backbone.named_modules():
        if name.endswith("bn3"):  # untrained, every block would double what it adds to
            norm.weight.fill_(0.2)
    path = tmp_path / "detector"
    smooth = noise(10, 16, 3)  # untrained, what follows rounding in noise is amplified
    compared = export.export_detector(detector, path, form="onnx", height=200, width=320, picture=smooth)
    assert compared.alike >= 0.95 * compared.instances > 0


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.parametrize("name", ["fcos", "faster_rcnn, amodal with large maps"])
def test_half_precision_is_half_as_large_and_near(
    tmp_path: Path, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = build(**MODELS[name]).eval()  # type: ignore[arg-type]
    loose = export.TOLERANCES["fp16"]
    monkeypatch.setitem(export.TOLERANCES, "fp16", loose._replace(score=0.0))  # nothing else is found untrained
    for half in (False, True):
        compared = export.export_detector(
            detector,
            tmp_path / str(half),
            form=form,  # type: ignore[arg-type]
            height=96,
            width=120,
            half=half,
        )
    assert compared.alike >= 0.95 * compared.instances > 0
    assert 1e-6 < compared.difference < 0.02 and compared.pixels < 1
    sizes = [(tmp_path / str(half)).stat().st_size for half in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]
    kinds = {part.dtype for part in runner(tmp_path / "True", form)(noise(1, 64, 64, 3))}
    assert kinds == {torch.float32, torch.int64}


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_a_file_has_whole_masks_that_hold_the_visible_ones(tmp_path: Path, form: str) -> None:
    detector = build(amodal=True, score_threshold=0.004).eval()
    for name in ("occludee_mask", "amodal_mask"):
        torch.nn.init.normal_(detector.get_parameter(f"heads.masks.head.{name}.logits.weight"))
    path = tmp_path / "detector"
    export.export_detector(detector, path, form=form, height=96, width=120)  # type: ignore[arg-type]
    got = dict(zip(TensorDetector(detector).outputs, runner(path, form)(noise(1, 96, 120, 3)), strict=True))
    assert len(got["boxes"]) > 0
    excess = got["amodal_mask"] - got["occludee_mask"]
    assert excess.min() > -1e-6 and excess.max() > 0.1  # onnxruntime rounds equal logits in two ways


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.parametrize("nms", ["soft", "box"])
def test_a_file_takes_batches_of_images_with_and_without_candidates(tmp_path: Path, form: str, nms: str) -> None:
    detector = build("faster_rcnn", score_threshold=0.4, nms=nms).eval()
    path = tmp_path / "detector"
    export.export_detector(detector, path, form=form, height=96, width=120)  # type: ignore[arg-type]
    grey, some = np.full((96, 120, 3), 115, np.uint8), noise(96, 120, 3)
    assert [len(one.boxes) > 0 for one in detector.predict([grey, some], resize=False)] == [False, True]
    run = runner(path, form)
    for images in ([grey], [grey, some], [some, grey], [grey, grey]):
        *_, labels, index, mask = run(np.stack(images))[:5]
        assert set(index.tolist()) == {place for place, one in enumerate(images) if one is some}
        assert len(index) == len(labels) == len(mask)


def test_many_classes_do_not_mix_in_nms(tmp_path: Path) -> None:
    """float32 tells pixels apart up to 16,777,216 / 1,024: beyond, boxes of the last classes would move."""
    detector = build(classes=1000, score_threshold=0.009).eval()
    path = tmp_path / "detector"
    export.export_detector(detector, path, form="onnx", height=64, width=96)
    outputs = runner(path, "onnx")(noise(1, 256, 320, 3))
    (expected,) = detector.predict([noise(1, 256, 320, 3)[0]], resize=False)
    assert len(outputs[0]) == len(expected.boxes) == 100
    torch.testing.assert_close(outputs[1], expected.scores, rtol=0, atol=1e-5)


def test_a_file_says_what_a_client_needs(tmp_path: Path) -> None:
    detector = build(score_threshold=0.004, amodal=True).eval()
    recipe = load_recipe("tiny")
    export.export_detector(detector, tmp_path / "x", form="onnx", height=64, width=64, recipe=recipe)
    session = pytest.importorskip("onnxruntime").InferenceSession((tmp_path / "x").read_bytes())
    stored = session.get_modelmeta().custom_metadata_map
    assert stored["detector"] == "fcos" and stored["precision"] == "fp32" and stored["channel_order"] == "rgb"
    values = {key: json.loads(stored[key]) for key in ("bcnet_format", "min_size", "max_size", "size_divisor")}
    assert values == {"bcnet_format": 1, "min_size": 64, "max_size": 96, "size_divisor": 32}
    assert json.loads(stored["categories"]) == CATEGORIES
    assert json.loads(stored["mean"]) == [123.675, 116.28, 103.53]
    assert Recipe.model_validate(json.loads(stored["recipe"])) == recipe
    names = [one.name for one in session.get_outputs()]
    assert names[:4] == ["boxes", "scores", "labels", "image_index"]
    assert names[4:] == json.loads(stored["maps"]) == list(detector.heads.masks.head.outputs)
    assert [one.name for one in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]


def test_an_exported_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = export.Tolerance(-1.0, -1.0, -1.0, 0.0)
    monkeypatch.setattr(export, "TOLERANCES", {"fp32": strict, "fp16": strict})
    for half, hints in ((False, ()), (True, ("export it without --half",))):
        with pytest.raises(BCNetError, match="differs from the detector: 0 of") as caught:
            export.export_detector(build().eval(), tmp_path / "x", form="torchscript", height=64, width=64, half=half)
        assert caught.value.hints == hints
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_take_other_sizes_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build().eval()
    fixed = torch.ones(1, 3, 96, 128)
    monkeypatch.setattr(detector.normalize, "forward", lambda image: image * fixed)
    with pytest.raises(BCNetError, match="does not run on 1 x 64 x 64 pixels; nothing was written"):
        export.export_detector(detector, tmp_path / "x", form="torchscript", height=64, width=64)
    assert list(tmp_path.iterdir()) == []
