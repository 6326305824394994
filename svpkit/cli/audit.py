"""`svpkit audit`: labels that are probably wrong."""

from pathlib import Path

import click

from svpkit.cli.common import runs_option, say
from svpkit.plugins import Registry

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("run")
@click.option("--out", type=_FOLDER, help="Folder to write [default: audit, in the run's folder].")
@click.option(
    "--folds",
    default=5,
    show_default=True,
    type=click.IntRange(2, 50),
    help="How many classifiers are trained, each without its share of the particles.",
)
@click.option(
    "--images", type=click.IntRange(1), help="Images seen a fold [default: as in the run]."
)
@runs_option
@click.option("--store", type=_FOLDER, help="Folder of the artifacts [default: the run's].")
@click.pass_obj
def audit(
    registry: Registry,
    run: str,
    out: Path | None,
    folds: int,
    images: int | None,
    runs: Path,
    store: Path | None,
) -> None:
    """List the labels of a run that are probably wrong, with pictures and a CSV to correct.

    Fill in its column `corrected` where you agree, and name the file in the recipe as
    data.corrections. Test labels are reported on, never changed. Wants svpkit[audit].
    """
    from svpkit import api, ranks
    from svpkit.audit import CSV, PAGE, Asked, table
    from svpkit.audit import audit as look

    found = look(Asked(api.run_folder(run, runs), folds, images, store, out), registry)
    if ranks.main():
        api.console().print(table(found))
        say(f"pictures: {found.folder / PAGE}")
        say(f"to correct: {found.folder / CSV}")
