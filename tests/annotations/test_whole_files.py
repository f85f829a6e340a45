"""Random and damaged files give a correct result or a clear error."""

import copy
import json
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from bcnet_core import masks
from bcnet_core.annotations.build import annotate_coco
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, read_coco
from bcnet_core.annotations.occluder import OccluderRule
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.files.json_files import write_json
from tests.annotations.conftest import DenseOccluders
from tests.conftest import examples

RULE = OccluderRule(min_area=5)
H, W = 30, 40
DAMAGES = 700


def blot(rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a mask of one or two ellipses, sometimes with a hole."""
    y, x = np.mgrid[:H, :W]
    mask = np.zeros((H, W), dtype=bool)
    for _ in range(rng.integers(1, 3)):
        cy, cx, a, b = rng.uniform((0, 0, 2, 2), (H, W, 12, 12))
        far = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2
        mask |= (far < 1) & (far > rng.choice([0, 0, 0.2]))
    return mask


def stored(mask: NDArray[np.bool_], kind: str) -> Any:
    """Return a mask in one of the forms of COCO files."""
    rle = masks.encode(mask)
    match kind:
        case "compressed":
            return masks.to_json(rle)
        case "uncompressed":
            return {"size": [H, W], "counts": masks.runs(rle["counts"]).tolist()}
        case "polygons":
            x, y, w, h = masks.bounding_box(rle).tolist()
            return [[x, y, x + w, y, x + w, y + h / 2, x, y + h / 2], [x, y + h / 2, x + w, y + h, x, y + h]]
        case "missing":
            return None
        case _:
            return []


def random_content(rng: np.random.Generator, annotations: int) -> dict[str, Any]:
    """Return a file of three images with annotations of every kind."""
    records = []
    for number in range(annotations):
        mask = blot(rng)
        kind = rng.choice(["compressed", "uncompressed", "polygons", "compressed", "polygons", "missing", "empty"])
        box = masks.bounding_box(masks.encode(mask)) + rng.choice([0, 0, 0.25, -3.5], size=4)
        record = {
            "id": int(rng.integers(1, 9)), "image_id": int(rng.integers(1, 4)), "category_id": int(rng.choice([1, 90])),
            "bbox": box.tolist(), "iscrowd": int(rng.random() < 0.2), "segmentation": stored(mask, kind),
            "area": float(number), "attributes": {"free text": "ä\n"},
        }  # fmt: skip
        if kind == "missing" and rng.random() < 0.5:
            del record["segmentation"]
        records.append(record)
    return {
        "info": {"year": 2026}, "licenses": [{"id": 1}], "odd": [None, 1e-7],
        "images": [{"id": one, "file_name": f"{one}.jpg", "height": H, "width": W, "x": one} for one in (3, 1, 2)],
        "annotations": records, "categories": [{"id": 90, "name": "b"}, {"id": 1, "name": "a"}],
    }  # fmt: skip


def regions_of(content: dict[str, Any]) -> list[NDArray[np.bool_] | None]:
    """Rasterize the stored occluders of a file with pycocotools alone."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found: list[NDArray[np.bool_] | None] = []
    for annotation in content["annotations"]:
        entry, size = annotation[OCCLUDER_KEY], sizes[annotation["image_id"]]
        if isinstance(entry, list):
            rles = coco_mask.frPyObjects(entry, *size) if entry else []
        else:
            assert entry["size"] == list(size)
            rles = [entry]
        found.append(coco_mask.decode(coco_mask.merge(rles)).astype(bool) if rles else None)
    return found


def expected_regions(content: dict[str, Any], dense_occluders: DenseOccluders) -> list[NDArray[np.bool_] | None]:
    """Return the regions of the dense rule in the order of the annotations."""
    found: list[NDArray[np.bool_] | None] = [None] * len(content["annotations"])
    for image in content["images"]:
        size = image["height"], image["width"]
        places = [place for place, one in enumerate(content["annotations"]) if one["image_id"] == image["id"]]
        records = [content["annotations"][place] for place in places]
        dense = []
        for record in records:
            try:
                rle = masks.from_segmentation(record.get("segmentation"), *size)
            except (ValueError, TypeError):
                rle = None
            dense.append(None if rle is None else masks.decode(rle))
        crowd = [bool(record.get("iscrowd", 0)) for record in records]
        boxes = [record["bbox"] for record in records]
        for place, region in zip(places, dense_occluders(dense, boxes, crowd, RULE, size), strict=True):
            found[place] = region
    return found


def same(left: NDArray[np.bool_] | None, right: NDArray[np.bool_] | None) -> bool:
    return left is right if left is None or right is None else bool((left == right).all())


def without_occluders(content: dict[str, Any]) -> str:
    """Return everything but the occluder key as text, so that order and number types count too."""
    annotations = [{key: one[key] for key in one if key != OCCLUDER_KEY} for one in content["annotations"]]
    return json.dumps({**content, "annotations": annotations})


@examples(60)
@given(st.integers(0, 100_000), st.integers(0, 12))
def test_random_files(dense_occluders: DenseOccluders, seed: int, annotations: int) -> None:
    content = random_content(np.random.default_rng(seed), annotations)
    coco = CocoFile(Path("memory.json"), content)
    expected = expected_regions(content, dense_occluders)
    exact, summary = annotate_coco(coco, rule=RULE, output_format="rle")
    traced, _ = annotate_coco(coco, rule=RULE, tolerance=0)
    near, _ = annotate_coco(coco, rule=RULE)
    assert all(map(same, regions_of(exact), expected))
    assert all(map(same, regions_of(traced), expected))
    for drawn, region in zip(regions_of(near), expected, strict=True):
        assert (drawn is None) == (region is None)
        assert drawn is None or region is None or (drawn & region).sum() / (drawn | region).sum() >= 0.98
    assert summary.with_occluder == sum(region is not None for region in expected)
    for result in (exact, traced, near):
        assert without_occluders(result) == without_occluders(content)
    again, _ = annotate_coco(CocoFile(coco.path, near), rule=RULE)
    assert json.dumps(again) == json.dumps(near), "annotating an annotated file changes nothing"


@examples(60)
@given(st.integers(0, 100_000), st.integers(2, 12), st.randoms(use_true_random=False))
def test_the_order_of_a_file_does_not_matter(seed: int, annotations: int, random: Random) -> None:
    content = random_content(np.random.default_rng(seed), annotations)
    order = random.sample(range(annotations), annotations)
    shuffled = {
        **content,
        "annotations": [content["annotations"][place] for place in order],
        "images": random.sample(content["images"], 3),
    }
    found = annotate_coco(CocoFile(Path("a.json"), content), rule=RULE)[0]["annotations"]
    other = annotate_coco(CocoFile(Path("b.json"), shuffled), rule=RULE)[0]["annotations"]
    assert json.dumps(other) == json.dumps([found[place] for place in order])


@examples(100)
@given(st.integers(0, 100_000))
def test_occlusion_between_two_filled_boxes_is_mutual(seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = random_content(rng, 2)
    for record in content["annotations"]:
        x, y, w, h = (int(value) for value in rng.integers((0, 0, 1, 1), (W, H, 25, 25)))
        record |= {"image_id": 1, "iscrowd": 0, "bbox": [x, y, w, h]}
        record["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    first, second = regions_of(annotate_coco(CocoFile(Path("a.json"), content), rule=RULE, tolerance=0)[0])
    assert same(first, second), "what they share is the occluder of both"


ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**70, -(2**70), 0.5, -7.25, 1e308, math.inf, -math.inf, math.nan,
    "", "x", "\x1b[2J", "\ud800", [], [[]], [None], [[1, 2]], [[1, 2, 3, 4, 5, 6]], [1, 2, 3, 4], [[math.nan] * 6],
    [1e9] * 4, {}, {"size": [H, W], "counts": "?"}, {"size": [H, W], "counts": []}, {"counts": "0"},
    {"size": [H, W], "counts": [H * W]},
)  # fmt: skip


def damage_tree(random: Random, content: dict[str, Any]) -> bytes:
    """Replace, drop, duplicate or swap something in the json."""
    content = copy.deepcopy(content)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        holder: Any = content
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = random.choice(keys)
            deeper = isinstance(holder[key], dict | list) and holder[key]
            if deeper and random.random() < 0.85:
                holder = holder[key]
                continue
            match random.choice(["replace", "replace", "drop", "double", "swap"]):
                case "replace":
                    holder[key] = copy.deepcopy(random.choice(ODD))
                case "drop":
                    del holder[key]
                case "double" if isinstance(holder, list):
                    holder.insert(random.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
                case _:
                    other = random.choice(keys)
                    holder[key], holder[other] = holder[other], holder[key]
            break
    return json.dumps(content).encode()


def damage_bytes(random: Random, data: bytes) -> bytes:
    """Cut, flip, insert or repeat bytes."""
    place, other = sorted(random.randrange(len(data)) for _ in range(2))
    match random.choice(["cut", "flip", "insert", "repeat", "digit"]):
        case "cut":
            return data[:other]
        case "flip":
            return data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]
        case "insert":
            return data[:place] + random.randbytes(random.randrange(1, 5)) + data[place:]
        case "repeat":
            return data[:other] + data[place:]
        case _:
            digits = [index for index, byte in enumerate(data) if chr(byte).isdigit()]
            place = random.choice(digits)
            return data[:place] + random.choice([b"9", b"-", b"e9", b".", b"", b"0", b"99999"]) + data[place + 1 :]


def annotate_file(source: Path, output: Path) -> BCNetError | None:
    """Annotate as the command does and return the error if it is one that a user can act on."""
    try:
        result, _ = annotate_coco(read_coco(source), rule=RULE, tolerance=0)
        write_json(output, result)
    except BCNetError as error:
        return error
    return None


@pytest.mark.parametrize("part", range(7))
def test_damaged_files_give_a_clear_error_or_a_correct_file(
    dense_occluders: DenseOccluders, tmp_path: Path, part: int
) -> None:
    refused = 0
    for number in range(part, DAMAGES, 7):
        random = Random(number)
        content = random_content(np.random.default_rng(number % 20), 6)
        data = damage_tree(random, content) if number % 3 else damage_bytes(random, json.dumps(content).encode())
        source, output = tmp_path / f"{number}.json", tmp_path / f"{number}_out.json"
        source.write_bytes(data)
        error = annotate_file(source, output)
        assert source.read_bytes() == data
        if error is not None:
            refused += 1
            assert error.exit_code == ExitCode.BAD_DATA
            assert str(source.with_suffix("")) in error.message, "the input, or the output that would be no json"
            assert error.message.isprintable(), "one line that no terminal obeys"
            assert not output.exists()
            continue
        written = json.loads(output.read_text())
        assert without_occluders(written) == without_occluders(json.loads(data))
        if all(image["height"] * image["width"] <= 1_000_000 for image in written["images"]):
            assert all(map(same, regions_of(written), expected_regions(written, dense_occluders)))
    assert 20 <= refused <= DAMAGES // 7 - 20, "both ends are met often"
