"""`bcnet doctor`: what this machine has, what would fail on it, and how fast it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DataRoot, Json

COLORS = {"ok": "green", "warning": "yellow", "error": "bold red"}
Speed = Annotated[bool, typer.Option("--speed", help="Only measure images/s of training and inference (20 s).")]


def doctor(*, data_root: DataRoot = None, speed: Speed = False, as_json: Json = False) -> None:
    """Check versions, GPUs, memory, the data root and optional packages; exit with 1 if training cannot work.

    **Examples**

    `bcnet doctor --data-root coco --json`

    `bcnet doctor --speed`
    """
    from bcnet_core.engine.doctor import examine, measure_speed
    from bcnet_core.errors import ExitCode

    checks = measure_speed() if speed else examine(data_root)
    if as_json:
        console.out.print(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            state = (check.state.ljust(8), COLORS[check.state])
            console.out.print(Text.assemble(state, (check.name.ljust(width + 2), "bold"), check.text))
            if check.hint is not None:
                console.out.print(Text(" " * (8 + width + 2) + check.hint))
    if any(check.state == "error" for check in checks):
        raise typer.Exit(ExitCode.FAILED)
