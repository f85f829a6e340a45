"""Prediction in batches and in half precision, against images alone in float32."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bcnet_core import BCNetError
from bcnet_core.config.choices import Precision
from bcnet_core.config.runtime import Runtime
from bcnet_core.model.detectors import Detector, batches_of_a_size
from tests.model.test_detectors import build

SIZES = ((64, 96), (64, 64), (64, 96), (128, 192), (96, 64), (64, 96))
"""Four of them are 64 x 96 in the network."""


def noise(sizes: Sequence[tuple[int, int]] = SIZES) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def network_batches(detector: Detector) -> list[tuple[int, ...]]:
    """Return a list that every input of the detector's backbone is appended to, as (B, H, W)."""
    seen: list[tuple[int, ...]] = []

    def note(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        batch, _, height, width = inputs[0].shape
        seen.append((batch, height, width))

    detector.backbone.register_forward_pre_hook(note)
    return seen


def test_positions_are_grouped_by_size() -> None:
    assert batches_of_a_size([(1, 2), (2, 1), (1, 2), (1, 2)], 2) == [[0, 2], [3], [1]]
    assert batches_of_a_size([], 2) == []


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_images_of_a_size_together_give_what_each_gives_alone(kind: str) -> None:
    detector, images = build(kind).eval(), noise()
    alone = detector.predict(images)
    seen = network_batches(detector)
    detector.runtime = Runtime(batch=3)
    together = detector.predict(images)
    assert seen == [(3, 64, 96), (1, 64, 96), (1, 64, 64), (1, 96, 64)]
    for one, other in zip(alone, together, strict=True):
        assert one.image_size == other.image_size and torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
        for name, maps in one.maps.items():
            torch.testing.assert_close(maps, other.maps[name], atol=1e-5, rtol=0)


def test_batches_of_one_are_exactly_the_images_alone() -> None:
    detector, images = build().eval(), noise()
    seen = network_batches(detector)
    every = detector.predict(images)
    assert [batch for batch, *_ in seen] == [1] * len(images)
    for image, found in zip(images, every, strict=True):
        (alone,) = detector.predict([image])
        assert torch.equal(alone.boxes, found.boxes) and torch.equal(alone.scores, found.scores)


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_computes_in_half_and_returns_float32(kind: str, precision: Precision) -> None:
    detector, images = build(kind).eval(), noise(SIZES[:2])
    exact = detector.predict(images)
    inside: list[torch.dtype] = []
    detector.heads.masks.head.register_forward_pre_hook(lambda _, inputs: inside.append(inputs[0].dtype))
    detector.runtime = Runtime(precision=precision)
    for one, other in zip(exact, detector.predict(images), strict=True):
        assert {part.dtype for part in (other.boxes, other.scores, *other.maps.values())} == {torch.float32}
        assert 0 < float((one.scores[0] - other.scores[0]).abs()) < 0.02
    assert set(inside) == {torch.bfloat16 if precision == "bf16" else torch.float16}


@pytest.mark.parametrize(("batch", "what"), [(3, "3 images of 64 x 96"), (1, "an image of 64 x 96")])
def test_a_batch_that_the_gpu_cannot_hold_is_one_sentence(batch: int, what: str) -> None:
    def full(_: torch.nn.Module, __: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    detector = build().eval()
    detector.backbone.register_forward_pre_hook(full)
    detector.runtime = Runtime(batch=batch)
    with pytest.raises(BCNetError, match=f"too little memory for {what} pixels") as caught:
        detector.predict(noise())
    assert ("--batch" if batch > 1 else "--tile") in caught.value.hints[0]


def test_files_are_grouped_as_their_pixels_are(tmp_path: Path) -> None:
    detector, images = build().eval(), noise()
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    detector.runtime = Runtime(batch=3)
    seen = network_batches(detector)
    expected, found = detector.predict(images), detector.predict(paths)
    assert seen[:4] == seen[4:] and len(seen) == 8
    assert all(torch.equal(one.boxes, other.boxes) for one, other in zip(expected, found, strict=True))
