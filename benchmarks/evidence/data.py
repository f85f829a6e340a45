"""The data of the trials (easy, hard and pasted scenes) and the plan that a folder of trials keeps to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bcnet_core.annotations.coco import Record, checksum, read_coco
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.json_files import read_json, write_json
from bcnet_core.files.outputs import check_output_folder
from bcnet_core.reporting import Reporter
from bcnet_core.synth.composition import PasteRule
from bcnet_core.synth.plan import PASTE_SPLITS, plan_pasted
from bcnet_core.synth.sets import SHAPES_SPLITS, PasteRequest, write_pasted, write_shapes

PLAN_FILE = "plan.json"
SIDE = 128
"""Side of the scenes, pixels."""
SEED = 0
"""Seed of the scenes, which all trials share."""
MIN_AREA = 256
"""Area of the smallest object that is cut out, pixels; small scenes shrink it further."""
BANK = 5000
"""Upper bound of the objects that are cut out."""
WAYS_OUT = ("choose another folder: -o", "or remove this one, with everything that was measured in it")


@dataclass(frozen=True)
class EvidencePlan:
    """Size of the sets, and length of the reference's training.

    Attributes:
        scenes: number of training scenes.
        held_out: number of held-out scenes.
        steps: number of optimizer steps.
        source: COCO file to paste objects of; None for no pasted set.
        images: folder of its images, given if and only if there is a source.
    """

    scenes: int = 2000
    held_out: int = 400
    steps: int = 1500
    source: Path | None = None
    images: Path | None = None

    def __post_init__(self) -> None:
        if (self.source is None) != (self.images is None):
            raise usage_error("a file to cut objects from and its images belong together", "--coco FILE --images DIR")


class DataSet(NamedTuple):
    """A set of scenes: its data root, and the names of its training and held-out splits."""

    root: Path
    train: str
    held_out: str


def data_sets(folder: Path, plan: EvidencePlan) -> dict[str, DataSet]:
    """Return the sets of a plan, which may not exist yet, by name."""
    names = {"easy": SHAPES_SPLITS, "hard": SHAPES_SPLITS, **({"pasted": PASTE_SPLITS} if plan.source else {})}
    return {name: DataSet(folder / "data" / name, *splits) for name, splits in names.items()}


def check_folder(folder: Path, plan: EvidencePlan) -> Record:
    """Check that a folder was not begun with another plan, and return the content of its plan file.

    A pasted set may be added to a folder that has none, or be left out.
    """
    check_output_folder(folder, overwrite=True)
    source = None if plan.source is None else {"file": plan.source.name, "sha256": checksum(plan.source)}
    wanted: Record = {"scenes": plan.scenes, "held_out": plan.held_out, "steps": plan.steps, "source": source}
    path = folder / PLAN_FILE
    if not path.exists():
        if any((folder / name).exists() for name in ("data", "runs", "results")):
            raise usage_error(f"`{folder}` holds trials of an unknown plan: it has no {PLAN_FILE}", *WAYS_OUT)
        return wanted
    found = read_json(path)
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        raise data_error(f"`{path}` is not the plan of `python -m benchmarks evidence`", *WAYS_OUT)
    either = found["source"] is None or source is None
    differ = [key for key in wanted if found[key] != wanted[key] and not (key == "source" and either)]
    if differ:
        raise usage_error(
            f"`{folder}` was begun with another plan",
            *(f"{key.replace('_', '-')} was {_short(found[key])}, now {_short(wanted[key])}" for key in differ),
            *WAYS_OUT,
        )
    return {**wanted, "source": source or found["source"]}


def _short(value: object) -> str:
    """Format a value of a plan."""
    return f"{value['file']} ({value['sha256'][:12]})" if isinstance(value, dict) else f"{value:,}"


def prepare_data(folder: Path, plan: EvidencePlan, *, workers: int, reporter: Reporter) -> dict[str, DataSet]:
    """Write the plan file, and make the sets that do not exist."""
    write_json(folder / PLAN_FILE, check_folder(folder, plan))
    found = data_sets(folder, plan)
    for name, data in found.items():
        if data.root.exists():
            continue
        if name == "pasted" and plan.source is not None and plan.images is not None:
            pasted = plan_pasted(
                read_coco(plan.source), plan.images, min_area=MIN_AREA, most_objects=BANK, seed=SEED, workers=workers
            )
            request = PasteRequest(plan.scenes, plan.held_out, (SIDE, SIDE), SEED)
            write_pasted(data.root, pasted, request, rule=PasteRule(), workers=workers, reporter=reporter)
        else:
            write_shapes(
                data.root, images=plan.scenes, val_images=plan.held_out, size=SIDE, hard=name == "hard", seed=SEED,
                workers=workers, reporter=reporter,
            )  # fmt: skip
    return found
