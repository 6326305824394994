"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from svpkit.legible import legible

Command = Callable[..., Any]

_FOLDER = click.Path(file_okay=False, path_type=Path)


def runs_option(command: Command) -> Command:
    """Add --runs DIR."""
    return click.option(
        "--runs", type=_FOLDER, default=Path("runs"), show_default=True, help="Folder of the runs."
    )(command)


def store_option(command: Command) -> Command:
    """Add --store DIR."""
    return click.option(
        "--store",
        "store_root",
        type=_FOLDER,
        default=Path("store"),
        show_default=True,
        help="Folder of the artifacts.",
    )(command)


def say(text: str = "", *, err: bool = False) -> None:
    """Print to the terminal, with what a stranger's name would order it to do spelt out."""
    click.echo(legible(text), err=err)


def recipe_options(command: Command) -> Command:
    """Add RECIPE, -o KEY=VALUE and --data-root DIR."""
    for add in (
        click.option(
            "--data-root", type=_FOLDER, help="Where data lie [default: SVPKIT_REAL_DATA]."
        ),
        click.option(
            "-o",
            "--override",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a key of the recipe, as in -o classifier.train.lr=3e-4.",
        ),
        click.argument("recipe", type=click.Path(path_type=Path)),
    ):
        command = add(command)
    return command


def options_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return "key=value" pairs as a dict, values read as TOML."""
    from svpkit.toml import override

    values: dict[str, Any] = {}
    for pair in pairs:
        override(values, pair)
    return values
