"""Checks of readers: what an export gives, whole, damaged, or of another instrument."""

import json
import math
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.plugins import discover
from svpkit.testing.exports import Found, damaged, digests, example, items_of, opened, read, refused
from svpkit.testing.subject import Failed, Subject, expect

TEXTS = ("id", "label", "group", "source", "run", "particle_id")
ABOVE_NOTHING = ("um_per_px", "ecd_um", "volume_ml", "dilution")
OF_RUN = ("volume_ml", "dilution")
SIZE = 32


def live(subject: Subject) -> dict[str, np.ndarray]:
    """Return what a reader gives of its example: {what: array}, rows as bytes of JSON."""
    with example(subject) as path:
        items = read(subject, path)
    found = {f"image {i:06d}": im for i, (im, _) in enumerate(items) if isinstance(im, np.ndarray)}
    said = [[im if isinstance(im, str) else "", row] for im, row in items]
    rows = json.dumps(said, default=str, sort_keys=True)
    return {**found, "rows": np.frombuffer(rows.encode(), np.uint8)}


def check_sniff(subject: Subject) -> None:
    """It knows its own example by looking, given as a path or as a text."""
    with example(subject) as path:
        for given in (path, str(path)):
            said = f"sniff: true is expected of {path.name} as a {type(given).__name__}"
            expect(_sniff(subject, given) is True, said)


def check_sniff_nothing(subject: Subject) -> None:
    """It takes no empty folder, missing path, text or noise for its own, and raises nothing."""
    with TemporaryDirectory() as name:
        for told, path in _nothings(Path(name)):
            with refused("sniff: false", told):
                expect(not _sniff(subject, path), f"sniff: false is expected of {told}, true came")


def check_sniff_others(subject: Subject) -> None:
    """It takes no export of a built-in reader for its own."""
    with TemporaryDirectory() as name:
        for told, path in _others(subject, Path(name)):
            with refused("sniff: false", told):
                expect(not _sniff(subject, path), f"sniff: false is expected of {told}, true came")


def check_images(subject: Subject) -> None:
    """Images are uint8 or uint16, (h, w), (h, w, 3) or (h, w, 4); a text says why there is none."""
    items = items_of(subject)
    for image, row in items:
        if image is None or (isinstance(image, (str, Exception)) and str(image).strip()):
            continue
        kind = f"{getattr(image, 'dtype', '')} {getattr(image, 'shape', '')}".strip()
        said = f"image of '{row.get('id')}': uint8 or uint16 of (h, w) or (h, w, 3) is expected"
        expect(_is_picture(image), f"{said}, a {type(image).__name__} {kind} came")
    some = any(isinstance(image, np.ndarray) for image, _ in items)
    expect(some, f"one image or more is expected of the example, {len(items)} rows without came")


def check_rows(subject: Subject) -> None:
    """Rows have texts and numbers where the host wants them, and an id of their own each."""
    taken: set[str] = set()
    for image, row in items_of(subject):
        expect(isinstance(row, dict), f"row: a dict is expected, a {type(row).__name__} came")
        for name in (n for n in TEXTS if n in row):
            said = f"{name}: a text is expected, {row[name]!r} came"
            expect(isinstance(row[name], str), said)
        for name in (n for n in ABOVE_NOTHING if row.get(n) is not None):
            right = _is_number(row[name]) and (math.isnan(row[name]) or 0 < row[name] < math.inf)
            expect(right, f"{name}: above 0, or NaN, is expected, {row[name]!r} came")
        raw = row.get("raw", {})
        expect(isinstance(raw, dict), f"raw: a dict is expected, a {type(raw).__name__} came")
        if image is not None and row.get("id"):
            expect(
                row["id"] not in taken, f"id: one a particle is expected, '{row['id']}' is twice"
            )
            taken.add(row["id"])


def check_runs(subject: Subject) -> None:
    """All rows of a run tell the same volume and dilution: counts per mL are made of them."""
    said: dict[tuple[str, str], Any] = {}
    for _, row in items_of(subject):
        for name in (n for n in OF_RUN if _is_number(row.get(n))):
            first = said.setdefault((row.get("run", ""), name), row[name])
            same = first == row[name] or (first != first and row[name] != row[name])
            run = row.get("run", "")
            expect(same, f"{name}: {first} is expected on all rows of '{run}', {row[name]} came")


def check_streaming(subject: Subject) -> None:
    """It yields particle after particle, and does not hold all images until the last."""
    with example(subject) as path:
        items = opened(subject, path)
        kind = type(items).__name__
        expect(hasattr(items, "__next__"), f"read: an iterator is expected, a {kind} came")
        kept: list[weakref.ref[Any]] = []
        most = 0
        for image, _ in items:
            if isinstance(image, np.ndarray):
                kept.append(weakref.ref(image))
            del image
            most = max(most, sum(one() is not None for one in kept))
    n = len(kept)
    expect(n < 4 or most <= n // 2, f"read: {most} of {n} images are held at once; yield each")


def check_read_again(subject: Subject) -> None:
    """The same export gives the same particles in the same order, by a path and by a text."""
    with example(subject) as path:
        first = read(subject, path)
        for given in (path, str(path)):
            again = read(subject, given)
            expect(len(first) == len(again), f"read: {len(first)} items, {len(again)} when again")
            for (image, row), (other, more) in zip(first, again, strict=True):
                same = _text(row) == _text(more) and np.array_equal(image, other)
                expect(same, f"read: '{row.get('id')}' is expected again, '{more.get('id')}' came")


def check_leaves_export(subject: Subject) -> None:
    """Reading changes, adds and removes nothing in the export."""
    with example(subject) as path:
        root = path if path.is_dir() else path.parent
        before = digests(root)
        _sniff(subject, path)
        read(subject, path)
        after = digests(root)
        changed = sorted(n for n in before.keys() | after if before.get(n) != after.get(n))
        expect(not changed, f"the export is expected as it was, {', '.join(changed[:3])} changed")


def check_nothing_there(subject: Subject) -> None:
    """A path where nothing is, is said in one line; an empty folder too, or it holds nothing."""
    with TemporaryDirectory() as name, refused("SvpkitError", "a missing path"):
        try:
            found = read(subject, Path(name) / "missing")
        except SvpkitError as error:
            expect("\n" not in str(error), f"missing path: one line is expected, {error!r} came")
        else:
            raise Failed(f"missing path: SvpkitError is expected, {len(found)} items came")
    with (
        TemporaryDirectory() as name,
        refused("SvpkitError, or nothing,", "an empty folder"),
        suppress(SvpkitError),
    ):
        found = read(subject, Path(name))
        expect(not found, f"empty folder: nothing is expected, {len(found)} items came")


def check_damaged(subject: Subject) -> None:
    """A file that is gone, empty, cut or overwritten gives SvpkitError or reasons, nothing else."""
    with example(subject) as path:
        root = path if path.is_dir() else path.parent
        for told in damaged(root):
            with refused("SvpkitError, or a reason in place of the image,", told):
                with suppress(SvpkitError):
                    read(subject, path)


def check_links(subject: Subject) -> None:
    """A link that leads out of the export is not followed: such a file counts as not there."""
    with example(subject) as path:
        root = path if path.is_dir() else path.parent
        whole = _pixels(read(subject, path))
        for told in damaged(root, ("a link out of the export",)):
            with refused("SvpkitError or a reason", told), suppress(SvpkitError):
                # a file that the images do not come from may be read from anywhere
                _differs(subject, path, whole, told)


def check_import(subject: Subject) -> None:
    """The host makes a particle set of it: each image there, each reason in the list."""
    from svpkit.particles.ingest import QUARANTINE, import_set

    with example(subject) as path, TemporaryDirectory() as name:
        items = read(subject, path)
        made = import_set(Path(name) / "set", subject.use, path, size=SIZE)
        bad = (Path(name) / "set" / QUARANTINE).read_text(encoding="utf-8").count("\n") - 1
    good = sum(isinstance(image, np.ndarray) for image, _ in items)
    expect(len(made) == good, f"import: {good} particles are expected, {len(made)} came")
    reasons = sum(isinstance(image, (str, Exception)) for image, _ in items)
    expect(bad >= reasons, f"import: {reasons} set aside are expected, {bad} were")


def _sniff(subject: Subject, path: Path | str) -> Any:
    return subject.plugin.thing.sniff(path)


def _nothings(folder: Path) -> Iterator[tuple[str, Path]]:
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("no export\n")
    (folder / "nothing.csv").touch()
    (folder / "noise.bin").write_bytes(bytes(range(256)) * 8)
    yield "an empty folder", folder / "empty"
    yield "a missing path", folder / "missing"
    yield "a text file", folder / "text.txt"
    yield "an empty file", folder / "nothing.csv"
    yield "a file of noise", folder / "noise.bin"


def _others(subject: Subject, folder: Path) -> Iterator[tuple[str, Path]]:
    registry = discover(builtin_only=True)
    for name in registry.names("reader"):
        mark = getattr(registry.get("reader", name).thing, "tried", None)
        if name != subject.plugin.name and mark is not None and mark.example is not None:
            (folder / name).mkdir()
            yield f"an export for '{name}'", mark.example(folder / name)


def _pixels(items: list[Found]) -> list[bytes]:
    return sorted(image.tobytes() for image, _ in items if isinstance(image, np.ndarray))


def _differs(subject: Subject, path: Path, whole: list[bytes], told: str) -> None:
    if _pixels(read(subject, path)) == whole:
        file = next(f for f in _files(path) if f.is_symlink())
        target = file.resolve()
        file.unlink()
        needed = True
        with suppress(SvpkitError):
            needed = _pixels(read(subject, path)) != whole
        file.symlink_to(target)
        expect(not needed, f"{told}: it is followed; what a link leads to is not the export")


def _files(path: Path) -> list[Path]:
    return sorted((path if path.is_dir() else path.parent).rglob("*"))


def _text(row: dict[str, Any]) -> str:
    return json.dumps(row, default=str, sort_keys=True)


def _is_picture(image: Any) -> bool:
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16):
        return False
    flat = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    return flat and image.size > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))


CHECKS = (
    check_sniff,
    check_sniff_nothing,
    check_sniff_others,
    check_images,
    check_rows,
    check_runs,
    check_streaming,
    check_read_again,
    check_leaves_export,
    check_nothing_there,
    check_damaged,
    check_links,
    check_import,
)
