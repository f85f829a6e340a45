"""Predictions kept on disk, part by part, so that a second start resumes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import data_error, usage_error
from bcnet_core.evaluation.parts import Part
from bcnet_core.files.outputs import atomic_file, check_output_file, reserve_outputs, write_errors
from bcnet_core.structures import Instances

HEADER_KEY = "bcnet_predictions"


@dataclass(frozen=True)
class PredictionFile:
    """Predictions of one job as JSON Lines: a header with what they depend on, then a line per part of an image.

    A line is `[image id, part, instances]`. A part that cannot be read has a sentence instead of instances; it is not
    done, so a second start tries it again.

    Processes share the file: each appends a part in one write. An incomplete line, left by a process that was killed,
    only means that its part is predicted again. Memory does not grow with the number of instances.
    """

    path: Path

    def open(self, job: Record) -> set[tuple[int, int]]:
        """Start a job, or resume it if the file is of the same one; predictions of another job are discarded.

        `job` is what the predictions depend on, as JSON data.

        Returns:
            The image ids and numbers of the parts that are done.

        Raises:
            BCNetError: if the file cannot be written, or is something else.
        """
        header = json.dumps({HEADER_KEY: job}).encode() + b"\n"
        check = partial(check_output_file, overwrite=True)
        with reserve_outputs(self.path, check=check):  # even to resume: a killed process may have left its lock
            first = b""
            if self.path.exists():
                with self.path.open("rb") as lines:
                    first = lines.readline()
                if HEADER_KEY.encode() not in first:
                    raise usage_error(
                        f"predictions would be kept in `{self.path}`, which is something else", "choose another output"
                    )
            if first != header:
                with atomic_file(self.path) as temporary:
                    temporary.write_bytes(header)
        return set(self.done())

    def done(self) -> dict[tuple[int, int], int]:
        """Return where the line of each part that is done begins, by image id and number of the part."""
        return {(image_id, part): start for start, image_id, part, found in self._lines() if isinstance(found, dict)}

    def unreadable(self) -> dict[int, str]:
        """Return the images that could not be read, by image id, and why."""
        faults: dict[tuple[int, int], str] = {}
        for _, image_id, part, found in self._lines():
            if isinstance(found, str):
                faults[image_id, part] = found
            else:
                faults.pop((image_id, part), None)  # the image was replaced since
        return {image_id: reason for (image_id, _), reason in faults.items()}

    def _lines(self) -> Iterator[tuple[int, int, int, Any]]:
        with self.path.open("rb") as lines:
            start = len(lines.readline())
            for line in lines:
                content = None
                with suppress(ValueError):  # blank or incomplete
                    content = json.loads(line)
                if content is not None:
                    yield (start, *content)
                start += len(line)

    def append(self, part: Part, found: Instances) -> None:
        """Append the instances of a part."""
        self._append(part, found.to_json())

    def append_unreadable(self, part: Part, reason: str) -> None:
        """Append a part that cannot be read."""
        self._append(part, reason)

    def _append(self, part: Part, content: Record | str) -> None:
        text = json.dumps([part.image["id"], part.number, content], separators=(",", ":"))
        line = f"\n{text}\n".encode()  # the first newline ends a line that was cut off
        with write_errors(self.path), self.path.open("ab", buffering=0) as out:
            while line:
                line = line[out.write(line) :]

    def read(self, parts: Iterable[Part]) -> Iterator[Instances]:
        """Yield the instances of every part, in this order.

        Raises:
            BCNetError: if a part is not done.
        """
        offsets = self.done()
        with self.path.open("rb") as lines:
            for part in parts:
                key = part.image["id"], part.number
                if key not in offsets:
                    raise data_error(f"image {key[0]} was not predicted", "run the same command again")
                lines.seek(offsets[key])
                _, _, found = json.loads(lines.readline())
                yield Instances.from_json(found)
