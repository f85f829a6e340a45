"""The client in docs/exporting.md is run as it stands, and finds what the detector finds."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcnet_core.weights.export import export_detector
from bcnet_core.weights.loading import read_trained
from tests.conftest import REPO


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_client_finds_what_the_detector_finds(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    detector = read_trained(untrained).build("cpu")
    export_detector(detector, Path("model.onnx"), form="onnx", height=64, width=64)
    (client,) = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "exporting.md").read_text(), re.DOTALL)
    exec(compile(client, "docs/exporting.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    (found,) = detector.predict(["photo.jpg"])
    assert len(lines) == len(found.boxes) == 5
    for line, box, score, label in zip(lines, found.boxes, found.scores, found.labels, strict=True):
        name, given, corners = re.fullmatch(r"(.+?) ([\d.]+) \[(.*)\]", line).groups()  # type: ignore[union-attr]
        assert name == detector.class_names[label] and float(given) == round(float(score), 2)
        np.testing.assert_allclose([float(corner) for corner in corners.split(", ")], box, atol=1)
