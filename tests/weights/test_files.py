"""Weight files from anywhere: which are read, which are rejected, and that code in them is never run."""

import os
import pickle
import resource
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from bcnet_core import BCNetError
from bcnet_core.weights.files import named_tensors, read_weight_file

ARRAY = np.arange(24).reshape(2, 3, 4)


class Trap:
    """Makes a folder when it is unpickled by somebody who trusts it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("trap-was-sprung",)


def read(path: Path) -> dict[str, torch.Tensor]:
    return named_tensors(read_weight_file(path), path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["<f4", ">f4", "f2", "f8", "i8", "b1", "u1"])
def test_arrays_are_read_from_every_pickle_protocol(tmp_path: Path, kind: str, protocol: int) -> None:
    array = ARRAY.astype(kind)
    arrays = OrderedDict(
        a=array, fortran=np.asfortranarray(array), strided=array[:, ::2], scalar=np.array(array[0, 0, 1])
    )
    content = {"model": arrays, "__author__": "somebody", "step": array[0, 1, 2], "more": [1, None, 2.5]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    tensors = read(tmp_path / "x.pkl")
    assert tensors.keys() == arrays.keys()
    for name, expected in arrays.items():
        assert tensors[name].is_floating_point() == (array.dtype.kind == "f")
        assert tensors[name].dtype == torch.float32 or array.dtype.kind != "f"
        np.testing.assert_array_equal(tensors[name].numpy(), expected.astype(array.dtype.newbyteorder("=")))
        tensors[name].zero_()  # which memory that the pickle owned would not allow


def test_a_pickle_of_python_2_and_numpy_1_is_read(tmp_path: Path) -> None:
    """Names of numpy 1, bytes as text in latin1: what the zoo's Caffe2 pickles look like."""
    values = np.array([1.5, -2.0, 1e-30], "<f4")
    python_2 = (
        b"\x80\x02}U\x05blobs}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x0c" + values.tobytes() + b"tbss."
    )
    (tmp_path / "x.pkl").write_bytes(python_2)
    np.testing.assert_array_equal(read(tmp_path / "x.pkl")["conv1_w"].numpy(), values)


@pytest.mark.parametrize("wrapper", ["model", "blobs", "state_dict", "model_state_dict"])
def test_a_state_dict_is_found_under_common_keys(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: {"module.a.w": torch.ones(2), "module.b": torch.zeros(1)}, "epoch": 3}, tmp_path / "x.pth")
    assert read(tmp_path / "x.pth").keys() == {"a.w", "b"}
    torch.save({wrapper: {"module.a.w": torch.ones(2), "b": torch.zeros(1)}}, tmp_path / "x.pth")
    assert read(tmp_path / "x.pth").keys() == {"module.a.w", "b"}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before 1.6"])
def test_both_formats_of_pytorch_are_read(tmp_path: Path, is_zip: bool) -> None:
    state = OrderedDict(w=torch.arange(6.0).half().view(2, 3), p=torch.nn.Parameter(torch.ones(2)), n=torch.tensor(3))
    for name, content in {"bare.pth": state, "model.pth": {"model": state, "optimizer": {"lr": 0.1}}}.items():
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=is_zip)
        tensors = read(tmp_path / name)
        assert tensors.keys() == {"w", "p", "n"}
        assert tensors["w"].dtype == torch.float32 and tensors["n"].dtype == torch.int64
        assert tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]] and not tensors["p"].requires_grad


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        Path(f"{protocol}.pkl").write_bytes(pickle.dumps({"w": np.ones(3), "x": Trap()}, protocol=protocol))
    torch.save({"model": {"w": torch.ones(3), "x": Trap()}}, "zip.pth")
    torch.save({"model": {"w": torch.ones(3), "x": Trap()}}, "old.pth", _use_new_zipfile_serialization=False)
    paths = sorted(Path().iterdir())
    assert len(paths) == pickle.HIGHEST_PROTOCOL + 3
    for path in paths:
        with pytest.raises(BCNetError, match=r"is refused: reading it would call `\w+\.mkdir`") as caught:
            read_weight_file(path)
        assert caught.value.exit_code == 3
    assert not Path("trap-was-sprung").exists()
    with Path("0.pkl").open("rb") as file:
        pickle.load(file)
    assert Path("trap-was-sprung").exists(), "the trap works where it is trusted"


HARMFUL = {
    "eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "the attribute of a known name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    "a module behind a known one": b"cnumpy.core.multiarray\nos\n.",
    "change a known name": b"cnumpy\ndtype\n(N}S'name'\nS'x'\nstb.",
    "make an object without its constructor": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "persistent": b"Px\n.",
    "a number of bytes instead of bytes": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f4'\ntRI9999999999\ntR.",
}


@pytest.mark.parametrize("content", HARMFUL.values(), ids=HARMFUL)
def test_harmful_pickles_are_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(BCNetError) as caught:
        read_weight_file(tmp_path / "x.pkl")
    assert caught.value.exit_code == 3


def test_a_damaged_memo_index_does_not_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_weight_file(tmp_path / "x.pkl") == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


@pytest.mark.parametrize("array", [np.array([None]), np.zeros(2, [("x", "f4")]), np.array(["x"]), np.zeros(2, "M8[s]")])
def test_arrays_of_anything_but_numbers_are_rejected(tmp_path: Path, array: Any) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": array}))
    with pytest.raises(BCNetError, match="not of plain numbers"):
        read_weight_file(tmp_path / "x.pkl")


def whole_files() -> dict[str, bytes]:
    """A small file of each format."""
    import io

    files = {"pkl": pickle.dumps({"w": np.arange(500.0)})}
    for name, is_zip in (("zip", True), ("old", False)):
        buffer = io.BytesIO()
        torch.save({"w": torch.arange(500.0)}, buffer, _use_new_zipfile_serialization=is_zip)
        files[name] = buffer.getvalue()
    return {**files, "safetensors": save({"w": torch.arange(500.0)})}


def test_truncated_and_foreign_files_give_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for content in whole_files().values():
        path.write_bytes(content)
        assert read(path)["w"].tolist() == list(range(500))
        for length in (0, 3, 20, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(BCNetError, match="is not a weight file that bcnet can read, or is cut off") as caught:
                read_weight_file(path)
            assert caught.value.exit_code == 3 and "\n" not in caught.value.message
    path.write_bytes(b"hello")
    with pytest.raises(BCNetError, match="is not a weight file"):
        read_weight_file(path)
    with pytest.raises(BCNetError, match="cannot read"):
        read_weight_file(tmp_path)
    for empty in ([1, 2], {"model": {}}, {"lr": 0.1}, {3: np.ones(2)}):
        path.write_bytes(pickle.dumps(empty))
        with pytest.raises(BCNetError, match="holds no named tensors"):
            read(path)


@pytest.mark.parametrize("content", [b"not a weight file", b""])
def test_the_error_of_a_damaged_file_shows_no_bare_number_or_exception_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(BCNetError, match=r"or is cut off$"):
        read_weight_file(tmp_path / "x.pt")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["pkl", "zip", "old", "safetensors"]),
    where=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
)
def test_a_damaged_byte_gives_an_error_of_bcnet_at_worst(tmp_path: Path, kind: str, where: float, byte: int) -> None:
    content = bytearray(whole_files()[kind])
    head = min(len(content), 600) if kind != "zip" else len(content)  # behind it lie the numbers
    content[int(where * head)] = byte
    (tmp_path / "x").write_bytes(content)
    with suppress(BCNetError):
        read(tmp_path / "x")


def test_safetensors_are_read_by_their_header_and_half_precision_becomes_float32(tmp_path: Path) -> None:
    values = torch.arange(6.0).view(2, 3)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
    save_file({name: values.to(kind) for name, kind in kinds.items()} | {"n": torch.tensor(3)}, tmp_path / "x.bin")
    tensors = read(tmp_path / "x.bin")
    assert tensors["n"].dtype == torch.int64
    for name in kinds:
        assert tensors[name].dtype == torch.float32 and tensors[name].tolist() == [[0, 1, 2], [3, 4, 5]]


def in_safetensors(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        in_safetensors(b'{"w":{"dtype":"X9","shape":[2],"data_offsets":[0,8]}}'),
        in_safetensors(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'),
        in_safetensors(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'),
        in_safetensors(b"{}", length=2**39),
    ],
    ids=["unknown type", "too few bytes", "no json", "huge header"],
)
def test_a_damaged_safetensors_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(BCNetError, match=r"is not a weight file that bcnet can read, or is cut off: .*eader") as caught:
        read_weight_file(tmp_path / "x.pt")
    assert caught.value.exit_code == 3 and "\n" not in caught.value.message


def test_a_file_that_calls_itself_safetensors_is_read_as_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(pickle.dumps({"w": np.ones(3)}))
    with pytest.raises(BCNetError, match="is not a weight file that bcnet can read"):
        read_weight_file(tmp_path / "x.safetensors")
