"""Reads a weights file in torch's format of before version 1.6, without torch.

Layout (torch/serialization.py, _legacy_load): pickles of a magic number, the format's version,
facts of the writing computer, the state dict with references to storages, and the storages' keys;
then each storage as its length and its numbers. Only the few names that a state dict of tensors
needs are resolved, so that nothing in the file is executed.
"""

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from node.perception.models.weights_file import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: "np.dtype[Any]"


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def rebuilt(
        cls, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...],
        *_: object,
    ) -> "_Tensor":  # fmt: skip
        """As torch._utils._rebuild_tensor_v2."""
        return cls(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor.rebuilt
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, _, _ = pid
        return _Storage(key, dtype)


def read_legacy(file: Path) -> dict[str, NDArray[Any]]:
    """Returns the tensors of a file by name. Raises WeightsError for anything else."""
    try:
        with file.open("rb") as stream:
            return _read(stream)
    except Exception as error:  # a damaged pickle raises anything
        raise WeightsError(
            f"weights {file}: cannot be read ({error or type(error).__name__})",
            fix="install their package again",
        ) from error


def _read(stream: IO[bytes]) -> dict[str, NDArray[Any]]:
    if _Unpickler(stream).load() != _MAGIC or _Unpickler(stream).load() != _VERSION:
        raise ValueError("another format")
    _Unpickler(stream).load()
    tensors: dict[str, _Tensor] = _Unpickler(stream).load()
    keys: list[str] = _Unpickler(stream).load()
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    numbers = {key: _numbers(stream, dtypes[key]) for key in keys}
    return {name: _array(tensor, numbers) for name, tensor in tensors.items()}


def _numbers(stream: IO[bytes], dtype: "np.dtype[Any]") -> NDArray[Any]:
    count = int.from_bytes(stream.read(8), "little")
    return np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)


def _array(tensor: _Tensor, numbers: dict[str, NDArray[Any]]) -> NDArray[Any]:
    flat = numbers[tensor.storage.key][tensor.offset :]
    steps = list(zip(tensor.shape, tensor.strides, strict=True))
    last = sum((length - 1) * step for length, step in steps)
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or last >= len(flat):
        raise ValueError("a tensor beyond its numbers")
    strides = [step * flat.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
