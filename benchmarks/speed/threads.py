"""Speed of training on an idle machine and beside a busy process, by how OpenMP threads wait.

Run on an otherwise idle machine: `python -m benchmarks.speed.threads`. Each row is the median of some runs of
`bcnet doctor --speed`; "default" is what torch does without `bcnet`'s setting (300,000 spins are libgomp's default).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median

SETTINGS = {
    "passive (bcnet)": {},
    "default": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
    "short spin": {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"},
}
REPEATS = 3


def measure(setting: dict[str, str]) -> tuple[float, float]:
    """Return images/s of training and of inference."""
    names = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name not in names} | setting
    command = [sys.executable, "-m", "bcnet_cli", "doctor", "--speed", "--json"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    training, inference = (check["images_per_second"] for check in json.loads(done.stdout))
    return training, inference


def main() -> None:
    """Print a table: one row per setting, idle and busy."""
    print(f"{'setting':18}{'beside':>14}{'training':>12}{'inference':>12}   images/s")  # noqa: T201
    for busy in (False, True):
        spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            for name, setting in SETTINGS.items():
                speeds = [measure(setting) for _ in range(REPEATS)]
                training, inference = (median(values) for values in zip(*speeds, strict=True))
                beside = "busy process" if busy else "nothing"
                print(f"{name:18}{beside:>14}{training:12.1f}{inference:12.1f}", flush=True)  # noqa: T201
        finally:
            if spinner is not None:
                spinner.kill()
                spinner.wait()


if __name__ == "__main__":
    main()
