"""`svpkit predict`, `generate` and `export`: a run put to work."""

from pathlib import Path

import click

from svpkit.cli.common import options_of, runs_option
from svpkit.plugins import Registry

_run_store = click.option(
    "--store",
    "store_root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the artifacts [default: the run's].",
)


@click.command()
@click.argument("run")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--reader", help="Reader by name [default: the one that knows the input].")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="A reader's.")
@runs_option
@click.pass_obj
def predict(
    registry: Registry,
    run: str,
    source: Path,
    out: Path,
    reader: str | None,
    options: tuple[str, ...],
    runs: Path,
) -> None:
    """Name the particles of SOURCE with the classifier of a run; count them per class."""
    from svpkit import api
    from svpkit.keep import read_thresholds
    from svpkit.predict import predict_source

    use = api.reader_for(registry, source, reader, options_of(options))
    counts = predict_source(api.run_folder(run, runs), registry, use, source, out)
    api.console().print(api.as_table(counts, title=f"{source}"))
    folder = api.run_folder(run, runs)
    for name, limit in (read_thresholds(folder / "model") or {}).items():
        if limit is None:
            click.echo(f"{name}: no precision can be promised; what is likeliest it is rejected")
    for line in api.set_aside(out):
        click.echo(line)
    click.echo(f"predictions: {out / 'predictions.csv'}")


@click.command()
@click.argument("run")
@click.option("--class", "label", required=True, help="Which class to draw.")
@click.option("-n", "count", default=100, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@runs_option
@_run_store
@click.pass_obj
def generate(
    registry: Registry,
    run: str,
    label: str,
    count: int,
    seed: int,
    out: Path,
    runs: Path,
    store_root: Path | None,
) -> None:
    """Draw particles with a run's generator: PNG files, each tagged as synthetic."""
    from svpkit import api
    from svpkit.drawn import write_png

    loaded = api.load(api.run_folder(run, runs), registry=registry, store=store_root)
    write_png(loaded.draw(label, count, seed), out)
    click.echo(f"{count:,} drawn particles in {out}")


@click.command()
@click.argument("run")
@click.option("--class", "label", required=True, help="Whose generator to write.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder to write.")
@runs_option
@_run_store
@click.pass_obj
def export(
    registry: Registry, run: str, label: str, out: Path, runs: Path, store_root: Path | None
) -> None:
    """Write a run's generator as its own library opens it, without svpkit.

    A `diffusers_unet` opens with diffusers.DDPMPipeline.from_pretrained(OUT); ask the pipeline for
    no more steps than the timesteps that it was trained with.
    """
    from svpkit import api

    api.load(api.run_folder(run, runs), registry=registry, store=store_root).export(label, out)
    click.echo(f"the generator of {label}: {out}")
