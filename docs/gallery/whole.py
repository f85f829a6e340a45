"""Make docs/gallery/whole.jpg: drawn scenes, what a detector of whole masks finds in them, and the truth beneath.

Run: `python docs/gallery/whole.py RUN`, with a run or checkpoint that was trained on scenes of the same kind.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

BCNET = [sys.executable, "-c", "from bcnet_cli.app import main; main()"]
SCENES, SIDE = 4, 300
"""Number of scenes, the most occluded of 40, and side of a panel in pixels."""
DRAWN = ("--size", "128", "--seed", "27")


def main(model: str) -> None:
    """Compose scenes, draw them with `bcnet viz --order`, and put their panels together, a scene in a column."""
    with tempfile.TemporaryDirectory() as name:
        root, folder = Path(name) / "scenes", Path(name) / "viz"
        subprocess.run(
            [*BCNET, "synth", "shapes", "-o", root, "--images", "1", "--val-images", "40", *DRAWN], check=True
        )
        truth = root / "annotations/instances_val.json"
        source = [model, "--gt", truth, "--device", "cpu"]
        options = ["--most-occluded", str(SCENES), "--order", "--rois", "0", "--format", "png"]
        subprocess.run([*BCNET, "viz", *source, "--images", root / "val", "-o", folder, *options], check=True)
        rows = []
        for key in ("image", "whole", "true-whole"):
            paths = [next((folder / "pictures").glob(f"{n:04d}-*[0-9]-{key}.png")) for n in range(1, SCENES + 1)]
            panels = [Image.open(path).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for path in paths]
            rows.append(np.concatenate([np.asarray(panel) for panel in panels], axis=1))
        picture = Image.fromarray(np.concatenate(rows))
        picture.save(Path(__file__).with_suffix(".jpg"), quality=85)


if __name__ == "__main__":
    main(sys.argv[1])
