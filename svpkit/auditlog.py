"""The audit log of a store: a line for what a reviewer asks about, chained by SHA-256."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from svpkit import __version__, ranks
from svpkit.errors import SvpkitError

LOG = "audit.jsonl"
OPENED, IMPORTED, CORRECTED = "test set opened", "data imported", "labels corrected"
STARTED, WRITTEN, REFUSED = "run started", "run written", "run ended without results"
GATES, FRESH, FORCED = "gates overridden", "made again", "counted though far"
# What the first line holds as the hash of the one before.
FIRST = "0" * 64
# What is read of the end at first, and the longest line that is read.
_TAIL, _LONGEST = 2**16, 64 * 2**20
# Bytes of one thing that is said: of what is longer, its digest.
_MOST_SAID = 2**16


def append(root: Path, event: str, **said: Any) -> dict[str, Any]:
    """Add a line to the log of a store and return it once it is on the disk.

    A line is JSON: n (from 1), time (UTC), svpkit, event, what is `said`, before (the hash of the
    line before) and hash (SHA-256 of the line without it). Of what takes more than 64 KiB as JSON,
    {"digest" (SHA-256 of that JSON), "n" (its items)} is said. Processes wait for each other; of a
    distributed run the main one writes, the others get {}. Raises SvpkitError where it cannot be
    written, or what is there is no log: nothing that has to be logged happens unlogged.
    """
    if not ranks.main():
        return {}
    path = root / LOG
    try:
        with _alone(root), path.open("a+b", buffering=0) as file:
            last, torn, ended = _end(file)
            line = {
                "n": last["n"] + 1,
                "time": now(),
                "svpkit": __version__,
                "event": event,
                **{name: _brief(value) for name, value in said.items()},
                **({"torn": hashlib.sha256(torn).hexdigest()} if torn else {}),
                "before": last["hash"],
            }
            line["hash"] = _hash(line)
            _put(file, (b"" if ended else b"\n") + _text(line) + b"\n")
    except OSError as error:
        raise SvpkitError(f"{path}: cannot be written ({error.strerror or error})") from None
    return line


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def store_of(out: Path) -> Path | None:
    """Return the store that a stage's folder is made in; None where it is in none."""
    return out.parent.parent if out.parent.name == ".partial" else None


def head(root: Path) -> dict[str, Any]:
    """Return {"n", "hash"} of the last line, n 0 where nothing is logged yet.

    Raises SvpkitError where what is there is no log.
    """
    path = root / LOG
    if not path.is_file():
        return {"n": 0, "hash": FIRST}
    with path.open("rb") as file:
        last, *_ = _end(file)
    return {"n": last["n"], "hash": last["hash"]}


def lines(root: Path) -> list[dict[str, Any]]:
    """Return the lines that can be read, in order; none where there is no log."""
    return [line for _, line in _read(root) if isinstance(line, dict)]


def faults(root: Path) -> list[str]:
    """Return what is wrong with the chain, a line each: edited, dropped, reordered, unreadable.

    Lines cut off at the end leave a chain that is whole: they are found only against a head noted
    elsewhere (`holds`), as run.json and the report have it. Whoever may write the file can also
    chain it anew from any line on; that too is found only against such a head.
    """
    found: list[str] = []
    n, before, torn = 0, FIRST, b""
    for number, line in _read(root):
        at = f"line {number}"
        if not isinstance(line, dict):
            found += [f"{at}: not read, and the line before it was not whole"] if torn else []
            torn = line
            continue
        if torn and line.get("torn") != hashlib.sha256(torn.removesuffix(b"\n")).hexdigest():
            found.append(f"line {number - 1}: is no line of the log (changed or put in)")
        found += [f"{at}: {said}" for said in _wrong(line, n, before)]
        n, before, torn = line.get("n", n + 1), line.get("hash", ""), b""
        n = n if isinstance(n, int) else 0
    # what a crash cut off at the end was never counted on; the next line written says so
    return [*found, "last line: is no line of the log"] if torn.endswith(b"\n") else found


def holds(root: Path, noted: Mapping[str, Any]) -> bool:
    """Return True where a head noted earlier still stands in the log."""
    if not noted.get("n"):
        return True
    return any(x.get("n") == noted["n"] and x.get("hash") == noted.get("hash") for x in lines(root))


def openings(root: Path, test: str) -> int:
    """Return how often the test set of this digest was opened, by whatever run of the store."""
    said = (line.get("test") for line in lines(root) if line.get("event") == OPENED)
    return sum(isinstance(each, dict) and each.get("set") == test for each in said)


def shown(line: Mapping[str, Any]) -> str:
    """Return a line as people read it: number, time, event and what was said."""
    known = ("n", "time", "svpkit", "event", "before", "hash")
    said = ", ".join(f"{short(k)} {short(v)}" for k, v in line.items() if k not in known and v)
    n, time, event = (short(line.get(name, "?")) for name in ("n", "time", "event"))
    return f"{n:>5} {time} {event}: {said}"


def short(value: Any) -> str:
    """Return a value as one line of up to 400 characters that are seen: it may be a stranger's."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
    return "".join(c if c.isprintable() else "?" for c in text)[:400]


def _wrong(line: Mapping[str, Any], n: int, before: str) -> Iterator[str]:
    given = line.get("n")
    if _hash({k: v for k, v in line.items() if k != "hash"}) != line.get("hash"):
        yield "its content is not what its hash says: edited"
    if isinstance(given, int) and given > n + 1:
        missing = f"no. {n + 1}" if given == n + 2 else f"no. {n + 1} to {given - 1}"
        yield f"is no. {given} and follows no. {n}: {missing} dropped or moved"
    elif given != n + 1:
        yield f"is no. {short(given)} and follows no. {n}: moved or put in"
    elif line.get("before") != before:
        yield f"does not continue the line before it (no. {n}): one of them is another"


def _text(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(", ", ": ")).encode()


def _hash(line: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(_text(line)).hexdigest()
    except (ValueError, RecursionError):  # a number that is none, too deep: not written here
        return ""


def _read(root: Path) -> Iterator[tuple[int, dict[str, Any] | bytes]]:
    """Yield (line number, line), the bytes themselves where they are no line."""
    path = root / LOG
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
                yield number, _line(raw)
    except OSError as error:
        raise SvpkitError(f"{path}: cannot be read ({error.strerror or error})") from None


def _line(raw: bytes) -> dict[str, Any] | bytes:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    # spelt otherwise (a key twice, other spaces) a line could show people what its hash leaves out
    return found if isinstance(found, dict) and _spelt(found) == raw.rstrip(b"\n") else raw


def _spelt(line: Mapping[str, Any]) -> bytes:
    try:
        return _text(line)
    except (ValueError, RecursionError):  # a number that is none, too deep: not written here
        return b""


def _end(file: Any) -> tuple[dict[str, Any], bytes, bool]:
    """Return the last whole line, the bytes behind it that a crash left, and if it is ended.

    Raises SvpkitError where there are lines, and none of a log within reach.
    """
    size, reach = file.seek(0, os.SEEK_END), _TAIL
    while True:
        start = max(0, size - reach)
        file.seek(start)
        *whole, torn = file.read(size - start).split(b"\n")
        # the first may be the end of a longer one
        rows = whole if start == 0 else whole[1:]
        if (start == 0 or whole) and _is_link(last := _line(torn)):
            return last, b"", False
        for raw in reversed(rows):
            if _is_link(line := _line(raw)):
                return line, torn, not torn
        if start == 0 and not whole:
            # nothing yet, or what a crash left of the first line
            return {"n": 0, "hash": FIRST}, torn, not torn
        if start == 0 or reach > _LONGEST:
            raise SvpkitError(f"{file.name}: no line of an audit log: move it away, or put it back")
        reach *= 8


def _is_link(line: dict[str, Any] | bytes) -> TypeGuard[dict[str, Any]]:
    return isinstance(line, dict) and "hash" in line and isinstance(line.get("n"), int)


def _brief(value: Any) -> Any:
    raw = json.dumps(value).encode()
    if len(raw) <= _MOST_SAID or not isinstance(value, Sized):
        return value
    return {"digest": hashlib.sha256(raw).hexdigest(), "n": len(value)}


def _put(file: Any, text: bytes) -> None:
    size = file.seek(0, os.SEEK_END)
    try:
        while text:
            text = text[file.write(text) :]
        os.fsync(file.fileno())
    except OSError:
        # half a line of a full disk goes again, as far as that can be done
        os.truncate(file.fileno(), size)
        raise


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    from filelock import FileLock

    lock = root / ".partial" / f"{LOG}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield
