"""What a command is going to write: refused where it is there, and kept from other processes until it has ended."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import typer


def claim(context: typer.Context, *paths: Path, refuse: Callable[[Path], None], dry_run: bool) -> None:
    """Refuse outputs that may not be written, and keep other processes from writing them until the command has ended.

    Args:
        context: of the command.
        paths: files or folders.
        refuse: raises if one of them may not be written.
        dry_run: whether nothing is written, so that nothing is kept from anybody.

    Raises:
        BCNetError: see `refuse`; or if another process writes one, or one cannot be written.
    """
    from bcnet_core.files.outputs import claim_together

    for path in paths:
        refuse(path)
    if not dry_run:
        context.with_resource(claim_together(*paths))
        for path in paths:
            refuse(path)  # another process may have written it meanwhile


def claim_files(context: typer.Context, *paths: Path, overwrite: bool, dry_run: bool) -> None:
    """`claim` files that are not there, or may be written over."""
    from bcnet_core.files.outputs import refuse_existing

    claim(context, *paths, refuse=partial(refuse_existing, overwrite=overwrite), dry_run=dry_run)
