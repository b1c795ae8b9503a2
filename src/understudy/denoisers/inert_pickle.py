"""PyTorch's checkpoint files read without running anything that they name.

A checkpoint is a zip archive: `data.pkl`, a pickle that says which objects there are, and one member per storage with
its raw numbers. A pickle may name any function and have it called. Here it may not: what rebuilds tensors becomes a
note of where their numbers lie, plain containers are themselves, and every other class or function is an `Inert` that
keeps its arguments. Nothing of the file's is imported or called, and tensors are read only when asked for.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from understudy.errors import ModelError, one_line

MOST_PICKLED = 2**26  # bytes of a description of objects; a tensor takes some hundred, so that is for 10^5 of them

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """An object of a class that is not to be touched: what it would have been made from, and nothing else.

    name: of the class or function. arguments: what it would have been called with. state: what its `__dict__` would
    hold. items: what would have been put into it under a key; what would have been appended is dropped.
    """

    name = ""
    arguments: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *arguments: Any, **_: Any) -> "Inert":  # noqa: D102
        self = super().__new__(cls)
        self.arguments, self.state, self.items = arguments, None, {}
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, item: Any) -> None:
        """Drop it."""

    extend = add = append

    def fields(self) -> dict[Any, Any]:
        """What the `__dict__` would hold; empty where that is not a dictionary."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state if isinstance(state, dict) else {}


class PlainDict(dict[Any, Any]):
    """What stands for an ordered dictionary; attributes that the file would give it are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


CONTAINERS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): PlainDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,  # as Python 2 named it, and pickles of protocol 2 still do
    ("__builtin__", "frozenset"): frozenset,
    ("torch", "Size"): tuple,
}


@dataclass(frozen=True)
class StoredStorage:
    """Numbers of one kind in one member of the archive."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not read yet."""

    storage: StoredStorage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _InertUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._named: dict[tuple[str, str], type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CONTAINERS:
            return CONTAINERS[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return self._parameter
        if (module, name) not in self._named:
            self._named[module, name] = type("Inert", (Inert,), {"name": f"{module}.{name}"})
        return self._named[module, name]

    def persistent_load(self, pid: Any) -> StoredStorage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage is described in an unknown way")
        return StoredStorage(key, dtype, int(count))

    def _tensor(self, storage: StoredStorage, offset: int, size: Any, stride: Any, *_: Any) -> StoredTensor:
        if not isinstance(storage, StoredStorage):
            raise pickle.UnpicklingError("a tensor is described in an unknown way")
        return StoredTensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))

    def _parameter(self, tensor: StoredTensor, *_: Any) -> StoredTensor:
        return tensor


class TensorArchive:
    """A checkpoint file that is open: its objects in `content`, tensors by `read`. Use `open_archive`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        members = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(members) != 1:
            raise ModelError(f"{path} is a zip archive, but no checkpoint of PyTorch: it has {len(members)} data.pkl")
        self._root = members[0].removesuffix("data.pkl")
        order = f"{self._root}byteorder"
        if order in archive.namelist() and _read_member(archive, order, MOST_PICKLED) != b"little":
            raise ModelError(f"{path} was written on a machine of another byte order; that is not read")
        self.content: Any = _InertUnpickler(io.BytesIO(_read_member(archive, members[0], MOST_PICKLED))).load()

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        """Read a tensor onto the CPU. Raises ModelError where its numbers are not there or damaged."""
        storage = tensor.storage
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
        with _damage(self.path):
            expected = storage.count * storage.dtype.itemsize
            content = _read_member(self._archive, f"{self._root}data/{storage.key}", expected)
            if len(content) != expected:
                raise ValueError(f"storage {storage.key} has {len(content)} bytes")
            if math.prod(tensor.size) == 0:
                return torch.empty(tensor.size, dtype=storage.dtype)
            if min(tensor.offset, *tensor.size, *tensor.stride, 0) < 0 or last >= storage.count:
                raise ValueError(f"a tensor reaches out of storage {storage.key}")
            flat = torch.frombuffer(bytearray(content), dtype=storage.dtype)
            return flat.as_strided(tensor.size, tensor.stride, tensor.offset).contiguous()


def _read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Read a member of at most so many bytes once unpacked, which its entry states and unpacking stops at.

    ValueError for more: a few packed bytes can stand for as many as one likes.
    """
    size = archive.getinfo(name).file_size
    if size > most:
        raise ValueError(f"{name} would unpack to {size:,} bytes, more than {most:,}")
    return archive.read(name)


@contextmanager
def open_archive(path: Path) -> Iterator[TensorArchive]:
    """Open a checkpoint file of PyTorch (zip, since version 1.6). Raises ModelError where it is none or damaged."""
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path} is no zip archive, as checkpoints of PyTorch are since version 1.6, or it is truncated; copy it "
            "again"
        )
    with _damage(path):
        archive = zipfile.ZipFile(path)
    with archive:
        with _damage(path):
            opened = TensorArchive(path, archive)
        yield opened


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file leads to into a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # broad, because a damaged pickle fails in whatever its bytes happen to say
        raise ModelError(f"{path} cannot be read ({one_line(error)}); it looks damaged, copy it again") from error
