"""The commands: each parses, calls and prints; nothing else."""

import os
from pathlib import Path

import click

from svpkit import __version__
from svpkit.cli.audit import audit
from svpkit.cli.bench import bench
from svpkit.cli.common import say
from svpkit.cli.data import data
from svpkit.cli.experiments import compare, run, schema, why
from svpkit.cli.likeness import fidelity
from svpkit.cli.machine import doctor, store
from svpkit.cli.plugins import plugins
from svpkit.cli.trust import crate, log, verify
from svpkit.cli.work import export, generate, predict


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="svpkit")
@click.option(
    "--plugin",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A one-file plugin to load too; may be given several times.",
)
@click.option("--no-plugins", is_flag=True, help="Load the built-in plugins only.")
@click.option(
    "--strict-plugins",
    is_flag=True,
    help="A plugin that fails to load is an error; also SVPKIT_STRICT_PLUGINS=1.",
)
@click.pass_context
def cli(
    context: click.Context, files: tuple[Path, ...], no_plugins: bool, strict_plugins: bool
) -> None:
    """Learn rare particles, draw them, mix them in, and measure whether it helped."""
    from svpkit.plugins import discover

    context.obj = discover(files=files, builtin_only=no_plugins, strict=strict_plugins)
    # `plugins` shows them itself; of several processes the first speaks
    if context.invoked_subcommand == plugins.name:
        return
    context.obj.refuse_given()
    if os.environ.get("RANK", "0") == "0":
        for broken in context.obj.broken:
            say(f"svpkit: {broken}", err=True)


for command in (
    run,
    why,
    bench,
    compare,
    schema,
    predict,
    generate,
    export,
    fidelity,
    audit,
    verify,
    log,
    crate,
    data,
    plugins,
    store,
    doctor,
):
    cli.add_command(command)
