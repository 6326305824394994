"""`svpkit verify`, `log` and `crate`: what can be held against a run, and handed on with it."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from svpkit.cli.common import runs_option, say, store_option

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("run")
@click.option(
    "--store",
    "store_root",
    type=_FOLDER,
    help="Folder of the artifacts [default: the run's].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@runs_option
def verify(run: str, store_root: Path | None, as_json: bool, runs: Path) -> None:
    """Check a finished run: its files, its artifacts, its numbers and the audit log.

    The numbers are worked out again from the stored predictions and must be equal in every digit.
    A line for each thing checked; ends with 1 where one failed. What was cleared from the store is
    "unchecked".
    """
    from svpkit import api
    from svpkit.verify import FAILED, GONE
    from svpkit.verify import verify as check

    found = check(api.run_folder(run, runs), store_root)
    failed, gone = (sum(c.state == state for c in found) for state in (FAILED, GONE))
    if as_json:
        say(json.dumps([asdict(each) for each in found], indent=1))
    else:
        for each in found:
            say(f"{each.state:<9} {each.what}" + (f": {each.reason}" if each.reason else ""))
        more = f", {gone} can no longer be checked" if gone else ""
        say(f"{len(found)} checks, {failed} failed{more}")
    if failed:
        raise SystemExit(1)


@click.command()
@store_option
@click.option("--verify", "check", is_flag=True, help="Check the chain; ends with 1 where broken.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they stand in the log.")
def log(store_root: Path, check: bool, as_json: bool) -> None:
    """Show the audit log of a store: test sets opened, labels corrected, gates set aside, imports.

    Each line holds the hash of the one before. Lines cut off at the end are found by
    `svpkit verify RUN`, as a run notes how far the log had come.
    """
    from svpkit import auditlog
    from svpkit.errors import SvpkitError

    if not (store_root / auditlog.LOG).is_file():
        raise SvpkitError(f"{store_root / auditlog.LOG}: no audit log here")
    for line in auditlog.lines(store_root):
        say(json.dumps(line) if as_json else auditlog.shown(line))
    if not check:
        return
    wrong = auditlog.faults(store_root)
    for each in wrong:
        say(f"FAILED    {each}")
    if wrong:
        raise SystemExit(1)
    head = auditlog.head(store_root)
    say(f"ok        {head['n']} lines; head {head['hash']}")


@click.command()
@click.argument("run")
@click.option("--out", required=True, type=_FOLDER, help="New folder to write.")
@click.option(
    "--store",
    "store_root",
    type=_FOLDER,
    help="Folder of the artifacts [default: the run's].",
)
@runs_option
def crate(run: str, out: Path, store_root: Path | None, runs: Path) -> None:
    """Write a run as an RO-Crate: results, predictions, report, cards and where they came from."""
    from svpkit import api
    from svpkit.crate import write_crate

    written = write_crate(api.run_folder(run, runs), out, store_root)
    say(f"{written} files and ro-crate-metadata.json: {out}")
