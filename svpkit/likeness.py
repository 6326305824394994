"""Any two sets of particles compared: how like the real ones the drawn ones are."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svpkit.errors import SvpkitError, unknown
from svpkit.particles.particleset import ParticleSet, read_manifest
from svpkit.safe import read_json
from svpkit.store import Artifact, Store, stage

if TYPE_CHECKING:
    from rich.table import Table

    from svpkit.plugins import Registry

SIZE, CHANNELS = 64, 1
FILES = ("fidelity.json", "copies.json")


@dataclass(frozen=True)
class Asked:
    """What is compared: folders or files of particles, or folders of particle sets.

    `reader` and `options` are for `real`; `train` is what the generator learned from: without it
    nothing is said of copies. `size` in pixels.
    """

    real: Path
    drawn: Path
    train: Path | None = None
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    channels: int | None = None
    seed: int = 0


def likeness(asked: Asked, registry: "Registry", store: Path, out: Path) -> dict[str, Any]:
    """Judge the drawn particles against real ones, class by class, and return what was found.

    Half of the real particles, by group, trains the extractor; the other half judges. Writes
    fidelity.json (see `svpkit.generate.fidelity`), copies.json and, where what the generator
    learned from is given, copies.png, a sheet of the pairs most like copies, into `out`; what the
    store holds already is not made again. Raises SvpkitError for sets of other shapes, a drawn
    class that is not among the real ones, and training particles among those that judge.
    """
    from svpkit.generate.extractor import extractor
    from svpkit.generate.fidelity import fidelity
    from svpkit.particles.split import split

    kept, shape = Store(store), _shape(asked)
    real = _read(asked.real, asked, registry, kept, shape)
    real, drawn = _named(real, _read(asked.drawn, asked, registry, kept, shape), kept)
    _check_classes(asked, ParticleSet.open(real.path), ParticleSet.open(drawn.path))
    rules = {"seed": asked.seed, "group": "group", "train": None, "val": 0.5, "test": None}
    halves, sets = kept.get(split, rules, real), [drawn]
    if asked.train:
        train = _labelled(_read(asked.train, asked, registry, kept, shape), kept)
        sets = [_named(train, drawn, kept)[0], drawn]
        _check_unseen(asked, halves, sets[0])
    seed = {"seed": asked.seed}
    seeing = kept.get(extractor, seed, halves)
    params = seed | {"trained_on": True if asked.train else None}
    judged = kept.get(fidelity, params, seeing, halves, *sets)
    _write(out, judged.path)
    return read_json(out / "fidelity.json")


@stage(revision=1)
def adopt(out: Path, params: Mapping[str, Any]) -> None:
    """Copy a particle set from outside the store; `params`: set, its folder."""
    ParticleSet.open(Path(params["set"])).save(out)


@stage(revision=1)
def labelled(out: Path, params: Mapping[str, Any], drawn: Path) -> None:
    """Give particles without a label the one that their lineage names, else `params["name"]`."""
    particles = ParticleSet.open(drawn)
    labels = particles.table["label"].astype(str)
    lineage = particles.table["lineage"]
    named = [x or _drawn_as(y) or params["name"] for x, y in zip(labels, lineage, strict=True)]
    particles.table["label"] = named
    # a label that nothing names stays the empty one, which is no class
    particles.with_classes(sorted(set(named) - {""})).save(out)


def tables(found: Mapping[str, Mapping[str, Any]]) -> list["Table"]:
    """Return what `likeness` found as a table a class: each measure, and of real against real."""
    from rich.table import Table

    made = []
    for name, row in found.items():
        table = Table(title=f"{name}: {row['verdict']}", caption=row["words"])
        table.caption_justify = "left"
        table.add_column("measure")
        for column in ("drawn", "real against real"):
            table.add_column(column, justify="right")
        for cells in _lines(row):
            table.add_row(*cells)
        made.append(table)
    return made


def _read(
    source: Path, asked: Asked, registry: "Registry", store: Store, shape: tuple[int, int]
) -> Artifact:
    from svpkit import api
    from svpkit.particles.ingest import ingest
    from svpkit.places import Located, path_digest

    if _is_set(source):
        return store.get(adopt, {"set": Located(source, path_digest(source))})
    name, options = (asked.reader, asked.options) if source == asked.real else (None, {})
    use = api.reader_for(registry, source, name, options)
    path = Located(source, path_digest(source))
    size = {"size": shape[1], "channels": shape[0], "classes": None}
    return store.get(ingest, {"reader": use, "path": path, **size})


def _is_set(source: Path) -> bool:
    return (source / "manifest.json").is_file()


def _shape(asked: Asked) -> tuple[int, int]:
    # (channels, side) of the sets among them, else what is asked for
    sources = [source for source in (asked.real, asked.drawn, asked.train) if source]
    shapes = {s: tuple(read_manifest(s)["shape"][:2]) for s in sources if _is_set(s)}
    first = next(iter(shapes.values()), (asked.channels or CHANNELS, asked.size or SIZE))
    wanted = (asked.channels or first[0], asked.size or first[1])
    for source, shape in shapes.items():
        if shape != wanted:
            raise SvpkitError(
                f"{source}: a set of {_said(shape)}; {_said(wanted)} is wanted by the others or "
                "by --size and --channels"
            )
    return wanted


def _said(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[1]} pixels in {shape[0]} channel{'s' if shape[0] > 1 else ''}"


def _labelled(found: Artifact, store: Store, name: str = "") -> Artifact:
    table = ParticleSet.open(found.path).table
    bare = table["label"].astype(str) == ""
    told = table["lineage"].astype(str) != ""
    return store.get(labelled, {"name": name}, found) if any(bare & (told | bool(name))) else found


def _named(real: Artifact, drawn: Artifact, store: Store) -> tuple[Artifact, Artifact]:
    # pictures that nobody put in class folders are of one class, the other side's if it has one
    real, drawn = _labelled(real, store), _labelled(drawn, store)
    if not _classes(real):
        other = _classes(drawn)
        real = _labelled(real, store, other[0] if len(other) == 1 else "particle")
    if not _classes(drawn) and len(_classes(real)) == 1:
        drawn = _labelled(drawn, store, _classes(real)[0])
    return real, drawn


def _classes(found: Artifact) -> list[str]:
    return [name for name, n in ParticleSet.open(found.path).counts.items() if n]


def _drawn_as(lineage: str) -> str:
    try:
        said = json.loads(lineage)
    except ValueError:
        return ""
    return str(said.get("label", "")) if isinstance(said, dict) else ""


def _check_classes(asked: Asked, real: ParticleSet, drawn: ParticleSet) -> None:
    there = [name for name, n in real.counts.items() if n]
    names = [name for name, n in drawn.counts.items() if n]
    if not names:
        raise SvpkitError(
            f"{asked.drawn}: no particle has a label; put them in class folders (real: "
            f"{', '.join(there)})"
        )
    for name in names:
        if name not in there:
            raise unknown(f"{asked.drawn}: class among those of {asked.real}", name, there)


def _check_unseen(asked: Asked, halves: Artifact, train: Artifact) -> None:
    from svpkit.particles.split import Split

    held, seen = Split.open(halves.path).val().table, ParticleSet.open(train.path).table
    both = held.loc[held["digest"].isin(seen["digest"]), "id"]
    if len(both):
        raise SvpkitError(
            f"{asked.train}: {len(both)} of its images stand in {asked.real} among those that "
            f"judge, such as '{both.iloc[0]}'; real images must be ones that the generator never "
            "saw"
        )


def _write(out: Path, judged: Path) -> None:
    from svpkit.particles.sheet import contact_sheet

    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(judged / name, out / name)
    rows = read_json(judged / "copies.json", list)
    if not rows:
        (out / "copies.png").unlink(missing_ok=True)
        return
    pictures = np.load(judged / "copies.npy", allow_pickle=False)
    captions = [
        f"{row[side]}\n{text}"
        for row in rows
        for side, text in (("drawn", f"ratio {row['ratio']:.2f}"), ("train", "nearest"))
    ]
    sheet = contact_sheet(pictures.reshape(-1, *pictures.shape[2:]), captions, upscale=3)
    sheet.save(out / "copies.png")


def _lines(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    lines = [("particles", f"{row['n_drawn']:,}", f"{row['n_real']:,}")]
    if "kid" in row:
        lines.append(("KID above that of real against real", _cell(row["kid_gap"]), "0"))
        lines += [(m.upper(), _cell(row[m]), _cell(row[f"{m}_floor"])) for m in ("kid", "fid")]
        for m in ("precision", "recall", "density", "coverage"):
            lines.append((m, _cell(row[m]), _cell(row[f"{m}_floor"])))
        lines.append(("told apart (AUROC)", _cell(row["c2st"]), _cell(row["c2st_floor"])))
    lines += _copy_lines(row)
    lines.append(("background shift, sd", _cell(row["background_shift"]), "0"))
    for name, each in row.get("physical", {}).items():
        unit = "" if each["unit"] == "1" else f", {each['unit']}"
        lines.append((f"median {name}{unit}", f"{each['drawn']:.3g}", f"{each['real']:.3g}"))
        apart, floor = each["wasserstein"]["value"], _cell(each["wasserstein_floor"])
        lines.append((f"{name}, distance{unit}", f"{apart:.3g} (p {each['p']:.2g})", floor))
    return lines


def _copy_lines(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if row["copy_rate"] is None:
        return [(name, "not known: give --train", "-") for name in ("copies", "memorised")]
    copies, recall = _cell(row["copy_interval"]), row["copy_recall"]
    return [
        ("copies, at least", copies, _cell(row["copy_rate_floor"])),
        ("planted copies found", _cell(recall), "-"),
        ("memorised", _cell(row["memorised"]), "0"),
    ]


def _cell(found: Any) -> str:
    if found is None:
        return "-"
    if not isinstance(found, Mapping):
        return f"{found:.3g}"
    return f"{found['value']:.3g} ({found['low']:.3g} to {found['high']:.3g})"
