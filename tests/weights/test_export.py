from pathlib import Path

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError
from bcnet_core.weights import export
from tests.model.test_detectors import TORCHVISION, build


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("fcos", {"score_threshold": 0.004}),
        ("faster_rcnn", {"score_threshold": 0.2, "mask_scoring": True}),
        ("fcos", {"score_threshold": 0.004, "mask_size": 112, "nms": "soft"}),
        ("faster_rcnn", {"score_threshold": 0.2, "nms": "soft"}),
        ("fcos", {"score_threshold": 0.004, **TORCHVISION}),
        ("faster_rcnn", {"score_threshold": 0.2, **TORCHVISION}),
        ("fcos", {"score_threshold": 0.004, "amodal": True}),
        ("faster_rcnn", {"score_threshold": 0.2, "amodal": True, "mask_size": 56}),
    ],
    ids=[
        "fcos",
        "faster_rcnn",
        "fcos with large maps and Soft-NMS",
        "faster_rcnn with Soft-NMS",
        "fcos like torchvision",
        "faster_rcnn like torchvision",
        "fcos, amodal",
        "faster_rcnn, amodal with large maps",
    ],
)
def test_an_exported_detector_predicts_the_same(
    tmp_path: Path, kind: str, settings: dict[str, object], form: str
) -> None:
    detector = build(kind, **settings).eval()
    path = tmp_path / "detector"
    compared = export.export_detector(detector, path, form=form, height=96, width=120)  # type: ignore[arg-type]
    assert compared.difference <= 1e-3 and compared.instances > 0
    if form == "onnx":
        return
    model = torch.jit.load(str(path))
    for pixels in (np.zeros((96, 120, 3), np.uint8), np.random.default_rng(5).integers(0, 256, (96, 120, 3), np.uint8)):
        (found,) = detector.predict([pixels], resize=False)
        boxes, scores, labels, *maps = model(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        assert len(found.boxes) > 0
        torch.testing.assert_close(boxes, found.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(scores, found.scores, rtol=0, atol=1e-3)
        assert torch.equal(labels, found.labels)
        torch.testing.assert_close(maps[2], found.occluder_mask, rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_a_file_has_whole_masks_that_hold_the_visible_ones(tmp_path: Path, form: str) -> None:
    detector = build(amodal=True, score_threshold=0.004).eval()
    for name in ("occludee_mask", "amodal_mask"):
        torch.nn.init.normal_(detector.get_parameter(f"heads.masks.head.{name}.logits.weight"))
    path = tmp_path / "detector"
    export.export_detector(detector, path, form=form, height=96, width=120)  # type: ignore[arg-type]
    pixels = np.random.default_rng(5).integers(0, 256, (96, 120, 3), np.uint8)
    names = export.TensorDetector(detector).outputs
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    if form == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path.read_bytes())
        assert tuple(one.name for one in session.get_outputs()) == names
        parts = [torch.from_numpy(part) for part in session.run(None, {"image": image.numpy()})]
    else:
        parts = list(torch.jit.load(str(path))(image))
    got = dict(zip(names, parts, strict=True))
    (found,) = detector.predict([pixels], resize=False)
    assert len(found.boxes) > 0
    torch.testing.assert_close(got["amodal_mask"], found.amodal_mask, rtol=0, atol=1e-3)
    excess = got["amodal_mask"] - got["occludee_mask"]
    assert excess.min() > -1e-6 and excess.max() > 0.1  # onnxruntime rounds equal logits in two ways


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_a_file_with_soft_nms_takes_images_with_and_without_candidates(tmp_path: Path, form: str) -> None:
    detector = build("faster_rcnn", score_threshold=0.4, nms="soft").eval()
    grey = np.full((96, 120, 3), 115, np.uint8)
    for picture, some in ((grey, False), (None, True)):
        compared = export.export_detector(
            detector,
            tmp_path / "detector",
            form=form,  # type: ignore[arg-type]
            height=96,
            width=120,
            picture=picture,
        )
        assert (compared.instances > 0) == some and compared.difference <= 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_exported_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(BCNetError, match="differs"):
        export.export_detector(build().eval(), tmp_path / "x", form="torchscript", height=64, width=64)
    assert list(tmp_path.iterdir()) == []
