"""`--batch` and `--precision` of predict and eval, and the memory of many photos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcnet_core.files.images import image_files
from tests.conftest import Bcnet


def photos(folder: Path, count: int, *sizes: tuple[int, int]) -> Path:
    """A folder with so many photos of noise, whose widths and heights take turns."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg")
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(path.read_text())
    return content


def test_photos_of_several_sizes_in_batches_give_the_same_results_in_the_same_order(
    bcnet: Bcnet, untrained: Path, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "photos", 7, (64, 48), (48, 64), (128, 96))
    Image.new("RGB", (9, 9)).save(folder / "0003.jpg")
    (folder / "0003.jpg").write_bytes((folder / "0003.jpg").read_bytes()[:-200])
    asked = ("predict", untrained, folder, "--device", "cpu", "-o")
    alone, together = bcnet(*asked, tmp_path / "a.json"), bcnet(*asked, tmp_path / "b.json", "--batch", 3)
    assert alone.returncode == together.returncode == 1 and "0003.jpg` cannot be read" in together.stderr
    one, other = read(tmp_path / "a.json"), read(tmp_path / "b.json")
    assert [found["image_id"] for found in one] == [found["image_id"] for found in other] and len(one) == 5 * 6
    assert np.allclose([found["bbox"] for found in one], [found["bbox"] for found in other], atol=2e-3)
    assert np.allclose([found["score"] for found in one], [found["score"] for found in other], atol=1e-5)


def test_a_run_is_evaluated_in_half_precision(bcnet: Bcnet, untrained: Path, scenes: Path, tmp_path: Path) -> None:
    asked = ("eval", untrained, "--data-root", scenes, "--device", "cpu", "-o")
    for name, words in {"full": (), "half": ("--batch", "4", "--precision", "bf16")}.items():
        done = bcnet(*asked, tmp_path / name, *words)
        assert done.returncode == 0, done.stderr
    full, half = (read(tmp_path / name / "instances_val_results.json") for name in ("full", "half"))
    assert [found["image_id"] for found in full] == [found["image_id"] for found in half]
    differences = [abs(one["score"] - other["score"]) for one, other in zip(full, half, strict=True)]
    assert 0 < np.mean(differences) < 0.02


PEAK = """\
import resource
from bcnet_cli.app import main
try:
    main()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photos(untrained: Path, tmp_path: Path) -> None:
    (few := tmp_path / "few").mkdir()
    many = photos(tmp_path / "many", 1000, (320, 240))  # 230 kB each, 230 MB all together
    for path in image_files(many)[:100]:
        (few / path.name).symlink_to(path)
    peaks = []
    for folder in (few, many):
        command = [sys.executable, "-c", PEAK, "predict", str(untrained), str(folder), "-o", f"{folder}.json"]
        done = subprocess.run(
            [*command, "--device", "cpu", "--batch", "4"], capture_output=True, text=True, check=True, timeout=900
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 40, peaks  # MB
