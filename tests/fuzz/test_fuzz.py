"""The four readers read any file or raise a clear error, and what they read is usable."""

import io
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from bcnet_core import BCNetError
from bcnet_core.annotations.build import annotate_coco
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.annotations.occluder import OccluderRule
from bcnet_core.annotations.split import SplitRule, split_occluded
from bcnet_core.config.load import dump_recipe, load_recipe
from bcnet_core.errors import ExitCode
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.results import read_results
from bcnet_core.files.json_files import write_json
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import Checkpoint, read_checkpoint, recipe_of, save_checkpoint
from bcnet_core.weights.files import named_tensors, read_weight_file
from tests.fuzz.conftest import as_bytes, bounded, broken, mutated

BOX = [2, 2, 20, 20]
POLYGON = [[2, 2, 22, 2, 22, 22, 2, 22]]
RLE = {"size": [30, 40], "counts": [100, 50, 1050]}
TEXT = {"size": [30, 40], "counts": "T3b1jP1"}
COCO = {
    "images": [{"id": number, "file_name": f"{number}.png", "width": 40, "height": 30} for number in (1, 2)],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": BOX, "area": 400, "iscrowd": 0, "segmentation": POLYGON},
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [4, 4, 20, 20], "area": 50, "segmentation": RLE},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": BOX, "iscrowd": 1, "segmentation": TEXT},
        {"id": 4, "image_id": 2, "category_id": 3, "bbox": BOX, "bg_object_segmentation": [], "segmentation": POLYGON},
    ],
    "info": {"year": 2026},
}  # fmt: skip
RESULTS = [
    {"image_id": 1, "category_id": 3, "bbox": BOX, "score": 0.5, "segmentation": RLE},
    {"image_id": 2, "category_id": 5, "bbox": BOX, "score": 1, "segmentation": POLYGON, "occluder": RLE},
    {"image_id": 2, "category_id": 5, "score": 0, "segmentation": TEXT},
]
RECIPE: dict[str, Any] = {
    "base": "shapes", "seed": 3, "solver": {"lr": 0.01, "milestones": [10, 20], "steps": 30, "precision": "bf16"},
    "data": {"root": "x", "train": {"images": "a", "annotations": "b.json"}, "scale_jitter": [0.5, 2.0], "flip": 0.5},
    "model": {"backbone": "tiny", "channels": 64, "mask_channels": None}, "loss": {"giou": "exact", "box": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x"


def attempt(read: Callable[[], Any]) -> tuple[Any, BCNetError | None]:
    """Return a value or our own error; any other error or warning fails the test."""
    try:
        return read(), None
    except BCNetError as error:
        return None, error


def read_or_refused(read: Callable[[], Any], path: Path) -> Any:
    """Return what is read, None after a clear error."""
    value, error = attempt(read)
    if error is not None:
        assert error.exit_code == ExitCode.BAD_DATA
        assert str(path) in error.message
        assert len(error.message) < 4000
    return value


def strict(path: Path) -> Any:
    """Read valid json."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} in {path}"))


def use_coco(coco: CocoFile, file: Path) -> None:
    """Annotate, split and write a file that was read; the results can be read again."""
    if any(image["width"] * image["height"] > 10**6 for image in coco.images):
        return
    annotated, summary = annotate_coco(coco, rule=OccluderRule(min_area=0))
    assert summary.instances == len(coco.annotations)
    split = split_occluded(coco, rule=SplitRule(threshold=0.1))
    for content in (annotated, split.content, split.manifest):
        output = file.with_name("out.json")
        output.unlink(missing_ok=True)
        _, error = attempt(partial(write_json, output, content))
        if error is not None:
            assert "which json has no number for" in error.message
            assert not output.exists()
            return
        assert strict(output) == json.loads(json.dumps(content))
        if "images" in content:
            assert len(read_coco(output).annotations) == len(content["annotations"])


@bounded
@given(document=mutated(COCO))
def test_a_changed_coco_file(file: Path, document: Any) -> None:
    file.write_bytes(as_bytes(document))
    coco = read_or_refused(lambda: read_coco(file), file)
    if coco is not None:
        use_coco(coco, file)


@bounded
@given(content=st.one_of(st.binary(max_size=40), broken(as_bytes(COCO))))
def test_a_broken_coco_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    coco = read_or_refused(lambda: read_coco(file), file)
    if coco is not None:
        use_coco(coco, file)
    packed = file.with_name("x.json.gz")
    packed.write_bytes(content)
    assert read_or_refused(lambda: read_coco(packed), packed) is None


@bounded
@given(content=st.one_of(mutated(RESULTS).map(as_bytes), broken(as_bytes(RESULTS))))
def test_a_results_file(file: Path, content: bytes) -> None:
    file.with_name("truth.json").write_bytes(as_bytes(COCO))
    truth = read_coco(file.with_name("truth.json"))
    file.write_bytes(content)
    results = read_or_refused(lambda: read_results(file, truth, reporter=SilentReporter()), file)
    if results is None:
        return
    for kind in ("bbox", "segm") if not results or "segmentation" in results[0] else ("bbox",):
        scores = evaluate(ground_truth(truth, need_masks=True), results, kind).scores
        assert all(-1 <= value <= 1 for value in scores)


@bounded
@example(content=b"model: {layers: !!float 1e400}")
@example(content=b"solver: {milestones: [0x" + b"f" * 1500 + b"]}")
@given(
    content=st.one_of(
        mutated(RECIPE).map(lambda recipe: yaml.safe_dump(recipe, allow_unicode=False).encode()),
        broken(yaml.safe_dump(RECIPE).encode()),
        st.text(alphabet="ab1.:-[]{}!&*#?|>%@`'\" \n\t~=<", max_size=40).map(str.encode),
    )
)
def test_a_recipe(file: Path, content: bytes) -> None:
    recipe_file = file.with_name("x.yaml")
    recipe_file.write_bytes(content)
    recipe, error = attempt(lambda: load_recipe(recipe_file))
    if error is not None:
        assert error.exit_code == ExitCode.USAGE
        return
    written = file.with_name("again.yaml")
    written.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(written) == recipe


def checkpoint_content() -> dict[str, Any]:
    """Return a small complete checkpoint."""
    weights = {"backbone.w": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}
    state = {
        "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2, 3)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    recipe = load_recipe("shapes").model_dump(mode="json")
    return {
        "format": 1, "step": 7, "recipe": recipe, "categories": COCO["categories"], "model": weights,
        "optimizer": state, "scaler": {}, "averaged": dict(weights), "part_of": None,
    }  # fmt: skip


def use_checkpoint(file: Path) -> None:
    """Read a file as our checkpoint and as foreign weights; what is read can be saved again."""
    checkpoint: Checkpoint | None = read_or_refused(lambda: read_checkpoint(file), file)
    if checkpoint is not None:
        read_or_refused(lambda: recipe_of(checkpoint, file), file)
        save_checkpoint(file.with_name("again.pt"), checkpoint)
        assert read_checkpoint(file.with_name("again.pt")).step == checkpoint.step
    read_or_refused(lambda: named_tensors(read_weight_file(file), file), file)


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@bounded
@given(document=mutated(checkpoint_content()))
def test_a_changed_checkpoint(file: Path, document: Any) -> None:
    file.write_bytes(saved(document))
    use_checkpoint(file)


@bounded
@given(content=broken(saved(checkpoint_content())))
def test_a_broken_checkpoint(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    use_checkpoint(file)


def program() -> bytes:
    """Return the pickle in a checkpoint."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(saved(checkpoint_content()))) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


@bounded
@given(
    content=st.one_of(
        broken(program()),
        st.lists(st.sampled_from(list(b"(]})}NK\x01q\x00h\x00\x85\x86abestu0R.2\x8fc\n")), max_size=30).map(bytes),
    )
)
def test_a_checkpoint_with_another_program(file: Path, content: bytes) -> None:
    """Damage the pickle inside an intact zip, which flipped bytes of the file rarely reach because of checksums."""
    from tests.hostile.rows import packed_again

    file.write_bytes(packed_again(saved(checkpoint_content()), program=content))
    use_checkpoint(file)
    file.write_bytes(content)
    read_or_refused(lambda: named_tensors(read_weight_file(file), file), file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_readers_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    for read in (read_coco, load_recipe, read_weight_file):
        _, error = attempt(partial(read, tmp_path / "x.yaml"))
        assert error is not None and "is a pipe or a device" in error.message
