"""Runs commands of `bcnet` in forked processes, so that torch is imported once, and breaks them at chosen moments.

Its arguments are modules to import beforehand, besides those of the commands.

A moment is an *event*: a file below the watched folder is about to be opened for writing, made, renamed or removed.
What a process has buffered in between is nowhere on the disk, so these are all the states that a killed one can leave.

A request is a line of json, and so is its answer. {"argv": [...], "cwd": FOLDER, "environment": {...}, "out": FILE,
"err": FILE} is a command as a shell would start it, answered by the process id. So is {"argv": [...], "watch": FOLDER,
"fault": [NAME, EVENT, NUMBER], "log": FILE}, which is broken. {"pid": ...} is answered by the exit code, negative for a
signal, {"stopped": ...} by 1 when the process stands still.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}
USED = (
    "bcnet_cli.app", "bcnet_core.annotations.build", "bcnet_core.backends", "bcnet_core.engine.launch",
    "bcnet_core.engine.loop",
    "bcnet_core.evaluation.predict", "bcnet_core.evaluation.report", "bcnet_core.evaluation.validation",
    "bcnet_core.weights.importing", "bcnet_core.weights.export", "bcnet_core.annotations.split",
    "bcnet_core.synth.sets", "bcnet_core.visualization.gallery", "bcnet_core.visualization.video", "matplotlib.figure",
    "faster_coco_eval",
)  # fmt: skip


class Saboteur:
    """Counts the events below a folder, and does what it is told at one of them.

    Args:
        watch: the folder.
        fault: what is done: "kill", "stop" (until SIGCONT) or "signal" at that event; "signals" at it and at all that
            follow; "full" from it on, as a disk would be; "limit" to the size of files, by the system.
        at: the event, from 0.
        number: of the signal, or bytes.
    """

    def __init__(self, watch: str, fault: str, at: int, number: int) -> None:
        self.watch, self.fault, self.at, self.number = watch, fault, at, number
        self.events: list[str] = []
        self.on = True
        if fault == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or (event not in CHANGES and event != "open"):
            return
        if event == "open" and not arguments[2] & WRITING:
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if not os.path.abspath(path).startswith(self.watch):  # noqa: PTH100  (of many calls)
            return
        if event in {"os.remove", "os.rmdir"} and not os.path.lexists(path):
            return
        makes_new = event in {"os.mkdir", "os.link"} or (event == "open" and arguments[2] & os.O_CREAT)
        self.events.append(f"{event}{' new' * bool(makes_new)} {path}")
        here = len(self.events) - 1
        if self.fault == "full" and here >= self.at and makes_new:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if (here == self.at and self.fault in {"kill", "stop", "signal"}) or (
            here >= self.at and self.fault == "signals"
        ):
            numbers = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
            os.kill(os.getpid(), numbers.get(self.fault, self.number))


def start(request: dict[str, Any]) -> None:
    """Be the forked process, which ends as any other does."""
    files = (os.devnull, os.O_RDONLY), *((request[name], os.O_WRONLY | os.O_CREAT) for name in ("out", "err"))
    for descriptor, (file, mode) in enumerate(files):
        os.dup2(os.open(file, mode), descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["bcnet", *request["argv"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    importlib.import_module("bcnet_cli.app").main()


def break_down(request: dict[str, Any], out: int) -> None:
    """Be the forked process, which tells what it has to tell through a pipe: a limit of file sizes would cut a log."""
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    saboteur = Saboteur(request["watch"], *request["fault"])
    sys.addaudithook(saboteur)
    sys.argv = ["bcnet", *request["argv"]]
    code = 0
    try:
        importlib.import_module("bcnet_cli.app").main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 70
    saboteur.on = False
    sys.stdout.flush()
    sys.stderr.flush()
    if request["fault"][0] == "none":
        Path(request["log"] + ".events").write_text("\n".join(saboteur.events), encoding="utf-8")
    os._exit(code)


def serve() -> None:
    """Answer requests until there are no more."""
    for name in (*USED, *sys.argv[1:]):
        importlib.import_module(name)
    told: dict[int, tuple[str, int]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "stopped" in request:
            answer = int(os.WIFSTOPPED(os.waitpid(request["stopped"], os.WUNTRACED)[1]))
        elif "pid" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])
            if request["pid"] in told:
                log, reader = told.pop(request["pid"])
                with os.fdopen(reader, "rb") as pipe:
                    Path(log).write_bytes(pipe.read())
        elif "fault" not in request:
            answer = os.fork()
            if not answer:
                start(request)
                return
        else:
            reader, writer = os.pipe()
            answer = os.fork()
            if not answer:
                break_down(request, writer)
            os.close(writer)
            told[answer] = (request["log"], reader)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
