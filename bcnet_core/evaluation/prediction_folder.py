"""Predictions on their way to a results file: kept on disk image by image, so that an interruption loses none.

A folder holds what they are of (`job.json`) and one file for every process that wrote some; a line is
`[image id, [result, ...]]`. Memory does not grow with the number of images.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.json_files import read_json, write_json
from bcnet_core.files.outputs import atomic_directory, check_output_folder, reserve_outputs

JOB_FILE = "job.json"
BEGINNING = re.compile(rb"\[(-?\d{1,19}),")
"""Of a line: its image."""


@dataclass(frozen=True)
class PredictionFolder:
    """Where the predictions of one job gather.

    Attributes:
        path: the folder.
    """

    path: Path

    def open(self, job: Record) -> set[int]:
        """Begin a job, or go on with it.

        Args:
            job: what the predictions depend on; json. What another job left there is removed.

        Returns:
            The ids of the images that are done.

        Raises:
            BCNetError: if the folder cannot be written, is damaged, or holds anything else.
        """
        check = partial(check_output_folder, overwrite=True)
        with reserve_outputs(self.path, check=check):  # also if it exists: a process that was killed here left its lock
            if self._job() != job:
                self._begin(job)
        return self.done()

    def _begin(self, job: Record) -> None:
        there = self.path.iterdir() if self.path.is_dir() else ()
        if any(item.name != JOB_FILE and item.suffix != ".jsonl" for item in there):
            raise usage_error(
                f"predictions would gather in `{self.path}`, which holds something else", "choose another output"
            )
        with atomic_directory(self.path) as folder:
            write_json(folder / JOB_FILE, job)

    def done(self) -> set[int]:
        """The ids of the images that are done."""
        return set(self._places())

    def _job(self) -> object:
        try:
            return read_json(self.path / JOB_FILE)
        except BCNetError:
            return None

    @contextmanager
    def writer(self) -> Iterator[PredictionWriter]:
        """Open a new file for one process; it is complete up to the last image that was added."""
        with (self.path / f"{uuid.uuid4().hex}.jsonl").open("ab", buffering=0) as out:
            yield PredictionWriter(out.fileno())

    def read(self, images: Sequence[Record]) -> Iterator[list[Record]]:
        """The results of every image, in this order.

        Raises:
            BCNetError: if an image is not done, or a file is damaged.
        """
        places, files = self._places(), {}
        try:
            for image in images:
                if image["id"] not in places:
                    raise data_error(f"image {image['id']} was not predicted", "give the same command again")
                path, start = places[image["id"]]
                if path not in files:
                    files[path] = path.open("rb")
                files[path].seek(start)
                yield _results_of(files[path].readline(), path)
        finally:
            for file in files.values():
                file.close()

    def remove(self) -> None:
        """Remove the folder, when its predictions are where they belong."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _places(self) -> dict[int, tuple[Path, int]]:
        """The file and the offset of every image that is done; a line that a killed process cut off is none."""
        places = {}
        for path in sorted(self.path.glob("*.jsonl")):
            with path.open("rb") as lines:
                start = 0
                for line in lines:
                    if line.endswith(b"\n"):
                        head = BEGINNING.match(line)
                        if head is None:
                            raise _damaged(path)
                        places[int(head[1])] = (path, start)
                    start += len(line)
        return places


def _results_of(line: bytes, path: Path) -> list[Record]:
    try:
        _, results = json.loads(line, parse_constant=_no_number)
    except (ValueError, TypeError):
        raise _damaged(path) from None
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise _damaged(path)
    return results


def _no_number(text: str) -> None:
    raise ValueError(text)


def _damaged(path: Path) -> BCNetError:
    return data_error(f"`{path}` is damaged", f"remove `{path.parent}`: its images are predicted again")


@dataclass(frozen=True)
class PredictionWriter:
    """Adds the images of one process.

    Attributes:
        descriptor: of the open file.
    """

    descriptor: int

    def add(self, image_id: int, results: Sequence[Record]) -> None:
        """Add an image that is done, in one write."""
        line = json.dumps([image_id, list(results)], separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self.descriptor, line) :]
