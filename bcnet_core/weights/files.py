"""Weight files, read without running their code: PyTorch's formats, safetensors, pickles of arrays.

A pickle is a program that may call any function by name. PyTorch's own files are read with `weights_only=True`; the
pickles of detectron2's zoo by a reader that answers the few names that an array needs and rejects every other one.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.json_files import check_regular_file

LEGACY_MAGIC = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
"""First bytes of a file of PyTorch before 1.6."""
ZIP_MAGIC = b"PK\x03\x04"
"""First bytes of a file of PyTorch since 1.6."""
SAFETENSORS = re.compile(rb".{5}\0{3}\{", re.DOTALL)
"""First bytes of a safetensors file: the length of its header, below 1 TB, and the header, which is json."""
PLAIN_TYPE = re.compile(r"[|<>=]?(b1|[iu][1248]|f[248])")
"""NumPy types that weights have, as a pickle names them."""
WRAPPERS = ("model", "blobs", "state_dict", "model_state_dict")
"""Keys under which files keep their state dict: detectron2's, Caffe2's, those of many training programs."""
CUT_OFF = (
    "is it a weight file (.pth, .pt, .pkl, .safetensors), and complete? Compare its size with the source's and fetch "
    "it again"
)
ONLY_DATA = (
    "only tensors and arrays are read, nothing is run; where you trust the source, save the state dict alone there"
)


def read_weight_file(
    path: Path, *, kind: str = "a weight file that bcnet can read", hints: Sequence[str] = (CUT_OFF,)
) -> Any:  # noqa: ANN401  (whatever the file holds)
    """Read a file of PyTorch (zip, or the older format), of safetensors, or a pickle of NumPy arrays.

    Returns:
        The content, with tensors on the CPU; see `named_tensors`.

    Raises:
        BCNetError: if the file is missing, damaged (it is then "not `kind`", followed by `hints`), or asks for code to
            be run.
    """
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            is_safe = SAFETENSORS.match(file.read(9)) is not None or path.suffix == ".safetensors"
            file.seek(0)
            return load_file(path) if is_safe else _read(file)
    except BCNetError:
        raise
    except OSError as error:
        raise data_error(f"cannot read `{path}`: {error.strerror or error}") from None
    except Exception as error:  # a damaged file can raise anything in its reader
        text = str(error)
        if forbidden := re.search(r"(?:GLOBAL|forbidden name) ([\w.]+)", text):
            raise data_error(f"`{path}` is refused: reading it would call `{forbidden[1]}`", ONLY_DATA) from None
        reason = re.split(r"\.\s|\n", text.strip())[0]
        detail = f": {reason}" if " " in reason else ""  # a KeyError of the unpickler has only a number
        raise data_error(f"`{path}` is not {kind}, or is cut off{detail}", *hints) from None


def _read(file: BinaryIO) -> Any:  # noqa: ANN401
    head = file.read(len(LEGACY_MAGIC))
    size = file.seek(0, 2)
    file.seek(0)
    if head.startswith(ZIP_MAGIC):
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
        if any(part.filename.endswith("/constants.pkl") for part in parts):
            raise pickle.UnpicklingError("it is a TorchScript program")
        unpacked = sum(part.file_size for part in parts)
        if unpacked > size:  # torch stores tensors uncompressed; a zip bomb on a download page would fill the memory
            raise pickle.UnpicklingError("its parts unpack to more than the size of the file")
        file.seek(0)
    elif not head.startswith(LEGACY_MAGIC):
        return _ArrayUnpickler(file).load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about content that torch then rejects
        return torch.load(file, "cpu", weights_only=True)


def named_tensors(content: object, path: Path) -> dict[str, Tensor]:
    """Extract the tensors at the top level of a weight file or under a key of `WRAPPERS`, floating ones as float32.

    The prefix `module.` of DistributedDataParallel is removed.

    Raises:
        BCNetError: if there are none.
    """
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    entries = content.items() if isinstance(content, dict) else ()
    tensors = {name: _as_tensor(value) for name, value in entries if isinstance(name, str)}
    named = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if not named:
        raise data_error(f"`{path}` holds no named tensors", "a state dict is expected, or {'model': a state dict}")
    if all(name.startswith("module.") for name in named):
        return {name.removeprefix("module."): tensor for name, tensor in named.items()}
    return named


def _as_tensor(value: object) -> Tensor | None:
    """Convert a value of a state dict to a dense real tensor; None if it is anything else."""
    if isinstance(value, _Array) and value.value is not None:
        # A copy, too: the pickle's bytes are read-only.
        value = torch.from_numpy(value.value.astype(value.value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return None
    if value.is_meta or value.is_quantized or value.is_complex():
        return None
    return value.detach().float() if value.is_floating_point() else value.detach()


class _ArrayUnpickler(pickle._Unpickler):
    """An unpickler that knows NumPy arrays, under the names of NumPy 1 and 2, and nothing else.

    It is pickle's pure Python one: the one in C keeps its memo in an array as long as the largest index, so that one
    flipped bit of a damaged file (BINPUT to LONG_BINPUT) fills 30 GB of memory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")  # the zoo's pickles were written by Python 2

    def find_class(self, module: str, name: str, /) -> object:
        known = KNOWN.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"forbidden name {module}.{name}")
        return known


class _Known:
    """A stand-in for a name in a pickle: it can be called, and the pickle cannot change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it tries to change the reader")


class _Type:
    """A NumPy type being unpickled; only plain numbers are accepted, so no array can hold objects."""

    __slots__ = ("name",)

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not PLAIN_TYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds an array of type {name!r}, not of plain numbers")
        self.name = name.lstrip("|<>=")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):  # byte order; the rest describes record types, which `__init__` rejects
            self.name = state[1] + self.name


class _Array:
    """A NumPy array being unpickled; `value` is set once its bytes have been read."""

    __slots__ = ("value",)

    def __init__(self, value: NDArray[np.generic] | None = None) -> None:
        self.value = value

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Type, bool, bytes | str]) -> None:
        _, shape, kind, is_fortran, raw = state
        self.value = _values(kind, raw).reshape(shape, order="F" if is_fortran else "C")


def _values(kind: _Type, raw: bytes | bytearray | str) -> NDArray[np.generic]:
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, np.dtype(kind.name))


def _from_buffer(raw: bytes | bytearray, kind: _Type, shape: tuple[int, ...], order: Literal["C", "F"]) -> _Array:
    return _Array(_values(kind, raw).reshape(shape, order=order))


def _encode(text: str, encoding: str) -> bytes:
    """Restore the bytes that Python 3 writes as text into pickles of old protocols."""
    if encoding not in {"latin1", "latin-1"}:
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


KNOWN = {
    "numpy.core.multiarray._reconstruct": _Known(lambda *_: _Array()),
    "numpy.core.multiarray.scalar": _Known(lambda kind, raw: _values(kind, raw)[0].item()),
    "numpy.core.numeric._frombuffer": _Known(_from_buffer),
    "numpy.ndarray": _Known(lambda *_: _Array()),
    "numpy.dtype": _Known(_Type),
    "_codecs.encode": _Known(_encode),
    "collections.OrderedDict": _Known(dict),
}
"""Every name that a pickle may use, and its stand-in."""
