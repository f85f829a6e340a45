"""Option types that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as json on stdout.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Worker processes; 0 means one per CPU core.")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="BCNET_DATA", help="Folder that the recipe's data paths are relative to."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
