"""Turn a folder of photos and labelme files into a data root: `python labelme.py LABELME_FOLDER DATA_ROOT`.

Needs supervision, in an environment of its own. Shapes of one object that have the same label and the same group
become one instance. Of five photos one is for validation.
"""

import sys
from pathlib import Path

import numpy as np
import supervision


def main(source: str, root: str) -> None:
    """Write photos and COCO files under the names that the recipes have."""
    everything = supervision.DetectionDataset.from_labelme(source, source, force_masks=True)
    for instances in everything.annotations.values():  # else what is in pieces becomes a crowd, which trains nothing
        instances.data["iscrowd"] = np.zeros(len(instances), int)
    for name, part in zip(("train2017", "val2017"), everything.split(0.8, random_state=0), strict=True):
        part.as_coco(str(Path(root, name)), str(Path(root, "annotations", f"instances_{name}.json")))


if __name__ == "__main__":
    main(*sys.argv[1:])
