"""`bcnet doctor`: what this machine has, and what would fail on it."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DataRoot, Json

COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red"}


def doctor(*, data_root: DataRoot = None, as_json: Json = False) -> None:
    """Look at versions, GPUs, memory, the data root and optional packages; exit with 1 if training cannot work.

    **Examples**

    `bcnet doctor`

    `bcnet doctor --data-root coco --json`
    """
    from bcnet_core.engine.doctor import examine
    from bcnet_core.errors import ExitCode

    checks = examine(data_root)
    if as_json:
        console.out.print(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            state = (check.state.ljust(8), COLOURS[check.state])
            console.out.print(Text.assemble(state, (check.name.ljust(width + 2), "bold"), check.text))
            if check.hint is not None:
                console.out.print(Text(" " * (8 + width + 2) + check.hint))
    if any(check.state == "error" for check in checks):
        raise typer.Exit(ExitCode.FAILED)
