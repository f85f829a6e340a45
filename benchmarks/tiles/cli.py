"""`python -m benchmarks tiles`: tiles joined by masks against SAHI and the photo as a whole, on mosaics."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import DataRoot, Device, Json, reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.errors import usage_error

REPORT_FILES = ("report.md", "report.json")
INSTALL = "pip install sahi"


def tiles(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run directory, or a checkpoint.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the mosaics and the report.")],
    tile: Annotated[int, typer.Option("--tile", min=64, help="Side of a tile, pixels.")],
    overlap: Annotated[float, typer.Option("--overlap", min=0, max=0.9, help="Share that the next tile sees.")] = 0.2,
    grid: Annotated[int, typer.Option("--grid", min=2, help="Cells of a mosaic in each direction.")] = 4,
    large: Annotated[int, typer.Option("--large", min=1, help="Cells of its largest photo in each direction.")] = 2,
    data_root: DataRoot = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare tiles joined by masks with SAHI's merging of the same tiles, on mosaics of a run's validation photos.

    All methods get the same detections of the same tiles, and of the mosaic as a whole. SAHI merges by its defaults
    (greedy merging, intersection over the smaller box) and by its other settings. The bounds are the mosaic without
    tiles, and each of its photos alone, which no tile cuts. "cut" is the AP of the objects that no tile holds whole.

    **Examples**

    `python -m benchmarks tiles runs/granules -o out/tiles --tile 400`

    `python -m benchmarks tiles runs/worms -o out/tiles --tile 432 --grid 3 --large 1 --json`
    """
    if find_spec("sahi") is None:
        raise usage_error("SAHI, which is compared, is not installed", INSTALL)
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.backends import open_run
    from bcnet_core.data.loaders import read_truth
    from bcnet_core.evaluation.tiles import check_tiling
    from bcnet_core.files.json_files import write_together
    from benchmarks.evidence.report import markdown_table
    from benchmarks.tiles.compare import SCORES, check_same_tiles, measure, methods
    from benchmarks.tiles.mosaic import ANNOTATIONS, IMAGES, plan_places, write_mosaics

    opened, reporter = open_run(run, "torchvision"), ConsoleReporter()
    data = opened.recipe.data
    data = data if data_root is None else data.model_copy(update={"root": data_root})
    coco = read_truth(data, data.val, configurable=False, reporter=reporter)
    files = [output / name for name in REPORT_FILES]
    reserve_files(context, *files, overwrite=True, dry_run=False)
    tiling = check_tiling(tile, overlap)
    cell = tiling.stride + tile // grid  # so the mosaic ends where a tile does, and no cell where one begins
    check_same_tiles(grid * cell, tiling)
    places = plan_places(cell=cell, grid=grid, large=large)
    write_mosaics(coco, data.locate(data.val)[1], output, cell=cell, grid=grid, large=large)
    mosaics = read_coco(output / ANNOTATIONS)
    assert opened.trained is not None  # the backend is torchvision's
    found = measure(
        opened.trained.build(device), mosaics, output / IMAGES, methods(places, tile=tile, overlap=overlap),
        tiling=tiling, reporter=reporter,
    )  # fmt: skip
    rows = [
        [
            title,
            *(f"{100 * one.scores[name]:.1f}" if one.scores[name] >= 0 else "-" for name in SCORES),
            *(f"{seconds:.2f}" for seconds in (one.detecting, one.joining)),
        ]
        for title, one in found.items()
    ]
    text = markdown_table(["", *SCORES.values(), "detecting, s", "joining, s"], rows)
    settings = {"tile": tile, "overlap": overlap, "cell": cell, "grid": grid, "large": large}
    content = {
        **settings,
        "sahi": version("sahi"),
        "mosaics": len(mosaics.images),
        "objects": len(mosaics.annotations),
        "methods": {title: one._asdict() for title, one in found.items()},
    }
    write_together(dict(zip(files, (f"{text}\n".encode(), json.dumps(content, indent=1).encode()), strict=True)))
    console.out.print(json.dumps(content) if as_json else text, soft_wrap=True)
    console.show_outputs(*files)
