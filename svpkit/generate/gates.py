"""Gates: what a drawn set must measure up to before a classifier may see it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svpkit.errors import SvpkitError
from svpkit.store import stage, write_json

# Measures that a gate may limit from above, by their absolute value, and from below.
AT_MOST = (
    "copy_rate",
    "kid_gap",
    "c2st",
    "nearer_to_train",
    "background_shift_sd",
    "grey_shift_sd",
)
AT_LEAST = ("precision", "recall", "density", "coverage")


@stage(revision=1)
def gate(out: Path, params: Mapping[str, Any], fidelity: Path) -> None:
    """Hold drawn sets to `params["gates"]` {measure: limit}; writes gate.json.

    Raises SvpkitError for a class that fails one, or that could not be measured: what cannot be
    judged does not pass.
    """
    found = json.loads((fidelity / "fidelity.json").read_text())
    failed = [line for name, row in found.items() for line in failures(name, row, params["gates"])]
    if failed:
        raise SvpkitError(
            f"balance.synthetic.gates: {'; '.join(failed)} (the run stops here; the "
            f"drawn particles and their figures are kept: {fidelity})"
        )
    write_json(out / "gate.json", {"gates": dict(params["gates"]), "classes": sorted(found)})


def failures(name: str, row: Mapping[str, Any], gates: Mapping[str, float]) -> list[str]:
    """Return what is wrong with one class's figures, a clause for each gate that it fails."""
    said = []
    for measure, limit in gates.items():
        value = row.get(measure)
        value = value["value"] if isinstance(value, Mapping) else value
        if value is None:
            said.append(f"{name}: {measure} could not be measured, {limit:g} is the limit")
        elif measure in AT_LEAST and value < limit:
            said.append(f"{name}: {measure} is {value:.3g}, at least {limit:g} is wanted")
        elif measure in AT_MOST and abs(value) > limit:
            said.append(f"{name}: {measure} is {value:.3g}, at most {limit:g} is allowed")
    return said
