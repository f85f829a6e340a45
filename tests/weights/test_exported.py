"""Detectors in ONNX files: `bcnet predict model.onnx`, and files that are something else."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bcnet_core import BCNetError, masks
from bcnet_core.config.runtime import Runtime
from bcnet_core.weights.export import export_detector
from bcnet_core.weights.exported import Exported, open_trained, read_exported
from bcnet_core.weights.loading import read_trained
from tests.conftest import Bcnet

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def exported(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    trained = read_trained(untrained)
    export_detector(trained.build("cpu"), path, form="onnx", height=64, width=64, recipe=trained.recipe)
    return path


@pytest.mark.parametrize("batch", [1, 4])
def test_images_of_several_sizes_are_predicted_as_by_the_detector(untrained: Path, exported: Path, batch: int) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, size, np.uint8) for size in ((50, 80, 3), (96, 60, 3), (50, 80, 3), (64, 64, 3))]
    one, other = read_trained(untrained).build("cpu"), open_trained(exported).build("cpu", runtime=Runtime(batch=batch))
    assert isinstance(open_trained(exported), Exported) and other.categories == one.categories
    for mine, given in zip(one.predict(images), other.predict(images), strict=True):
        assert given.image_size == mine.image_size and len(given.boxes) == len(mine.boxes) == 5
        torch.testing.assert_close(given.boxes, mine.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(given.scores, mine.scores, rtol=0, atol=1e-5)
        assert torch.equal(given.labels, mine.labels) and given.maps.keys() == mine.maps.keys()
        for name, maps in mine.maps.items():
            torch.testing.assert_close(given.maps[name], maps, rtol=0, atol=1e-4)


def test_the_command_line_exports_and_predicts_the_same(
    bcnet: Bcnet, scenes: Path, untrained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    photo = next((scenes / "val").glob("*"))
    done = bcnet("weights", "export", untrained, "-o", file, "--format", "onnx", "--size", "64x64", "--image", photo)
    assert done.returncode == 0, done.stderr
    assert "(15 instances)" in done.stderr and f"bcnet predict {file} PHOTOS -o results.json" in done.stderr
    found = []
    for model in (untrained, file):
        results = tmp_path / f"{model.name}.json"
        done = bcnet("predict", model, photo.parent, "-o", results, "--layers", "--device", "cpu")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(results.read_text()))
    assert len(found[0]) == len(found[1]) > 5
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys() and one["category_id"] == other["category_id"]
        assert abs(one["score"] - other["score"]) < 1e-5
        np.testing.assert_allclose(one["bbox"], other["bbox"], rtol=0, atol=2e-3)  # written with three digits
        areas = [masks.area(result["segmentation"]) for result in (one, other)]
        assert abs(areas[0] - areas[1]) <= 2


def test_what_the_file_has_no_choice_of_is_refused(exported: Path) -> None:
    with pytest.raises(BCNetError, match="is an exported file: it has its precision") as caught:
        read_exported(exported).build("cpu", runtime=Runtime(precision="bf16"))
    assert caught.value.exit_code == 2
    assert read_exported(exported).build("cpu", detections_per_image=5)
    with pytest.raises(BCNetError, match="is an exported file: it has 5 detections of an image") as caught:
        read_exported(exported).build("cpu", detections_per_image=100)
    assert caught.value.hints == ("give the run that it was exported from",)


def test_a_gpu_that_onnxruntime_does_not_know_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert read_exported(exported).build("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BCNetError, match="cannot run on `cuda`") as caught:
        read_exported(exported).build("cuda")
    assert caught.value.exit_code == 2 and "--device cpu" in caught.value.hints[0]


def test_the_command_line_refuses_what_the_file_has_not(
    bcnet: Bcnet, scenes: Path, exported: Path, tmp_path: Path
) -> None:
    photo = next((scenes / "val").glob("*"))
    command = ("predict", exported, photo, "-o", tmp_path / "x.json", "--device", "cpu")
    done = bcnet(*command, "--precision", "bf16")
    assert done.returncode == 2 and "is an exported file: it has its precision" in done.stderr
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.9}]))
    listing = tmp_path / "photo.json"
    with Image.open(photo) as opened:
        width, height = opened.size
    image = {"id": 1, "file_name": photo.name, "height": height, "width": width}
    listing.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    done = bcnet(*command, "--boxes", boxes, "--ids-from", listing)
    assert done.returncode == 2 and "only predicts inside boxes that it finds itself" in done.stderr
    assert not (tmp_path / "x.json").exists()


def test_other_commands_say_what_an_exported_file_is_for(exported: Path) -> None:
    with pytest.raises(BCNetError, match="is not a bcnet checkpoint") as caught:
        read_trained(exported)
    assert caught.value.hints[0] == f"an exported file predicts: bcnet predict {exported} PHOTOS -o results.json"


def foreign(path: Path, opset: int = 17) -> bytes:
    """Return an ONNX file of another program."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "other",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = 8
    content: bytes = model.SerializeToString()
    return content


def changed(path: Path, **metadata: str) -> bytes:
    """Return an exported file with other metadata."""
    model = onnx.load(path)
    kept = {one.key: one.value for one in model.metadata_props}
    onnx.helper.set_model_props(model, kept | metadata)
    content: bytes = model.SerializeToString()
    return content


def renamed(path: Path, name: str) -> bytes:
    """Return an exported file with another name of an input or output."""
    model = onnx.load(path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if one == name else one for one in names]
    for one in (*model.graph.input, *model.graph.output):
        one.name = "renamed" if one.name == name else one.name
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (foreign, "is an ONNX file of another program: it has no metadata of bcnet"),
        (lambda path: foreign(path, 99), "has Opset 99, which onnxruntime [0-9.]+ does not run"),
        (lambda path: path.read_bytes()[:-1000], "is damaged or incomplete, or no ONNX file"),
        (lambda path: b"", "is damaged or incomplete, or no ONNX file"),
        (lambda path: b"PK\x03\x04 a checkpoint", "is damaged or incomplete, or no ONNX file"),
        (lambda path: changed(path, bcnet_format="2"), "has export format 2, this bcnet reads 1"),
        (lambda path: changed(path, categories="[{"), "has damaged metadata"),
        (lambda path: changed(path, categories="[]"), "has damaged metadata: not every category"),
        (lambda path: changed(path, categories='[{"id": 1}]'), "has damaged metadata: not every category"),
        (lambda path: renamed(path, "boxes"), "its inputs and outputs are not those of bcnet"),
        (lambda path: renamed(path, "images"), "its inputs and outputs are not those of bcnet"),
        (lambda path: changed(path, min_size='"64"'), "has damaged metadata"),
        (lambda path: changed(path, max_size="0"), "has damaged metadata"),
    ],
    ids=[
        "foreign",
        "opset",
        "truncated",
        "empty",
        "renamed",
        "format",
        "categories",
        "no category",
        "a category without a name",
        "another output",
        "another input",
        "text",
        "zero",
    ],
)
def test_other_files_are_refused(
    content: Callable[[Path], bytes], message: str, exported: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content(exported))
    with pytest.raises(BCNetError, match=message) as caught:
        open_trained(path)
    assert caught.value.exit_code == 3 and "\n" not in caught.value.message
    assert caught.value.hints == ("write it anew: bcnet weights export RUN -o model.onnx --format onnx",)


def test_a_missing_file_and_a_missing_runtime(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BCNetError, match="does not exist"):
        open_trained(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BCNetError, match="ONNX files need the package `onnxruntime`") as caught:
        open_trained(exported)
    assert caught.value.exit_code == 2 and "pip install" in caught.value.hints[0]


def test_several_processes_open_the_file_each(bcnet: Bcnet, scenes: Path, exported: Path, tmp_path: Path) -> None:
    photo = next((scenes / "val").glob("*"))
    results = [tmp_path / f"{count}.json" for count in (1, 2)]
    for count, path in enumerate(results, start=1):
        done = bcnet("predict", exported, photo.parent, "-o", path, "--gpus", str(count), "--device", "cpu")
        assert done.returncode == 0, done.stderr
    assert results[0].read_bytes() == results[1].read_bytes()
