"""The store: each artifact is made once, named by what went into it, complete or absent."""

import contextlib
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from svpkit import events, ranks
from svpkit.disk import file_digest, put, settle, sync, write_json
from svpkit.errors import SvpkitError
from svpkit.refusals import refused
from svpkit.shapes import ArtifactRecord, shaped

Stage = Callable[..., None]
# What a stage that resumes goes on from: it stays until the artifact is whole, then it goes.
WORK = ("checkpoint-*", "chunks", ".*")
# What the stages of all wings compute with.
SHARED = ("draws", "ema", "fit", "plans", "batches", "optimizers", "pieces")


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
        self._sound: set[str] = set()

    @property
    def used(self) -> list[Artifact]:
        """The artifacts asked for so far, each once, in order."""
        return list(self._used.values())

    def check_used(self) -> None:
        """Raise SvpkitError for the first damaged file of all that was used.

        An artifact is digested once, here or before a stage that reads it is worked: about a second
        a GB.
        """
        self._check(self._used.values())

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
        event = events.STAGE_ENDED if artifact in self.made else events.STAGE_CACHED
        events.tell(event, **_told(artifact), seconds=record["seconds"])
        return artifact

    def name(
        self, function: Stage, params: Mapping[str, Any], *inputs: Artifact, label: str = ""
    ) -> Artifact:
        """Return the artifact that `get` would make, without making it."""
        named = identity(function, params, [i.key for i in inputs])
        key = hashlib.blake2b(json.dumps(named, sort_keys=True).encode(), digest_size=8).hexdigest()
        stage = function.__name__
        return Artifact(stage, key, self.root / f"{stage}-{key}", label or stage)

    def _check(self, artifacts: Iterable[Artifact]) -> None:
        # and what they were made from, which is read by way of them
        waiting, sound = [artifact.path for artifact in artifacts], set(self._sound)
        while waiting:
            path = waiting.pop()
            found = Artifact(path.name.rsplit("-", 1)[0], "", path)
            if found.name in sound or not found.made:
                continue
            check_whole([found])
            sound.add(found.name)
            waiting += [self.root / name for name in read_record(path)["inputs"]]
        self._sound = sound

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
            # a run may have ended between the last file and the artifact's name
            if again or not ranks.agree(ranks.main() and _whole(out)):
                ranks.on_main(partial(self._check, inputs))
                keep = getattr(function, "resumes", False) and not again
                ranks.on_main(partial(_prepare, out, keep))
                record = _worked(artifact, function, params, inputs, out)
                ranks.on_main(partial(_finish, out, record))
            ranks.on_main(partial(_publish, out, artifact.path))
            ranks.see(artifact.path / "artifact.json")
        self.made.append(artifact)
        # its files were digested as they were written
        self._sound.add(artifact.name)
        self._remade |= {artifact.name} if again else set()


def _worked(
    artifact: Artifact,
    function: Stage,
    params: Mapping[str, Any],
    inputs: tuple[Artifact, ...],
    out: Path,
) -> dict[str, Any]:
    started = time.monotonic()
    events.tell(events.STAGE_STARTED, **_told(artifact))
    ranks.on_main(partial(_check_read, params, out))
    if getattr(function, "everywhere", False) or ranks.main():
        with explained(lambda: inputs, out):
            function(out, params, *(i.path for i in inputs))
    ranks.on_main(partial(_check_read, params, out))
    return {
        "stage": artifact.stage,
        "key": artifact.key,
        **identity(function, params, [i.name for i in inputs]),
        "code": code_digest(function),
        "seconds": round(time.monotonic() - started, 3),
    }


def _check_read(params: Mapping[str, Any], out: Path) -> None:
    # the key names the bytes that were there when the recipe was bound
    try:
        for each in _files_in(params):
            each.check()
    except SvpkitError:
        # made of other bytes, perhaps: nothing goes on from it
        shutil.rmtree(out, ignore_errors=True)
        raise


def _files_in(value: Any) -> Iterator[Any]:
    # of plugins, those that their options name
    inner = value if isinstance(value, Mapping) else getattr(value, "options", None)
    if hasattr(value, "digest") and hasattr(value, "check"):
        yield value
    elif isinstance(inner, Mapping):
        yield from chain.from_iterable(map(_files_in, inner.values()))
    elif isinstance(value, (list, tuple)):
        yield from chain.from_iterable(map(_files_in, value))


def _told(artifact: Artifact) -> dict[str, str]:
    return {"stage": artifact.stage, "artifact": artifact.name, "label": artifact.label}


@contextlib.contextmanager
def explained(read: Callable[[], Iterable[Artifact]], out: Path) -> Iterator[None]:
    """Name the damaged file where work on artifacts breaks, and what the system refused.

    Work that breaks says what cannot be read, not why: the digests of what it `read` tell.
    """
    try:
        yield
    except SvpkitError:
        raise
    except Exception as error:
        if ranks.lost(error):
            raise
        check_whole(read(), error)
        if said := refused(error, out):
            raise SvpkitError(said) from error
        raise


def check_whole(artifacts: Iterable[Artifact], cause: Exception | None = None) -> None:
    """Raise SvpkitError for the first of some artifacts that is damaged, naming the file."""
    for each in artifacts:
        if files := damaged(each.path):
            raise SvpkitError(
                f"{each.path / files[0]}: damaged, its bytes are not those that were written "
                f"(--fresh {each.stage} makes it again)"
            ) from cause


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
        return shaped(path / "artifact.json", ArtifactRecord)
    except SvpkitError as error:
        raise SvpkitError(f"{path}: not a complete artifact ({error})") from None


def place_of(root: Path, run: Path) -> str:
    """Return how a run's record names its store: as seen from the run's folder.

    Both may be moved together, and what is handed on tells no folder of this machine.
    """
    try:
        return Path(os.path.relpath(root.resolve(), run.resolve())).as_posix()
    except ValueError:  # on another drive
        return str(root.resolve())


def root_of(run: Path, said: Mapping[str, Any]) -> Path:
    """Return the store of a run by its record: `store` here, where the run was moved without it."""
    named = run.resolve() / str(said.get("store") or "store")
    return Path(os.path.normpath(named)) if named.is_dir() else Path("store")


def damaged(path: Path) -> list[str]:
    """Return the files of an artifact that are lost or whose bytes are not the recorded ones."""
    try:
        recorded = read_record(path)["files"]
        return [n for n, digest in recorded.items() if not _agrees(path / n, digest)]
    except (SvpkitError, KeyError):
        return ["artifact.json"]


def _agrees(path: Path, digest: str) -> bool:
    try:
        return file_digest(path) == digest
    except OSError:
        return False


def code_digest(function: Stage) -> str:
    """Return a digest of the code behind a stage: its wing and what all wings share.

    Recorded, never part of the key.
    """
    source = Path(inspect.getfile(inspect.unwrap(function)))
    shared = [Path(__file__).with_name(f"{name}.py") for name in SHARED]
    return _code_digest(source.parent, tuple(shared))


@cache
def _code_digest(wing: Path, shared: tuple[Path, ...]) -> str:
    state = hashlib.sha256()
    for path in (*sorted(wing.glob("*.py")), *shared):
        state.update(path.read_bytes())
    return state.hexdigest()


def _work(out: Path) -> list[Path]:
    return [path for pattern in WORK for path in out.glob(pattern)]


def _files(out: Path) -> list[Path]:
    work = set(_work(out))
    found = (f for f in out.rglob("*") if f.is_file() and f != out / "artifact.json")
    return sorted(f for f in found if not work & {f, *f.parents})


def _whole(out: Path) -> bool:
    return (out / "artifact.json").is_file() and not damaged(out)


def _prepare(out: Path, keep: bool) -> None:
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "artifact.json").unlink(missing_ok=True)


def _finish(out: Path, record: dict[str, Any]) -> None:
    # the record comes last, on a disk that has all the rest: what has it is whole but for its name
    settle(out)
    files = {str(f.relative_to(out)): file_digest(f) for f in _files(out)}
    write_json(out / "artifact.json", {**record, "files": files})
    sync(out)


def _publish(out: Path, target: Path) -> None:
    for path in _work(out):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    aside = out.with_name(f"{out.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        # an older one, or what an interrupted removal left: out of the way in one rename
        target.replace(aside)
    put(out, target)
    shutil.rmtree(aside, ignore_errors=True)
