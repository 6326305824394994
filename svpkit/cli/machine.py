"""`svpkit store` and `svpkit doctor`: what lies on this machine and what it can do."""

from pathlib import Path

import click

from svpkit.cli.common import runs_option, say, store_option
from svpkit.plugins import Registry


@click.group()
def store() -> None:
    """The artifacts that runs share."""


@store.command()
@store_option
@runs_option
def ls(store_root: Path, runs: Path) -> None:
    """List the artifacts with their sizes and the runs that name them."""
    from svpkit import api
    from svpkit.keep import listing

    _there(store_root)
    api.console().print(api.as_table(listing(store_root, runs), title=str(store_root)))


@store.command()
@store_option
@runs_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def gc(store_root: Path, runs: Path, yes: bool) -> None:
    """Remove the artifacts and the unfinished work that no run names."""
    from svpkit.keep import remove, unnamed

    _there(store_root)
    found = unnamed(store_root, runs)
    size = sum(bytes for _, bytes in found) / 1e6
    what = f"{len(found)} artifacts, {size:,.1f} MB" if found else "nothing"
    say(f"{what} that no run in {runs} names")
    if found and (yes or click.confirm("remove them?")):
        remove(store_root, [path for path, _ in found])


def _there(store_root: Path) -> None:
    from svpkit.errors import SvpkitError

    if not store_root.is_dir():
        raise SvpkitError(f"{store_root}: no store here; --store DIR names another")


@click.command()
@click.pass_obj
def doctor(registry: Registry) -> None:
    """Say what this machine has: versions, devices, real precisions, plugins."""
    from svpkit.doctor import findings

    for name, value in findings(registry):
        say(f"{name:<22} {value}")
