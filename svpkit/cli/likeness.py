"""`svpkit fidelity`: how like real particles drawn ones are."""

from pathlib import Path

import click

from svpkit.cli.common import options_of, say, store_option
from svpkit.plugins import Registry


@click.command()
@click.argument("real", type=click.Path(path_type=Path))
@click.argument("drawn", type=click.Path(path_type=Path))
@click.option("--reader", help="Reader of REAL by name [default: the one that knows the input].")
@click.option(
    "-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="That reader's."
)
@click.option(
    "--size",
    type=click.IntRange(8, 1024),
    help="Side in pixels [default: 64, or that of the sets].",
)
@click.option("--channels", type=click.Choice(["1", "3"]), help="Grey or colour [default: grey].")
@click.option(
    "--train",
    type=click.Path(path_type=Path),
    help="What the generator learned from; without it nothing is said of copies.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("fidelity"),
    show_default=True,
    help="Where the figures go.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@store_option
@click.pass_obj
def fidelity(
    registry: Registry,
    real: Path,
    drawn: Path,
    reader: str | None,
    options: tuple[str, ...],
    size: int | None,
    channels: str | None,
    train: Path | None,
    out: Path,
    seed: int,
    store_root: Path,
) -> None:
    """Compare DRAWN particles with REAL ones that their generator has not seen.

    Each is anything a reader knows, or the folder of a particle set. Give --train to learn
    whether the generator copied: only its own training images can say so.
    """
    from svpkit import api
    from svpkit.likeness import Asked, likeness, tables

    asked = Asked(
        real,
        drawn,
        train,
        reader,
        options_of(options),
        size,
        int(channels) if channels else None,
        seed,
    )
    for table in tables(likeness(asked, registry, store_root, out)):
        api.console().print(table)
    pairs = f", pairs most like copies: {out / 'copies.png'}" if train else ""
    say(f"figures: {out / 'fidelity.json'}{pairs}")
