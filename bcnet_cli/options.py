"""Options, and checks of options, that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_core.config.choices import Precision

if TYPE_CHECKING:
    from bcnet_core.evaluation.tiles import Tiling

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as json on stdout.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Worker processes; 0 means one per CPU core.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="BCNET_DATA", help="Folder that the recipe's data paths are relative to."),
]
ImageSize = Annotated[str, typer.Option("--size", metavar="HxW", help="Height and width of the images, pixels.")]
COMPUTE = "Processes and devices"
"""Help panel of the options for processes and devices."""
LARGE = "Large images"
"""Help panel of the options for tiles."""
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus", min=1, help="Processes: one per GPU, or gloo processes on the CPU.", rich_help_panel=COMPUTE
    ),
]
BackendName = Annotated[str, typer.Option("--backend", help="torchvision or detectron2.", rich_help_panel=COMPUTE)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=COMPUTE)]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        metavar="SIDE",
        show_default=False,
        help="Predict images larger than this, in pixels, in square tiles of this side, and join what tiles cut.",
        rich_help_panel=LARGE,
    ),
]
Overlap = Annotated[
    float,
    typer.Option(
        "--overlap",
        metavar="SHARE",
        help="Share of its side by which a tile overlaps the next, from 0.05 to 0.75.",
        rich_help_panel=LARGE,
    ),
]
USUAL_OVERLAP = 0.2
"""Overlap of tiles if none is asked for."""
Batch = Annotated[
    int,
    typer.Option(
        "--batch",
        min=1,
        help="Most images of one size that go through the network together.",
        rich_help_panel=COMPUTE,
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Precision of the network's arithmetic.", rich_help_panel=COMPUTE)
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the network first, which takes a minute or more.", rich_help_panel=COMPUTE),
]

TRAIN_ON_THESE_CATEGORIES = "or train on these: bcnet train RECIPE data.train.annotations=FILE"
"""Last hint of an error about data that has other categories than a run."""


def reserve(context: typer.Context, *paths: Path, check: Callable[[Path], None], dry_run: bool) -> None:
    """Check outputs and keep other processes from writing them until the command ends; a dry run only checks."""
    from bcnet_core.files.outputs import reserve_outputs

    if not dry_run:
        context.with_resource(reserve_outputs(*paths, check=check))
        return
    for path in paths:
        check(path)


def reserve_files(
    context: typer.Context, *paths: Path, inputs: Sequence[Path] = (), overwrite: bool, dry_run: bool
) -> None:
    """Call `reserve` for distinct files that are not inputs and, unless `overwrite`, do not exist yet."""
    from bcnet_core.files.outputs import check_distinct, check_not_input, check_output_file

    check_distinct(*paths)
    for path in paths:
        check_not_input(path, *inputs)
    reserve(context, *paths, check=partial(check_output_file, overwrite=overwrite), dry_run=dry_run)


def check_unused_options(context: typer.Context, *names: str, why: str) -> None:
    """Reject options that were typed but have no effect together with the others.

    `names` are parameters of the command's function, `why` is the end of the sentence.
    """
    from bcnet_core.errors import usage_error

    typed = [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if (source := context.get_parameter_source(parameter.name or "")) is not None
        and source.name == "COMMANDLINE"
        and parameter.name in names
    ]
    if typed:
        verb = "has" if len(typed) == 1 else "have"
        raise usage_error(f"{' and '.join(typed)} {verb} no meaning {why}", f"leave out {' '.join(typed)}")


def read_tiling(context: typer.Context, tile: int | None, overlap: float) -> Tiling | None:
    """Check the tiles of `--tile` and `--overlap`; None without tiles."""
    from bcnet_core.evaluation.tiles import check_tiling

    if tile is None:
        check_unused_options(context, "overlap", why="without --tile")
        return None
    return check_tiling(tile, overlap)


def backend_option(backend: str) -> str:
    """Return the option that makes a suggested command use this backend; empty for the default one."""
    return "" if backend == "torchvision" else f" --backend {backend}"


def parse_size(text: str) -> tuple[int, int]:
    """Parse the height and width of `--size`."""
    from bcnet_core.errors import usage_error

    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise usage_error(f"`{text}` is not an image size", "give height and width in pixels: --size 800x1333")
    return int(parts[0]), int(parts[1])


def parse_range(text: str, option: str, *, whole: bool = False) -> tuple[float, float]:
    """Parse the two numbers of an option like `--occlusion 0.2..0.6`, which may have to be `whole`."""
    from bcnet_core.errors import usage_error

    least, dots, most = text.partition("..")
    try:
        found = float(least), float(most if dots else "")
    except ValueError:
        raise usage_error(f"`{text}` is not a range", f"give two numbers with two dots: {option} 1..2") from None
    if whole and not all(number.is_integer() for number in found):
        raise usage_error(f"`{text}` is not a range of two whole numbers", f"for example {option} 3..6")
    return found
