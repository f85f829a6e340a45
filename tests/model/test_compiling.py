"""Compiled detectors find the same."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError, ExitCode, Runtime, load_detector
from bcnet_core.model.compiling import cpp_compiler


@pytest.mark.slow
@pytest.mark.skipif(cpp_compiler() is None, reason="there is no C++ compiler")
def test_a_compiled_detector_finds_the_same_in_images_of_several_sizes(untrained: Path) -> None:
    plain = load_detector(untrained, device="cpu")
    compiled = load_detector(untrained, device="cpu", runtime=Runtime(compile=True))
    draw = np.random.default_rng(0)
    for height, width in ((96, 128), (128, 96), (64, 160)):
        picture = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ((expected,), (found,)) = (one.predict([picture], resize=False) for one in (plain, compiled))
        assert len(found.scores) == len(expected.scores) > 0
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
        boxes = [[[10.0, 10, 60, 50], [30, 20, 90, 60]]]
        ((expected,), (found,)) = (one.predict_inside([picture], boxes, resize=False) for one in (plain, compiled))
        for name, maps in expected.maps.items():
            torch.testing.assert_close(found.maps[name], maps, rtol=0, atol=1e-4)


def test_compiling_on_a_cpu_without_a_compiler_says_what_to_install(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(BCNetError, match=r"needs a C\+\+ compiler") as caught:
        load_detector(untrained, device="cpu", runtime=Runtime(compile=True))
    assert caught.value.exit_code == ExitCode.USAGE
