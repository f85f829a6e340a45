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
"""Of the scenes in pixels."""
SEED = 0
"""Of the scenes: every trial sees the same."""
MIN_AREA = 256
"""Pixels of an object that is cut out; scenes this small make it smaller still."""
BANK = 5000


@dataclass(frozen=True)
class EvidencePlan:
    """How large the sets are, and how long the reference is trained.

    Attributes:
        scenes: to train on.
        held_out: to measure on.
        steps: of the optimiser.
        source: a COCO file to paste objects of, None for no pasted set.
        images: the folder of its images.

    Raises:
        BCNetError: if only one of `source` and `images` is given.
    """

    scenes: int = 2000
    held_out: int = 400
    steps: int = 1500
    source: Path | None = None
    images: Path | None = None

    def __post_init__(self) -> None:
        if (self.source is None) != (self.images is None):
            given, missing = ("images", "a file") if self.source is None else ("a file", "images")
            raise usage_error(
                f"the pasted set has {given} to cut from, but no {missing}", "give both: --coco FILE --images DIR"
            )


class DataSet(NamedTuple):
    """A set of scenes.

    Attributes:
        root: its data root.
        train: the name of its training split.
        held_out: the name of the split that is measured on.
    """

    root: Path
    train: str
    held_out: str


def data_sets(folder: Path, plan: EvidencePlan) -> dict[str, DataSet]:
    """Where the sets of a plan are, or will be."""
    names = {"easy": SHAPES_SPLITS, "hard": SHAPES_SPLITS, **({"pasted": PASTE_SPLITS} if plan.source else {})}
    return {name: DataSet(folder / "data" / name, *splits) for name, splits in names.items()}


def check_folder(folder: Path, plan: EvidencePlan) -> Record:
    """Refuse a folder that holds what another plan gave; changes nothing.

    A pasted set may be added to a folder that has none, and left out of one that has.

    Returns:
        What belongs into the folder's plan file.

    Raises:
        BCNetError: if the folder was begun with other sizes, steps or another source, or cannot be one.
    """
    check_output_folder(folder, overwrite=True)
    source = None if plan.source is None else {"file": plan.source.name, "sha256": checksum(plan.source)}
    wanted: Record = {"scenes": plan.scenes, "held_out": plan.held_out, "steps": plan.steps, "source": source}
    path = folder / PLAN_FILE
    if not path.exists():
        if any((folder / name).exists() for name in ("data", "runs", "results")):
            raise usage_error(f"`{folder}` holds trials, but not by what plan: it has no {PLAN_FILE}", *_ways_out())
        return wanted
    found = read_json(path)
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        raise data_error(f"`{path}` is not the plan of `python -m benchmarks evidence`", *_ways_out())
    either = found["source"] is None or source is None
    differ = [key for key in wanted if found[key] != wanted[key] and not (key == "source" and either)]
    if differ:
        raise usage_error(
            f"`{folder}` was begun with another plan",
            *(f"{key.replace('_', '-')} was {_short(found[key])}, now {_short(wanted[key])}" for key in differ),
            *_ways_out(),
        )
    return {**wanted, "source": source or found["source"]}


def _ways_out() -> tuple[str, ...]:
    return ("choose another folder: -o", "or remove this one, with everything that was measured in it")


def _short(value: object) -> str:
    """A value of a plan, for a person."""
    return f"{value['file']} ({value['sha256'][:12]})" if isinstance(value, dict) else f"{value:,}"


def prepare_data(folder: Path, plan: EvidencePlan, *, workers: int, reporter: Reporter) -> dict[str, DataSet]:
    """Write down the plan, and make the sets that are not there yet.

    Args:
        folder: of the trials.
        plan: what is made.
        workers: processes that compose scenes, 0 for one per CPU core; the scenes do not depend on it.
        reporter: told of the progress.

    Raises:
        BCNetError: if the folder was begun with another plan, or a set cannot be made.
    """
    content = check_folder(folder, plan)
    write_json(folder / PLAN_FILE, content)
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
