"""What was counted, told: the story of a prediction's page, and what to label next."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svpkit import __version__
from svpkit.cells import safe_table
from svpkit.deployed import Deployed
from svpkit.draws import rng
from svpkit.evaluate.queue import to_label
from svpkit.named import Named
from svpkit.particles.sheet import contact_sheet
from svpkit.reference import marks

if TYPE_CHECKING:
    from svpkit.looked import Read
    from svpkit.report.counts import Counted

SHOWN = 24
# Share of particles known, or sized by another road than validation's, from which it is told.
MUCH = 0.05
LEFT_OUT = "Left out, not counted: "
QUEUE, SHEET = "to-label.csv", "to-label.png"

Pairs = Sequence[tuple["Read", Named]]


def story(
    run: Path,
    deployed: Deployed,
    pairs: Pairs,
    table: pd.DataFrame,
    queue: pd.DataFrame | None,
    left: Sequence[str] = (),
) -> "Counted":
    """Return what the page of a prediction tells; `left` says which runs were left out and why."""
    from svpkit.report.counts import Counted

    origins = {o for read, _ in pairs for o in read.particles.table["origin"].astype(str)}
    record = deployed.record["calibration"]
    judged = record.get("test", record["val"])
    told = {name: judged["calibrated"][name] for name in ("ece", "brier")}
    before = {name: judged["before"][name] for name in ("ece", "brier")}
    config = deployed.model.config
    about = {
        "name": run.name,
        "svpkit": __version__,
        "classes": list(deployed.classes),
        "weights": config["weights"],
        "intake": config.get("intake", {}),
        "calibrator": deployed.calibrator.kind,
        "unknown": deployed.detector.name,
        "validation": dict(zip(deployed.classes, map(int, deployed.val.n), strict=True)),
    }
    return Counted(
        run=about,
        inputs=[_input(deployed, read, own, table) for read, own in pairs],
        counts=table,
        pictures=_pictures(deployed, pairs),
        calibration={
            "kind": deployed.calibrator.kind,
            "on": "test set" if "test" in record else "validation set, cross-fitted",
            **told,
            "before": before,
        },
        warnings=[
            *(f"{LEFT_OUT}{line}" for line in left),
            *_learnt(deployed, origins),
            *(line for read, own in pairs for line in _warned(deployed, read, own)),
        ],
        queue=queue,
        simulated="simulated" in origins,
    )


def propose(deployed: Deployed, pairs: Pairs, n: int, out: Path) -> pd.DataFrame:
    """Write `to-label.csv` and a contact sheet of the n particles most worth a label, best first.

    The CSV has a column `label` to fill in. Returns it.
    """
    parts, images = [], []
    each = max(1, n // max(1, len(pairs)))
    for i, (read, own) in enumerate(pairs):
        # the last run makes up for what does not divide
        wanted = max(0, n - each * i) if i == len(pairs) - 1 else min(each, max(0, n - each * i))
        rows, part = _proposed(deployed, read, own, wanted)
        parts.append(part)
        images.append(read.particles.images(rows))
    queue, shown = pd.concat(parts, ignore_index=True), np.concatenate(images)
    captions = [f"{a}\n{b}" for a, b in zip(queue["id"], queue["predicted"], strict=True)]
    if len(queue):
        contact_sheet(shown, captions, upscale=max(1, 96 // shown.shape[2])).save(out / SHEET)
    safe_table(queue).to_csv(out / QUEUE, index=False)
    return queue


def _proposed(
    deployed: Deployed, read: "Read", own: Named, n: int
) -> tuple[np.ndarray, pd.DataFrame]:
    unknown = own.codes == len(deployed.classes)
    features = own.calibrated if own.features is None else own.features
    rows, why = to_label(own.calibrated, features, n, classes=deployed.classes, unknown=unknown)
    table = read.particles.table.iloc[rows]
    columns = {
        "id": table["id"].to_numpy(object),
        "run": np.full(len(rows), read.name, object),
        "particle_id": table.get("particle_id", pd.Series("", table.index)).to_numpy(object),
        "label": np.full(len(rows), "", object),
        "predicted": np.array(deployed.names, object)[own.codes[rows]],
        "why": np.array(why, object),
        "ecd_um": own.ecd_um[rows].round(2),
    }
    return rows, pd.DataFrame(columns)


def _input(deployed: Deployed, read: "Read", own: Named, table: pd.DataFrame) -> dict[str, Any]:
    k = len(deployed.classes)
    codes = {name: own.codes == i for i, name in enumerate(deployed.names)}
    return {
        "run": read.name,
        "source": str(read.source.path),
        "reader": read.source.reader.plugin.name,
        "particles": len(read.particles),
        "quarantined": read.quarantined,
        **read.about,
        "shift": {"level": read.shift.level, "reasons": list(read.shift.reasons)},
        "unknown": int((own.codes == k).sum()),
        "rejected": int((own.codes > k).sum()),
        **_method(table, read.name),
        "blank": read.source.blank,
        "forced": read.shift.level == "far",
        "sizes": {name: own.ecd_um[rows] for name, rows in codes.items()},
        "mean_set": float(own.members.sum(1).mean()) if len(own.members) else None,
    }


def _learnt(deployed: Deployed, origins: set[str]) -> list[str]:
    if not deployed.record.get("simulated") or origins == {"simulated"}:
        return []
    return [
        "The model learnt from SIMULATED particles and its counts are corrected by them: what they "
        "say of real ones is not known."
    ]


def _warned(deployed: Deployed, read: "Read", own: Named) -> list[str]:
    said = []
    if not read.admissible and read.shift.judged and read.shift.level == "none":
        said.append(f"{read.name}: {read.reason}.")
    listed, reported = len(read.particles) + read.quarantined, read.about["n_reported"]
    if reported and listed < reported:
        said.append(
            f"{read.name}: the instrument counted {reported:,.0f} particles and the export lists "
            f"{listed:,}: those that were removed are in no count."
        )
    known = np.isin(marks(read.particles), deployed.held.seen)
    if len(known) and known.mean() > MUCH:
        said.append(
            f"{read.name}: the model was trained or chosen on {known.mean():.0%} of these very "
            "pictures: it knows them better than new ones."
        )
    sized = own.measured[np.isfinite(own.ecd_um)]
    here, there = float(sized.mean()) if len(sized) else 0.0, deployed.held.measured
    if len(sized) and abs(here - there) > MUCH:
        said.append(
            f"{read.name}: {here:.0%} of its particles were sized on their pixels, not by the "
            f"instrument, and {there:.0%} in validation: one and the same particle may be in "
            "another size bin there, whose mistakes are not its own."
        )
    return said


def _method(table: pd.DataFrame, run: str) -> dict[str, str]:
    # of runs that were pooled, their sample's
    own = pd.DataFrame(table[table["run"] == run])
    rows = own if len(own) else table
    # what every row says is why; the rest is said of its row
    notes = [note.split("; ") for note in rows["note"].astype(str)]
    shared = [part for part in notes[0] if all(part in note for note in notes)]
    return {"method": str(rows["method"].iloc[0]), "why": "; ".join(shared)}


def _pictures(deployed: Deployed, pairs: Pairs) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for i, name in enumerate(deployed.names):
        some = [_some(read, np.flatnonzero(own.codes == i), name) for read, own in pairs]
        images = [s for s in some if len(s)]
        if images:
            most = -(-SHOWN // len(images))
            found[name] = np.concatenate([s[:most] for s in images])[:SHOWN]
    return found


def _some(read: "Read", rows: np.ndarray, name: str) -> np.ndarray:
    chance = rng(0, "gallery", read.name, name)
    return read.particles.images(np.sort(chance.permutation(rows)[:SHOWN]))


def as_record(page: "Counted") -> Mapping[str, Any]:
    """Return in JSON's types what a prediction stands on: model, runs, methods, shift."""
    inputs = [{k: v for k, v in each.items() if k != "sizes"} for each in page.inputs]
    return {
        "model": dict(page.run),
        "runs": inputs,
        "calibration": page.calibration,
        "simulated": page.simulated,
    }
