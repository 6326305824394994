"""Files and folders that a recipe names: found under its roots, named by their bytes."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from svpkit.errors import SvpkitError, choices
from svpkit.store import file_digest


@dataclass(frozen=True)
class Located:
    """A file or folder that is read, named in keys by the digest of its bytes."""

    path: Path
    digest: str

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def describe(self) -> dict[str, str]:
        """Return what an artifact's key holds of it."""
        return {"digest": self.digest}


def environment_root() -> Path | None:
    """Return the data root that the environment names (SVPKIT_REAL_DATA), or None."""
    root = os.environ.get("SVPKIT_REAL_DATA")
    return Path(root) if root else None


def locate(path: str, roots: list[Path], where: str) -> Located:
    """Return a file or folder under one of the roots, with its digest; absolute paths stay."""
    tried = [Path(path)] if Path(path).is_absolute() else [root / path for root in roots]
    for found in tried:
        if found.is_dir() and not any(f.is_file() for f in found.rglob("*")):
            raise SvpkitError(f"{where}: there is no file in '{found}'")
        if found.exists():
            return Located(found, path_digest(found))
    looked = choices(str(t.parent) for t in tried)
    raise SvpkitError(
        f"{where}: nothing called '{path}' in {looked} (--data-root DIR or SVPKIT_REAL_DATA "
        "names another place)"
    )


def path_digest(path: Path) -> str:
    """Return a digest of a file, or of every file below a folder with its name."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    state = hashlib.sha256()
    for file in files:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        try:
            content = file_digest(file)
        except OSError as error:  # the reader will set it aside, with the reason
            content = error.strerror or "unreadable"
        state.update(f"{name}\x1f{content}\x1e".encode())
    return state.hexdigest()
