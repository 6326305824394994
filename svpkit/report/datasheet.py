"""The data sheet of a run: what its data are, how they came about, and what they are fit for."""

from collections.abc import Iterator, Mapping
from typing import Any

from svpkit.report.advice import warned
from svpkit.report.html import Story
from svpkit.report.markdown import points, rows, text
from svpkit.report.numbers import number

_HEAD = """\
Made from the run's own files, after Gebru et al., "Datasheets for Datasets" (Commun. ACM 64(12),
2021). What no file says is not answered here: who took the samples and why, under which consent,
and who keeps them belongs to whoever holds the data."""

_USES = (
    "To train and measure classifiers of particles of these classes, of the same instrument.",
    "Not to release or reject a product, and not for classes, instruments or settings that are "
    "not in it.",
    "The test set is shut: it is opened to score, each time with a line in the audit log of the "
    "store (svpkit log); what was chosen on it is no longer measured by it.",
    "Drawn particles train. They are no observations: they never stand in val or test, and no "
    "count, share or size may be taken from them.",
)


def data_sheet(story: Story, found: Mapping[str, Any]) -> str:
    """Return the data sheet as Markdown; `found` is what `collected.collected` returns."""
    said = warned(story)
    parts = [
        f"# Data sheet: {text(story.recipe.get('name', 'run'))}",
        f"> **{said['simulated']}**" if said["simulated"] else "",
        _HEAD,
        "## Composition\n\n" + _composition(story, found),
        "## Collection\n\n" + _collection(found),
        "## Preprocessing\n\n" + points(_preprocessing(story, found)),
        "## Labels\n\n" + points(_labels(story)),
        "## Splits\n\n" + points(_splits(story)),
        "## Drawn particles\n\n" + _drawn(found),
        "## Uses and limits\n\n" + points([*_USES, *said["warnings"]]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _composition(story: Story, found: Mapping[str, Any]) -> str:
    sets = story.split.get("sets") or {}
    counts = [
        [c, *(f"{each.get(c, 0):,}" for each in story.sets.values())] for c in _classes(story)
    ]
    table = rows(["particles", *story.sets], counts)
    lines = [
        f"Origin of the particles that train, choose and test: {', '.join(story.origins)}.",
        *(f"{name}: {_origins(each)}." for name, each in found["origins"].items()),
        *(
            f"{name}: {each['n']:,} particles in {_groups(each, story.split.get('group'))}; digest "
            f"{each['digest']}."
            for name, each in sets.items()
        ),
    ]
    return f"{table}\n\n{points(lines)}\n\n{_sizes(story, found)}"


def _sizes(story: Story, found: Mapping[str, Any]) -> str:
    names = [name for name, each in found["sizes"].items() if each]
    if not names:
        return "Sizes: no reader gave any; they are not measured here."
    body = [[c, *(_spread(found["sizes"][s].get(c)) for s in names)] for c in _classes(story)]
    scales = [[c, _spread(found["scales"].get(c))] for c in _classes(story)]
    return (
        "Equivalent circular diameter in um as the reader gave it, median (5 to 95 %):\n\n"
        + rows(["class", *names], body)
        + "\n\nScale in um a pixel, of train and val, median (5 to 95 %):\n\n"
        + rows(["class", "um a pixel"], scales)
    )


def _collection(found: Mapping[str, Any]) -> str:
    return "\n\n".join(
        f"### {text(each['artifact'])}\n\n{_import(each)}" for each in found["imports"]
    )


def _import(each: Mapping[str, Any]) -> str:
    asked = {k: v for k, v in (each["options"] or {}).items() if v is not None}
    options = ", ".join(f"{k} = {v}" for k, v in asked.items())
    counts = ", ".join(f"{n:,} {name}" for name, n in (each["counts"] or {}).items())
    lines = [
        f"Read by '{each['reader']}' ({options or 'default options'}).",
        f"Digest of what was read: {each['digest'] or 'none, it was computed and not read'}.",
        f"Particles: {counts or 'none'}; without a label: {each['unlabelled'] or 0:,}.",
        f"Changed when read: {_counted(each['changed'])}.",
        f"Set aside as not readable: {each['quarantined'] or 0:,}.",
        *(f"{n:,} set aside: {reason}" for reason, n in each["reasons"].items()),
    ]
    return points(lines)


def _preprocessing(story: Story, found: Mapping[str, Any]) -> Iterator[str]:
    asked = found["imports"][0]["asked"] if found["imports"] else {}
    size, channels = asked.get("size", "?"), asked.get("channels", "?")
    kinds = "grey" if channels == 1 else f"{channels} channels"
    yield f"Cropped or padded to {size} x {size} px, {kinds}; only larger ones shrink."
    divided = asked.get("background") == "divide"
    yield "Each divided by its background." if divided else "The background is as it was."
    scale = asked.get("um_per_px")
    yield f"All brought to {scale:g} um a pixel." if scale else "Each is at its own scale."


def _labels(story: Story) -> Iterator[str]:
    said = story.split.get("corrections")
    if not said:
        yield "As the reader gave them; no corrections were applied."
        return
    yield f"Corrections: {_counted(said.get('counts'))}."
    for each in said.get("files", ()):
        yield f"From {each['name']}, SHA-256 {each['digest']}."
    for each in said.get("applied", ()):
        yield f"{each['n']:,} particles: {each['from']} became {each['to']}."


def _splits(story: Story) -> Iterator[str]:
    split = story.split
    group = split.get("group")
    yield f"Never torn apart: particles of one {group}." if group else "No groups were kept whole."
    yield (
        "The test set was read on its own."
        if split.get("separate_test")
        else "The test set was cut from the same data."
    )
    if (opened := story.run.get("test_openings")) is not None:
        yield f"It was opened {opened:,} times in this store, once for each model that is scored."
    near = split.get("near_duplicates") or {}
    yield "The same picture in two sets: refused, so there is none."
    yield (
        f"Nearly the same picture in two sets: {near.get('n', 0):,} pairs"
        f" ({near.get('unsearched', 0):,} particles not searched)."
    )
    yield from split.get("notes") or ()


def _drawn(found: Mapping[str, Any]) -> str:
    if not found["drawn"]:
        return points(["None: every particle of this run was read."])
    body = [
        [
            name,
            f"{n:,}",
            each["generator"],
            str(each["model"])[:16],
            str(each["seed"]),
            f"{(each['index'] or {}).get('images', 0):,}",
        ]
        for each in found["drawn"]
        for name, n in each["images"].items()
    ]
    head = ["class", "drawn", "generator", "weights (SHA-256)", "seed", "digests kept of its set"]
    lines = [
        f"{each['artifact']}: {each['used']:,} of its particles were given to a strategy."
        for each in found["drawn"]
    ]
    index = found["index"]
    lines += [
        "Each row has the origin 'synthetic' and a lineage (model, label, seed, number); files "
        "that svpkit generate writes say so in the PNG's text.",
        f"Their pixels are known by digest ({index['images']:,} in {index['files']:,} files of the "
        "store): the same picture under another name or in another lossless format is refused in "
        "train, val and test. One that was resized, cropped, saved as JPEG or changed by one grey "
        "level is not found by its digest.",
    ]
    return rows(head, body) + "\n\n" + points(lines)


def _classes(story: Story) -> list[str]:
    return list(story.sets.get("train") or {})


def _origins(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "none"


def _groups(each: Mapping[str, Any], column: str | None) -> str:
    return f"{each.get('n_groups', 0):,} groups (column '{column}')" if column else "no groups"


def _spread(entry: Mapping[str, float] | None) -> str:
    if not entry:
        return "not given"
    return f"{number(entry)} ({number(entry['low'])} to {number(entry['high'])})"


def _counted(counts: Mapping[str, int] | None) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in (counts or {}).items()) or "none"
