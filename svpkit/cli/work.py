"""`svpkit predict`, `generate` and `export`: a run put to work."""

from pathlib import Path

import click

from svpkit.cli.common import options_of, runs_option, say
from svpkit.plugins import Registry

_ABOVE_0 = click.FloatRange(0, min_open=True)
_run_store = click.option(
    "--store",
    "store_root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the artifacts [default: the run's].",
)


@click.command()
@click.argument("run")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder to write.")
@click.option("--reader", help="Reader by name [default: the one that knows the input].")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="A reader's.")
@click.option(
    "--volume-ml",
    type=_ABOVE_0,
    help="Analysed volume of each run, blanks too, in place of the export's.",
)
@click.option(
    "--dilution",
    type=_ABOVE_0,
    help="How many times each run's sample was diluted, in place of the export's.",
)
@click.option(
    "--blank",
    "blanks",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Export of a blank, whose counts per mL are subtracted; may be repeated.",
)
@click.option("--replicates", is_flag=True, help="All SOURCES are runs of one sample.")
@click.option(
    "--method",
    type=click.Choice(["auto", "cc", "pcc", "acc", "em"]),
    default="auto",
    show_default=True,
    help="cc: as named; pcc: sums of probabilities; acc, em: corrected for what is misnamed.",
)
@click.option("--to-label", default=0, type=click.IntRange(0), help="Propose so many to label.")
@click.option("--force", is_flag=True, help="Count what is far from the model's data all the same.")
@runs_option
@click.pass_obj
def predict(
    registry: Registry,
    run: str,
    sources: tuple[Path, ...],
    out: Path,
    reader: str | None,
    options: tuple[str, ...],
    volume_ml: float | None,
    dilution: float | None,
    blanks: tuple[Path, ...],
    replicates: bool,
    method: str,
    to_label: int,
    force: bool,
    runs: Path,
) -> None:
    """Count the particles of one or many exports per class, size and mL with a run's classifier.

    Writes predictions (parquet and CSV), counts.csv and report.html into the new folder OUT.
    """
    from svpkit import api
    from svpkit.counted import LEFT_OUT
    from svpkit.errors import SvpkitError
    from svpkit.keep import read_thresholds
    from svpkit.predict import Ask, Source
    from svpkit.predict import predict as count
    from svpkit.report.counts import table

    folder, given = api.run_folder(run, runs), options_of(options)
    read = [
        Source(api.reader_for(registry, path, reader, given), path, blank)
        for paths, blank in ((sources, False), (blanks, True))
        for path in paths
    ]
    ask = Ask(volume_ml, dilution, replicates, method, force, to_label)
    found = count(folder, registry, read, out, ask)
    api.console().print(table(found))
    for name, limit in (read_thresholds(folder / "model") or {}).items():
        if limit is None:
            say(f"{name}: no precision can be promised; what is likeliest it is rejected")
    for line in api.set_aside(out):
        say(line)
    left = [line for line in found.warnings if line.startswith(LEFT_OUT)]
    if to_label:
        say(f"to label next: {out / 'to-label.csv'}, to-label.png")
    say(f"report: {out / 'report.html'}")
    if left:
        raise SvpkitError("; ".join(line.removeprefix(LEFT_OUT) for line in left))


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
    say(f"{count:,} drawn particles in {out}")


@click.command()
@click.argument("run")
@click.option(
    "--to",
    type=click.Choice(["timm", "onnx", "diffusers"]),
    default="diffusers",
    show_default=True,
    help="timm, onnx: the classifier; diffusers: the generator of --class.",
)
@click.option("--class", "label", help="diffusers: whose generator to write.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder to write.")
@runs_option
@_run_store
@click.pass_obj
def export(
    registry: Registry,
    run: str,
    to: str,
    label: str | None,
    out: Path,
    runs: Path,
    store_root: Path | None,
) -> None:
    """Write a run's classifier or generator as other libraries open it, without svpkit.

    Of a classifier, OUT/README.md has the lines that open it. OUT/export.json says how far the
    answers are from svpkit's: of a classifier on validation, of a generator on noise. A
    `diffusers_unet` opens with diffusers.DDPMPipeline.from_pretrained(OUT); ask the pipeline for no
    more steps than the timesteps that it was trained with.
    """
    from svpkit import api

    loaded = api.load(api.run_folder(run, runs), registry=registry, store=store_root)
    said = loaded.export(label, out=out, to=to)
    for name, value in said["max_abs_difference"].items():
        say(f"{name}: at most {value:.1e} from svpkit's")
    say(f"compared on {said['images']:,} images of {said['checked_on']}")
    for line in said.get("left_out", ()):
        say(f"left out: {line}")
    what = f"the classifier for {to}" if label is None else f"the generator of {label}"
    say(f"{what}: {out}")
