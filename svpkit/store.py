"""The store: each artifact is made once, named by what went into it, complete or absent."""

import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from svpkit import ranks
from svpkit.errors import SvpkitError

Stage = Callable[..., None]


def stage(
    *, revision: int, everywhere: bool = False, resumes: bool = False
) -> Callable[[Stage], Stage]:
    """Mark a function `stage(out, params, *inputs)` that writes one artifact.

    Raise `revision` when what it computes changes. `everywhere` stages run on every process of a
    distributed run, the others on the main one alone. A stage that `resumes` finds in `out` what an
    interrupted run left there; the others find an empty folder.
    """

    def mark(function: Stage) -> Stage:
        function.revision = revision  # type: ignore[attr-defined]
        function.everywhere = everywhere  # type: ignore[attr-defined]
        function.resumes = resumes  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True)
class Artifact:
    """A folder `store/<stage>-<key>/`, made or yet to be made."""

    stage: str
    key: str
    path: Path
    label: str = ""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def made(self) -> bool:
        """True when the artifact is complete."""
        return (self.path / "artifact.json").is_file()


class Store:
    """A folder of artifacts, shared by all recipes."""

    def __init__(self, root: Path, *, fresh: tuple[str, ...] = ()) -> None:
        self.root, self.fresh = root, fresh
        self.seconds: dict[str, float] = {}
        self.made: list[Artifact] = []
        self.stale: list[Artifact] = []
        self._used: dict[str, Artifact] = {}
        self._remade: set[str] = set()

    @property
    def used(self) -> list[Artifact]:
        """The artifacts asked for so far, each once, in order."""
        return list(self._used.values())

    def get(
        self, function: Stage, params: Mapping[str, Any], *inputs: Artifact, label: str = ""
    ) -> Artifact:
        """Return the artifact of a stage, making it when it is not there.

        The key is a digest of the stage's name and revision, params and input keys. Two processes
        that want the same artifact wait for each other.
        """
        artifact = self.name(function, params, *inputs, label=label)
        if artifact.name in self._used:
            return artifact
        # what was made from something made again is made again too
        again = artifact.stage in self.fresh or any(i.name in self._remade for i in inputs)
        if again or not ranks.agree(artifact.made):
            self._make(artifact, function, params, inputs, again)
        record = read_record(artifact.path)
        if record["code"] != code_digest(function):
            self.stale.append(artifact)
        self._used[artifact.name] = artifact
        self.seconds[artifact.name] = record["seconds"]
        return artifact

    def name(
        self, function: Stage, params: Mapping[str, Any], *inputs: Artifact, label: str = ""
    ) -> Artifact:
        """Return the artifact that `get` would make, without making it."""
        named = identity(function, params, [i.key for i in inputs])
        key = hashlib.blake2b(json.dumps(named, sort_keys=True).encode(), digest_size=8).hexdigest()
        stage = function.__name__
        return Artifact(stage, key, self.root / f"{stage}-{key}", label or stage)

    def _make(
        self,
        artifact: Artifact,
        function: Stage,
        params: Mapping[str, Any],
        inputs: tuple[Artifact, ...],
        again: bool,
    ) -> None:
        out = self.root / ".partial" / artifact.name
        with ranks.alone(self.root / ".partial" / f"{artifact.name}.lock"):
            if not again and ranks.agree(artifact.made):
                return
            keep = getattr(function, "resumes", False) and not again
            ranks.on_main(partial(_prepare, out, keep))
            started = time.monotonic()
            paths = [i.path for i in inputs]
            if getattr(function, "everywhere", False):
                function(out, params, *paths)
            elif ranks.main():
                function(out, params, *paths)
            ranks.wait()
            record = {
                "stage": artifact.stage,
                "key": artifact.key,
                **identity(function, params, [i.name for i in inputs]),
                "code": code_digest(function),
                "seconds": round(time.monotonic() - started, 3),
                "files": {},
            }
            ranks.on_main(partial(_publish, out, artifact.path, record))
            ranks.see(artifact.path / "artifact.json")
        self.made.append(artifact)
        self._remade |= {artifact.name} if again else set()


def identity(function: Stage, params: Mapping[str, Any], inputs: list[str]) -> dict[str, Any]:
    """Return what names an artifact, as plain JSON values."""
    return {
        "stage": function.__name__,
        "revision": getattr(function, "revision", 0),
        "params": plain(params),
        "inputs": inputs,
    }


def plain(value: Any) -> Any:
    """Return a value as JSON would hold it; things with `describe()` describe themselves."""
    if hasattr(value, "describe"):
        return plain(value.describe())
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def read_record(path: Path) -> dict[str, Any]:
    """Return an artifact's record; raises SvpkitError where it cannot be read."""
    try:
        return json.loads((path / "artifact.json").read_text())
    except (OSError, ValueError) as error:
        raise SvpkitError(f"{path}: not a complete artifact ({error})") from None


def code_digest(function: Stage) -> str:
    """Return a digest of the code behind a stage: its wing and what all wings share.

    Recorded, never part of the key.
    """
    source = Path(inspect.getfile(inspect.unwrap(function)))
    shared = [Path(__file__).with_name(f"{name}.py") for name in ("draws", "ema", "fit")]
    return _code_digest(source.parent, tuple(shared))


@cache
def _code_digest(wing: Path, shared: tuple[Path, ...]) -> str:
    state = hashlib.sha256()
    for path in (*sorted(wing.glob("*.py")), *shared):
        state.update(path.read_bytes())
    return state.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def settle(folder: Path) -> None:
    """Wait until a folder and all below it are on the disk, not only in its cache."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            _sync(path)


def put(temporary: Path, target: Path) -> None:
    """Give what is settled its name, and wait until the name is on the disk as well."""
    temporary.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_size(path: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def _prepare(out: Path, keep: bool) -> None:
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


def _publish(out: Path, target: Path, record: dict[str, Any]) -> None:
    files = sorted(f for f in out.rglob("*") if f.is_file())
    record["files"] = {str(f.relative_to(out)): file_digest(f) for f in files}
    write_json(out / "artifact.json", record)
    settle(out)
    if target.exists():
        # an older one, or what an interrupted removal left: out of the way in one rename
        aside = out.with_name(f"{out.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
        put(out, target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        put(out, target)
