"""Digests of every drawn image of a store, so that one is known under any other name."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.particles.particleset import ParticleSet, batches, digest_heads, pixel_digest
from svpkit.shapes import Inputs, Sources, shaped

INDEX = "drawn"
# The column of a set's table with the mark of each picture as it was first read, before it was
# fitted; sets of before have none.
READ = "read_mark"
_NAMED = 5
_NONE = np.empty(0, np.uint64)


def note(root: Path, name: str, drawn: Iterable[np.ndarray], real: Iterable[ParticleSet]) -> int:
    """Add drawn images uint8 (n, C, H, W), block by block, to the index of a store.

    It is `drawn/<name>.npy`: sorted uint64, the first eight bytes of the digest of each image's
    pixels. Left out are pictures of one grey alone and those that a `real` set holds as well: an
    exact copy of a training image must not make its original suspect. Returns how many it holds.
    """
    marks = [mark(image) for block in drawn for image in block if image.min() != image.max()]
    known = [marks_of(each) for each in real]
    fresh = np.setdiff1d(np.array(marks, np.uint64), np.concatenate([_NONE, *known]))
    path = root / INDEX / f"{name}.npy"
    try:
        path.parent.mkdir(exist_ok=True)
        before = np.load(path, allow_pickle=False) if path.is_file() else _NONE
        fresh = np.union1d(before, fresh)
        # several processes may draw for one name: what one writes is whole
        temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, fresh, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise SvpkitError(f"{path}: cannot be written ({said})") from None
    return len(fresh)


def note_set(root: Path, out: Path, split: Path) -> int:
    """Add a drawn set in the making, `out`, which trains on `split`, to the index of its store."""
    drawn = ParticleSet.open(out)
    blocks = (drawn.images(block) for block in batches(len(drawn), 4096))
    return note(root, out.name, blocks, real_of(root, split))


class Index:
    """The drawn images that a store knows of.

    Found is the same picture, whatever its name, its tags or its format: pixels that are equal once
    three equal channels are one, a full alpha is none and 16 bits that hold 8 are 8. So is one that
    svpkit itself read and fitted to another size (`READ`). Not found is a picture that was changed
    by one grey level, resized elsewhere, turned, cropped or saved as JPEG, one drawn in another
    store, and one of a single grey.
    """

    def __init__(self, root: Path | None) -> None:
        files = sorted((root / INDEX).glob("*.npy")) if root else []
        self.names = [path.stem for path in files]
        try:
            self._marks = [np.load(path, allow_pickle=False) for path in files]
        except (OSError, ValueError) as error:
            raise SvpkitError(f"{root}/{INDEX}: cannot be read ({error})") from None

    def __bool__(self) -> bool:
        return bool(self._marks)

    def who(self, marks: np.ndarray) -> np.ndarray:
        """Return who drew each of these marks uint64 (n,): a position in `names`, -1 for none."""
        found = np.full(len(marks), -1)
        for i, known in enumerate(self._marks):
            found[np.isin(marks, known)] = i
        return found

    def watched(self, items: Iterable[Any], where: str) -> Iterator[Any]:
        """Yield (image, row) as they come; SvpkitError at the end where any of them was drawn.

        Those whose own tag says so are left to who may use them. Each row gets `READ`: what an
        imported set carries on, else the mark of the image itself.
        """
        seen: list[tuple[str, int]] = []
        for position, (image, row) in enumerate(items):
            if isinstance(image, np.ndarray) and image.ndim in (2, 3):
                own = mark(image)
                row = {**row, READ: _carried(row) or own}
                by = int(self.who(np.array([own, row[READ]], np.uint64)).max()) if self else -1
                if by >= 0 and row.get("origin") != "synthetic":
                    seen.append((str(row.get("id") or f"particle-{position:06d}"), by))
            yield image, row
        self._refuse(seen, where)

    def refuse(self, particles: ParticleSet, where: str) -> None:
        """Raise SvpkitError naming the particles of a set that were drawn."""
        if not self:
            return
        by = self.who(marks_of(particles))
        if READ in particles.table and particles.table[READ].dtype == np.uint64:
            by = np.maximum(by, self.who(particles.table[READ].to_numpy()))
        ids = particles.table["id"].astype(str).to_numpy(object)
        self._refuse([(ids[i], int(by[i])) for i in np.flatnonzero(by >= 0)], where)

    def _refuse(self, seen: Sequence[tuple[str, int]], where: str) -> None:
        if not seen:
            return
        shown = ", ".join(f"'{name}'" for name, _ in seen[:_NAMED])
        more = ", ..." if len(seen) > _NAMED else ""
        drew = ", ".join(sorted({self.names[by] for _, by in seen})[:_NAMED])
        raise SvpkitError(
            f"{where}: {len(seen)} drawn (synthetic) images under another name: {shown}{more} (of "
            f"{drew}, the same pixels): they may never stand in train, val or test"
        )


def mark(image: np.ndarray) -> int:
    """Return the first eight bytes of the digest of a picture's pixels, as `Index` reads them.

    (C, h, w) uint8 of the house, or (h, w), (h, w, 3 or 4) as files hold it.
    """
    return int(pixel_digest(_plain(image))[:16], 16)


def _carried(row: Mapping[str, Any]) -> int:
    said = str(row.get(READ, ""))
    return int(said) if said.isdecimal() and len(said) <= 20 and int(said) < 2**64 else 0


def marks_of(particles: ParticleSet) -> np.ndarray:
    """Return the marks of a set's images, from the digests in its table: uint64 (N,)."""
    if particles.shape[0] == 1:
        return digest_heads(particles.table)
    blocks = (particles.images(block) for block in batches(len(particles), 4096))
    return np.array([mark(image) for block in blocks for image in block], np.uint64)


def real_of(root: Path, artifact: Path) -> list[ParticleSet]:
    """Return the real sets behind an artifact of a store: those of the split it was made from.

    Those that were cleared are left out.
    """
    waiting, seen = [artifact], set()
    while waiting:
        here = waiting.pop()
        record, split = here / "artifact.json", here / "split.json"
        if here in seen:
            continue
        seen.add(here)
        if split.is_file():
            if sets := _split_of(root, shaped(split, Sources)):
                return sets
        elif record.is_file():
            waiting += [root / name for name in reversed(shaped(record, Inputs)["inputs"])]
    return []


def _split_of(root: Path, said: Mapping[str, Any]) -> list[ParticleSet]:
    names = [said["data"], said.get("test"), *said.get("also", ())]
    folders = [root / name for name in dict.fromkeys(filter(None, names))]
    return [ParticleSet.open(f) for f in folders if (f / "manifest.json").is_file()]


def described(root: Path) -> dict[str, Mapping[str, Any]]:
    """Return what the index holds, by name: {"images", "sha256"}."""
    found = {}
    for path in sorted((root / INDEX).glob("*.npy")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.stem] = {"images": len(np.load(path, allow_pickle=False)), "sha256": digest}
    return found


def _plain(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint16 and not (image % 257).any():
        image = (image // 257).astype(np.uint8)
    if image.ndim == 2:
        return np.ascontiguousarray(image[None])
    if image.shape[-1] in (3, 4) and image.shape[0] not in (1, 3):
        image = np.moveaxis(image, -1, 0)
    if len(image) == 4 and (image[3] == 255).all():
        image = image[:3]
    if len(image) == 3 and (image[0] == image[1]).all() and (image[0] == image[2]).all():
        image = image[:1]
    return np.ascontiguousarray(image)
