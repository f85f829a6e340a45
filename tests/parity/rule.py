"""The weights and inputs that the recordings of the official code were made with, from names and shapes alone.

Every array comes from a generator seeded by `tag:name`, so that nobody has to ship weights. The recordings (`*.npz`,
`*.json` in this folder) hold numbers only.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

GAINS = (
    ("query_transform", 1.2), ("key_transform", 1.2), ("value_transform", 1.0), ("output_transform", 1.0),
    ("predictor", 1.0),
)  # fmt: skip
"""Standard deviation times sqrt(fan-in) of a convolution, by the first part of its key that fits; else sqrt(2)."""


def generator(tag: str, name: str) -> Generator:
    return np.random.default_rng(zlib.crc32(f"{tag}:{name}".encode()))


def weights_for(key: str, shape: Sequence[int], tag: str) -> NDArray[np.float32] | NDArray[np.int64]:
    """The array of an official state_dict key of the mask head."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    z = generator(tag, key).standard_normal(tuple(shape))
    if leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        scaled = np.exp(0.1 * z)
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
