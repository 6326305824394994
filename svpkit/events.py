"""What happens in a run, a line each in its `events.jsonl`, as it happens."""

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG = "events.jsonl"
RUN_STARTED, RUN_ENDED = "run started", "run ended"
STAGE_STARTED, STAGE_ENDED, STAGE_CACHED = "stage started", "stage ended", "stage cached"
TRAINING, SCORED, FIDELITY = "training", "scored", "fidelity"
WARNING, NOTE = "warning", "note"
Listener = Callable[[Mapping[str, Any]], None]


class Told:
    """Tells listeners what happens, each event with its time (UTC) and the stage it belongs to."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners
        self._stage: dict[str, Any] = {}

    def __call__(self, event: str, said: Mapping[str, Any]) -> None:
        """Tell an event: {"time", "event", what is said}; training rows name their stage too."""
        if event == STAGE_STARTED:
            self._stage = {name: said[name] for name in ("artifact", "label")}
        of = self._stage if event == TRAINING else {}
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for listener in self.listeners:
            listener({"time": time, "event": event, **of, **said})


_HEARD: ContextVar[Told | None] = ContextVar("heard", default=None)
_LABEL: ContextVar[str] = ContextVar("label", default="")


def label(default: str) -> str:
    """Return the label of the stage under way, as a plan has it; `default` where there is none."""
    return _LABEL.get() or default


def tell(event: str, **said: Any) -> None:
    """Tell whoever listens to this run, in the main process; nobody is no error."""
    if event in (STAGE_STARTED, STAGE_ENDED):
        _LABEL.set(said.get("label", "") if event == STAGE_STARTED else "")
    if (told := _HEARD.get()) is not None:
        told(event, said)


@contextlib.contextmanager
def heard(*listeners: Listener, **said: Any) -> Iterator[None]:
    """Let listeners hear a run from its start, which is `said`, to its end and how that came.

    The end has `outcome`: "done", "failed" or "interrupted"; warnings are told on the way.
    """
    token, started, outcome = _HEARD.set(Told(*listeners)), time.monotonic(), "interrupted"
    why: dict[str, str] = {}
    tell(RUN_STARTED, **said)
    try:
        with _warned():
            yield
        outcome = "done"
    except Exception as error:
        outcome, why = "failed", {"why": " ".join(str(error).split()) or type(error).__name__}
        raise
    finally:
        tell(RUN_ENDED, outcome=outcome, seconds=round(time.monotonic() - started, 3), **why)
        _HEARD.reset(token)


class Log:
    """A file that gets a line of JSON an event, on its own at once, behind those of earlier runs.

    A number that is not finite becomes null. Where it cannot be written the run goes on without.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._torn = _is_torn(path)

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Add one event."""
        text = json.dumps(_finite(line), allow_nan=False, default=str) + "\n"
        data = (("\n" if self._torn else "") + text).encode()
        self._torn = True
        with contextlib.suppress(OSError), self.path.open("ab", buffering=0) as file:
            # one call: a process that is killed leaves the whole line or none of it
            self._torn = file.write(data) != len(data)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the events of a file, in order; lines that a killed run left half written are not."""
    found = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            found += [event] if isinstance(event, dict) else []
    return found


def _is_torn(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    # told, and shown as ever
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        tell(WARNING, kind=category.__name__, said=" ".join(str(message).split()))
        shown(message, category, *where, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
