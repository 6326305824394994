"""`svpkit data`: particles in, and a look at them."""

from pathlib import Path

import click

from svpkit.cli.common import options_of, say
from svpkit.plugins import Registry


@click.group()
def data() -> None:
    """Read particles into a set, and look at a set."""


@data.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--reader", help="Reader by name [default: the one that knows the input].")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="A reader's.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="CSV with the columns particle_id (or image), label, and run of several.",
)
@click.option(
    "--size",
    default=64,
    show_default=True,
    type=click.IntRange(8, 1024),
    help="Side of the images in pixels.",
)
@click.option(
    "--colour", "channels", flag_value=3, default=1, type=int, help="Keep colour [default: grey]."
)
@click.pass_obj
def import_(
    registry: Registry,
    source: Path,
    out: Path,
    reader: str | None,
    options: tuple[str, ...],
    labels: Path | None,
    size: int,
    channels: int,
) -> None:
    """Read SOURCE into the new folder OUT, a particle set.

    A recipe reads it with `reader = "imported"`. The export's own columns lie beside the table.
    """
    from svpkit import api
    from svpkit.particles.ingest import import_set
    from svpkit.readers.labels import read_labels
    from svpkit.readers.passed import passed_over

    use = api.reader_for(registry, source, reader, options_of(options))
    joined = read_labels(labels) if labels else None
    particles = import_set(out, use, source, size=size, channels=channels, labels=joined)
    for name, n in particles.counts.items():
        say(f"{name:<20} {n:>9,}")
    say(f"{len(particles):,} particles in {out}")
    unlabelled = int((particles.labels < 0).sum())
    if unlabelled:
        say(f"{unlabelled:,} of them without a label (class folders, or --labels FILE.csv)")
    for line in api.set_aside(out):
        say(line)
    if use.plugin.name == "folder" and not use.options.get("labels"):
        for line in passed_over(source, use.options["pattern"]):
            say(line)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where the contact sheets go [default: inspect-NAME, of the folder's name].",
)
def inspect(folder: Path, out: Path | None) -> None:
    """Write a contact sheet per class and print what is in a particle set."""
    from svpkit import api
    from svpkit.particles.sheet import inspect as look

    out = out or Path(f"inspect-{folder.resolve().name}")
    found = look(folder, out)
    if found["um_per_px_low"].isna().to_numpy().all():
        say("no scale: sizes in um are not known (options of readers: um_per_px)")
    # what is known of no class takes no column
    api.console().print(api.as_table(found.dropna(axis=1, how="all"), title=str(folder)))
    say(f"contact sheets: {out}")


@data.command()
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--by", "columns", multiple=True, required=True, help="Column of an annotator.")
@click.option("--size", "size", help="Column of the ECD in um, for agreement by size.")
@click.option("--out", type=click.Path(path_type=Path), help="CSV to write.")
def agreement(labels: Path, columns: tuple[str, ...], size: str | None, out: Path | None) -> None:
    """How well the annotators of a CSV agree: kappa overall, by class and by size.

    Each annotator has a column, named with --by; a cell left empty is a particle not labelled.
    """
    from svpkit import api
    from svpkit.cells import safe_table
    from svpkit.evaluate.agreement import of_table, readable, remarks
    from svpkit.readers.tables import read_table

    found = of_table(read_table(labels), columns, size, str(labels))
    if out:
        safe_table(found).to_csv(out, index=False)
    api.console().print(api.as_table(readable(found), title=str(labels)))
    for line in remarks(found):
        say(line)
