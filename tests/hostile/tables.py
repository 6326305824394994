"""Tables, lists and sets of strangers: labels, exports of instruments, folders of svpkit itself."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from hostile.case import Case
from hostile.pictures import command, good
from svpkit.testing import exports

NOT = "not a table"
_MFI = "#,Frame #,Particle #,ECD(um),X Left,X Right,Y Top,Y Bottom\n"


class Bomb:
    """Pickled, it writes a file as soon as it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def _annotators(folder: Path, raw: bytes | Callable[[Path], object]) -> list[str]:
    """Write a table for the command that reads any: how far annotators agree."""
    path = folder / "labels.csv"
    path.write_bytes(raw) if isinstance(raw, bytes) else raw(path)
    return ["data", "agreement", "labels.csv", "--by", "a", "--by", "b"]


def _big(path: Path) -> None:
    path.write_bytes(b"a,b\n")
    os.truncate(path, 2**40)


_TABLES: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "table of no byte": (b"", NOT),
    "table of zero bytes": (bytes(5000), "zero bytes in its header|not a table"),
    "table of noise": (np.random.default_rng(1).bytes(5000), "labels.csv"),
    "table with an open quote": (b'a,b\nx,"y\n' + b"x,y\n" * 50, NOT),
    "table with a cell of 10 MB": (b"a,b\nx," + b"y" * 10_000_000 + b"\n", "characters"),
    "table with two columns of a name": (b"a,b,a\nx,y,z\n", "two columns are called 'a'"),
    "table of 5000 columns": (b",".join(b"%d" % i for i in range(5000)) + b"\n", "columns"),
    "table whose rows are longer": (b"a,b\nx,y,z\nx,y,z\n", NOT),
    "table with one longer row": (b"a,b\nx,y\nx,y,z\nx,y\n", NOT),
    "table that is a pipe": (lambda path: os.mkfifo(path), "not a regular file"),
    "table that is a folder": (lambda path: path.mkdir(), "directory"),
    "table that is a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "table of a terabyte": (_big, "bytes"),
    "table of UTF-16": ("a,b\r\nx,y\r\nx,x\r\ny,y\r\n".encode("utf-16"), ""),
    "table with a mark": (b"\xef\xbb\xbfa,b\nx,y\nx,x\ny,y\n", ""),
    "table of many line ends": (b"a,b\r\nx,y\nx,x\r\n\r\ny,y", ""),
    "table of half a UTF-16": ("a,b\nx,y\n".encode("utf-16")[:-1], NOT),
}


def _labels(folder: Path, *rows: str) -> list[str]:
    place = folder / "data"
    place.mkdir()
    for i in range(4):
        good(place / f"{i}.png")
    lines = ["file,label", *(f"{i}.png,{'ab'[i % 2]}" for i in range(4)), *rows]
    (place / "labels.csv").write_text("\n".join(lines) + "\n")
    return command(place, "-o", "labels=labels.csv")


_FILES = {
    "../guard/secret.png": "leaves the folder",
    "..\\guard\\secret.png": "leaves the folder",
    "/etc/passwd": "leaves the folder",
    "\\\\server\\share\\x.png": "leaves the folder|no such file",
    "C:\\x.png": "no such file",
    "0.png:stream": "no such file",
    "x\0.png": "null|no such file",
    "x" * 5000: "too long|no such file",
    "http://localhost/x.png": "no such file",
    "=1+1": "no such file",
}


def _changed(folder: Path, make: Callable[[Path], Path], name: str, *changes: bytes) -> None:
    place = folder / "data"
    place.mkdir()
    make(place)
    found = sorted(place.rglob(name))[0]
    raw = found.read_bytes()
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in raw, old
        raw = raw.replace(old, new, 1)
    found.write_bytes(raw)


def _export(
    folder: Path, make: Callable[[Path], Path], name: str, *changes: bytes, reader: str = ""
) -> list[str]:
    _changed(folder, make, name, *changes)
    more = ["-o", "crops={particle}.png"] if reader == "mfi" else []
    return ["data", "import", "data", "out/set", "--reader", reader, "--size", "16", *more]


def _boxes(folder: Path, box: str) -> list[str]:
    place = folder / "data"
    place.mkdir()
    good(place / "1.png", 64)
    rows = [f"{i},1,{i},5,0,15,0,15\n" for i in range(1, 4)]
    (place / "t.csv").write_text(_MFI + "".join(rows) + f"4,1,4,5,{box}\n")
    more = ["-o", "frames={frame}.png", "--size", "16"]
    return ["data", "import", "data", "out/set", "--reader", "mfi", *more]


_LST = ["id|int32", "collage_file|string", *(f"image_{c}|int32" for c in "xywh")]


def _flowcam(folder: Path, rows: list[str], head: str = "", raw: bytes = b"") -> list[str]:
    place = folder / "data"
    place.mkdir()
    good(place / "c.png", 64)
    os.rename(place / "c.png", place / "c.tif")
    head = head or f"017\nnum-fields|{len(_LST)}\n" + "\n".join(_LST)
    fine = [f"{i}|c.tif|0|0|9|9" for i in range(1, 5)]
    (place / "r.lst").write_bytes(("\n".join([head, *fine, *rows]) + "\n").encode() + raw)
    return ["data", "import", "data", "out/set", "--reader", "flowcam", "--size", "16"]


def _pipe(folder: Path, make: Callable[[Path], Path], name: str, reader: str) -> list[str]:
    place = folder / "data"
    place.mkdir()
    make(place)
    found = sorted(place.rglob(name))[0]
    found.unlink()
    os.mkfifo(found)
    return ["data", "import", "data", "out/set", "--reader", reader, "--size", "16"]


def _set(folder: Path, change: Callable[[Path], object]) -> list[str]:
    place = folder / "data"
    place.mkdir()
    change(exports.imported(place))
    return ["data", "import", "data/set", "out/set", "--reader", "imported", "--size", "16"]


def _manifest(place: Path, **change: object) -> None:
    said = json.loads((place / "manifest.json").read_text())
    said["parts"][0] |= {k: v for k, v in change.items() if k in ("images", "table")}
    said |= {k: v for k, v in change.items() if k not in ("images", "table")}
    (place / "manifest.json").write_text(json.dumps(said))


def _npy(place: Path, head: str, data: bytes = b"") -> None:
    text = (head + "\n").encode()
    raw = b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text + data
    next(iter(place.glob("part-*.npy"))).write_bytes(raw)


def _pickled(place: Path) -> None:
    bomb = np.array([Bomb(place.parents[1] / "guard" / "owned")], dtype=object)
    np.save(next(iter(place.glob("part-*.npy"))), bomb, allow_pickle=True)


def _only_pickle(place: Path) -> None:
    raw = pickle.dumps(Bomb(place.parents[1] / "guard" / "owned"))
    next(iter(place.glob("part-*.npy"))).write_bytes(raw)


def _zip(place: Path) -> None:
    path = next(iter(place.glob("part-*.npy")))
    np.savez(path.with_suffix(".npz"), x=np.zeros(3))
    path.with_suffix(".npz").replace(path)


def _unfolds(place: Path) -> None:
    path = next(p for p in place.glob("part-*.parquet") if "raw" not in p.name)
    table = pd.DataFrame({"id": pd.Categorical.from_codes(np.zeros(20_000_000, np.int8), ["x"])})
    table.to_parquet(path)


def _deep(place: Path) -> None:
    (place / "manifest.json").write_text('{"format":' + "[" * 100_000 + "]" * 100_000 + "}")


SET = "particle set that cannot be read|no particle set"
_SETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "set that names a file elsewhere": (partial(_manifest, images="../x.npy"), SET),
    "set that names an absolute path": (partial(_manifest, table="/etc/passwd"), SET),
    "set of another shape": (partial(_manifest, shape=[1, 2**40, 2**40]), SET),
    "set whose parts are a number": (partial(_manifest, parts=7), SET),
    "set whose classes are a number": (partial(_manifest, classes=7), SET),
    "set with a manifest too deep": (_deep, SET),
    "set with a manifest of a list": (lambda p: (p / "manifest.json").write_text("[]"), SET),
    "set with pickled pixels": (_pickled, SET),
    "set with a pickle for pixels": (_only_pickle, SET),
    "set with an archive for pixels": (_zip, SET),
    "set with a header of code": (partial(_npy, head="__import__('os').system('id')"), SET),
    "set with a header of 20 kB": (partial(_npy, head="{" + " " * 20_000 + "}"), SET),
    "set of a terabyte": (
        partial(_npy, head="{'descr':'|u1','fortran_order':False,'shape':(1000000000,1,32,32),}"),
        SET,
    ),
    "set whose table unfolds": (_unfolds, SET),
    "set whose table is noise": (
        lambda p: next(iter(p.glob("part-*.parquet"))).write_bytes(b"PAR1" + bytes(99) + b"PAR1"),
        SET,
    ),
}


def _exports() -> list[Case]:
    adc = partial(_export, make=exports.ifcb, name="*.adc", reader="ifcb")
    eco = partial(_export, make=exports.ecotaxa, name="*.tsv", reader="ecotaxa")
    head = f"017\nnum-fields|999999999\n{_LST[0]}"
    return [
        Case(
            "ifcb: width below 0",
            lambda f: _args(adc, f, b",16,16,0,", b",-16,16,0,"),
            "",
            "below 0",
        ),
        Case(
            "ifcb: byte 1e300", lambda f: _args(adc, f, b",16,16,0,", b",16,16,1e300,"), "", "past"
        ),
        Case(
            "ifcb: width NaN", lambda f: _args(adc, f, b",16,16,0,", b",nan,16,0,"), "", "no whole"
        ),
        Case("ifcb: 10**9 px", lambda f: _args(adc, f, b",16,16,0,", b",99999,9999,0,"), "", "px"),
        Case("ifcb: a line of 2 MB", lambda f: _args(adc, f, b"1,", b"9" * 2**21 + b","), "longer"),
        Case(
            "ifcb: pipe for pixels",
            partial(_pipe, make=exports.ifcb, name="*.roi", reader="ifcb"),
            "could be read|no image",
        ),
        Case(
            "ecotaxa: file elsewhere",
            lambda f: _args(eco, f, b"0.png", b"../guard/secret.png"),
            "",
            "leaves the folder",
        ),
        Case(
            "ecotaxa: absolute file",
            lambda f: _args(eco, f, b"0.png", b"/etc/passwd"),
            "",
            "leaves the folder",
        ),
        Case(
            "ecotaxa: an open quote",
            lambda f: _args(eco, f, b"0.png", b'"0.png'),
            "not a table|could be read",
        ),
        Case(
            "ecotaxa: pipe for a picture",
            partial(_pipe, make=exports.ecotaxa, name="0.png", reader="ecotaxa"),
            "",
            "no such file",
        ),
        Case("mfi: box of NaN", partial(_boxes, box="nan,15,0,15"), "", "no whole numbers"),
        Case("mfi: box of 1e308", partial(_boxes, box="0,1e308,0,15"), "", "not in the frame"),
        Case("mfi: box below 0", partial(_boxes, box="-5,15,0,15"), "", "not in the frame"),
        Case("mfi: field of 200 kB", partial(_boxes, box="0,15,0," + "1" * 200_000), "not a table"),
        Case(
            "flowcam: collage elsewhere",
            partial(_flowcam, rows=["9|../guard/secret.png|0|0|9|9"]),
            "",
            "leaves the folder",
        ),
        Case(
            "flowcam: collage on a share",
            partial(_flowcam, rows=["9|\\\\s\\x.tif|0|0|9|9"]),
            "",
            "leaves the folder",
        ),
        Case(
            "flowcam: rectangle of NaN",
            partial(_flowcam, rows=["9|c.tif|nan|0|9|9"]),
            "",
            "number of pixels",
        ),
        Case(
            "flowcam: rectangle of 1e300",
            partial(_flowcam, rows=["9|c.tif|0|0|1e300|9"]),
            "",
            "leaves c.tif",
        ),
        Case(
            "flowcam: rectangle below 0",
            partial(_flowcam, rows=["9|c.tif|-3|0|9|9"]),
            "",
            "leaves c.tif",
        ),
        Case("flowcam: 10**9 fields", partial(_flowcam, rows=[], head=head), "num-fields"),
        Case("flowcam: a line of 2 MB", partial(_flowcam, rows=[], raw=b"9" * 2**21), "longer"),
        Case(
            "flowcam: an id of 5000 digits", partial(_flowcam, rows=["9" * 5000 + "|c.tif|0|0|9|9"])
        ),
        Case(
            "flowcam: noise at its end",
            partial(_flowcam, rows=[], raw=np.random.default_rng(2).bytes(50)),
            "",
            "values",
        ),
    ]


def _args(make: Callable[..., list[str]], folder: Path, *changes: bytes) -> list[str]:
    # positional changes after keywords that are bound
    known = make.keywords  # type: ignore[attr-defined]
    return _export(folder, known["make"], known["name"], *changes, reader=known["reader"])


def cases() -> list[Case]:
    """Return the tables, exports and sets as cases."""
    found = [Case(n, partial(_annotators, raw=raw), said) for n, (raw, said) in _TABLES.items()]
    for name, said in _FILES.items():
        make = partial(lambda folder, name: _labels(folder, f'"{name}",a'), name=name)
        found.append(Case(f"labels of {name[:25]!r}", make, aside=said))
    formulas = ['"=1+1.png",=2+2', '"@x",a']
    found.append(Case("labels that are formulas", lambda f: _labels(f, *formulas), aside="'=1"))
    sets = [Case(n, partial(_set, change=change), said) for n, (change, said) in _SETS.items()]
    return [*found, *_exports(), *sets]
