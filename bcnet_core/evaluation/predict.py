"""Running a detector over images, in this process or in several, to COCO results."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.elastic.multiprocessing.errors import record

from bcnet_core import distributed as dist
from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, category_difference, checksum
from bcnet_core.engine.elastic import Cluster, check_processes, process_of, run_processes, stop_requests
from bcnet_core.errors import BCNetError, ExitCode, data_error
from bcnet_core.evaluation.prediction_folder import PredictionFolder
from bcnet_core.files.images import missing_images, read_listed
from bcnet_core.maps import map_specs
from bcnet_core.masks.paste import paste_rles
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.structures import Detections, Predictor
from bcnet_core.weights.loading import load_detector

READ_AHEAD = 4
"""Images that are read while the detector works on one."""


@dataclass(frozen=True)
class PredictionJob:
    """What to predict, as it travels to every process.

    Attributes:
        checkpoint: of the detector.
        device: "auto", "cpu", "cuda".
        images: entries of a COCO file's `images`.
        image_dir: the folder that their file names are relative to; None of files that the user named.
        folder: where the predictions gather until all are there.
        layers: whether a result also carries the other maps of the head, each under its key in `bcnet_core.maps`.
    """

    checkpoint: Path
    device: str
    images: Sequence[Record]
    image_dir: Path | None
    folder: Path
    layers: bool = False


def predict_to_disk(job: PredictionJob, cluster: Cluster, *, reporter: Reporter) -> PredictionFolder:
    """Predict every image of a job that is not done yet.

    Every image is predicted by itself, so the results do not depend on the number of processes.

    Args:
        job: what to predict.
        cluster: of this machine.
        reporter: must be picklable when there are several processes.

    Returns:
        Where the predictions are.

    Raises:
        BCNetError: if images are missing or cannot be read, there are not enough GPUs, or it was interrupted; the same
            job goes on where it was.
    """
    check_processes(cluster, job.device)
    refuse_missing(job.images, job.image_dir)
    folder = PredictionFolder(job.folder)
    names = json.dumps([[image["id"], image["file_name"]] for image in job.images])
    images = {"folder": str((job.image_dir or Path()).resolve()), "sha256": hashlib.sha256(names.encode()).hexdigest()}
    done = folder.open({"checkpoint": checksum(job.checkpoint), "layers": job.layers, "images": images})
    left = [image for image in job.images if image["id"] not in done]
    if len(left) < len(job.images):
        reporter.info(f"{len(job.images) - len(left):,} of {len(job.images):,} images were predicted before")
    try:
        if left and cluster.in_place:
            _predict_share(job, left, reporter)
        elif left:
            arguments = (job, left, cluster, reporter, torch.get_num_threads())
            stopped = partial(_stopped, job)
            run_processes(_worker, *arguments, cluster=cluster, name="predict", interrupted=stopped)
    except BCNetError as error:
        if error.exit_code != ExitCode.INTERRUPTED and not folder.done():
            folder.remove()
        raise
    return folder


@record
def _worker(job: PredictionJob, images: Sequence[Record], cluster: Cluster, reporter: Reporter, threads: int) -> str:
    """Predict as one of several processes, on a CPU with as many threads as one alone: results depend on them."""
    with process_of(cluster, job.device):
        torch.set_num_threads(threads)
        teller = reporter if dist.rank() == 0 else SilentReporter()
        _predict_share(job, images[dist.rank() :: dist.world_size()], teller)
        dist.barrier()
    return ""


def _predict_share(job: PredictionJob, images: Sequence[Record], reporter: Reporter) -> None:
    """Predict the images of this process; the process of rank 0 tells of its own."""
    detector = load_detector(job.checkpoint, device=job.device)
    with PredictionFolder(job.folder).writer() as writer, stop_requests() as stop:
        for image, results in predictions(
            detector, images, job.image_dir, reporter=reporter, layers=job.layers, stopping=lambda: bool(stop)
        ):
            writer.add(image["id"], results)
    if stop:
        raise _stopped(job)


def _stopped(job: PredictionJob) -> BCNetError:
    done = len(PredictionFolder(job.folder).done())
    return BCNetError(
        f"interrupted; {done:,} of {len(job.images):,} images are predicted and kept in `{job.folder}`",
        "the same command goes on from there",
        exit_code=ExitCode.INTERRUPTED,
    )


def predict_images(
    detector: Predictor,
    images: Sequence[Record],
    image_dir: Path,
    *,
    reporter: Reporter,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """The results of all images in one list; see `predictions`.

    Raises:
        BCNetError: if images are missing (said before the first is read) or cannot be read.
    """
    refuse_missing(images, image_dir)
    found = predictions(detector, images, image_dir, reporter=reporter, stopping=stopping)
    return [result for _, results in found for result in results]


def predictions(
    detector: Predictor,
    images: Sequence[Record],
    image_dir: Path | None,
    *,
    reporter: Reporter,
    layers: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Record, list[Record]]]:
    """Detect in every image, one at a time, while the next ones are read.

    Args:
        detector: in evaluation mode.
        images: entries of a COCO file's `images`.
        image_dir: the folder that their file names are relative to; None of files that the user named.
        reporter: told of the progress.
        layers: whether a result also carries the other maps of the head.
        stopping: asked before each image whether to leave out the rest.

    Yields:
        The image and its COCO results: `image_id`, `category_id`, `bbox` (xywh, pixels), `score`, `segmentation`
        (compressed RLE).

    Raises:
        BCNetError: if an image cannot be read.
    """
    with reporter.progress("predicting", len(images)) as progress:
        for image, pixels in _read_ahead(images, image_dir):
            if stopping():
                break
            (found,) = detector.predict([pixels])
            yield image, list(to_results(found, image["id"], detector.categories, layers=layers))
            progress.advance()


def _read_ahead(images: Sequence[Record], image_dir: Path | None) -> Iterator[tuple[Record, NDArray[np.uint8]]]:
    """The images in their order, the next ones read by another thread."""
    read = partial(read_listed, image_dir)
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = iter(images)
        waiting: deque[tuple[Record, Future[NDArray[np.uint8]]]] = deque(
            (image, pool.submit(read, image)) for image in islice(coming, READ_AHEAD)
        )
        try:
            while waiting:
                image, pixels = waiting.popleft()
                waiting.extend((following, pool.submit(read, following)) for following in islice(coming, 1))
                yield image, pixels.result()
        finally:
            pool.shutdown(cancel_futures=True)


def refuse_missing(images: Sequence[Record], image_dir: Path | None) -> None:
    """Refuse a folder in which images are missing, or which they are not in.

    Raises:
        BCNetError: with their number and the first.
    """
    missing = missing_images(image_dir, (image["file_name"] for image in images))
    if missing:
        raise data_error(
            f"{len(missing):,} of {len(images):,} images are not in `{image_dir or '.'}`, the first is `{missing[0]}`",
            "is the folder of images right? (--data-root)",
        )


def check_categories(categories: Sequence[Record], coco: CocoFile, *ways_out: str) -> None:
    """Check that data has the categories that a detector was trained on.

    Args:
        categories: the detector's, in label order.
        coco: the data.
        ways_out: hints for the error, a line each.

    Raises:
        BCNetError: naming what differs on both sides.
    """
    difference = category_difference(categories, coco.categories)
    if difference is not None:
        raise data_error(
            f"the detector knows {len(categories)} categories, `{coco.path}` has {len(coco.categories)}, and they "
            "differ",
            f"only in the detector: {difference.only_first[:5] or 'none'}",
            f"only in the file:     {difference.only_second[:5] or 'none'}",
            *ways_out,
        )


def to_results(
    found: Detections, image_id: int, categories: Sequence[Record], *, layers: bool = False
) -> Iterator[Record]:
    """One COCO result a detection, best first.

    Args:
        found: in one image.
        image_id: of the image.
        categories: in label order.
        layers: whether a result also carries the other maps of the head, each under its key in `bcnet_core.maps`.
    """
    boxes = found.boxes.cpu()
    sizes = boxes[:, 2:] - boxes[:, :2]
    rles = {
        spec.key: paste_rles(found.maps[spec.name], found.boxes, *found.image_size)
        for spec in map_specs(found.maps if layers else ["occludee_mask"])
    }
    for index, (score, label) in enumerate(zip(found.scores.tolist(), found.labels.tolist(), strict=True)):
        yield {
            "image_id": image_id,
            "category_id": categories[label]["id"],
            "bbox": [round(value, 3) for value in (*boxes[index, :2].tolist(), *sizes[index].tolist())],
            "score": score,
            **{key: masks.to_json(part[index]) for key, part in rles.items()},
        }
