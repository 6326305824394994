"""CIFAR's python batches, read without trusting them: what a file names is never called."""

import io
import pickle
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError, choices

SIDE = 32
_BYTES = 3 * SIDE * SIDE
_LARGEST_FILE = 2**29
_DEEPEST = 4

# All that CIFAR's files are written with, as Python 2 wrote them and as Python 3 does up to its
# protocol 4.
_FILLS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS"})
_HOLDS = frozenset("EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3".split())
_PUTS = frozenset({"BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"BINGET", "LONG_BINGET"})
_KNOWN = _FILLS.union(
    _HOLDS,
    _PUTS,
    _GETS,
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 SHORT_BINSTRING "
    "BINSTRING SHORT_BINBYTES BINBYTES SHORT_BINUNICODE BINUNICODE GLOBAL STACK_GLOBAL REDUCE "
    "BUILD".split(),
)


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
        raw = path.read_bytes()
        _check(raw, path)
        found = _Reader(io.BytesIO(raw), path).load()
        if not isinstance(found, dict):
            raise SvpkitError(f"{path}: holds a {type(found).__name__}, no CIFAR batch")
        return {_text(name): value for name, value in found.items()}
    except OSError as error:
        raise SvpkitError(f"{path}: {error.strerror or error}") from None
    except SvpkitError:
        raise
    except Exception as error:  # noqa: BLE001 - a broken file may raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise SvpkitError(f"{path}: cut short, or no CIFAR batch ({said[:120]})") from None


def _check(raw: bytes, path: Path) -> None:
    """Raise SvpkitError for what no batch needs, without unpickling: deep nesting, a large memo.

    Of what unpickling would have on its stack only the depth is kept: 0 for numbers, texts and what
    stands for objects, which hold nothing; no list, dict or tuple may be had from the memo, so that
    none grows later or is there twice.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for count, (opcode, arg, _) in enumerate(pickletools.genops(raw)):
        name, index = opcode.name, len(memo) if arg is None else arg
        if name not in _KNOWN:
            raise _refused(path, f"holds the opcode {name}")
        if name == "MARK":
            marks.append(len(stack))
        elif name in _PUTS:
            if index > count:
                raise _refused(path, f"remembers object {index:,} of {count:,}")
            memo[index] = stack[-1]
        elif name in _GETS:
            if memo[index]:
                raise _refused(path, "holds one list, dict or tuple twice")
            stack.append(0)
        else:
            taken = _taken(opcode, stack, marks)
            if opcode.stack_after:
                stack.append(_depth(name, taken))
                if stack[-1] > _DEEPEST:
                    raise _refused(path, f"is nested more than {_DEEPEST} deep")


def _taken(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> list[int]:
    # what an opcode takes from the stack; a mark is where the stack may not be taken below
    if pickletools.markobject in opcode.stack_before:
        at = marks.pop() - opcode.stack_before.index(pickletools.markobject)
    else:
        at = len(stack) - len(opcode.stack_before)
    if at < (marks[-1] if marks else 0):
        raise ValueError("takes more than there is")
    taken = stack[at:]
    del stack[at:]
    return taken


def _depth(name: str, taken: list[int]) -> int:
    if name in _HOLDS:
        return 1 + max(taken, default=0)
    if name in _FILLS:
        return max(taken[0], 1 + max(taken[1:], default=0))
    return taken[0] if name == "BUILD" else 0


def _refused(path: Path, what: str) -> SvpkitError:
    return SvpkitError(f"{path}: {what}, as no CIFAR batch does: refused")


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
        return _text(text).encode("latin-1")

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
            raise _refused(self.path, f"asks for '{module}.{name}'")
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
    found = read_pickle(path).get(layout.names)
    listed = found if isinstance(found, list) else []
    names = tuple(_text(name) for name in listed if isinstance(name, (bytes, str)))
    if len(set(names)) != layout.classes or len(names) != len(listed):
        raise SvpkitError(f"{path}: '{layout.names}' must name {layout.classes} classes")
    return names


def _files(layout: Layout) -> tuple[str, ...]:
    return (layout.meta, layout.files["train"][0], layout.files["test"][0])


def _text(value: Any) -> str:
    if not isinstance(value, (bytes, str)):
        raise ValueError(f"a {type(value).__name__} where a text is wanted")
    return value.decode("latin-1") if isinstance(value, bytes) else value
