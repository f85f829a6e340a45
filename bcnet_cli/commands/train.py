"""`bcnet train`: from a recipe to a run directory."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import DataRoot, Device, DryRun
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.engine.job import TrainingJob


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a yaml file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the recipe's.", show_default=False),
    ] = None,
    *,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Processes: one a GPU, or gloo processes on the CPU.")] = 1,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Where the run is written; default runs/RECIPE-TIME.", show_default=False),
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir.")] = False,
    init_from: Annotated[
        Path | None,
        typer.Option("--init-from", help="Begin with the weights of this run or checkpoint.", show_default=False),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Train a bilayer detector.

    **Examples**

    `bcnet train tiny --data-root coco --run-dir runs/tiny`

    `bcnet train tiny --data-root coco --gpus 2 --device cpu solver.steps=100 model.occluder_sampling=nonempty`
    """
    from bcnet_core.config.load import load_recipe
    from bcnet_core.engine.job import TrainingJob

    resolved = load_recipe(recipe, overrides or [], data_root=data_root.resolve() if data_root else None)
    where = run_dir or Path("runs") / f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    job = TrainingJob(
        recipe=resolved,
        run_dir=where,
        device=device,
        command=_command(recipe, overrides or [], gpus=gpus, data_root=data_root, device=device),
        resume=resume,
        init_from=init_from,
    )
    _check(job, gpus)
    if dry_run:
        _describe(job)
        return
    from bcnet_core.engine.launch import launch

    checkpoint = launch(job, processes=gpus, reporter=ConsoleReporter())
    console.show_outputs(checkpoint, then=f"bcnet eval {shlex.quote(str(where))}")


def _check(job: TrainingJob, gpus: int) -> None:
    """Refuse contradictions and a run directory that is taken, before anything is read."""
    from bcnet_core.engine.checkpoint import find_checkpoint
    from bcnet_core.engine.launch import check_processes
    from bcnet_core.engine.run_dir import refuse_taken
    from bcnet_core.errors import usage_error

    if job.resume and job.init_from is not None:
        raise usage_error("--resume and --init-from exclude each other", "--resume goes on; --init-from begins anew")
    check_processes(job, gpus)
    if job.resume:
        find_checkpoint(job.run_dir)
    else:
        refuse_taken(job.run_dir, job.command)
    if job.init_from is not None:
        find_checkpoint(job.init_from)


def _describe(job: TrainingJob) -> None:
    """Print the resolved recipe on stdout and what it would train on, on stderr."""
    from bcnet_core.config.load import dump_recipe
    from bcnet_core.data.loaders import open_training_set
    from bcnet_core.engine.loop import describe

    dataset, coco = open_training_set(job.recipe.data, need_occluders=job.recipe.trains_occluders)
    console.out.print(dump_recipe(job.recipe), end="")
    describe(dataset, job.recipe, ConsoleReporter())
    console.err.print(f"{len(coco.categories)} classes; would write {job.run_dir}")


def _command(recipe: str, overrides: list[str], *, gpus: int, data_root: Path | None, device: str) -> str:
    """The command line of this run, less its run directory, for the messages that tell how to go on with it."""
    words = ["bcnet", "train", recipe, *overrides]
    words += ["--data-root", str(data_root)] if data_root else []
    words += ["--gpus", str(gpus)] if gpus > 1 else []
    words += ["--device", device] if device != "auto" else []
    return shlex.join(words)
