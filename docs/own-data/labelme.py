"""Turn a folder of photos and labelme files into a data root: `python labelme.py LABELME_FOLDER DATA_ROOT`.

Needs supervision, in an environment of its own. Shapes of one object that have the same label and the same group
become one instance. Of five photos one is for validation. Photos without a labelme file are left out.
"""

import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import supervision


def stop(why: str, code: int = 3) -> NoReturn:
    """Say why, and end with the exit code: 2 is a wrong command line, 3 are wrong files."""
    sys.stderr.write(f"{why}\n")
    sys.exit(code)


def read(source: str) -> supervision.DetectionDataset:
    """The photos of a folder that have a labelme file, two or more, and what these files say."""
    if not Path(source).is_dir():
        stop(f"{source} is not a folder")
    try:
        everything = supervision.DetectionDataset.from_labelme(source, source, force_masks=True)
    except (OSError, ValueError) as error:
        stop(f"the labelme files in {source} cannot be read: {error}")
    if missing := [path for path in everything.image_paths if not Path(path).is_file()]:
        stop(f"{missing[0]} is missing, which a labelme file names; {len(missing)} photos are missing in all")
    if len(everything.image_paths) < 2:
        stop(f"{source} holds {len(everything.image_paths)} labelme files: training and validation need one each")
    if not everything.classes:
        stop(f"the labelme files in {source} hold no polygon and no rectangle")
    return everything


def main(source: str, root: str) -> None:
    """Write photos and COCO files under the names that the recipes have."""
    images = [Path(root, name) for name in ("train2017", "val2017")]
    jsons = [Path(root, "annotations", f"instances_{folder.name}.json") for folder in images]
    if there := [path for path in (*images, *jsons) if path.exists()]:
        stop(f"{there[0]} exists already: remove it or name another data root")
    everything = read(source)
    for instances in everything.annotations.values():  # else what is in pieces becomes a crowd, which trains nothing
        instances.data["iscrowd"] = np.zeros(len(instances), int)
    for folder, json, part in zip(images, jsons, everything.split(0.8, random_state=0), strict=True):
        part.as_coco(str(folder), str(json))
        count = sum(map(len, part.annotations.values()))
        sys.stdout.write(f"{json}: {len(part)} photos, {count} instances, {len(everything.classes)} classes\n")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 3 else stop(f"{__doc__}", code=2)
