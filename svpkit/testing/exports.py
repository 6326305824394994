"""Exports that readers are tried on: small ones of the built-in readers, copies, broken ones."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec
from svpkit.options import as_given
from svpkit.particles.particleset import ParticleSet
from svpkit.testing.subject import Failed, Subject
from svpkit.testing.toys import particles, write

CLASSES = ("bar", "disc", "ring")
DAMAGES = ("gone", "empty", "cut", "overwritten")
MOST_FILES = 12

Found = tuple[Any, dict[str, Any]]


def class_folders(folder: Path) -> Path:
    """Write class folders of PNG files, three of each toy class."""
    return write(folder, _toy())


def imported(folder: Path) -> Path:
    """Write a particle set as `svpkit data import` does."""
    _toy().save(folder / "set")
    return folder / "set"


def ecotaxa(folder: Path) -> Path:
    """Write an EcoTaxa export: one table of objects and their pictures."""
    from PIL import Image

    toy = _toy()
    names = ("img_file_name", "object_id", "object_annotation_category", "sample_id", "acq_id")
    lines = [names, ("[t]",) * len(names)]
    for i, (image, label) in enumerate(zip(toy.images(), toy.table["label"], strict=True)):
        Image.fromarray(image[0]).save(folder / f"{i}.png")
        lines.append((f"{i}.png", f"object_{i}", str(label), "sample", "scan"))
    (folder / "ecotaxa_toy.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    return folder


def mfi(folder: Path) -> Path:
    """Write an MFI particle table with a crop of each particle: `crops = "{particle}.png"`."""
    from PIL import Image

    lines = ["#,Frame #,Particle #,ECD(um),X Left,X Right,Y Top,Y Bottom"]
    for i, image in enumerate(_toy().images(), 1):
        Image.fromarray(image[0]).save(folder / f"{i}.png")
        lines.append(f"{i},1,{i},5.25,0,15,0,15")
    (folder / "toy.csv").write_text("\n".join(lines) + "\n")
    return folder


def ifcb(folder: Path) -> Path:
    """Write a bin of the Imaging FlowCytobot: a table of triggers, and their pixels in one file."""
    lines, pixels = [], b""
    for i, image in enumerate(_toy().images(), 1):
        line = [i, 0.5 * i, *[0.5] * 9, 0.5 * i, 0.5 * i, 7, 9, 16, 16, len(pixels), -999, 0, 0, 0]
        lines.append(",".join(str(value) for value in [*line, 0.5 * i, 0.1]))
        pixels += image.tobytes()
    stem = folder / "D20240102T030405_IFCB104"
    stem.with_suffix(".adc").write_text("".join(f"{line}\r\n" for line in lines))
    stem.with_suffix(".roi").write_bytes(pixels)
    return folder


@contextmanager
def example(subject: Subject) -> Iterator[Path]:
    """Lend the trial's export, a copy in a folder of its own."""
    # always a copy of its own: checks break it, and a user's export is nobody's to break
    make = subject.trial.example
    if make is None:
        raise SvpkitError(f"reader '{subject.plugin.name}': give an export (--example PATH)")
    with TemporaryDirectory() as name:
        folder = Path(name).resolve() / "example"
        folder.mkdir()
        yield placed(Path(make(folder)), folder)


def read(subject: Subject, path: Path | str) -> list[Found]:
    """Return all that a reader yields of a path."""
    return list(opened(subject, path))


def opened(subject: Subject, path: Path | str) -> Any:
    """Return what `read` itself returns: what it raises is not told by the host here."""
    use = subject.use
    options = {name: as_given(value) for name, value in use.options.items()}
    return use.plugin.call(path, **options, **use.hosted)


def items_of(subject: Subject) -> list[Found]:
    """Return what a reader yields of its example, read once for all checks."""

    def all_of(of: Subject) -> list[Found]:
        with example(of) as path:
            return read(of, path)

    return subject.once("read", all_of)


@contextmanager
def refused(expected: str, told: str) -> Iterator[None]:
    """Turn whatever is no SvpkitError into a failure: what was expected of what was told."""
    try:
        yield
    except (Failed, SvpkitError):
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Failed(f"{expected} is expected of {told}, {said} came") from error


def placed(path: Path, folder: Path) -> Path:
    """Return an export in a folder of its own: where it was written, or as a copy."""
    path = path.resolve()
    if path.is_relative_to(folder):
        return path
    if path.is_dir():
        return Path(shutil.copytree(path, folder / path.name))
    # the files of a run have its name
    for file in path.parent.glob(f"{path.stem}*"):
        if file.is_file():
            shutil.copy(file, folder / file.name)
    return folder / path.name


def digests(root: Path) -> dict[str, str]:
    """Return what is in a folder: {name: digest of the bytes}, folders as "folder"."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        whole = path.is_file()
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if whole else "folder"
    return found


def damaged(root: Path, ways: Sequence[str] = DAMAGES) -> Iterator[str]:
    """Break one file after the other, 12 of them at most, and mend it: yields what is broken."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    rows = np.unique(np.linspace(0, len(files) - 1, MOST_FILES).astype(int)) if files else []
    for file in (files[i] for i in rows):
        whole, name = file.read_bytes(), file.relative_to(root).as_posix()
        for way in ways:
            _break(file, whole, way, root.parent / "outside")
            yield f"{name} ({way})"
            file.unlink(missing_ok=True)
            file.write_bytes(whole)


def _break(file: Path, whole: bytes, way: str, outside: Path) -> None:
    if way == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif way == "overwritten":
        noise = np.random.Generator(np.random.Philox(key=1)).bytes(len(whole) // 2)
        file.write_bytes(whole[: len(whole) // 4] + noise + whole[3 * len(whole) // 4 :])
    else:
        file.unlink()
        if way == "empty":
            file.touch()
        elif way != "gone":
            outside.write_bytes(whole)
            file.symlink_to(outside)


def _toy() -> ParticleSet:
    return particles(dict.fromkeys(CLASSES, 3), 0, ImageSpec(1, 16, CLASSES))
