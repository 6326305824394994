"""CIFAR's python batches, read without trusting them: what a file names is never called."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError, choices

SIDE = 32
_BYTES = 3 * SIDE * SIDE
_LARGEST_FILE = 2**29


@dataclass(frozen=True)
class Layout:
    """The files of one of the two data sets, and what they call labels and their names."""

    files: Mapping[str, tuple[str, ...]]
    meta: str
    names: str
    labels: str
    classes: int


LAYOUTS = (
    Layout(
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        *("batches.meta", "label_names", "labels", 10),
    ),
    Layout(
        {"train": ("train",), "test": ("test",)}, "meta", "fine_label_names", "fine_labels", 100
    ),
)


@dataclass(frozen=True)
class Part:
    """Images uint8 (N, 3, 32, 32) with labels int64 (N,) and the names of all classes."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


def layout_of(root: Path) -> Layout | None:
    """Return the layout whose names of classes and first batch a folder holds, or None."""
    for layout in LAYOUTS:
        if all((root / f).is_file() for f in (layout.meta, layout.files["train"][0])):
            return layout
    return None


def read_part(root: Path, part: str) -> Part:
    """Return "train" or "test" of CIFAR-10 or CIFAR-100 (python version, Krizhevsky 2009).

    Raises SvpkitError, naming the file, for a folder without them, for a file that is cut short,
    holds anything else or asks for anything but arrays.
    """
    layout = layout_of(root)
    if layout is None:
        raise SvpkitError(
            f"{root}: no CIFAR here; the folder with {choices(_files(LAYOUTS[0]))} or "
            f"{choices(_files(LAYOUTS[1]))} is wanted"
        )
    names = _names(root / layout.meta, layout)
    read = [_batch(root / name, layout) for name in layout.files[part]]
    images, labels = (np.concatenate(each) for each in zip(*read, strict=True))
    return Part(images.reshape(-1, 3, SIDE, SIDE), labels, names)


def long_tail(most: int, classes: int, imbalance: float) -> list[int]:
    """Return int(most * imbalance ** (-i / (C - 1))) images for each of C classes.

    The exponential profile of Cao et al. (2019); 1 leaves all classes at `most`.
    """
    return [int(most * imbalance ** (-i / (classes - 1))) for i in range(classes)]


def read_pickle(path: Path) -> dict[str, Any]:
    """Return the dict that a file holds: numbers, texts, lists and arrays uint8, nothing else.

    Raises SvpkitError, naming the file, where it holds or asks for anything more.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SvpkitError(f"{path}: larger than any CIFAR batch ({_LARGEST_FILE:,} bytes)")
        with path.open("rb") as file:
            found = _Reader(file, path).load()
    except OSError as error:
        raise SvpkitError(f"{path}: {error.strerror or error}") from None
    except SvpkitError:
        raise
    except Exception as error:  # noqa: BLE001 - a broken file may raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise SvpkitError(f"{path}: cut short, or no CIFAR batch ({said[:120]})") from None
    if not isinstance(found, dict):
        raise SvpkitError(f"{path}: holds a {type(found).__name__}, no CIFAR batch")
    return {_text(name): value for name, value in found.items()}


class _Array:
    """Stands in for numpy's array and for what rebuilds one: keeps its pixels."""

    __slots__ = ("pixels",)

    def __init__(self, *_: Any) -> None:
        self.pixels: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, columns, data = state
        if not isinstance(kind, _Kind) or kind.name != "u1":
            raise ValueError("an array that is not uint8")
        flat = np.frombuffer(data, np.uint8)
        self.pixels = flat.reshape(shape, order="F" if columns else "C")


class _Kind:
    """Stands in for numpy's dtype: keeps its name."""

    __slots__ = ("name",)

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields mean nothing for bytes."""


class _Bytes:
    """Stands in for `_codecs.encode`, the way that Python 3 writes bytes in an old protocol."""

    def __new__(cls, text: str, coding: str = "latin1") -> bytes:  # type: ignore[misc]
        return str(text).encode("latin-1")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("bytes have no state")


# All that a batch may name. Each is exchanged for a class of ours, so that nothing of numpy, let
# alone of anything else, is called with what a file says.
_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _Bytes,
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise SvpkitError(
                f"{self.path}: asks for '{module}.{name}', as no CIFAR batch does: refused"
            )
        return _STAND_INS[module, name]


def _batch(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    found = read_pickle(path)
    data, labels = found.get("data"), found.get(layout.labels)
    pixels = data.pixels if isinstance(data, _Array) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != _BYTES:
        shape = "nothing" if pixels is None else pixels.shape
        raise SvpkitError(f"{path}: 'data' holds {shape}, (images, {_BYTES}) of uint8 is wanted")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        n = len(labels) if isinstance(labels, list) else "no"
        raise SvpkitError(f"{path}: {n} '{layout.labels}' for {len(pixels)} images")
    if not all(type(label) is int and 0 <= label < layout.classes for label in labels):
        raise SvpkitError(f"{path}: '{layout.labels}' must be 0 to {layout.classes - 1}")
    return pixels, np.array(labels, dtype=np.int64)


def _names(path: Path, layout: Layout) -> tuple[str, ...]:
    names = read_pickle(path).get(layout.names)
    if not isinstance(names, list) or len({_text(name) for name in names}) != layout.classes:
        raise SvpkitError(f"{path}: '{layout.names}' must name {layout.classes} classes")
    return tuple(_text(name) for name in names)


def _files(layout: Layout) -> tuple[str, ...]:
    return (layout.meta, layout.files["train"][0], layout.files["test"][0])


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
