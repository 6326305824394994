"""`svpkit plugins`: which there are, where they come from, what they take."""

from collections.abc import Mapping

import click

from svpkit.errors import SvpkitError
from svpkit.options import Option, options_of, type_name
from svpkit.plugins import Plugin, Registry


@click.group()
def plugins() -> None:
    """Readers, particle types, generators, classifiers, strategies."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(registry: Registry, as_json: bool) -> None:
    """List the plugins, and those that were set aside with the reason."""
    rows = [
        {
            "kind": p.kind,
            "name": p.name,
            "package": p.package,
            "version": p.version,
            "origin": p.origin,
            "state": "ok",
        }
        for p in sorted(registry.plugins.values(), key=lambda p: (p.kind, p.name))
    ]
    rows += [
        {
            "kind": "?",
            "name": b.name,
            "package": b.package,
            "version": "",
            "origin": "",
            "state": b.reason,
        }
        for b in registry.broken
    ]
    if as_json:
        import json

        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        state = "" if row["state"] == "ok" else f"  set aside: {row['state']}"
        source = " ".join(filter(None, (row["package"], row["version"])))
        click.echo(f"{row['kind']:<14} {row['name']:<18} {source}{state}")


@plugins.command()
@click.argument("name")
@click.pass_obj
def show(registry: Registry, name: str) -> None:
    """Show a plugin: what it is, its options with types and defaults."""
    for plugin in registry.find(name):
        click.echo(f"{plugin.kind} '{plugin.name}' ({plugin.package}, {plugin.origin})")
        if plugin.doc:
            click.echo(f"\n{plugin.doc}\n")
        click.echo("\n".join(_options(plugin)) or "no options")
        if sample := _sample(plugin):
            click.echo("\n".join(["\ngenerator.sample:", *sample]))


def _sample(plugin: Plugin) -> list[str]:
    # only a model that is built says what its `sample` takes
    if plugin.kind != "generator":
        return []
    from svpkit.hookspecs import ImageSpec

    try:
        model = plugin.call(ImageSpec(1, 64, ("particle",)))
    except (SvpkitError, TypeError):  # it has options that must be given
        return []
    return _lines(options_of(model.sample))


def _lines(options: Mapping[str, Option]) -> list[str]:
    lines = []
    for option in options.values():
        default = "required" if option.required else f"= {option.default!r}"
        lines.append(f"  {option.name}: {type_name(option.type)} {default}")
        if option.doc:
            lines.append(f"      {option.doc}")
    return lines


def _options(plugin: Plugin) -> list[str]:
    lines = _lines(plugin.options)
    if plugin.takes_more:
        lines.append("  NAME: int\n      how many of a particle type (`svpkit plugins list`)")
    return lines
