"""`bcnet eval` and `bcnet predict`: every mode, what they print and write, and what they reject."""

from __future__ import annotations

import csv
import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from bcnet_cli.commands.evaluate import evaluate
from bcnet_cli.commands.predict import predict
from bcnet_cli.commands.viz import viz
from bcnet_core.annotations.coco import read_coco, segmentation_rle
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.evaluation.results import read_results, to_json
from bcnet_core.files.images import read_values
from bcnet_core.files.json_files import write_json
from bcnet_core.importers.label_images import MASKS
from bcnet_core.masks import area, bounding_box, decode
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import read_checkpoint, save_checkpoint
from tests.conftest import Bcnet
from tests.evaluation.test_coco import perturbed
from tests.evaluation.test_report import grid, true_results

app = typer.Typer()
app.command("eval")(evaluate)
app.command("predict")(predict)
app.command("viz")(viz)


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, BCNetError | SystemExit), result.exception
    return result


def good(*arguments: str | Path) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.exception or result.stderr
    return result


def refused(*arguments: str | Path) -> BCNetError:
    error = run(*arguments).exception
    assert isinstance(error, BCNetError)
    return error


@pytest.fixture(scope="module")
def truth(scenes: Path) -> Path:
    return scenes / "annotations/instances_train.json"


@pytest.fixture(scope="module")
def results(truth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "others.json"
    write_json(path, list(map(to_json, perturbed(read_coco(truth)))))
    return path


def test_any_results_file_is_scored(results: Path, truth: Path, tmp_path: Path) -> None:
    done = good("eval", "--results", results, "--gt", truth, "--occ", "--boundary", "--per-category", "-o", tmp_path)
    for word in (
        "faster-coco-eval",
        "boundaries",
        "masks, occlusion heavy",
        "masks: disc",
        "recall of occluded objects",
    ):
        assert word in done.stdout.replace("\n", " "), word
    written = json.loads((tmp_path / "others_scores.json").read_text())
    assert written["detections"] > 20 and 0.2 < written["scores"]["masks"]["AP"] < 0.95
    assert refused("eval", "--results", results, "--gt", truth, "-o", tmp_path).exit_code == ExitCode.USAGE


def test_the_reference_library_gives_the_same_scores(results: Path, truth: Path) -> None:
    ours, theirs = (
        json.loads(good("eval", "--results", results, "--gt", truth, "--json", "--occ", "--backend-eval", name).stdout)
        for name in ("faster-coco-eval", "pycocotools")
    )
    assert theirs["backend"].startswith("pycocotools 2") and ours["recall"] == theirs["recall"]
    for name, scores in ours["scores"].items():
        assert list(scores.values()) == pytest.approx(list(theirs["scores"][name].values()), abs=1e-9)
    assert "categories" not in ours and "layers" not in ours


def test_scores_as_csv_and_markdown(results: Path, truth: Path) -> None:
    rows = list(csv.DictReader(good("eval", "--results", results, "--gt", truth, "--csv").stdout.splitlines()))
    assert [row["scored"] for row in rows] == ["boxes", "masks"]
    lines = good("eval", "--results", results, "--gt", truth, "--markdown").stdout.splitlines()
    assert lines[0] == "|  | AP | AP50 | AP75 | APs | APm | APl | AR100 |"
    assert lines[3].split("|")[2].strip() == f"{100 * float(rows[1]['AP']):.1f}"


def test_every_reader_of_results_takes_them_as_other_programs_write_them(
    results: Path, truth: Path, scenes: Path, tmp_path: Path
) -> None:
    """Images by their files and categories from 0, as Ultralytics writes them."""
    coco, content = read_coco(truth), json.loads(results.read_text())
    assert min(one["id"] for one in coco.categories) == 1
    names = {image["id"]: image["file_name"] for image in coco.images}
    foreign = [
        {**one, "image_id": Path(names[one["image_id"]]).stem, "file_name": Path(names[one["image_id"]]).name}
        | {"category_id": one["category_id"] - 1}
        for one in content
    ]
    write_json(tmp_path / "foreign.json", foreign)
    asked = ("--gt", truth, "--json")
    plain, read = (good("eval", "--results", path, *asked) for path in (results, tmp_path / "foreign.json"))
    assert json.loads(read.stdout) == json.loads(plain.stdout)
    said = " ".join(read.stderr.split())
    assert "they only do if they are shifted, counted from 0" in said and "warning" in said.lower()
    row = json.loads(good("eval", "--compare", results, tmp_path / "foreign.json", *asked, "--resamples", "2").stdout)
    assert row["AP"]["masks, all"]["difference"] == 0
    drawn = ("--gt", truth, "--images", scenes / "train", "--limit", "2", "--format", "svg")
    good("viz", results, *drawn, "-o", tmp_path / "plain")
    assert "counted from 0" in " ".join(
        good("viz", tmp_path / "foreign.json", *drawn, "-o", tmp_path / "read").stderr.split()
    )
    pictures = [path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.svg")]
    assert pictures and all(
        (tmp_path / "read" / path).read_bytes() == (tmp_path / "plain" / path).read_bytes() for path in pictures
    )
    write_json(tmp_path / "none.json", [])
    good("viz", tmp_path / "none.json", *drawn, "-o", tmp_path / "none")
    good("viz", tmp_path / "none.json", *drawn, "--worst", "1", "-o", tmp_path / "worst")


def test_as_many_detections_count_as_are_asked_for(tmp_path: Path) -> None:
    content = grid(150).content
    write_json(tmp_path / "gt.json", content)
    write_json(tmp_path / "results.json", list(map(to_json, true_results(grid(150)))))
    asked = ("eval", "--results", tmp_path / "results.json", "--gt", tmp_path / "gt.json")
    few = good(*asked, "--json")
    assert json.loads(few.stdout)["scores"]["masks"]["AP"] < 0.7
    said = " ".join(few.stderr.split())
    assert "has up to 150 objects in an image" in said and "50 of 150 objects (33.3%) cannot be found" in said
    assert "--max-dets 150" in said
    every = good(*asked, "--max-dets", "150")
    assert "AR150" in every.stdout and "objects in an image" not in every.stderr
    assert next(csv.DictReader(good(*asked, "--max-dets", "150", "--csv").stdout.splitlines()))["AR150"] == "1.000000"
    compared = ("eval", "--compare", tmp_path / "results.json", tmp_path / "results.json", "--gt", tmp_path / "gt.json",
                "--resamples", "2", "--json")  # fmt: skip
    assert json.loads(good(*compared, "--max-dets", "150").stdout)["AP"]["masks, all"]["first"] == pytest.approx(1)
    assert "--max-dets 150" in " ".join(good(*compared).stderr.split())
    assert run(*asked, "--max-dets", "10").exit_code == ExitCode.USAGE


def test_a_run_keeps_and_counts_as_many_detections_as_are_asked_for(
    untrained: Path, scenes: Path, tmp_path: Path
) -> None:
    asked = ("eval", untrained, "--data-root", scenes, "--device", "cpu", "--json")
    own = good(*asked, "-o", tmp_path / "own")
    content = json.loads(own.stdout)
    assert content["detections"] == 5 * 6 and content["max_dets"] == 100 and "AR100" in content["scores"]["masks"]
    said = " ".join(own.stderr.split())
    assert "the detector keeps 5 detections an image" in said and "keep and count more: --max-dets" in said
    more = good(*asked, "-o", tmp_path / "more", "--max-dets", "20")
    content = json.loads(more.stdout)
    assert content["detections"] == 20 * 6 and "AR20" in content["scores"]["masks"]
    assert "objects in an image" not in more.stderr
    few, many = (json.loads((tmp_path / name / "instances_val_results.json").read_text()) for name in ("own", "more"))
    found = {(one["image_id"], one["category_id"], *one["bbox"]): one for one in many}
    for one in few:  # the last lanes of a vector are computed by other instructions: a float's last bit may differ
        same = found[(one["image_id"], one["category_id"], *one["bbox"])]
        assert same["score"] == pytest.approx(one["score"], rel=1e-5)
        assert (decode(same["segmentation"]) != decode(one["segmentation"])).sum() <= 1
    handler = signal.getsignal(signal.SIGINT)
    two = good(*asked, "-o", tmp_path / "two", "--max-dets", "20", "--gpus", "2")
    assert json.loads(two.stdout) == content
    assert signal.getsignal(signal.SIGINT) is handler, "the next Ctrl-C is Python's again"


def test_a_submission_of_a_run_that_keeps_more_has_the_hundred_best(
    untrained: Path, scenes: Path, tmp_path: Path
) -> None:
    stored = read_checkpoint(untrained)
    stored.recipe["model"]["detections_per_image"] = 150
    save_checkpoint(tmp_path / "model.pt", stored)
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    listed = {"images": content["images"][:1], "categories": content["categories"]}
    write_json(tmp_path / "root/annotations/image_info_test-dev2017.json", listed)
    (tmp_path / "root/test2017").symlink_to(scenes / "val")
    done = good(
        "eval", tmp_path / "model.pt", "--test-dev", "--data-root", tmp_path / "root", "--device", "cpu", "--json"
    )
    assert json.loads(done.stdout) == {"images": 1, "detections": 100}
    assert "COCO takes 100 detections an image: the best of 150 are submitted" in " ".join(done.stderr.split())


def test_a_model_that_found_nothing_scores_zero(truth: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "none.json", [])
    done = good("eval", "--results", tmp_path / "none.json", "--gt", truth, "--json")
    assert {row["AP"] for row in json.loads(done.stdout)["scores"].values()} == {0}
    assert "its list is empty" in " ".join(done.stderr.split())


def test_two_models_are_compared(results: Path, truth: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "half.json", list(map(to_json, perturbed(read_coco(truth))[::2])))
    arguments = ("eval", "--compare", tmp_path / "half.json", results, "--gt", truth, "--resamples", "20")
    content = json.loads(good(*arguments, "--json").stdout)
    row = content["AP"]["masks, all"]
    assert row["low"] <= row["difference"] == row["second"] - row["first"] and row["low"] > 0 and row["certain"]
    shown = good(*arguments).stdout
    assert f"B: {results}" in shown.replace("\n", "") and "20 draws of images" in shown and "masks, all" in shown
    assert good(*arguments, "--markdown").stdout.count("| ---") == 6
    (first, *_) = csv.DictReader(good(*arguments, "--csv").stdout.splitlines())
    assert first["AP"] == "masks, all" and float(first["difference"]) == pytest.approx(row["difference"], abs=1e-6)


def test_image_ids_and_object_lists_come_from_files(results: Path, truth: Path, tmp_path: Path) -> None:
    coco = read_coco(truth)
    (tmp_path / "ids.txt").write_text(str(coco.images[0]["id"]))
    asked = ("eval", "--results", results, "--gt", truth, "--json")
    content = json.loads(good(*asked, "--occ-ids", tmp_path / "ids.txt").stdout)
    assert content["scores"]["masks, occluded split"] != content["scores"]["masks"]
    one = next(one for one in coco.annotations if one["image_id"] == coco.images[0]["id"])
    names = {category["id"]: category["name"] for category in coco.categories}
    rle = segmentation_rle(one, coco.images[0])
    entry = [coco.images[0]["file_name"], names[one["category_id"]], 0, one["bbox"], rle]
    (tmp_path / "separated_coco.pkl").write_bytes(pickle.dumps([entry]))
    content = json.loads(good(*asked, "--objects", tmp_path / "separated_coco.pkl").stdout)
    assert content["recall"]["separated_coco"]["objects"] == 1


def test_contradictory_options_are_rejected(results: Path, truth: Path, untrained: Path, tmp_path: Path) -> None:
    for arguments, word in (
        (("eval",), "there is nothing to evaluate"),
        (("eval", untrained, "--results", results), "RUN and --results exclude each other"),
        (("eval", "--results", results), "--results needs the ground truth"),
        (("eval", untrained, "--gt", truth), "--gt has no meaning with a run"),
        (("eval", "--results", results, "--gt", truth, "--json", "--csv"), "exclude each other"),
        (("eval", "--results", results, "--gt", truth, "--layers"), "--layers has no meaning with --results"),
        (("eval", untrained, "--gpus", "2", "--device", "cuda"), "this machine has"),
        (("eval", untrained, "--test-dev", "--occ", "--csv"), "--occ and --csv have no meaning with --test-dev"),
        (("eval", untrained, "--resamples", "3"), "--resamples has no meaning with a run"),
        (("eval", "--results", results, "--gt", truth, "--test-dev"), "--test-dev has no meaning with --results"),
        (("eval", "--compare", results, results, "--gt", truth, "-o", "x"), "--output has no meaning with --compare"),
    ):
        error = refused(*arguments)
        assert word in error.message and error.exit_code == ExitCode.USAGE and error.hints
    assert run("eval", "--results", results, "--gt", truth, "--backend-eval", "mine").exit_code == ExitCode.USAGE


def test_bad_data_is_rejected_before_prediction(
    results: Path, truth: Path, untrained: Path, scenes: Path, tmp_path: Path
) -> None:
    content = json.loads(truth.read_text())
    content["categories"][0]["name"] = "something else"
    root = tmp_path / "root"
    for name in ("train", "val"):
        write_json(root / f"annotations/instances_{name}.json", content)
    error = refused("eval", untrained, "--data-root", root, "--device", "cpu")
    assert "differ" in error.message and "--data-root DIR" in error.hints[2] and "bcnet train" in error.hints[3]
    no_masks = json.loads(truth.read_text())
    for one in no_masks["annotations"]:
        del one["segmentation"]
    write_json(tmp_path / "boxes.json", no_masks)
    error = refused("eval", "--results", results, "--gt", tmp_path / "boxes.json")
    assert "has no mask" in error.message and error.exit_code == ExitCode.BAD_DATA
    boxes = [
        {key: value for key, value in one.items() if key != "segmentation"} for one in json.loads(results.read_text())
    ]
    write_json(tmp_path / "results.json", boxes)
    shown = good("eval", "--results", tmp_path / "results.json", "--gt", tmp_path / "boxes.json", "--csv").stdout
    assert [line.split(",")[0] for line in shown.splitlines()] == ["scored", "boxes"]


def test_a_checkpoint_is_evaluated_with_its_layers(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    arguments = ("eval", untrained, "-o", tmp_path / "out", "--device", "cpu", "--layers", "--json")
    planned = good(*arguments, "--dry-run")
    assert "on 6 images" in planned.stderr and not (tmp_path / "out").exists()
    done = good(*arguments, "--data-root", scenes)
    assert f"bcnet viz {untrained} -o viz --data-root {scenes}" in done.stderr.replace("\n", "")
    content = json.loads(done.stdout)
    assert content["layers"].keys() == {"occludee", "occluder", "occludee_boundary", "occluder_boundary"}
    assert all(0 <= value <= 1 for value in content["layers"].values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "instances_val_results.json", "instances_val_scores.json"
    ]  # fmt: skip
    again = good("eval", "--results", tmp_path / "out/instances_val_results.json",
                 "--gt", scenes / "annotations/instances_val.json", "--json")  # fmt: skip
    assert json.loads(again.stdout)["scores"] == content["scores"]


def test_everything_is_read_and_measured_once(
    untrained: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count(module: str, name: str) -> None:
        original = getattr(importlib.import_module(module), name)

        def counted(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(f"{module}.{name}", counted)

    count("torch", "load")
    count("bcnet_core.weights.loading", "build_detector")
    count("bcnet_core.annotations.coco", "read_json")
    for module in ("bcnet_core.evaluation.coco", "bcnet_core.evaluation.report"):
        count(module, "ground_truth")
    for module in ("bcnet_core.evaluation.report", "bcnet_core.evaluation.occluded"):
        count(module, "measure_images")
    count("bcnet_core.annotations.split", "checksum")
    good("eval", untrained, "--data-root", scenes, "-o", tmp_path, "--device", "cpu", "--occ", "--layers")
    once = ("load", "read_json", "ground_truth", "measure_images")
    assert calls == {**dict.fromkeys(once, 1), "build_detector": 2}  # shapes are checked on a detector without data


def test_images_are_predicted(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    truth, output = scenes / "annotations/instances_val.json", tmp_path / "out/found.json"
    arguments = ("predict", untrained, scenes / "val", "-o", output, "--ids-from", truth, "--device", "cpu", "--layers")
    assert "on 6 images" in good(*arguments, "--dry-run").stderr and not output.parent.exists()
    done = good(*arguments)
    assert "30 detections in 6 images" in done.stdout
    assert f"next  bcnet eval --results {output} --gt {truth}" in done.stderr.replace("\n", "")
    assert sorted(path.name for path in output.parent.iterdir()) == ["found.json", "found_images.json"]
    found: list[Any] = json.loads(output.read_text())
    assert found[0].keys() >= {"occluder", "occluder_boundary", "occludee_boundary"}
    listing = read_coco(output.with_name("found_images.json"), need_annotations=False)
    assert {one["id"] for one in listing.images} == {one["id"] for one in read_coco(truth).images}
    scored = json.loads(good("eval", "--results", output, "--gt", truth, "--json").stdout)
    assert scored["detections"] == 30
    error = refused(*arguments)
    assert "exists already" in error.message and error.exit_code == ExitCode.USAGE
    assert (
        "is the input itself" in refused("predict", untrained, scenes / "val", "-o", untrained, "--overwrite").message
    )


def test_masks_that_share_no_pixel_are_predicted(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    asked = ("predict", untrained, scenes / "val", "-o", output, "--device", "cpu")
    asked += ("--format", "labels", "--format", "panoptic")
    names = ["found.json", "found_images.json", "found_labels", "found_panoptic", "found_panoptic.json"]
    among = [*asked[:4], scenes / "val" / "found.json", *asked[5:]]
    assert "would be taken for photos" in refused(*among).message and not (scenes / "val" / "found.json").exists()
    planned = good(*asked, "--dry-run").stderr.replace("\n", "")
    assert all(str(tmp_path / name) in planned for name in names) and not list(tmp_path.iterdir())
    done = good(*asked, "--score", "0", "--json")
    counts = json.loads(done.stdout)
    assert counts["detections"] + counts["covered"] == 30 and counts["detections"] > 6
    assert f"{counts['covered']} more were left without a pixel" in done.stderr or not counts["covered"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    listing = read_coco(tmp_path / "found_images.json", need_annotations=False)
    results = read_results(output, listing, reporter=SilentReporter())
    imported = {
        (Path(record["file_name"]).stem, area(segmentation_rle(one, record)))
        for source in [MASKS.read(tmp_path / "found_labels", scenes / "val")]
        for one in source.annotations
        for record in [next(record for record in source.images if record["id"] == one["image_id"])]
    }
    for image in listing.images:
        stem, own = Path(image["file_name"]).stem, [one for one in results if one["image_id"] == image["id"]]
        labels = read_values(tmp_path / f"found_labels/{stem}.png")
        assert labels.max() == len(own) and labels.shape == (128, 128)
        for number, one in enumerate(own, start=1):
            assert np.array_equal(labels == number, decode(one["segmentation"]))
            assert (
                one["bbox"] == bounding_box(one["segmentation"]).tolist()
                and (stem, area(one["segmentation"])) in imported
            )
    error = refused(*asked)
    assert "exists already" in error.message and error.exit_code == ExitCode.USAGE
    output.unlink()
    (tmp_path / "found_images.json").unlink()
    (tmp_path / "found_panoptic.json").unlink()
    assert "found_labels` exists already" in refused(*asked).message
    few = good(*asked, "--overwrite", "--json")
    assert json.loads(few.stdout)["detections"] < counts["detections"], "the score is at least 0.5 if none is asked for"


def test_predictions_in_other_formats_are_corrected_and_come_back(
    untrained: Path, scenes: Path, tmp_path: Path, bcnet: Bcnet
) -> None:
    output, root = tmp_path / "found.json", tmp_path / "root"
    asked = ("predict", untrained, scenes / "val", "-o", output, "--device", "cpu", "--score", "0")
    assert "`yolo8` is no format" in refused(*asked, "--format", "yolo8").message and not list(tmp_path.iterdir())
    predicted = good(*asked, "--format", "labelme", "--format", "coco", "--format", "yolo", "--json")
    counts = json.loads(predicted.stdout)
    assert "writing 6/6" in predicted.stderr
    names = ("found.json", "found_images.json", "found_yolo", "found_labelme")
    assert counts["outputs"] == [str(tmp_path / name) for name in names] and "covered" not in counts
    listing = read_coco(tmp_path / "found_images.json", need_annotations=False)
    results = read_results(output, listing, reporter=SilentReporter())
    empty = sum(not area(one["segmentation"]) for one in results)
    assert counts.get("left_out", {}) == ({"labelme": empty, "yolo": empty} if empty else {})
    folder = tmp_path / "found_labelme"
    first = next(file for file in sorted(folder.iterdir()) if json.loads(file.read_text())["shapes"])
    content = json.loads(first.read_text())
    content["shapes"] = []  # a person has removed what is wrong
    first.write_text(json.dumps(content))
    done = bcnet("data", "import", folder, "--images", scenes / "val", "-o", root, "--val", "0")
    assert done.returncode == 0, done.stderr
    imported = read_coco(root / "annotations/instances_train2017.json")
    image = next(one for one in listing.images if Path(one["file_name"]).stem == first.stem)
    left = [one for one in results if area(one["segmentation"]) and one["image_id"] != image["id"]]
    assert len(imported.images) == 6 and len(imported.annotations) == len(left) > 0


def test_a_copied_card_is_predicted_but_for_its_damaged_photo(
    untrained: Path, scenes: Path, tmp_path: Path, bcnet: Bcnet
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(scenes / "val", photos)
    first, second, *others = sorted(photos.iterdir())
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    second.write_bytes(b"")
    (photos / "._x.png").write_bytes(b"\0\5\x16\7Mac OS X")
    command = ("predict", untrained, photos, "--device", "cpu", "--json")
    done = bcnet(*command, "-o", tmp_path / "r.json")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: 2 of 6 images cannot be read and have no results" in done.stderr
    assert f"{first}` cannot be read" in done.stderr and f"{second}` cannot be read" in done.stderr
    outputs = [str(tmp_path / name) for name in ("r.json", "r_images.json")]
    counts = {"images": 4, "detections": 20, "unreadable": [str(first), str(second)], "outputs": outputs}
    assert json.loads(done.stdout) == counts
    listing = read_coco(tmp_path / "r_images.json", need_annotations=False)
    assert [one["file_name"] for one in listing.images] == list(map(str, others))
    truth = scenes / "annotations/instances_val.json"
    known = bcnet(*command, "-o", tmp_path / "k.json", "--ids-from", truth)  # sizes of the json, no header is read
    assert known.returncode == 1 and json.loads(known.stdout)["detections"] == 20
    bad = bcnet("predict", untrained, first, "-o", tmp_path / "none.json", "--device", "cpu")
    assert bad.returncode == 3 and "none of the 1 images can be read" in bad.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "k.json", "k_images.json", "photos", "r.json", "r_images.json"
    ]  # fmt: skip


def test_results_with_other_image_ids_are_not_scored(
    untrained: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, output = tmp_path / "truth.json", tmp_path / "found.json"
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    for image in content["images"][:2]:
        image["id"] = 3 - image["id"]  # 1 and 2 change places
    write_json(truth, content)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(scenes / "val")
    for folder in ("pictures", scenes / "val"):
        arguments = ("predict", untrained, folder, "-o", output, "--device", "cpu", "--overwrite")
        following = good(*arguments).stderr.replace("\n", "").split("next  ")[1].split()
        assert following[:3] == ["bcnet", "viz", str(output)]
        good(*following[1:], "--overwrite", "--limit", "2")
        assert (tmp_path / "viz/index.html").exists()
    above = f"../{tmp_path.name}/pictures"  # no folder that a json may name has these
    assert "next" not in good("predict", untrained, above, "-o", "above.json", "--device", "cpu").stderr
    for asked in (("--results", output), ("--compare", output, output)):
        error = refused("eval", *asked, "--gt", truth)
        assert error.exit_code == ExitCode.BAD_DATA and "2 of 6 ids" in error.message
        assert f"--ids-from {truth}" in error.hints[0]
    shown = ("viz", output, "--gt", truth, "--images", scenes / "val", "-o", tmp_path / "no")
    assert "2 of 6 ids" in refused(*shown).message
    good(*arguments, "--ids-from", truth)
    good("eval", "--results", output, "--gt", truth)


def test_both_commands_from_a_shell(bcnet: Bcnet, untrained: Path, scenes: Path, tmp_path: Path) -> None:
    done = bcnet("predict", untrained, scenes / "val/*.png", "-o", tmp_path / "r.json", "--json", "--device", "cpu")
    outputs = [str(tmp_path / name) for name in ("r.json", "r_images.json")]
    counts = {"images": 6, "detections": 30, "unreadable": [], "outputs": outputs}
    assert done.returncode == 0 and json.loads(done.stdout) == counts, done.stderr
    assert "wrote" in done.stderr and "warning" not in done.stderr.lower()
    wrong = bcnet("eval", "--results", tmp_path / "r_images.json", "--gt", scenes / "annotations/instances_val.json")
    assert wrong.returncode == 3 and "is not a results file" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_prediction_in_two_processes_that_is_cut_off_resumes(
    untrained: Path, scenes: Path, tmp_path: Path, bcnet: Bcnet, number: signal.Signals
) -> None:
    (tmp_path / "images").mkdir()
    pictures = sorted((scenes / "val").iterdir())
    for copy in range(80):
        (tmp_path / f"images/{copy:02}.png").symlink_to(pictures[copy % len(pictures)])
    whole = bcnet("predict", untrained, tmp_path / "images", "-o", tmp_path / "whole.json", "--device", "cpu")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-c", "from bcnet_cli.app import main; main()", "predict", untrained]
    command += [tmp_path / "images", "-o", tmp_path / "parts.json", "--device", "cpu", "--gpus", "2"]
    parts = tmp_path / "parts_predictions.jsonl"
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (parts.exists() and parts.read_bytes().count(b"\n") > 1):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        (process.send_signal if number != signal.SIGINT else lambda n: os.killpg(process.pid, n))(number)
        _, told = process.communicate(timeout=180)
    assert not (tmp_path / "parts.json").exists()
    if number != signal.SIGKILL:
        assert process.returncode == 130 and "of 80 images are predicted and kept" in told, told
        assert told.count("error:") == 1 and "Traceback" not in told, told
    again = bcnet("predict", untrained, tmp_path / "images", "-o", tmp_path / "parts.json", "--device", "cpu")
    assert again.returncode == 0 and "images were predicted before" in again.stderr, again.stderr
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not parts.exists()


def test_tiles_are_predicted_scored_and_drawn(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    tiles = ("--tile", "96", "--overlap", "0.25")
    photo = sorted((scenes / "val").iterdir())[0]  # of 128 x 128 pixels
    good("predict", untrained, photo, "-o", tmp_path / "whole.json")
    result = good("predict", untrained, photo, *tiles, "-o", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert "detections in 1 image\n" in result.stdout and found
    assert all(one["segmentation"]["size"] == [128, 128] for one in found)
    assert found != json.loads((tmp_path / "whole.json").read_text())
    larger = good("predict", untrained, photo, "--tile", "128", "-o", tmp_path / "larger.json")
    assert larger.exit_code == 0
    assert (tmp_path / "larger.json").read_text() == (tmp_path / "whole.json").read_text()

    good("eval", untrained, *tiles, "-o", tmp_path / "eval", "--data-root", scenes)
    scored = json.loads((tmp_path / "eval/instances_val_results.json").read_text())
    image = next(one["image_id"] for one in scored)
    assert len([one for one in scored if one["image_id"] == image]) > 5  # a tile has five
    good("viz", untrained, *tiles, "--data-root", scenes, "--limit", "1", "-o", tmp_path / "gallery")
    assert (tmp_path / "gallery/index.html").is_file()


def test_tiles_without_meaning_are_refused(untrained: Path, scenes: Path, truth: Path, tmp_path: Path) -> None:
    photos, out = scenes / "val", tmp_path / "out"
    for arguments, word in (
        (("predict", untrained, photos, "--overlap", "0.3"), "--overlap has no meaning without --tile"),
        (("predict", untrained, photos, "--tile", "9"), "a tile of 9 pixels is too small"),
        (("eval", untrained, "--tile", "64", "--overlap", "0"), "cannot overlap by 0 of their side"),
        (("viz", truth, "--images", scenes / "train", "--tile", "64"), "--tile has no meaning without a detector"),
    ):
        error = refused(*arguments, "-o", out)
        assert word in error.message and error.exit_code == ExitCode.USAGE and not out.exists()
