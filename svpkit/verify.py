"""A finished run held against what it says of itself: files, keys, numbers, and the audit log."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svpkit import auditlog
from svpkit.auditlog import short
from svpkit.disk import file_digest
from svpkit.errors import SvpkitError
from svpkit.keep import weights_of
from svpkit.provenance import WRITTEN, content
from svpkit.recounted import numbers
from svpkit.safe import read_json
from svpkit.store import read_record, root_of

OK, FAILED, GONE = "ok", "FAILED", "unchecked"


@dataclass(frozen=True)
class Check:
    """One thing that was checked: `state` is "ok", "FAILED" or "unchecked", with the reason."""

    what: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Run:
    """A run's folder, what its run.json says, and the store that its artifacts are looked for in.

    `there`: the store holds some of the run's artifacts, so that one that is missing is missed.
    """

    folder: Path
    said: Mapping[str, Any]
    store: Path
    there: bool


def verify(folder: Path, store: Path | None = None) -> list[Check]:
    """Check a finished run and return what was found, in order.

    Its files against the digests in run.json, and run.json against the audit log; every artifact
    that it names against its own record, its key against what went into it; the numbers of
    results.json against the stored predictions, resampled again with the same seeds; the report
    against results.json; and the log's chain. What was cleared from the store is "unchecked" where
    nothing of the run is there, and a failure where the rest of it is. No file outside of the run's
    folder and the store is opened, and what is told is one line a check. Raises SvpkitError where
    there is no run.json to read.
    """
    run = _opened(folder, store)
    found = (*_files(run), *_report(run), *_artifacts(run), *numbers_of(run), *_log(run))
    # labels, names and reasons hold what a stranger wrote
    return [replace(each, what=short(each.what), reason=short(each.reason)) for each in found]


def _opened(folder: Path, store: Path | None) -> Run:
    said = read_json(folder / "run.json")
    if not isinstance(said.get("artifacts"), dict):
        raise SvpkitError(f"{folder / 'run.json'}: names no artifacts; it is none of a run")
    if not _shaped(said):
        raise SvpkitError(f"{folder / 'run.json'}: its tables are not those of a run")
    root = store or root_of(folder, said)
    there = any((root / a["name"] / "artifact.json").is_file() for a in said["artifacts"].values())
    return Run(folder, said, root, there)


def _shaped(said: Mapping[str, Any]) -> bool:
    made, files, log = (said.get(name) or {} for name in ("artifacts", "files", "audit"))
    if not all(isinstance(each, dict) for each in (made, files, log)):
        return False
    names = [each.get("name") if isinstance(each, dict) else None for each in made.values()]
    return all(isinstance(name, str) and name == Path(name).name for name in names)


def _files(run: Run) -> Iterator[Check]:
    noted = run.said.get("files")
    if not noted:
        yield Check("files of the run", GONE, "run.json notes no digests of them")
        return
    for name, digest in sorted(noted.items()):
        if _is_inside(run.folder / name, run.folder):
            yield _fits(name, run.folder / name, digest)
        else:
            yield Check(name, FAILED, "names a file outside of the run's folder: not opened")
    own = {f"model/{p.name}" for p in (run.folder / "model").glob("*")}
    for name in sorted({*own, *WRITTEN} - set(noted)):
        yield Check(name, FAILED, "run.json does not name it")
    config, model = run.folder / "model" / "config.json", run.folder / "model"
    if config.is_file():
        fits = read_json(config).get("digests") == weights_of(model)
        yield _said("model: weights as config.json names them", fits, "others lie beside it")


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a zero byte, links in a ring
        return False


def _fits(what: str, path: Path, digest: str) -> Check:
    if not path.is_file():
        return Check(what, FAILED, "missing")
    return _said(what, file_digest(path) == digest, "changed since the run was written")


def _said(what: str, fits: bool, reason: str) -> Check:
    return Check(what, OK if fits else FAILED, "" if fits else reason)


def _report(run: Run) -> Iterator[Check]:
    path, results = run.folder / "report.html", run.folder / "results.json"
    if not path.is_file() or not results.is_file() or "results" not in run.said:
        return
    page = path.read_text(encoding="utf-8", errors="replace")
    reason = "the digest of results.json is not the one that it names"
    yield _said("report.html: of these results", file_digest(results) in page, reason)
    head = (run.said.get("audit") or {}).get("hash", "")
    reason = "the head of the audit log in run.json is not the one that it names"
    yield _said("report.html: of this audit log", head in page, reason)


def _artifacts(run: Run) -> Iterator[Check]:
    for label, each in run.said["artifacts"].items():
        what, path = f"artifact {each['name']} ({label})", run.store / each["name"]
        if not (path / "artifact.json").is_file():
            state = FAILED if run.there else GONE
            yield Check(what, state, f"not in {run.store}: it can no longer be checked")
            continue
        wrong = next(_wrong(path, each), "")
        yield _said(what, not wrong, wrong)


def _wrong(path: Path, noted: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with an artifact, the gravest first."""
    try:
        record = read_record(path)
        made, files = f"{record['stage']}-{record['key']}", record["files"]
        key = _key(record)
    except (SvpkitError, KeyError, IndexError, TypeError, AttributeError) as error:
        yield f"artifact.json cannot be read ({error})"
        return
    if made != path.name:
        yield f"holds what was made as {made}"
    if key != record["key"]:
        yield "its key does not follow from its stage, revision, params and inputs"
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    for name in sorted(set(files) - there):
        yield f"{name}: missing"
    for name in sorted(there - set(files) - {"artifact.json"}):
        yield f"{name}: not one of its files"
    for name in sorted(set(files) & there):
        if file_digest(path / name) != files[name]:
            yield f"{name}: changed since it was made"
    if noted.get("content", content(record)) != content(record):
        yield "made again since the run was written, with other content"


def _key(record: Mapping[str, Any]) -> str:
    # as the store names an artifact, whose record holds the names of its inputs for their keys
    kept = {name: record[name] for name in ("stage", "revision", "params")}
    named = kept | {"inputs": [name.rsplit("-", 1)[1] for name in record["inputs"]]}
    return hashlib.blake2b(json.dumps(named, sort_keys=True).encode(), digest_size=8).hexdigest()


def numbers_of(run: Run) -> Iterator[Check]:
    """Yield a check for each number, or group of numbers, of results.json."""
    path = run.folder / "results.json"
    try:
        found = numbers(run.folder, run.said, run.store, read_json(path))
        for what, wrong in found:
            yield Check(what, GONE if wrong is None else FAILED if wrong else OK, wrong or "")
    except SvpkitError as error:
        yield Check("numbers of results.json", FAILED, str(error))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        yield Check("numbers of results.json", FAILED, f"cannot be recomputed ({said})")


def _log(run: Run) -> Iterator[Check]:
    noted, log = run.said.get("audit"), run.store / auditlog.LOG
    if not noted:
        yield Check("audit log", GONE, "run.json notes no head of it")
        return
    if not log.is_file():
        state = FAILED if run.there else GONE
        yield Check("audit log", state, f"{log} is not there")
        return
    wrong = auditlog.faults(run.store)
    yield _said("audit log: chain", not wrong, "; ".join(wrong[:3]))
    reason = f"no. {noted.get('n')} is not in it as the run noted it: cut off, or another log"
    yield _said("audit log: holds the head of this run", auditlog.holds(run.store, noted), reason)
    digest = file_digest(run.folder / "run.json")
    lines = auditlog.lines(run.store)
    logged = any(x.get("event") == auditlog.WRITTEN and x.get("run.json") == digest for x in lines)
    yield _said("run.json", logged, "changed since the log noted it as written")
