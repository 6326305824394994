"""`svpkit run`, `why`, `compare`, `schema`: experiments and what is known of them."""

import os
import sys
from pathlib import Path

import click

from svpkit.cli.common import recipe_options, runs_option, say, store_option
from svpkit.plugins import Registry


@click.command()
@recipe_options
@click.option("--plan", is_flag=True, help="Check everything, show the stages and stop.")
@click.option("--fresh", multiple=True, metavar="STAGE", help="Make a stage's artifacts again.")
@click.option(
    "--tracker",
    "trackers",
    multiple=True,
    metavar="NAME",
    help="Also tell tensorboard, trackio, wandb or mlflow; may be given several times.",
)
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Processes of this machine that share the work, at most one a GPU.",
)
@runs_option
@store_option
@click.pass_obj
def run(
    registry: Registry,
    recipe: Path,
    overrides: tuple[str, ...],
    data_root: Path | None,
    plan: bool,
    fresh: tuple[str, ...],
    trackers: tuple[str, ...],
    processes: int,
    runs: Path,
    store_root: Path,
) -> None:
    """Run a recipe: data, drawn particles, classifiers, scores and a report."""
    from svpkit import api, ranks
    from svpkit.launch import launch
    from svpkit.trackers import check_trackers

    check_trackers(trackers)
    if processes > 1 and not plan and ranks.LAUNCHED not in os.environ:
        # -P: a module that lies in the working folder stays a file there
        again = [sys.executable, "-P", "-m", "svpkit", *sys.argv[1:]]
        sys.exit(launch(processes, again))

    experiment = api.experiment(recipe, overrides, data_root=data_root, registry=registry)
    if plan:
        from svpkit.checks import check_known, check_models
        from svpkit.plan import plan as planned
        from svpkit.plan import plan_table

        check_models(experiment)
        check_known(experiment, [each.artifact for each in planned(experiment, store_root)])
        return api.console().print(plan_table(experiment, store_root))
    done = api.execute(experiment, runs=runs, store=store_root, fresh=fresh, trackers=trackers)
    for line in done.notes:
        say(line, err=True)
    if done.summary is not None:
        api.console().print(done.summary)
        say(f"report: {done.folder / 'report.html'}")


@click.command()
@recipe_options
@click.argument("stage")
@store_option
@click.pass_obj
def why(
    registry: Registry,
    recipe: Path,
    overrides: tuple[str, ...],
    data_root: Path | None,
    stage: str,
    store_root: Path,
) -> None:
    """Explain why a stage of a recipe is cached, or what is different."""
    from svpkit import api
    from svpkit.plan import explain

    experiment = api.experiment(recipe, overrides, data_root=data_root, registry=registry)
    for line in explain(experiment, store_root, stage):
        say(line)


@click.command()
@click.argument("first")
@click.argument("second")
@runs_option
def compare(first: str, second: str, runs: Path) -> None:
    """Put two runs beside each other, with paired intervals where they share a test set."""
    from svpkit import api
    from svpkit.compare import compare_table

    api.console().print(compare_table(api.run_folder(first, runs), api.run_folder(second, runs)))


@click.command()
@click.option("--keys", is_flag=True, help="Print the table of keys as Markdown instead.")
@click.option("--suite", is_flag=True, help="Of a suite (`svpkit bench`) instead of a recipe.")
def schema(keys: bool, suite: bool) -> None:
    """Print the JSON Schema of a recipe, so that editors complete and check it."""
    import json

    from svpkit.recipe import Recipe
    from svpkit.schema import json_schema, markdown
    from svpkit.suite import Suite

    model = Suite if suite else Recipe
    say(markdown(model) if keys else json.dumps(json_schema(model), indent=1))
