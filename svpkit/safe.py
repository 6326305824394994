"""Files of strangers opened within limits: regular files, JSON, weights, arrays and tables."""

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from svpkit.errors import SvpkitError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

MOST_JSON = 64 * 2**20
# Tables within tables of a recipe.
DEEPEST = 32
# TOML's whole numbers have 64 bits; Python writes none of thousands of digits.
MOST_INTEGER = 2**63
# Of a .safetensors file: bytes of its header, and tensors. The library alone takes 100 MB.
MOST_HEADER, MOST_TENSORS, MOST_AXES = 16 * 2**20, 10_000, 16
# Of the header of an .npy file; those of plain arrays have about 100 bytes.
MOST_NPY_HEADER = 10_000
MOST_COLUMNS = 100_000
# Bytes of one number, by the names that .safetensors files have for their types.
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
_BYTES |= {"I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4}
_BYTES |= {"I64": 8, "U64": 8, "F64": 8, "C64": 8}
_BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_BROKEN += (RecursionError, MemoryError, NotImplementedError, RuntimeError, SafetensorError)


class BadFile(SvpkitError, ValueError):
    """A file that holds no JSON as it is wanted here, or no file at all."""


class BadWeights(SvpkitError, SafetensorError):
    """A file that is not within the limits of .safetensors, or no such file at all."""


@contextmanager
def opened(where: Path | str, what: str) -> Iterator[None]:
    """Say in one line what keeps a stranger's folder from being opened, whatever it is."""
    try:
        yield
    except SvpkitError:
        raise
    except _BROKEN as error:
        said = " ".join(str(error).split())[:300]
        raise SvpkitError(f"{where}: {what} ({type(error).__name__}: {said})") from None


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read its bytes; never waits. Raises OSError for a pipe, device or folder."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except ValueError as error:  # a zero byte
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file; raises OSError, and ValueError for more than `most`."""
    with open_regular(path) as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise ValueError(f"more than {most:,} bytes")
    return found


def read_json(path: Path, kind: type = dict, most: int = MOST_JSON) -> Any:
    """Return the table, or the list where `kind` says so, that a JSON file holds.

    Raises BadFile for more than `most` bytes, what is nested too deeply, numbers that are none
    (NaN) and text that is none (half a pair of surrogates).
    """
    try:
        raw = read_bytes(path, most)
        found = json.loads(raw, parse_constant=_no_number)
        if b"\\u" in raw:
            json.dumps(found, ensure_ascii=False).encode()
        if not isinstance(found, kind):
            raise ValueError(f"holds a {type(found).__name__}, a {kind.__name__} is wanted")
    except RecursionError:
        raise BadFile(f"{path}: cannot be read (nested too deeply)") from None
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise BadFile(f"{path}: cannot be read ({said})") from None
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def check_plain(values: Any) -> None:
    """Raise ValueError for more than 32 tables deep, control characters, numbers over 64 bits."""
    here = [("", values)]
    for _ in range(DEEPEST):
        below: list[tuple[str, Any]] = []
        for key, each in here:
            inner = [(key, v) for v in each] if isinstance(each, list) else list(each.items())
            for name, value in inner:
                _check_one(name, value)
            below += [(k, v) for k, v in inner if isinstance(v, (dict, list))]
        here = below
    if here:
        raise ValueError(f"nested more than {DEEPEST} deep")


def _check_one(name: str, value: Any) -> None:
    if _has_controls(name) or (isinstance(value, str) and _has_controls(value)):
        raise ValueError("a control character in a text")
    if isinstance(value, int) and not -MOST_INTEGER <= value < MOST_INTEGER:
        raise ValueError(f"{name[:80]}: a whole number of more than 64 bits")


def _has_controls(text: str) -> bool:
    return any((c < " " and c not in "\t\n\r") or "\x7f" <= c < "\xa0" for c in text)


def check_inside(path: Path, folder: Path) -> None:
    """Raise SvpkitError for a link out of a folder: a copy would hold what nobody meant to give."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise SvpkitError(f"{path}: a link out of the folder {folder}")


def load_tensors(path: Path, wanted: "Mapping[str, Tensor] | None" = None) -> "dict[str, Tensor]":
    """Return the tensors of a .safetensors file.

    Its header is read first: at most 16 MiB, 10,000 tensors, all bytes accounted for once, and,
    where `wanted` is given, its names, its shapes and its kinds of numbers. Raises BadWeights.
    """
    from safetensors.torch import load_file

    _check_wanted(path, _header(path), wanted)
    with _blamed(path):
        return load_file(path)


def load_arrays(path: Path) -> "dict[str, np.ndarray]":
    """Return the arrays of a .safetensors file, under the limits of `load_tensors`."""
    from safetensors.numpy import load_file

    _header(path)
    with _blamed(path):
        return load_file(path)


def load_array(path: Path) -> "np.ndarray":
    """Return the memory-mapped array of an .npy file; raises OSError or ValueError."""
    import numpy as np

    open_regular(path).close()
    found: Any = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=MOST_NPY_HEADER)
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path.name}: an archive, one array is wanted")
    return found


def read_parquet(
    path: Path, rows: int | None = None, wanted: Callable[[str], bool] | None = None
) -> "pd.DataFrame":
    """Return a table; raises OSError, and ValueError for one that has not so many `rows`.

    Where it is given, `wanted` says by its name whether a column is read. What the file claims is
    read first: a kilobyte can unfold to a billion rows.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_regular(path) as file:
            opened = pq.ParquetFile(file)
            said = opened.metadata
            if rows is not None and said.num_rows != rows:
                raise ValueError(f"{path.name}: {said.num_rows} rows, {rows} are wanted")
            if said.num_columns > MOST_COLUMNS:
                raise ValueError(f"{path.name}: {said.num_columns} columns")
            names = None if wanted is None else [n for n in opened.schema_arrow.names if wanted(n)]
        return pd.read_parquet(path, columns=names)
    except (pa.ArrowException, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())[:300]}") from None


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise BadWeights(f"{path.name}: {' '.join(str(error).split())[:300]}") from None


def _header(path: Path) -> dict[str, Any]:
    """Return {name: {"dtype", "shape", "data_offsets"}}; raises BadWeights unless all agree."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise BadWeights(f"{path.name}: a header of {length:,} bytes in {size:,}")
        raw = file.read(length)
    try:
        said = json.loads(raw, object_pairs_hook=_once)
        said.pop("__metadata__", None)
        if len(said) > MOST_TENSORS:
            raise ValueError(f"{len(said):,} tensors, up to {MOST_TENSORS:,} are read")
        _account(said, size - 8 - length)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise BadWeights(f"{path.name}: header: {' '.join(str(error).split())[:300]}") from None
    return said


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _account(said: Mapping[str, Any], data: int) -> None:
    end = 0
    for name, each in sorted(said.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (start, stop) = each["shape"], each["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, start, stop))
        if not whole or len(shape) > MOST_AXES:
            raise ValueError(f"'{name[:80]}' has no shape")
        if start != end or stop - start != math.prod(shape) * _BYTES[each["dtype"]]:
            raise ValueError(f"the bytes of '{name[:80]}' are not those of its shape")
        end = stop
    if end != data:
        raise ValueError(f"{data:,} bytes of numbers, {end:,} are accounted for")


def _check_wanted(
    path: Path, said: Mapping[str, Any], wanted: "Mapping[str, Tensor] | None"
) -> None:
    for name, tensor in (wanted or {}).items():
        if name not in said:
            raise BadWeights(f"{path.name}: lacks '{name}'")
        shape, kind = said[name]["shape"], said[name]["dtype"]
        if list(tensor.shape) != shape:
            raise BadWeights(
                f"{path.name}: '{name}' has the shape {shape}, {list(tensor.shape)} is wanted"
            )
        if tensor.is_floating_point() != (kind[0] == "F" or kind == "BF16"):
            raise BadWeights(f"{path.name}: '{name}' holds {kind}, {tensor.dtype} is wanted")
