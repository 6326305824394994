"""The reader `folder`: class folders, or a folder with a CSV that names files and labels."""

import csv
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from svpkit import SvpkitError, hookimpl
from svpkit.errors import unknown

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
FORMATS = ("PNG", "TIFF", "BMP", "JPEG")
LONGEST_SIDE = 16_384
MOST_PIXELS = 64 * 2**20
# Text chunks of a PNG that `svpkit generate` drew: read back, it stays known as drawn.
ORIGIN_TAG, LINEAGE_TAG = "svpkit-origin", "svpkit-lineage"
NAMES = ("file", "id", "label", "group", "source", "um_per_px", "ecd_um")
_OURS = (*NAMES, "origin", "lineage", "digest", "hash", "note")
# Pillow's modes and what they are read as; others (CMYK, float, ...) are set aside.
_MODES = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGBA", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")

Found = tuple[Any, dict[str, Any]]


class FolderReader:
    """Images in class folders (PATH/CLASS/[GROUP/]image.png), or named by a CSV with their labels.

    PNG, TIFF, BMP and JPEG; the id is the file's path in the folder. Images outside any class
    folder have no label. With `labels`, the CSV's further columns are kept.
    """

    def read(
        self,
        path: Path | str,
        *,
        labels: Annotated[
            str | None, "CSV or TSV in the folder that names file and label; else class folders"
        ] = None,
        columns: Annotated[
            dict[str, str] | None,
            "its columns by our names (file, id, label, group, source, um_per_px, ecd_um)",
        ] = None,
        classes: Annotated[
            list[str] | None, "the classes to read, in label order; else all"
        ] = None,
        pattern: Annotated[str, "which files of the class folders"] = "**/*",
        um_per_px: Annotated[
            float | None, Gt(0), "scale of all images that the CSV gives none, in um"
        ] = None,
    ) -> Iterator[Found]:
        """Yield (image, row); a file that cannot be read yields (reason, row).

        Images are uint8 or uint16, (h, w), (h, w, 3) or (h, w, 4). Raises SvpkitError for a folder,
        CSV, column or class that is not there.
        """
        root = Path(path)
        if not root.is_dir():
            raise SvpkitError(f"{root}: no such folder")
        if columns and not labels:
            raise SvpkitError(f"{root}: options.columns names columns, but options.labels no CSV")
        rows = (
            _rows_of_csv(root, labels, columns or {}, classes)
            if labels
            else _rows_of_folders(root, pattern, classes)
        )
        whole = root.resolve()
        for row in rows:
            name = row.pop("file")
            image, row["id"], tags = _load(root, whole, name, row["label"], row.get("id"))
            if um_per_px and not row.get("um_per_px", 0) > 0:
                row["um_per_px"] = um_per_px
            yield image, row | tags

    def sniff(self, path: Path | str) -> bool:
        """Return whether a folder holds images, at most two levels down, or a labels.csv."""
        root = Path(path)
        if not root.is_dir():
            return False
        levels = (root.glob(pattern) for pattern in ("labels.csv", "*", "*/*"))
        return any(
            f.suffix.lower() in SUFFIXES or f.name == "labels.csv"
            for level in levels
            for f in level
        )


def _rows_of_folders(
    root: Path, pattern: str, classes: list[str] | None
) -> Iterator[dict[str, Any]]:
    files = [f.relative_to(root) for f in root.glob(pattern) if f.suffix.lower() in SUFFIXES]
    files = [f for f in files if not any(part.startswith(".") for part in f.parts)]
    known = sorted({f.parts[0] for f in files if len(f.parts) > 1})
    for name in classes or ():
        if name not in known:
            raise unknown(f"{root}: options.classes", name, known)
    rank = {name: i for i, name in enumerate(classes or known)}
    rows = [_folder_row(f) for f in files]
    for row in sorted(rows, key=lambda row: (rank.get(row["label"], -1), row["file"])):
        if not classes or row["label"] in rank:
            yield row


def _folder_row(file: Path) -> dict[str, Any]:
    label = file.parts[0] if len(file.parts) > 1 else ""
    return {"file": file.as_posix(), "label": label, "group": "/".join(file.parts[1:-1])}


def _rows_of_csv(
    root: Path, labels: str, columns: Mapping[str, str], classes: list[str] | None
) -> Iterator[dict[str, Any]]:
    table = _read_csv(root / labels)
    names = _named_columns(root / labels, list(table.columns), columns)
    where = f"{root / labels}: options.classes"
    label = names.get("label")
    known = sorted(set(table[label])) if label else []
    for name in classes or ():
        if name not in known:
            raise unknown(where, name, known)
    taken = set(names.values())
    kept = {c: f"csv_{c}" if c in _OURS else c for c in table.columns if c not in taken}
    raw = _numbers(table[list(kept)].rename(columns=kept))
    ours = table[list(names.values())].set_axis(list(names), axis=1)
    for given, more in zip(_records(ours), _records(raw), strict=True):
        row = {"label": "", **more, **given}
        row |= {k: _number(row[k]) for k in ("um_per_px", "ecd_um") if k in row}
        if not classes or row["label"] in classes:
            yield row


def _named_columns(path: Path, there: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    # an `id` of the CSV is often a count within a run: it is ours only when asked for
    named = {name: name for name in NAMES if name in there and name != "id"}
    for name in columns:
        if name not in NAMES:
            raise unknown(f"{path}: options.columns", name, NAMES)
    for name, column in {"file": "file", "label": "label", **named, **columns}.items():
        if column == "" and name != "file":
            named.pop(name, None)
        elif column not in there:
            raise unknown(f"{path}: options.columns.{name}: column", column, there)
        else:
            named[name] = column
    return named


def _read_csv(path: Path) -> Any:
    """Return the table as text; UTF-8, else Latin-1; separated by comma, semicolon or tab."""
    import pandas as pd

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SvpkitError(f"{path}: options.labels: {error.strerror or error}") from None
    try:
        raw.decode("utf-8")
        encoding = "utf-8-sig"
    except UnicodeDecodeError:
        encoding = "latin-1"
    header = raw.split(b"\n", 1)[0].decode(encoding)
    separator = max(",;\t", key=header.count)
    try:
        table = pd.read_csv(
            path, sep=separator, encoding=encoding, dtype=str, keep_default_na=False
        )
    except (ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise SvpkitError(f"{path}: not a table: {' '.join(str(error).split())}") from None
    table.columns = table.columns.str.strip()
    return table.apply(lambda column: column.str.strip())


def _numbers(table: Any) -> Any:
    """Return the table with every column a number that is one throughout; empty is NaN."""
    import pandas as pd

    for name in table.columns:
        try:
            table[name] = pd.to_numeric(table[name].replace("", "nan"))
        except (ValueError, TypeError):
            continue
    return table


def _records(table: Any) -> Iterator[dict[str, Any]]:
    names = list(table.columns)
    if not names:
        return ({} for _ in range(len(table)))
    columns = (table[name].tolist() for name in names)
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _load(
    root: Path, whole: Path, name: str, label: str, given: str | None
) -> tuple[Any, str, dict[str, Any]]:
    """Return the image or why there is none, its id, and what its tags say of its origin."""
    try:
        inside = _locate(root, whole, name, label)
        image, tags = _decode(root / inside)
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything on a broken file
        reason = f"{error}" if isinstance(error, SvpkitError) else f"cannot be read: {error}"
        return reason.replace(str(whole), ".").replace(str(root), "."), given or name, {}
    return image, given or inside, tags


def _locate(root: Path, whole: Path, name: str, label: str) -> str:
    """Return the file's path in the folder, looked for in the class folder too."""
    if not name:
        raise SvpkitError("no file is named")
    slashed = name.replace("\\", "/")
    for inside in (name, Path(label, name), slashed, Path(label, slashed)):
        target = (root / inside).resolve()
        if Path(slashed).is_absolute() or not target.is_relative_to(whole):
            raise SvpkitError("leaves the folder")
        if target.is_file():
            return Path(inside).as_posix()
    raise SvpkitError("no such file")


def _decode(path: Path) -> tuple[Any, dict[str, Any]]:
    from PIL import Image

    if not path.stat().st_size:
        raise SvpkitError("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # beyond our own limit anyway, and said before anything is decoded
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            _refuse(image)
            return _pixels(image), _tags(image)


def _refuse(image: Any) -> None:
    width, height = image.size
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise SvpkitError(
            f"{width} x {height} px: sides up to {LONGEST_SIDE}, up to {MOST_PIXELS} px are read"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise SvpkitError(f"holds {frames} pictures, one is read")
    if image.mode not in _MODES and image.mode not in _DEEP:
        raise SvpkitError(f"colours are {image.mode}; grey, RGB and 16-bit grey are read")


def _pixels(image: Any) -> Any:
    import numpy as np

    if image.mode in _DEEP:
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image.convert(_MODES[image.mode]))


def _tags(image: Any) -> dict[str, Any]:
    if image.info.get(ORIGIN_TAG) != "synthetic":
        return {}
    return {"origin": "synthetic", "lineage": str(image.info.get(LINEAGE_TAG, ""))}


@hookimpl
def register_readers(register: Any) -> None:
    """Register `folder`."""
    register("folder", FolderReader())
