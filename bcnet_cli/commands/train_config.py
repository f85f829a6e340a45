"""`bcnet train --backend detectron2 --d2-config FILE`: a user's own config of detectron2."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from bcnet_cli import console
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.engine.elastic import Cluster


def train_config(
    config: Path,
    overrides: list[str],
    cluster: Cluster,
    *,
    run_dir: Path,
    data_root: Path | None,
    device: str,
    resume: bool,
    init_from: Path | None,
    dry_run: bool,
) -> None:
    """Train it, or say what would be trained."""
    from bcnet_core import backends
    from bcnet_core.engine.job import RunOptions
    from bcnet_core.engine.run_dir import refuse_taken
    from bcnet_core.errors import usage_error

    command = _command(config, overrides, cluster.processes, data_root, device)
    if resume and init_from is not None:
        raise usage_error("--resume and --init-from exclude each other", "--resume goes on; --init-from begins anew")
    if resume:
        backends.find_weights(run_dir, "detectron2")
    else:
        refuse_taken(run_dir, command)
    if init_from is not None:
        backends.find_weights(init_from, "detectron2")
    if dry_run:
        console.out.print(backends.merged_config(config, overrides), end="")
        console.err.print(f"would write {run_dir}")
        return
    root = None if data_root is None else data_root.resolve()
    options = RunOptions(run_dir, device, cluster.processes, command, resume, init_from)
    checkpoint = backends.train_config(config, overrides, root, options, cluster, reporter=ConsoleReporter())
    console.show_outputs(checkpoint, then=f"bcnet eval {shlex.quote(str(run_dir))} --backend detectron2")


def _command(config: Path, overrides: list[str], processes: int, data_root: Path | None, device: str) -> str:
    """The command line of this run, less its run directory, for the messages that tell how to go on with it."""
    words = ["bcnet", "train", "--backend", "detectron2", "--d2-config", str(config), *overrides]
    words += ["--data-root", str(data_root)] if data_root else []
    words += ["--gpus", str(processes)] if processes > 1 else []
    words += ["--device", device] if device != "auto" else []
    return shlex.join(words)
