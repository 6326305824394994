"""The keys of recipes and suites as tables for people, and as JSON Schemas for editors."""

from typing import Any

from pydantic import BaseModel

from svpkit.options import type_name
from svpkit.recipe import Baseline, Recipe, model_in
from svpkit.toml import spell

DIALECT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def json_schema(model: type[BaseModel] = Recipe) -> dict[str, Any]:
    """Return the JSON Schema of a recipe or a suite, `extends` included."""
    schema = model.model_json_schema()
    about = "another file of the kind, relative to this one, whose keys hold where this is silent"
    schema["properties"]["extends"] = {"type": "string", "description": about}
    # what a file must have may come from the one that it extends
    schema.pop("required", None)
    return DIALECT | schema


def keys(model: type[BaseModel] = Recipe, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Return every key as (dotted key, type, default, what it is), for the generated page."""
    rows = []
    for name, entry in model.model_fields.items():
        inner = model_in(entry.annotation)
        dotted = f"{prefix}{name}"
        if inner is None:
            default = "required" if entry.is_required() else spell(entry.get_default())
            rows.append((dotted, type_name(entry.annotation), default, entry.description or ""))
        else:
            rows += keys(inner, f"{dotted}." if inner is not Baseline else f"{dotted}[].")
    return rows


def markdown(model: type[BaseModel] = Recipe) -> str:
    """Return the table of keys as Markdown, for the README files of recipes and benchmarks."""
    rows = ["| key | type | default | what it is |", "|---|---|---|---|"]
    for cells in keys(model):
        shown = [f"`{cells[0]}`", cells[1], f"`{cells[2]}`", cells[3]]
        rows.append("| " + " | ".join(c.replace("|", "or") for c in shown) + " |")
    return "\n".join(rows)
