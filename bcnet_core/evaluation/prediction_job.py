"""Predict many images in one process or several; finished images are kept on disk, so that a second start resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from bcnet_core import distributed as dist
from bcnet_core.annotations.coco import Record
from bcnet_core.config.runtime import PLAIN, Runtime
from bcnet_core.engine.elastic import Cluster, check_processes, process_of, run_processes, stop_requests
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.evaluation.clips import number_results, tracked
from bcnet_core.evaluation.given_boxes import GivenBoxes, checksum
from bcnet_core.evaluation.parts import Part, joined, parts_of
from bcnet_core.evaluation.predict import predictions, to_results
from bcnet_core.evaluation.prediction_file import PredictionFile
from bcnet_core.evaluation.tiles import Tiling
from bcnet_core.files.images import check_images, image_path
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.structures import Instances, Predictor
from bcnet_core.weights.exported import Exported, open_trained
from bcnet_core.weights.loading import Trained


@dataclass(frozen=True)
class PredictionJob:
    """Images to predict, and the detector that predicts them.

    Attributes:
        checkpoint: the detector's, or an exported file.
        images: entries of a COCO file's `images`.
        image_dir: folder that their file names are relative to; None if the user named the files.
        file: where the predictions are kept until all are done.
        layers: whether a result also has the other maps of the head, each under its key in `bcnet_core.maps`.
        disjoint: whether the visible masks of an image share no pixel.
        score: smallest score of a result.
        detections_per_image: number of detections that the detector keeps; None for its recipe's.
        runtime: how the detector computes.
        passes_over: whether to go on when an image cannot be read; `file` remembers it.
        tiling: division of large images into tiles, whose instances `results` joins; None predicts every image whole.
        boxes: boxes to predict inside, by image id, all of which are kept; None lets the detector find its own.
        videos: the clips that the images are frames of, see `bcnet_core.evaluation.clips`.
        begin: score from which a detection begins a track; None gives results without tracks.
    """

    checkpoint: Path
    device: str
    images: Sequence[Record]
    image_dir: Path | None
    file: PredictionFile
    layers: bool = False
    disjoint: bool = False
    score: float = 0.0
    detections_per_image: int | None = None
    runtime: Runtime = PLAIN
    passes_over: bool = False
    tiling: Tiling | None = None
    boxes: Mapping[int, GivenBoxes] | None = None
    videos: Sequence[Record] = ()
    begin: float | None = None

    @property
    def parts(self) -> list[Part]:
        """The parts of all images."""
        return parts_of(self.images, self.tiling, self.boxes)

    @property
    def unit(self) -> str:
        """The parts as messages name them."""
        return "images" if self.tiling is None else "parts of images"

    @property
    def needs_order(self) -> bool:
        """Whether the order of instances is used even without whole masks: it decides pixels, or who hides a track."""
        return self.disjoint or self.begin is not None

    def identity(self) -> Record:
        """Return what the predictions depend on, as JSON data."""
        names = json.dumps([[image["id"], image["file_name"]] for image in self.images])
        files = json.dumps([*map(self._state_of, dict.fromkeys(image["file_name"] for image in self.images))])
        stat = self.checkpoint.stat()
        return {
            "checkpoint": [stat.st_size, stat.st_mtime_ns],
            "layers": self.layers,
            "disjoint": self.disjoint,
            "score": self.score,
            "detections_per_image": self.detections_per_image,
            "runtime": list(self.runtime),
            "tiling": self.tiling,
            "tracks": self.begin,
            "folder": str((self.image_dir or Path()).resolve()),
            "images": hashlib.sha256(names.encode()).hexdigest(),
            "files": hashlib.sha256(files.encode()).hexdigest(),
            "boxes": None if self.boxes is None else checksum(self.boxes),
        }

    def _state_of(self, name: str) -> list[int]:
        """Return the size and the time of change of an image or video; nothing if it is not there."""
        try:
            stat = image_path(self.image_dir, name).stat()
        except (OSError, ValueError, BCNetError):
            return []
        return [stat.st_size, stat.st_mtime_ns]

    def results(self, images: Sequence[Record], categories: Sequence[Record]) -> Iterator[list[Record]]:
        """Yield the results of each of these images, when they are predicted; none where there are no boxes.

        Raises:
            BCNetError: if one is not.
        """
        if self.begin is not None:
            found = tracked(images, partial(self._instances, images), begin=self.begin)
            for image, (one, tracks) in zip(images, found, strict=True):
                yield number_results(to_results(one, image["id"], categories, disjoint=self.disjoint), tracks)
            return
        read = self._instances(images)
        for image in images:
            if self.boxes is not None and image["id"] not in self.boxes:
                yield []
                continue
            results = list(to_results(next(read), image["id"], categories, disjoint=self.disjoint))
            yield results if self.boxes is None else self.boxes[image["id"]].keep_in(results)

    def _instances(self, images: Sequence[Record]) -> Iterator[Instances]:
        """Yield the instances of each of these images that has parts."""
        parts = parts_of(images, self.tiling, self.boxes)
        for _, found in joined(zip(parts, self.file.read(parts), strict=True), self.tiling):
            yield found

    def build(self, trained: Trained | Exported | None = None) -> Predictor:
        """Build the detector, from its checkpoint or exported file if the caller has not read that."""
        return (trained or open_trained(self.checkpoint)).build(
            self.device,
            detections_per_image=self.detections_per_image,
            runtime=self.runtime,
            layers=self.layers or self.needs_order,
        )


def predict_to_disk(
    job: PredictionJob, cluster: Cluster, *, reporter: Reporter, build: Callable[[], Predictor] | None = None
) -> None:
    """Predict every image of a job that is not done yet, but those that `file.unreadable` then names.

    Every image is predicted by itself, so the results do not depend on the number of processes. One process takes the
    detector from `build`, if the caller has read its checkpoint; several pickle the reporter.

    Raises:
        BCNetError: if images are missing, one cannot be read and is not passed over, there are not enough GPUs, or it
            was interrupted; the same job then resumes.
    """
    check_processes(cluster, job.device)
    check_images(job.images, job.image_dir)
    done = job.file.open(job.identity())
    parts = job.parts
    left = [part for part in parts if (part.image["id"], part.number) not in done]
    if len(left) < len(parts):
        reporter.info(f"{len(parts) - len(left):,} of {len(parts):,} {job.unit} were predicted before")
    try:
        if left and cluster.in_place:
            detector = build() if build is not None else job.build()
            _predict_share(job, detector, left, reporter)
        elif left:
            run_processes(
                _worker, job, left, cluster, reporter, torch.get_num_threads(),
                cluster=cluster, name="predict", interrupted=partial(_stopped, job),
            )  # fmt: skip
    except BCNetError as error:
        if error.exit_code != ExitCode.INTERRUPTED and not job.file.done():
            job.file.path.unlink()
        raise


@record
def _worker(job: PredictionJob, parts: Sequence[Part], cluster: Cluster, reporter: Reporter, threads: int) -> None:
    """Predict as one of several processes, on a CPU with as many threads as one alone: results depend on them."""
    with process_of(cluster, job.device):
        torch.set_num_threads(threads)
        share = parts[dist.rank() :: dist.world_size()]
        detector = job.build()
        _predict_share(job, detector, share, reporter if dist.rank() == 0 else SilentReporter())
        dist.barrier()


def _predict_share(job: PredictionJob, detector: Predictor, parts: Sequence[Part], reporter: Reporter) -> None:
    """Predict the parts of this process."""

    def remember(part: Part, error: BCNetError) -> None:
        job.file.append_unreadable(part, error.message)

    with stop_requests() as stop:
        for part, found in predictions(
            detector, parts, job.image_dir, reporter=reporter, layers=job.layers,
            order=job.needs_order, score=job.score, batch=job.runtime.batch,
            stopping=lambda: bool(stop), unreadable=remember if job.passes_over else None,
        ):  # fmt: skip
            job.file.append(part, found)
    if stop:
        raise _stopped(job)


def _stopped(job: PredictionJob) -> BCNetError:
    return BCNetError(
        f"interrupted; {len(job.file.done()):,} of {len(job.parts):,} {job.unit} are predicted and kept in "
        f"`{job.file.path}`",
        "the same command resumes there",
        exit_code=ExitCode.INTERRUPTED,
    )
