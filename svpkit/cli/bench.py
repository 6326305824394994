"""`svpkit bench`: a suite of experiments, arm by arm, seed by seed."""

from pathlib import Path

import click

from svpkit.cli.common import runs_option, store_option
from svpkit.plugins import Registry

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("suite", type=click.Path(path_type=Path))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256))
@click.option("--only", default="", metavar="TEXT", help="Run the cells whose name holds this.")
@click.option("--again", is_flag=True, help="Run the cells that failed again.")
@click.option("--plan", is_flag=True, help="Check everything, show the cells and stop.")
@click.option("--out", type=_FOLDER, help="Folder of results.csv [default: bench/SUITE].")
@click.option("--data-root", type=_FOLDER, help="Where data lie [default: SVPKIT_REAL_DATA].")
@runs_option
@store_option
@click.pass_obj
def bench(
    registry: Registry,
    suite: Path,
    workers: int,
    only: str,
    again: bool,
    plan: bool,
    out: Path | None,
    data_root: Path | None,
    runs: Path,
    store_root: Path,
) -> None:
    """Run a suite: every arm on every setting and seed, compared in one report.

    What results.csv holds is not run again; cells that fail stay in it with their error.
    """
    from svpkit import api
    from svpkit import bench as benches
    from svpkit.board import board
    from svpkit.measured import Places
    from svpkit.report.trial import board_tables, winner_lines, write_board

    places = Places(runs, store_root, out or Path("bench") / suite.stem, data_root)
    opened = benches.open_bench(suite, registry, places)
    if plan:
        return api.console().print(benches.plan_table(opened, only=only, again=again))
    benches.run(opened, workers=workers, only=only, again=again, say=click.echo)
    found = board(opened)
    for table in board_tables(found):
        api.console().print(table)
    for line in winner_lines(found):
        click.echo(line)
    click.echo(f"results: {opened.results}")
    click.echo(f"report: {write_board(places.out / 'report.html', found)}")
