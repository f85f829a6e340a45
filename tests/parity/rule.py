"""The weights, inputs and images that the recordings of the official code were made with, from names and shapes alone.

Every array comes from a generator seeded by `tag:name`, so that nobody has to ship weights. The recordings (`*.npz`,
`*.json` in this folder) hold numbers only.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

GAINS = (
    ("stem.conv1.weight", 0.02), ("fpn_lateral", 0.6), ("fpn_output", 1.0), ("top_block", 1.2),
    ("query_transform", 1.2), ("key_transform", 1.2), ("value_transform", 1.0), ("output_transform", 1.0),
    ("predictor", 1.0), ("cls_logits", 1.7), ("bbox_pred", 2.0), ("centerness", 1.0),
)  # fmt: skip
"""Standard deviation times sqrt(fan-in) of a convolution, by the first part of its key that fits; else sqrt(2)."""
CELL = 16
"""Pixels between the random colours that an image is interpolated from."""


def generator(tag: str, name: str) -> Generator:
    return np.random.default_rng(zlib.crc32(f"{tag}:{name}".encode()))


def weights_for(key: str, shape: Sequence[int], tag: str) -> NDArray[np.float32] | NDArray[np.int64]:
    """The array of an official state_dict key."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    z = generator(tag, key).standard_normal(tuple(shape))
    if leaf == "scale":
        scaled = 1 + 0.05 * z
    elif key.endswith("cls_logits.bias"):  # every fourth class is found now and then
        scaled = np.where(np.arange(z.size) % 4 == 3, -6.8, -10.0) + 0.2 * z
    elif key.endswith("bbox_pred.bias"):
        scaled = 4.5 + 0.3 * z
    elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        scaled = np.exp(0.1 * z) * (0.2 if key.endswith("conv3.norm.weight") else 1.0)
    elif leaf in {"running_mean", "bias"}:
        scaled = 0.05 * z
    else:
        fan_in = shape[0] if "deconv" in key else int(np.prod(shape[1:]))
        gain = next((value for part, value in GAINS if part in key), 2.0**0.5)
        scaled = z * (gain / np.sqrt(fan_in))
    return scaled.astype(np.float32)


def input_for(name: str, shape: Sequence[int], tag: str) -> NDArray[np.float32]:
    """A standard normal input, doubled where its name starts with "logits"."""
    z = generator(tag, f"input:{name}").standard_normal(tuple(shape))
    return (z * (2.0 if name.startswith("logits") else 1.0)).astype(np.float32)


def image_for(name: str, height: int, width: int, tag: str) -> NDArray[np.uint8]:
    """An (height, width, 3) uint8 BGR image: colours between random ones, and six half-transparent rectangles."""
    draw = generator(tag, f"image:{name}:{height}x{width}")
    colours = draw.integers(0, 256, (height // CELL + 2, width // CELL + 2, 3)).astype(np.int64)
    row, down = np.divmod(np.arange(height), CELL)
    column, right = np.divmod(np.arange(width), CELL)
    down, right = down[:, None, None], right[None, :, None]
    left_edge = colours[row][:, column], colours[row + 1][:, column]
    right_edge = colours[row][:, column + 1], colours[row + 1][:, column + 1]
    above, below = (a * (CELL - right) + b * right for a, b in zip(left_edge, right_edge, strict=True))
    image = (above * (CELL - down) + below * down) // CELL**2
    for _ in range(6):
        y, x = int(draw.integers(0, height - 8)), int(draw.integers(0, width - 8))
        h, w = int(draw.integers(8, max(9, height // 2))), int(draw.integers(8, max(9, width // 2)))
        colour = draw.integers(0, 256, 3)
        image[y : y + h, x : x + w] = (image[y : y + h, x : x + w] + 3 * colour) // 4
    return image.astype(np.uint8)


def checksum(array: NDArray[np.generic], samples: int = 16) -> NDArray[np.float64]:
    """Mean, standard deviation and evenly spread samples of an array, as the recordings keep large ones."""
    flat = np.asarray(array, np.float64).ravel()
    return np.concatenate([[flat.mean(), flat.std()], flat[np.linspace(0, flat.size - 1, samples).astype(np.int64)]])
