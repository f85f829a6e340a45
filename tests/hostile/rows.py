"""The table of hostile files: content, commands that read them, and expected messages."""

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

IMAGE = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
CATEGORY = {"id": 3, "name": "cat"}
RESULT = {"image_id": 1, "category_id": 3, "bbox": [2, 2, 20, 20], "score": 0.5}
RLE = {"size": [30, 40], "counts": [100, 50, 1050]}
CONTROL = "\x1b[2J\x1b]0;owned\x07\r\u202e\ud800"
"""Clear the terminal, rename its window, return to the start of the line, reverse the text direction, half a letter."""


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    x = 6 * number
    polygon = [x, 2, x + 20, 2, x + 20, 22, x, 22]
    one = {"id": number, "image_id": 1, "category_id": 3, "bbox": [x, 2, 20, 20], "area": 400, "iscrowd": 0}
    return {**one, "segmentation": [polygon], **changes}


def coco(**changes: Any) -> dict[str, Any]:
    return {"images": [IMAGE], "categories": [CATEGORY], "annotations": [annotation(1), annotation(2)], **changes}


Make = Callable[[Path], Path]
"""Write the hostile file into a folder; return its path."""


class Row(NamedTuple):
    """One hostile file.

    Attributes:
        what: description.
        given: commands that read it.
        make: function that writes it.
        code: expected exit code.
        says: expected part of the message.
    """

    what: str
    given: tuple[str, ...]
    make: Make
    code: int
    says: str


def data(name: str, content: bytes | str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return make


def truth(old: str = "", new: str = "", **changes: Any) -> Make:
    """Write a COCO file with part of its text or some of its keys replaced."""
    text = json.dumps(coco(**changes))
    assert old in text
    return data("truth.json", text.replace(old, new))


def mask(segmentation: Any) -> Make:
    return truth(annotations=[annotation(1, segmentation=segmentation), annotation(2)])


def named(name: str) -> Make:
    return truth(images=[{**IMAGE, "file_name": name}])


def result(**changes: Any) -> Make:
    return data("results.json", json.dumps([{**RESULT, **changes}]))


def result_text(old: str, new: str) -> Make:
    return data("results.json", json.dumps([{**RESULT, "segmentation": RLE}]).replace(old, new))


def whitespace(folder: Path) -> Path:
    """Write 10 GB of whitespace in 10 MB: one compressed part repeated."""
    part = gzip.compress(b" " * 2**24, mtime=0)
    (folder / "truth.json.gz").write_bytes(part * 640)
    return folder / "truth.json.gz"


def sparse(name: str, size: int) -> Make:
    """Write a sparse file, which takes no disk space."""

    def make(folder: Path) -> Path:
        with (folder / name).open("wb") as file:
            file.truncate(size)
        return folder / name

    return make


def pipe(name: str) -> Make:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def link(name: str, target: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


class Trap:
    """Create a folder when unpickled without restrictions."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("trap-was-sprung",)


def saved(content: Any, *, is_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def packed_again(
    content: bytes, *, how: int = zipfile.ZIP_STORED, more: dict[str, bytes] | None = None, program: bytes | None = None
) -> bytes:
    """Write a torch zip with other compression, additional parts, or a different pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", how) as new:
        for part in old.infolist():
            is_program = program is not None and part.filename.endswith("/data.pkl")
            new.writestr(part.filename, program if is_program and program is not None else old.read(part))
        for name, extra in (more or {}).items():
            new.writestr(name, extra)
    return buffer.getvalue()


def weights(name: str, content: Callable[[], bytes]) -> Make:
    """Defer building a file until it is needed."""

    def make(folder: Path) -> Path:
        return data(name, content())(folder)

    return make


def small() -> bytes:
    return saved({"model": {"w": torch.zeros(4)}})


STRIDED = b"\x80\x03cnumpy\nndarray\n" + pickle.dumps(((10**8, 5), "S1", b"x" * 8, 0, (0, 0)), 3)[2:-1] + b"R."
"""An array that shows one byte 500,000,000 times, in 100 bytes."""


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" * (3 * min(width, 100) + 1)) * min(height, 100)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*one) for one in chunks) + pixels + chunk(b"IEND", b"")


def picture(content: bytes | Callable[[Path], object], name: str = "odd.png") -> Make:
    """Write a COCO file of one image that is not what it seems."""

    def make(folder: Path) -> Path:
        path = folder / "images" / name
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
        return named(name)(folder)

    return make


def fits() -> bytes:
    """Write a compressed FITS image, which pillow unpacks pixel by pixel."""
    cards = ("SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0")
    return b"".join(card.ljust(80).encode() for card in (*cards, "END")).ljust(2880)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    place = content.find(b"\xff\xc0") + 5
    content[place : place + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


def linked_picture(folder: Path) -> Path:
    """Write a link in the image folder, as in data sets on several disks."""
    Image.new("RGB", (40, 30)).save(folder / "elsewhere.png")
    (folder / "images/sub").mkdir()
    (folder / "images/sub/b.png").symlink_to(folder / "elsewhere.png")
    return named("sub/b.png")(folder)


def secret(name: Callable[[Path], str]) -> Make:
    """Write a COCO file that names an image outside the image folder."""

    def make(folder: Path) -> Path:
        Image.new("RGB", (40, 30), (200, 0, 0)).save(folder / "secret.png")
        return named(name(folder))(folder)

    return make


JSON = ("annotate", "viz", "train --dry-run")
MASK = ("split-occ --measure mask",)
FAULTY = ("annotate", "eval --gt")
HEAVY = ("annotate", "viz")
RESULTS = ("eval --results",)
RECIPE = ("recipes check", "train RECIPE")
WEIGHTS = ("weights import", "predict")
IMPORT = ("weights import",)
PICTURE = ("viz", "train --dry-run --scan-images")
NOT_SMALL = "is too large for a recipe"
NOT_OURS = "is not a bcnet checkpoint"

ROWS = (
    Row("json, 5,000,000 lists deep", HEAVY, data("truth.json", "[" * 5_000_000), 3, "is nested too deeply"),
    Row("json, 1,000,000 objects deep", HEAVY, data("truth.json", '{"a":' * 1_000_000), 3, "is nested too deeply"),
    Row("10 GB of whitespace, packed into 10 MB", HEAVY, whitespace, 3, "unpacks to more than 100 times its size"),
    Row("a json of 10 GB", JSON, sparse("truth.json", 10 * 2**30), 3, "has 10.0 GiB, more than the 4 GiB"),
    Row("a number of 5,000 digits", JSON, truth('"area": 400', '"area": ' + "9" * 5000), 3, "a number that is too"),
    Row("a pipe that nobody writes to", JSON, pipe("truth.json"), 3, "is a pipe or a device"),
    Row("/dev/zero by a link", JSON, link("truth.json", "/dev/zero"), 3, "is a pipe or a device"),
    Row("a link to itself", ("annotate", "split-occ"), link("truth.json", "truth.json"), 2, "Too many levels of"),
    Row("a json that is not UTF-8", JSON, data("truth.json", b'{"a": "caf\xe9"}'), 3, "is not UTF-8 text"),
    Row("an id as text", FAULTY, truth('"id": 1, "image_id"', '"id": "1", "image_id"'), 3, "an integer `id`, has '1'"),
    Row("an id as a fraction", FAULTY, truth('"id": 1, "image_id"', '"id": 1.0, "image_id"'), 3, "`id`, has 1.0"),
    Row("true as an id", FAULTY, truth('"id": 1, "image_id"', '"id": true, "image_id"'), 3, "`id`, has True"),
    Row("an id beyond 64 bits", FAULTY, truth('"id": 1, "image_id"', f'"id": {2**70}, "image_id"'), 3, "integer `id`"),
    Row("the id of an image as text", FAULTY, truth('"image_id": 1', '"image_id": "1"'), 3, "belongs to image '1'"),
    Row("NaN in a box", FAULTY, truth('"bbox": [6, 2', '"bbox": [NaN, 2'), 3, "four finite numbers"),
    Row("1e400 in a box", FAULTY, truth('"bbox": [6, 2', '"bbox": [1e400, 2'), 3, "four finite numbers"),
    Row("a box of 1,000,000 numbers", FAULTY, truth('"bbox": [6,', f'"bbox": [{"1," * 10**6}'), 3, "1, 1, ...]"),
    Row("NaN under a key of your own", ("annotate", "split-occ"), truth("400", "NaN"), 3, "is nan, which json has no"),
    Row("1e400 under a key of your own", ("annotate", "split-occ"), truth("400", "1e400"), 3, "is inf, which json"),
    Row("a negative width", FAULTY, truth('"width": 40', '"width": -40'), 3, "a positive integer `width`"),
    Row("an infinite width", FAULTY, truth('"width": 40', '"width": Infinity'), 3, "a positive integer `width`"),
    Row("100,000,000 pixels of width", FAULTY, truth('"width": 40', '"width": 99999999'), 3, "more than 1,073,741,824"),
    Row("a box of negative size", ("annotate",), truth("[6, 2, 20, 20]", "[6, 2, -20, -20]"), 0, "no pixel in its box"),
    Row("NaN in a polygon", MASK, mask([[float("nan"), 2, 9, 9, 1, 4]]), 3, "is not finite"),
    Row("a polygon that is a bomb", MASK, mask([[0, 0, 10**6, 10**6] * 500]), 3, "outline"),
    Row("an RLE of negative runs", MASK, mask({**RLE, "counts": [-5, 1205]}), 3, "the counts"),
    Row("an RLE of 2 ** 70", MASK, mask({**RLE, "counts": [2**70]}), 3, "do not add up"),
    Row("an RLE of the size NaN", MASK, mask({**RLE, "size": [float("nan"), 40]}), 3, "size [nan"),
    Row("an RLE of damaged text", ("annotate",), mask({**RLE, "counts": "\ud800"}), 0, "that cannot be read: ann"),
    Row("an area as text", ("eval --gt",), truth('"area": 400', '"area": "400"'), 3, "an `area` of '400'"),
    Row("results: a NaN score", ("eval --results", "viz --gt"), result(score=float("nan")), 3, "its score is nan"),
    Row("results: a score of 1e400", RESULTS, result_text("0.5", "1e400"), 3, "its score is inf"),
    Row("results: a score as text", RESULTS, result(score="0.5"), 3, "its score is '0.5'"),
    Row("results: a negative size", RESULTS, result(bbox=[1, 1, -5, 5]), 3, "its `bbox` is [1, 1, -5, 5]"),
    Row("results: an infinite box", RESULTS, result(bbox=[float("inf")] * 4), 3, "its `bbox` is [inf"),
    Row("results: an id that is not listed", RESULTS, result(image_id="9"), 3, "image '9' is not in the ground truth"),
    Row("results: negative runs", RESULTS, result(segmentation={**RLE, "counts": [-1, 1201]}), 3, "the counts"),
    Row("results: escape codes", RESULTS, result(category_id=CONTROL), 3, "is not in the ground truth"),
    Row("results: lists, 100,000 deep", RESULTS, data("results.json", "[" * 100_000), 3, "is nested too deeply"),
    Row("results: a pickle", RESULTS, data("results.json", pickle.dumps([Trap()])), 3, "is not UTF-8 text"),
    Row("a list of objects that runs code", ("eval --objects",), data("o.pkl", pickle.dumps([Trap()])), 3, "mkdir"),
    Row("a list of objects that never ends", ("eval --objects",), link("o.pkl", "/dev/zero"), 3, "pipe or a device"),
    Row("a list of objects that asks for 500 MB", ("eval --objects",), data("o.pkl", STRIDED), 3, "is not a list"),
    Row("a list of objects: a name of 5,000 digits", ("eval --objects",), data(
        "o.pkl", pickle.dumps([[10**5000, "cat", 0, 0, RLE]])), 3, "is not a list of objects"),
    Row("a list of ids of 10 GB", ("split-occ --ids",), sparse("ids.txt", 10**10), 3, "has 9.3 GiB, more than"),
    Row("yaml aliases that multiply", RECIPE, data("x.yaml", "a: &a [x, x]\nb: [*a, *a]\n"), 2, "refers to `*a`"),
    Row("yaml aliases in the base", RECIPE, lambda folder: base(folder, "a: &a [x]\nb: *a\n"), 2, "refers to `*a`"),
    Row("yaml, 90,000 lists deep", RECIPE, data("x.yaml", "a: " + "[" * 90_000), 2, "is nested too deeply"),
    Row("yaml, 49,000 lists deep in a line", RECIPE, data("x.yaml", "- " * 49_000), 2, "is nested too deeply"),
    Row("a yaml of 10 GB", RECIPE, sparse("x.yaml", 10**10), 2, NOT_SMALL),
    Row("2,000 unknown settings", RECIPE[:1], data("x.yaml", "".join(f"k{n}: 1\n" for n in range(2000))), 2, "1,980"),
    Row("a yaml number of 90,000 digits", RECIPE, data("x.yaml", "seed: 0x" + "f" * 90_000), 2, "a whole number"),
    Row("yaml that runs code", RECIPE, data("x.yaml", "seed: !!python/object/apply:os.mkdir [x]"), 2, "a whole number"),
    Row("yaml with escape codes", RECIPE, data("x.yaml", '"\\e[2J\\e]0;owned\\a": 1\n'), 2, "unknown setting"),
    Row("a yaml that is not UTF-8", RECIPE, data("x.yaml", b"seed: caf\xe9"), 2, "is not a text file"),
    Row("yaml: an infinite rate", RECIPE, data("x.yaml", "solver: {lr: 1e400}"), 2, "must be a finite number"),
    Row("yaml: an image of 10**9 pixels a side", RECIPE, data("x.yaml", "data: {max_size: 1000000000}"), 2, "16384"),
    Row("yaml: a seed of 2**64", RECIPE, data("x.yaml", f"seed: {2**64}"), 2, "seed"),
    Row("yaml: a base with a name of 1,500 letters", RECIPE, data("x.yaml", f"base: {'a' * 1500}.yaml"), 2, "too long"),
    Row("a yaml pipe", RECIPE, pipe("x.yaml"), 2, "is a pipe or a device"),
    Row("a pickle that runs code", IMPORT, weights("x.pkl", lambda: pickle.dumps(Trap())), 3, "would call `posix"),
    Row("torch zip that runs code", WEIGHTS, weights("x.pt", lambda: saved({"model": Trap()})), 3, "would call `posix"),
    Row("old torch file that runs code", IMPORT, weights("x.pth", lambda: saved(Trap(), is_zip=False)), 3, "mkdir"),
    Row("zip that leads out of the folder", WEIGHTS, weights("x.pt", lambda: packed_again(
        small(), more={"../../slipped": b"x", "/tmp/slipped": b"x"})), 3, "is not a"),
    Row("zip that unpacks to 1,000 times its size", WEIGHTS, weights("x.pt", lambda: packed_again(
        saved({"w": torch.zeros(2**24)}), how=zipfile.ZIP_DEFLATED)), 3, "its parts unpack to more"),
    Row("weights by a pipe", ("weights import",), pipe("x.pt"), 3, "holds no checkpoint"),
    Row("checkpoint: a step of 10**30", WEIGHTS, lambda folder: changed(folder, step=10**30), 3, "`step`: Input"),
    Row("checkpoint: escape codes for a field", WEIGHTS, lambda folder: changed(folder, **{CONTROL: 1}), 3, NOT_OURS),
    Row("checkpoint: numbers for names", WEIGHTS, lambda folder: changed(
        folder, model={1: torch.zeros(1)}), 3, "model.1"),
    Row("checkpoint: an id as text", WEIGHTS, lambda folder: changed(
        folder, categories=[{"id": "3", "name": "cat"}]), 3, "a category needs an integer id"),
    Row("checkpoint: a model of 10**9 channels", WEIGHTS, lambda folder: changed(
        folder, recipe={"model": {"channels": 10**9}}), 3, "less than or equal to 8192"),
    Row("checkpoint: a model larger than its weights", ("viz",), lambda folder: changed(
        folder, recipe={"model": {"backbone": "tiny", "channels": 8192}}), 3, "do not fit this model"),
    Row("an image of 40,000,000,000 pixels", PICTURE, picture(png(200_000, 200_000)), 3, "too many to be read at once"),
    Row("an image larger than its json says", PICTURE, picture(png(9_000, 9_000)), 3, "is 9000 x 9000 pixels"),
    Row("a jpeg of 65,535 x 65,535 pixels", PICTURE, picture(jpeg(), "odd.jpg"), 3, "too many to be read at once"),
    Row("an image with 200 MB of text", PICTURE, picture(
        png(40, 30, (b"zTXt", b"x\0\0" + zlib.compress(b"a" * 200_000_000)))), 3, "cannot be read: Decompressed"),
    Row("an image that is a program", PICTURE, picture(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n"), 3, "is none of PNG, JPEG"),
    Row("an image that takes minutes to unpack", PICTURE, picture(fits()), 3, "is none of PNG, JPEG"),
    Row("an image that is a pipe", PICTURE, picture(os.mkfifo), 3, "is a pipe or a device"),
    Row("a name with `..`", PICTURE, secret(lambda _: "../secret.png"), 3, "is not in the folder of images"),
    Row("an absolute name", PICTURE, secret(lambda folder: f"{folder}/secret.png"), 3, "is not in the folder"),
    Row("a name with `..` in the middle", PICTURE, secret(
        lambda _: "sub/../../secret.png"), 3, "is not in the folder of images"),
    Row("the name of no image", PICTURE, named(""), 3, "1 images"),
    Row("a name with a zero byte", PICTURE, named("a\0.png"), 3, "images"),
    Row("a name of 5,000 letters", PICTURE, named("a" * 5000), 3, "images"),
    Row("a name with escape codes", PICTURE, named(f"{CONTROL}.png"), 3, "owned"),
    Row("a name with a line of its own", PICTURE, named("a\nerror: all is lost.png"), 3, "a error: all is lost.png"),
    Row("a link in the folder of images", PICTURE, linked_picture, 0, ""),
    Row("html for a class", ("viz", "viz --format svg", "viz --gt TRUTH"), truth(
        categories=[{"id": 3, "name": "<script>alert(1)</script>"}]), 0, "index.html"),
    Row("html for the name of a json", ("viz",), data("<script>alert(1)<b>.json", json.dumps(coco())), 0, "index.html"),
    Row("html for the name of an image", ("viz",), picture(
        png(40, 30), "<script>alert(1)<b>\" onerror=\"alert(1).png"), 0, "index.html"),
    Row("escape codes for a class", ("eval --gt", "eval --gt --csv", "eval --gt --markdown", "viz"), truth(
        categories=[{"id": 3, "name": f"cat {CONTROL}"}]), 0, ""),
)  # fmt: skip


def base(folder: Path, content: str) -> Path:
    """Write a harmless recipe based on another."""
    data("other.yaml", content)(folder)
    return data("x.yaml", "base: other.yaml\n")(folder)


def changed(folder: Path, **changes: Any) -> Path:
    """Write a bcnet checkpoint with other fields."""
    return data("x.pt", saved({**torch.load(folder / "model.pt", weights_only=True), **changes}))(folder)


Arguments = Callable[[Path, Path], list[str | Path]]
"""Build a command line from the hostile file and its folder."""


def _scored(results: Path, folder: Path, *more: str | Path, gt: Path | None = None) -> list[str | Path]:
    return ["eval", "--results", results, "--gt", gt or folder / "good.json", *more]


def _trained(file: Path, folder: Path, *more: str) -> list[str | Path]:
    places = [f"data.{split}.{key}" for split in ("train", "val") for key in ("annotations", "images")]
    values = [f"{key}={file if key.endswith('annotations') else 'images'}" for key in places]
    return ["train", "shapes", "--data-root", folder, *values, "--run-dir", folder / "out/run", "--dry-run", *more]


def _drawn(file: Path, folder: Path, *more: str | Path) -> list[str | Path]:
    return ["viz", file, "--images", folder / "images", "-o", folder / "out/gallery", *more]


def _scored_against(file: Path, folder: Path, *more: str) -> list[str | Path]:
    return _scored(folder / "results_good.json", folder, "--per-category", *more, gt=file)


COMMANDS: dict[str, Arguments] = {
    "annotate": lambda file, folder: ["annotate", file, "-o", folder / "out/x.json", "--workers", "1"],
    "split-occ": lambda file, folder: ["split-occ", file, "-o", folder / "out/x.json"],
    "split-occ --measure mask": lambda file, folder: [
        "split-occ",
        file,
        "-o",
        folder / "out/x.json",
        "--measure",
        "mask",
    ],
    "split-occ --ids": lambda file, folder: [
        "split-occ",
        folder / "good.json",
        "--ids",
        file,
        "-o",
        folder / "out/x.json",
    ],
    "eval --results": _scored,
    "eval --objects": lambda file, folder: _scored(folder / "results_good.json", folder, "--objects", file),
    "eval --gt": _scored_against,
    "eval --gt --csv": lambda file, folder: _scored_against(file, folder, "--csv"),
    "eval --gt --markdown": lambda file, folder: _scored_against(file, folder, "--markdown"),
    "viz": _drawn,
    "viz --format svg": lambda file, folder: _drawn(file, folder, "--format", "svg"),
    "viz --gt": lambda file, folder: _drawn(file, folder, "--gt", folder / "good.json"),
    "viz --gt TRUTH": lambda file, folder: _drawn(folder / "results_good.json", folder, "--gt", file),
    "train --dry-run": _trained,
    "train --dry-run --scan-images": lambda file, folder: _trained(file, folder, "--scan-images", "--workers", "1"),
    "train RECIPE": lambda file, folder: ["train", file, "--data-root", folder, "--dry-run"],
    "recipes check": lambda file, _: ["recipes", "check", file],
    "weights import": lambda file, folder: ["weights", "import", str(file), "-o", folder / "out/x.pt"],
    "predict": lambda file, folder: ["predict", file, folder / "images", "-o", folder / "out/x.json"],
}
"""Commands by their names in the table."""
