"""The reader `folder`: class folders, or a folder with a CSV that names files and labels."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from svpkit import SvpkitError, hookimpl, tried
from svpkit.errors import unknown
from svpkit.legible import checked
from svpkit.readers import tables
from svpkit.readers.pictures import SUFFIXES, decode

NAMES = ("file", "id", "label", "group", "source", "um_per_px", "ecd_um")
_OURS = (*NAMES, "origin", "lineage", "digest", "hash", "read_mark", "note")
# Each `**` is tried below each folder that the one before it finds.
LONGEST_PATTERN, MOST_DEEP = 200, 2

Found = tuple[Any, dict[str, Any]]


def _example(folder: Path) -> Path:
    from svpkit.testing.exports import class_folders

    return class_folders(folder)


@tried(
    example=_example,
    spared={"sniff_others": "any folder of pictures is its own, where no other reader knows it"},
)
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
    where = f"{root}: options.pattern"
    if len(pattern) > LONGEST_PATTERN:
        raise SvpkitError(f"{where}: {len(pattern)} characters, up to {LONGEST_PATTERN} are read")
    if pattern.count("**") > MOST_DEEP:
        raise SvpkitError(f"{where}: '**' stands {pattern.count('**')} times, {MOST_DEEP} will do")
    try:
        found = [f for f in root.glob(pattern) if f.suffix.lower() in SUFFIXES]
    except (ValueError, NotImplementedError, RecursionError) as error:
        raise SvpkitError(f"{where}: {error}") from None
    files = [f.relative_to(root) for f in found]
    files = [f for f in files if not any(part.startswith(".") for part in f.parts)]
    known = sorted({f.parts[0] for f in files if len(f.parts) > 1})
    for name in classes or ():
        if name not in known:
            raise unknown(f"{root}: options.classes", name, known)
    rank = {name: i for i, name in enumerate(classes or known)}
    for name in classes or known:
        checked(name, root)
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
    if not (root / labels).is_file():
        raise SvpkitError(f"{root / labels}: options.labels: No such file")
    if not (root / labels).resolve().is_relative_to(root.resolve()):
        raise SvpkitError(f"{root / labels}: options.labels: leaves the folder")
    table = tables.read_table(root / labels)
    names = _named_columns(root / labels, list(table.columns), columns)
    where = f"{root / labels}: options.classes"
    label = names.get("label")
    known = sorted(set(table[label])) if label else []
    for name in classes or ():
        if name not in known:
            raise unknown(where, name, known)
    taken = set(names.values())
    kept = {c: f"csv_{c}" if c in _OURS else c for c in table.columns if c not in taken}
    raw = tables.numbers(table[list(kept)].rename(columns=kept))
    ours = table[list(names.values())].set_axis(list(names), axis=1)
    for given, more in zip(_records(ours), _records(raw), strict=True):
        row = {"label": "", **more, **given}
        row |= {k: _number(row[k]) for k in ("um_per_px", "ecd_um") if k in row}
        if not classes or row["label"] in classes:
            checked(row["label"], root / labels)
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
        image, tags = decode(root / inside)
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything on a broken file
        reason = f"{error}" if isinstance(error, SvpkitError) else f"cannot be read: {error}"
        return reason.replace(str(whole), ".").replace(str(root), "."), given or name, {}
    return image, given or inside, tags


def _locate(root: Path, whole: Path, name: str, label: str) -> str:
    """Return the file's path in the folder, looked for in the class folder too."""
    if not name:
        raise SvpkitError("no file is named")
    slashed = name.replace("\\", "/")
    why = "no such file"
    for inside in (name, Path(label, name), slashed, Path(label, slashed)):
        target = (root / inside).resolve()
        if Path(slashed).is_absolute() or not target.is_relative_to(whole):
            raise SvpkitError("leaves the folder")
        if target.is_file():
            return Path(inside).as_posix()
        if target.exists():
            why = "not a regular file"
    raise SvpkitError(why)


@hookimpl
def register_readers(register: Any) -> None:
    """Register `folder`."""
    register("folder", FolderReader())
