"""A run as an RO-Crate: its files, their digests, and what made them, in JSON-LD."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from svpkit import auditlog
from svpkit.disk import file_digest, write_json
from svpkit.errors import SvpkitError
from svpkit.provenance import SHEET
from svpkit.safe import check_inside
from svpkit.shapes import read_run
from svpkit.store import root_of
from svpkit.toml import to_toml

METADATA = "ro-crate-metadata.json"
LINES, RECIPE = "audit-lines.jsonl", "recipe.toml"
# RO-Crate 1.2, https://w3id.org/ro/crate/1.2: an address that names the terms; nothing fetches it.
_PROFILE = "https://w3id.org/ro/crate/1.2"
_CONTEXT = [f"{_PROFILE}/context", {"sha256": "https://schema.org/sha256"}]
_FILES = {
    "results.json": ("The numbers of the run, with intervals", "application/json"),
    "run.json": ("What the numbers come from: recipe, versions, digests", "application/json"),
    "report.html": ("The report", "text/html"),
    "predictions.parquet": ("Predictions on the test set", "application/vnd.apache.parquet"),
    SHEET: ("Data sheet", "text/markdown"),
    "model/README.md": ("Model card", "text/markdown"),
}
_MADE = {
    RECIPE: ("The recipe, fully spelt out", "application/toml"),
    LINES: ("The lines of the audit log that tell of this run", "application/jsonl"),
}
_LICENCE = "Not stated by the run: it belongs to whoever holds the data."


def write_crate(run: Path, out: Path, store: Path | None = None) -> int:
    """Write a finished run as an RO-Crate into the new folder `out`; returns how many files.

    It holds results, record, report, predictions, model card, data sheet, recipe and, where `store`
    (None: the run's own) has a log, its lines on this run; not the weights, which run.json names by
    digest. Raises SvpkitError where `out` is not empty and for a file that was changed since the
    run was written.
    """
    said = read_run(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SvpkitError(f"{out}: already there; name a new folder")
    place = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
        written = [*_copied(run, place, said), *_made(place, said, run, store)]
        write_json(place / METADATA, _metadata(place, said, written))
        if out.exists():
            out.rmdir()
        place.replace(out)
    except OSError as error:
        raise SvpkitError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return len(written)


def _copied(run: Path, place: Path, said: Mapping[str, Any]) -> Iterator[str]:
    noted = said.get("files", {})
    for name in _FILES:
        path = run / name
        if not path.is_file():
            if name in noted:
                raise SvpkitError(f"{path}: missing (svpkit verify says more)")
            continue
        check_inside(path, run)
        if name in noted and file_digest(path) != noted[name]:
            raise SvpkitError(
                f"{path}: changed since the run was written (svpkit verify says more)"
            )
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place / name)
        yield name


def _made(place: Path, said: Mapping[str, Any], run: Path, store: Path | None) -> Iterator[str]:
    (place / RECIPE).write_text(to_toml(said.get("recipe", {})) + "\n", encoding="utf-8")
    yield RECIPE
    root = store or root_of(run, said)
    if lines := [line for line in auditlog.lines(root) if _of(line, said, run.name)]:
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (place / LINES).write_text(text, encoding="utf-8")
        yield LINES


def _of(line: Mapping[str, Any], said: Mapping[str, Any], name: str) -> bool:
    names = [each["name"] for each in said["artifacts"].values()]
    of_run = line.get("run") == name
    return of_run or any(line.get(key) in names for key in ("artifact", "set", "split"))


def _metadata(place: Path, said: Mapping[str, Any], written: list[str]) -> dict[str, Any]:
    about = {"@id": "./"}
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "conformsTo": {"@id": _PROFILE},
        "about": about,
    }
    files = [_file(place, name) for name in written]
    made = [_ref(each) for each in files if each["@id"] not in (RECIPE, LINES)]
    data, software = list(_data(said)), list(_software(said))
    objects = [{"@id": RECIPE}, *map(_ref, data)]
    root = {
        **about,
        "@type": "Dataset",
        "name": f"svpkit run: {said.get('recipe', {}).get('name', 'run')}",
        "description": "A classifier of particles trained and measured: results, and their origin.",
        "datePublished": said.get("ended") or auditlog.now(),
        "license": {"@id": "#licence"},
        "hasPart": [_ref(each) for each in files],
        "mentions": {"@id": "#run"},
    }
    licence = {"@id": "#licence", "@type": "CreativeWork", "name": "Not stated"}
    more = [licence | {"description": _LICENCE}, _action(said, objects, made), *data, *software]
    return {"@context": _CONTEXT, "@graph": [descriptor, root, *files, *more]}


def _file(place: Path, name: str) -> dict[str, Any]:
    said, kind = (_FILES | _MADE)[name]
    return {
        "@id": quote(name),
        "@type": "File",
        "name": name,
        "description": said,
        "encodingFormat": kind,
        "contentSize": str((place / name).stat().st_size),
        "sha256": file_digest(place / name),
    }


def _action(
    said: Mapping[str, Any], objects: list[dict[str, str]], made: list[dict[str, str]]
) -> dict[str, Any]:
    times = {"startTime": said.get("started"), "endTime": said.get("ended")}
    commit = f"; source at {said['commit']}" if said.get("commit") else ""
    return {
        "@id": "#run",
        "@type": "CreateAction",
        "name": "svpkit run",
        "description": f"seed {said.get('seed')}, {said.get('processes', 1)} process(es){commit}",
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
        "instrument": {"@id": "#svpkit"},
        "object": objects,
        "result": made,
        **{name: value for name, value in times.items() if value},
    }


def _data(said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, digest in said.get("data", {}).items():
        yield {
            "@id": f"#data-{quote(name)}",
            "@type": "CreativeWork",
            "name": f"particles: {name}",
            "description": "Digest of ids, labels and pixels, in order (BLAKE2b, 128 bits).",
            "identifier": digest,
        }


def _software(said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    versions = {k: v for k, v in (said.get("versions") or {}).items() if v != "not installed"}
    yield {
        "@id": "#svpkit",
        "@type": "SoftwareApplication",
        "name": "svpkit",
        "softwareVersion": said.get("svpkit", ""),
        "softwareRequirements": [{"@id": f"#software-{quote(name)}"} for name in versions],
    }
    for name, version in versions.items():
        yield {
            "@id": f"#software-{quote(name)}",
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
        }


def _ref(entity: Mapping[str, Any]) -> dict[str, str]:
    return {"@id": entity["@id"]}
