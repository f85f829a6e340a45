"""Photos are found by the names that tools write, never by a guess, and decoded as training will decode them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcnet_core.files.images import DecodedImage, decode_image
from bcnet_core.importers.findings import KINDS
from bcnet_core.importers.photos import find_photos
from bcnet_core.importers.source import PHOTO, Photo


def save(folder: Path, *names: str, seed: int = 0) -> None:
    """Save a different picture of 16 x 12 pixels under each name."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng([seed, number]).integers(0, 255, (12, 16, 3), np.uint8)).save(path)


def find(folder: Path, *names: str) -> list[Photo]:
    """Find the photos of images with these names."""
    return find_photos([{"file_name": name} for name in names], folder)


def found(folder: Path, *names: str) -> list[tuple[str, str | None]]:
    """Return the paths in the folder, and the flaws, of the photos of images with these names."""
    photos = find(folder, *names)
    return [(str(photo.path.relative_to(folder)) if photo.stored[0] else "", photo.flaw) for photo in photos]


@pytest.mark.parametrize(
    "name",
    [
        "images\\b c.png",
        "C:\\Users\\me\\set\\b c.png",
        "../../label-studio/data/media/upload/4/b c.png",
        "/home/somebody/else/b c.png",
        "/data/local-files/?d=photos%2Fcam1/b c.png",
        "/data/local-files/?d=photos%2Fcam1%2Fb%20c.png",
        "s3://bucket/photos/b%20c.png?X-Amz-Date=1&X-Amz-Signature=0a1b",
        "https://example.org/v0/o/photos%2Fb%20c.png?alt=media&token=1",
        "file:///home/me/b%20c.png",
        "upload/2/0a1b2c3d-b_c.png".replace("_", " "),
        "photos/B C.PNG",
        "b c",
    ],
)
def test_names_of_other_machines_find_the_photo_that_ends_alike(tmp_path: Path, name: str) -> None:
    save(tmp_path, "a.png", "cam1/b c.png", "d.png")
    (tmp_path / "b c.txt").write_text("labels")
    assert found(tmp_path, name) == [("cam1/b c.png", "photo_name")]


def test_the_name_as_it_is_comes_first(tmp_path: Path) -> None:
    save(tmp_path, "x.png", "old/x.png", "50%25.png", "who?d=x.png", "a\\b.png")
    names = ["x.png", "50%25.png", "who?d=x.png", "a\\b.png", str(tmp_path / "old/x.png")]
    assert [flaw for _, flaw in found(tmp_path, *names)] == [None] * 5
    assert find(tmp_path, "x.png")[0].path == tmp_path / "x.png"


def test_equal_names_in_several_folders_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    save(tmp_path, "cam1/0.png", "cam2/0.png")
    assert found(tmp_path, "D:\\set\\cam2\\0.png", "D:\\set\\cam1\\0.png") == [
        ("cam2/0.png", "photo_name"),
        ("cam1/0.png", "photo_name"),
    ]


def test_a_name_that_fits_two_photos_takes_neither(tmp_path: Path) -> None:
    save(tmp_path, "a/x.png", "b/x.png")
    assert found(tmp_path, "x.png") == [("", "photo_ambiguous")]


def test_copies_and_links_of_one_photo_are_one(tmp_path: Path) -> None:
    save(tmp_path, "a/x.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.png").write_bytes((tmp_path / "a/x.png").read_bytes())
    (tmp_path / "c").symlink_to("a")
    assert found(tmp_path, "x.png") == [("a/x.png", "photo_name")]


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["upload/1/x.png", "upload/2/x.png"], ["x.png"]),
        (["x.png", "old/x.png"], ["x.png"]),
        (["x.png", "X.PNG"], ["x.png"]),
        (["0a1b2c3d-x.png", "00000000-x.png"], ["x.png"]),
    ],
)
def test_a_photo_is_not_given_to_two_names(tmp_path: Path, names: list[str], files: list[str]) -> None:
    save(tmp_path, *files)
    assert found(tmp_path, *names)[-1] == ("", "photo_ambiguous")
    assert found(tmp_path, names[-1], names[-1])[0][0] == files[0]  # one name twice is one photo


def test_a_label_image_is_not_taken_for_a_photo_of_another_suffix(tmp_path: Path) -> None:
    save(tmp_path, "masks/x.png")
    assert found(tmp_path, "x.jpg") == [("", "photo_missing")]


def test_missing_photos_are_missing(tmp_path: Path) -> None:
    save(tmp_path, ".hidden/x.png", "._y.png")
    names = ("x.png", "y.png", "../x", "")
    images = [*({"file_name": name} for name in names), {}, {PHOTO: Path("z")}]
    assert [photo.flaw for photo in find_photos(images, tmp_path)] == ["photo_missing"] * 6
    assert [photo.flaw for photo in find_photos(images, None)] == ["photo_missing"] * 6
    assert {photo.stored for photo in find_photos(images, tmp_path)} == {(0, 0)}


def test_a_link_to_nothing_is_a_missing_photo(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("moved.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    assert found(tmp_path, "a.png", "b.png") == [("", "photo_missing")] * 2


def test_a_reader_that_knows_the_photo_decides(tmp_path: Path) -> None:
    save(tmp_path, "x.png", "y.png")
    (photo,) = find_photos([{"file_name": "x.png", PHOTO: tmp_path / "y.png"}], tmp_path)
    assert photo == Photo(tmp_path / "y.png", (12, 16), (12, 16))


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    save(tmp_path, "a/x.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert found(tmp_path, "else/x.png") == [("a/x.png", "photo_name")]


def test_sizes_are_told_as_stored_and_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 300)).save(tmp_path / "x.jpg", exif=exif)
    assert find(tmp_path, "x.jpg") == [Photo(tmp_path / "x.jpg", (300, 400), (400, 300))]


def write_deep_png(path: Path, bits: int) -> None:
    """Write a PNG of 16 bits a channel whose values have so many bits."""
    values = np.random.default_rng(0).integers(0, 2**bits, (12, 16, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 16, 12, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


def test_photos_that_training_cannot_use_are_named_by_their_fault(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 48), 60)
    noise.save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-300])
    noise.save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    Image.new("I;16", (16, 12)).save(tmp_path / "deep.tif")
    write_deep_png(tmp_path / "twelve.png", 12)
    write_deep_png(tmp_path / "sixteen.png", 16)
    Image.new("RGB", (16, 12)).save(tmp_path / "black.png")
    noise.save(tmp_path / "stack.tif", save_all=True, append_images=[noise])
    noise.save(tmp_path / "pyramid.tif", save_all=True, append_images=[noise.resize((32, 24))])
    noise.save(tmp_path / "moves.gif", save_all=True, append_images=[Image.effect_noise((64, 48), 60)])
    noise.convert("RGB").save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[noise.convert("RGB")])
    expected = {
        "good.jpg": None, "good.png": None, "black.png": None, "sixteen.png": None, "pyramid.tif": None,
        "phone.jpg": None, "cut.jpg": "photo_damaged", "cut.png": "photo_damaged", "text.jpg": "photo_damaged",
        "empty.jpg": "photo_damaged", "deep.tif": "photo_deep", "twelve.png": "photo_dark", "stack.tif": "photo_pages",
        "moves.gif": "photo_pages",
    }  # fmt: skip
    assert {photo.path.name: photo.flaw for photo in find(tmp_path, *expected)} == expected
    assert {flaw for flaw in expected.values() if flaw} < KINDS.keys()


def test_workers_find_the_same_and_one_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcnet_core.importers.photos.CHUNK", 1)
    save(tmp_path, *(f"{number}.png" for number in range(12)))
    for number in range(12, 40):
        (tmp_path / f"{number}.png").symlink_to("3.png")
    names = [f"{number}.png" for number in range(41)]
    alone = find(tmp_path, *names)
    assert find_photos([{"file_name": name} for name in names], tmp_path, workers=2) == alone
    assert [photo.flaw for photo in alone] == [None] * 40 + ["photo_missing"]
    decoded: list[Path] = []

    def count(path: Path) -> DecodedImage:
        decoded.append(path)
        return decode_image(path)

    monkeypatch.setattr("bcnet_core.importers.photos.decode_image", count)
    assert find(tmp_path, *names) == alone
    assert len(decoded) == 12
