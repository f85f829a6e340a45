"""`bcnet train --backend detectron2 --d2-config FILE`: a user's own config of detectron2."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from bcnet_cli import console
from bcnet_cli.options import backend_option
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.config.choices import Backend
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

    words = ("--backend", "detectron2", "--d2-config", str(config), *overrides)
    command = command_line(*words, gpus=cluster.processes, data_root=data_root, device=device)
    check_run_dir(run_dir, command, "detectron2", resume=resume, init_from=init_from)
    if dry_run:
        console.out.print(backends.merged_config(config, overrides), end="")
        console.err.print(f"would write {run_dir}")
        return
    root = None if data_root is None else data_root.resolve()
    options = RunOptions(run_dir, device, cluster.processes, command, resume, init_from)
    checkpoint = backends.train_config(config, overrides, root, options, cluster, reporter=ConsoleReporter())
    console.show_outputs(checkpoint, then=f"bcnet eval {shlex.quote(str(run_dir))} --backend detectron2")


def check_run_dir(run_dir: Path, command: str, library: Backend, *, resume: bool, init_from: Path | None) -> None:
    """Refuse contradictions, a run directory that is taken, and weights that are not there."""
    from bcnet_core.backends import find_weights
    from bcnet_core.engine.run_dir import refuse_taken
    from bcnet_core.errors import usage_error

    if resume and init_from is not None:
        raise usage_error("--resume and --init-from exclude each other", "--resume goes on; --init-from begins anew")
    if resume:
        find_weights(run_dir, library)
    else:
        refuse_taken(run_dir, command)
    if init_from is not None:
        find_weights(init_from, library)


def command_line(*words: str, gpus: int, data_root: Path | None, device: str, backend: str = "torchvision") -> str:
    """The command line of a run, less its run directory, for the messages that tell how to go on with it."""
    options = ["--data-root", str(data_root)] if data_root else []
    options += ["--gpus", str(gpus)] if gpus > 1 else []
    options += ["--device", device] if device != "auto" else []
    return shlex.join(["bcnet", "train", *words, *options]) + backend_option(backend)
