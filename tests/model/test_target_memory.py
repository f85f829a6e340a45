"""Crowded images are the normal case: what 500 large instances cost in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
from pathlib import Path
import numpy as np, torch
from bcnet_core import masks
from bcnet_core.masks.crops import crop_rles
from bcnet_core.data.dataset import Targets
from bcnet_core.model.rois import jittered_rois
from bcnet_core.model.losses import bilayer_targets

def targets(count):
    mask = np.zeros((800, 1333), bool)
    mask[100:700, 100:1200] = True
    rles = [masks.encode(mask)] * count
    boxes = torch.tensor([[100.0, 100, 1200, 700]]).repeat(count, 1)
    labels, placement = torch.zeros(count, dtype=torch.int64), torch.tensor([1.0, 0, 1, 0])
    return Targets(boxes, labels, crop_rles(rles), crop_rles(rles), crop_rles([None] * len(rles)), placement)

def build(count):
    wanted = [targets(count)]
    maps = bilayer_targets(wanted, jittered_rois(wanted, [0], most=0), size=28)
    assert maps["occluder_mask"].float().mean() > 0.8

def peak():  # not ru_maxrss, which begins at that of the parent process
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

build(1)
before = peak()
build(500)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_500_large_instances_stay_below_150_mb() -> None:
    """Both layers together, as bitmaps of the image they would be 1,066 MB."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) <= 150
