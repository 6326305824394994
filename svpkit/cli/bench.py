"""`svpkit bench`: a suite of experiments, arm by arm, seed by seed."""

import re
from pathlib import Path

import click

from svpkit.cli.common import runs_option, say, store_option
from svpkit.plugins import Registry

_FOLDER = click.Path(file_okay=False, path_type=Path)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    i, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= i <= n:
        raise click.BadParameter(f"{text}: I/N is wanted, as in 1/4, with I from 1 to N")
    return i, n


@click.command()
@click.argument("suite", type=click.Path(path_type=Path))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256))
@click.option(
    "--shard",
    default="1/1",
    show_default=True,
    metavar="I/N",
    callback=lambda context, option, value: _shard(value),
    help="Run every N-th cell from the I-th on, as task I of N of a job array.",
)
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
    shard: tuple[int, int],
    only: str,
    again: bool,
    plan: bool,
    out: Path | None,
    data_root: Path | None,
    runs: Path,
    store_root: Path,
) -> None:
    """Run a suite: every arm on every setting and seed, compared in one report.

    What results.csv holds is not run again; cells that fail stay in it with their error. Several
    may work on one suite at once, on machines that share the store and results.csv.
    """
    from svpkit import api
    from svpkit import bench as benches
    from svpkit.board import board
    from svpkit.measured import Places
    from svpkit.report.trial import board_tables, winner_lines, write_board

    places = Places(runs, store_root, out or Path("bench") / suite.stem, data_root)
    opened = benches.open_bench(suite, registry, places)
    if plan:
        return api.console().print(benches.plan_table(opened, only=only, again=again, shard=shard))
    benches.run(opened, workers=workers, only=only, again=again, shard=shard, say=say)
    found = board(opened)
    for table in board_tables(found):
        api.console().print(table)
    for line in winner_lines(found):
        say(line)
    say(f"results: {opened.results}")
    say(f"report: {write_board(places.out / 'report.html', found)}")
