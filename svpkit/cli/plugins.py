"""`svpkit plugins`: which there are, what they take, how to write one and whether it holds."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from svpkit.cli.common import options_of as given_options
from svpkit.cli.common import say
from svpkit.errors import SvpkitError, unknown
from svpkit.hookspecs import HOOKS, KINDS
from svpkit.loading import LONGEST, printable, quiet
from svpkit.options import Option, options_of, type_name
from svpkit.plugins import Broken, Plugin, Registry

if TYPE_CHECKING:
    from svpkit.testing import Check

NOT_APPLICABLE = "n/a"  # the outcome of a check that has nothing to look at
_KIND = click.option("--kind", type=click.Choice(KINDS), help="This kind alone.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
@click.pass_context
def plugins(context: click.Context) -> None:
    """Readers, particle types, generators, classifiers, strategies, extractors."""
    if context.invoked_subcommand != list_.name:
        context.obj.refuse_given()


@plugins.command("list")
@_JSON
@_KIND
@click.pass_obj
def list_(registry: Registry, as_json: bool, kind: str | None) -> None:
    """List the plugins, and those that were set aside with the reason."""
    loaded = sorted(registry.plugins.values(), key=lambda p: (p.kind, p.name))
    rows = [_row(p) for p in loaded] + [_broken_row(b) for b in registry.broken]
    # what was set aside before it said what it is may be of any kind
    rows = [row for row in rows if kind is None or row["kind"] in (kind, "?")]
    if as_json:
        return say(json.dumps(rows, indent=1))
    cells = [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(c.ljust(n) for c, n in zip(row, widths, strict=False))
        say(line.rstrip())


@plugins.command()
@click.argument("name")
@_JSON
@_KIND
@click.pass_obj
def show(registry: Registry, name: str, as_json: bool, kind: str | None) -> None:
    """Show a plugin: what it is, where it comes from, its options with types and defaults."""
    found = _named(registry, name, kind)
    if as_json:
        facts = [_facts(plugin) for plugin in found]
        return say(json.dumps(facts, indent=1, default=_spelt))
    for plugin in found:
        say(f"{plugin.kind} '{plugin.name}' ({plugin.source}, {plugin.origin})")
        say(f"registered by {_hook(plugin)}")
        if plugin.doc:
            say(f"\n{_lines_of(plugin.doc)}\n")
        say("\n".join(_options(plugin)) or "no options")
        if sample := _lines(_sample(plugin)):
            say("\n".join(["\ngenerator.sample:", *sample]))


@plugins.command()
@click.argument("kind")
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder that the package is written into [default: here].",
)
def new(kind: str, name: str, into: Path) -> None:
    """Write a whole package for a new plugin: module, test, README, pyproject.

    KIND is reader, particle_type, generator, classifier, strategy or extractor.
    """
    from svpkit import scaffold

    folder = scaffold.new(kind, name, into)
    say(f"{folder} is written. What comes next:")
    for line in scaffold.steps(folder, name):
        say(f"  {line}")


@plugins.command()
@click.argument("name")
@_KIND
@click.option(
    "-o", "--option", "given", multiple=True, metavar="KEY=VALUE", help="An option of the plugin."
)
@click.option(
    "--example",
    type=click.Path(exists=True, path_type=Path),
    help="A reader: an export that it reads.",
)
@click.option("--only", multiple=True, metavar="CHECK", help="This check alone; repeatable.")
@click.pass_context
def check(
    context: click.Context,
    name: str,
    kind: str | None,
    given: tuple[str, ...],
    example: Path | None,
    only: tuple[str, ...],
) -> None:
    """Try a plugin: a line for each promise that it keeps or breaks; exit code 1 for a broken one.

    What a plugin needs for its trial it says itself (`svpkit.tried`); -o and --example add to it.
    """
    from svpkit.testing import checks, trial_of

    tried: list[tuple[Plugin, list[Check]]] = []
    for plugin in _named(context.obj, name, kind):
        if example and plugin.kind != "reader":
            raise SvpkitError(f"--example: is for a reader, '{name}' is a {plugin.kind}")
        reads = None if example is None else lambda folder: example
        trial = trial_of(plugin, options=given_options(given) or None, example=reads)
        if plugin.kind == "reader" and trial.example is None:
            raise SvpkitError(f"reader '{name}' brings no export: --example PATH names one")
        tried.append((plugin, checks(plugin, trial)))
    _refuse_strange(only, dict.fromkeys(e.name for _, found in tried for e in found))
    told: list[str] = []
    for plugin, found in tried:
        say(str(plugin))
        for each in (e for e in found if not only or e.name in only):
            outcome, reason = each.outcome()
            reason = reason.removeprefix(f"{each.name}: ")
            if outcome != NOT_APPLICABLE or each.name in only:
                say(f"{outcome:<7} {each.name}: {reason or each.about}")
            told.append(outcome)
    shown = [f"{told.count(o)} {o}" for o in ("ok", "FAILED", "spared")]
    if idle := told.count(NOT_APPLICABLE):
        shown.append(f"{idle} not applicable")
    say(", ".join(shown))
    if "FAILED" in told:
        context.exit(1)


def _refuse_strange(wanted: Sequence[str], names: Iterable[str]) -> None:
    for name in wanted:
        if name not in names:
            raise unknown("--only: check", name, names)


def _named(registry: Registry, name: str, kind: str | None) -> list[Plugin]:
    return [registry.get(kind, name)] if kind else registry.find(name)


def _row(plugin: Plugin) -> dict[str, str]:
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "package": plugin.package,
        "version": plugin.version,
        "origin": plugin.origin,
        "state": "ok",
    }


def _broken_row(broken: Broken) -> dict[str, str]:
    kinds = {kind for kind, _ in broken.things}
    return {
        "kind": kinds.pop() if len(kinds) == 1 else "?",
        "name": broken.name,
        "package": broken.package,
        "version": broken.version,
        "origin": broken.origin,
        "state": broken.reason,
    }


def _cells(row: Mapping[str, str]) -> tuple[str, ...]:
    # of a file the digest is its version, and its first letters tell it from others
    version = row["version"][:8] if row["package"].endswith(".py") else row["version"]
    state = "" if row["state"] == "ok" else f"set aside: {row['state']}"
    return row["kind"], row["name"], f"{row['package']} {version}".strip(), row["origin"], state


def _facts(plugin: Plugin) -> dict[str, Any]:
    """Return what `show` says of a plugin as plain values."""
    more = {"takes_more": True} if plugin.takes_more else {}
    sample = {"sample": _plain(_sample(plugin))} if plugin.kind == "generator" else {}
    options = {"options": _plain(plugin.options)}
    return _row(plugin) | {"hook": _hook(plugin), "doc": plugin.doc} | options | more | sample


def _plain(options: Mapping[str, Option]) -> list[dict[str, Any]]:
    return [
        {
            "name": option.name,
            "type": type_name(option.type),
            "required": option.required,
            "default": None if option.required else option.default,
            "doc": option.doc,
        }
        for option in options.values()
    ]


def _hook(plugin: Plugin) -> str:
    return next(hook for hook, kind in HOOKS.items() if kind == plugin.kind)


def _sample(plugin: Plugin) -> Mapping[str, Option]:
    # only a model that is built says what its `sample` takes
    if plugin.kind != "generator":
        return {}
    from svpkit.hookspecs import ImageSpec

    try:
        with quiet():
            return options_of(plugin.call(ImageSpec(1, 64, ("particle",))).sample)
    except (Exception, SystemExit) as error:  # it has options that must be given, or it fails
        if not plugin.strange and not isinstance(error, (SvpkitError, TypeError)):
            raise
        return {}


def _lines(options: Mapping[str, Option]) -> list[str]:
    lines = []
    for option in options.values():
        default = "required" if option.required else f"= {_spelt(option.default, repr)}"
        lines.append(f"  {option.name}: {type_name(option.type)} {default}")
        if option.doc:
            lines.append(f"      {printable(option.doc)}")
    return lines


def _spelt(value: Any, spell: Callable[[Any], str] = str) -> str:
    # a stranger's default may have no text, or a book of it
    try:
        text = printable(spell(value))
    except Exception:  # noqa: BLE001 - it is a stranger's code that spells it
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _lines_of(text: str) -> str:
    return "\n".join(printable(line) for line in text.splitlines())


def _options(plugin: Plugin) -> Iterable[str]:
    lines = _lines(plugin.options)
    if plugin.takes_more:
        lines.append("  NAME: int\n      how many of a particle type (`svpkit plugins list`)")
    return lines
