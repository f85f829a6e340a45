"""Reading weight files from anywhere: PyTorch's two formats and pickles of numpy arrays, without running their code.

A pickle is a program that may call any function by its name. PyTorch's own files go through `weights_only`; for the
pickles of detectron2's zoo this module answers the few names that an array needs with readers of its own and refuses
all others, so nothing that a file asks for is ever imported or called.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.claims import claimed, clear, part_of
from bcnet_core.files.inputs import refuse_special
from bcnet_core.reporting import Reporter
from bcnet_core.weights.bombs import refuse_bomb, refuse_expanded

LEGACY_MAGIC = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
"""What the files of PyTorch before 1.6 begin with."""
LEGACY_PICKLES = 5
"""Which come before the numbers there."""
ZIP_MAGIC = b"PK\x03\x04"
"""What they begin with since."""
PLAIN_TYPE = re.compile(r"[|<>=]?(b1|[iu][1248]|f[248])")
"""The numpy types that weights have, as a pickle names them."""
WRAPPERS = ("model", "blobs", "state_dict", "model_state_dict")
"""Where a state dict stands in a file that holds more: in detectron2's, in Caffe2's, in what many programs write."""
CUT_OFF = "is it a weight file (.pth, .pt, .pkl), and complete? Compare its size with the source's and fetch it again"
ONLY_DATA = (
    "only tensors and arrays are read, nothing is run; where you trust the source, save the state dict alone there"
)


def fetch(source: str, reporter: Reporter) -> Path:
    """Find the file that a user means by a path or a URL.

    What an http(s) URL leads to is kept in `$XDG_CACHE_HOME/bcnet/weights` (or `~/.cache/bcnet/weights`) once it has
    proved readable, and is not fetched twice. A file:// URL is the file itself.

    Args:
        source: a path, or an http://, https:// or file:// URL.
        reporter: told before a download.

    Raises:
        BCNetError: if the URL is of another kind, the download fails, what came is no weight file, or another process
            is fetching it.
    """
    scheme, _, rest = source.partition("://")
    if not rest:
        return Path(source)
    if scheme == "file":
        return Path(url2pathname(urlsplit(source).path))
    if scheme not in {"http", "https"}:
        raise usage_error(f"`{source}` is no URL that can be fetched", "give a path, or an http(s):// or file:// URL")
    target = cached(source)
    if target.exists():
        reporter.info(f"fetched before: {target}")
        return target
    reporter.info(f"fetching {source} to {target}")
    part = part_of(target) / target.name  # a folder: torch keeps a part of its own beside what it downloads
    try:
        with claimed(target):
            part.parent.mkdir()
            try:
                torch.hub.download_url_to_file(source, str(part), progress=False)
                read_content(part)  # a connection that breaks off is no error to the line above
                part.replace(target)
            finally:
                clear(target)
    except BCNetError as error:
        message = error.message.replace(str(part), source)
        raise BCNetError(message, *error.hints, exit_code=error.exit_code) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        hint = "check the address and the network, or fetch it by other means and give the file"
        raise BCNetError(f"cannot fetch `{source}`: {error}", hint) from None
    return target


def cached(url: str) -> Path:
    """Where the file behind a URL is kept; other URLs with the same file name are kept apart."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bcnet" / "weights"
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name).strip(".")
    return folder / hashlib.sha256(url.encode()).hexdigest()[:16] / (name or "weights")


def read_content(path: Path) -> Any:  # noqa: ANN401  (whatever the file holds)
    """Read a weight file of PyTorch (zip, or the older format), or a pickle of numpy arrays.

    Args:
        path: the file.

    Returns:
        What is in it, on the CPU; for `named_tensors`.

    Raises:
        BCNetError: if the file is missing, damaged, asks for code to be run, or for more memory than it has bytes.
    """
    return read_safely(path, "a weight file that bcnet can read", CUT_OFF)


def read_safely(path: Path, kind: str, *hints: str) -> Any:  # noqa: ANN401
    """`read_content`, for files of any kind.

    Args:
        path: the file.
        kind: that it should be of, for the message.
        hints: the ways out where it is not.
    """
    try:
        refuse_special(path)
        with path.open("rb") as file:
            return _read(file)
    except BCNetError:
        raise
    except OSError as error:
        raise data_error(f"cannot read `{path}`: {error.strerror or error}") from None
    except Exception as error:  # a damaged file can break its reader anywhere
        raise _refused(path, error, kind, hints) from None


def _read(file: BinaryIO) -> Any:  # noqa: ANN401
    head = file.read(len(LEGACY_MAGIC))
    size = file.seek(0, 2)
    file.seek(0)
    by_torch = head.startswith((LEGACY_MAGIC, ZIP_MAGIC))
    refuse_bomb(file, pickles=0 if head.startswith(ZIP_MAGIC) else LEGACY_PICKLES if by_torch else 1)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of what it then refuses
        content = torch.load(file, "cpu", weights_only=True) if by_torch else _ArrayUnpickler(file).load()
    refuse_expanded(content, size)
    return content


def named_tensors(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by their names; optimiser states and whatever else it holds is left out.

    Args:
        content: from `read_content`. Tensors stand at its top level, or under a name of `WRAPPERS`. The `module.` that
            DistributedDataParallel puts before every name is left out.
        path: for messages.

    Returns:
        The tensors, floating ones as float32.

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


def _refused(path: Path, error: Exception, kind: str, hints: Sequence[str]) -> BCNetError:
    """What to tell of a file that could not be read."""
    text = str(error)
    if forbidden := re.search(r"(?:GLOBAL|forbidden name) ([\w.]+)", text):
        return data_error(f"`{path}` is refused: reading it would call `{forbidden[1]}`", ONLY_DATA)
    reason = re.split(r"\.\s|\n", text.strip())[0] or type(error).__name__
    return data_error(f"`{path}` is not {kind}, or is cut off: {reason}", *hints)


def _as_tensor(value: object) -> Tensor | None:
    """A value of a state dict as a dense tensor of ours, None where it is anything else."""
    if isinstance(value, _Array) and value.value is not None:
        native = value.value.astype(value.value.dtype.newbyteorder("="))  # a copy too: torch wants to write to it
        value = torch.from_numpy(native)
    if not isinstance(value, Tensor) or not is_plain(value):
        return None
    return value.detach().float() if value.is_floating_point() else value.detach()


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds what it shows: real numbers, one after the other."""
    odd = tensor.is_meta or tensor.is_quantized or tensor.is_complex()
    return tensor.layout == torch.strided and not odd


class _ArrayUnpickler(pickle.Unpickler):
    """Reads what pickles of numpy arrays hold, under the names of numpy 1 and 2, and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")  # the zoo's pickles were written by Python 2

    def find_class(self, module: str, name: str, /) -> object:
        known = KNOWN.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"forbidden name {module}.{name}")
        return known


class _Known:
    """What a name in a pickle stands for: it can be called and nothing else; a pickle cannot change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it tries to change the reader")


class _Type:
    """A numpy type on its way in; only plain numbers are taken, so no array can hold objects."""

    __slots__ = ("name",)

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not PLAIN_TYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds an array of type {name!r}, not of plain numbers")
        self.name = name.lstrip("|<>=")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):  # the byte order; the rest describes records, which `__init__` refuses
            self.name = state[1] + self.name


class _Array:
    """A numpy array on its way in; `value` is there once the pickle has given its bytes."""

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
    """What Python 3 writes for bytes where the pickle format has only text."""
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
"""All that a pickle may name, and what answers."""
