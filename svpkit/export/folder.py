"""The folder of an export: whole or absent, with the model card and a digest of each file."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svpkit.disk import file_digest
from svpkit.errors import SvpkitError
from svpkit.safe import check_inside

CARD, DIGESTS = "MODEL_CARD.md", "SHA256SUMS"


@contextmanager
def new_folder(out: Path, card: Path | None = None) -> Iterator[Path]:
    """Give an empty folder to write in that becomes `out` when the block ends without an error.

    It then also holds a copy of `card`, where that is a file, and SHA256SUMS (`sha256sum -c`).
    Raises SvpkitError where `out` is there already and not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SvpkitError(f"{out}: exists already; name a new folder to export to")
    with _beside(out) as place:
        done = Path(place) / "done"
        done.mkdir()
        yield done
        if card is not None and card.is_file():
            check_inside(card, card.parent)
            shutil.copyfile(card, done / CARD)
        _write_digests(done)
        try:
            # an empty folder gives way, one that another export has filled by now does not
            done.rename(out)
        except OSError as error:
            raise SvpkitError(f"{out}: cannot be written ({error.strerror})") from None


def _beside(out: Path) -> tempfile.TemporaryDirectory[str]:
    # beside it: on the same disk, so that the name changes at once
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-")
    except OSError as error:
        raise SvpkitError(f"{out}: cannot be written ({error.strerror})") from None


def _write_digests(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    lines = [f"{file_digest(p)}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / DIGESTS).write_text("".join(lines))
