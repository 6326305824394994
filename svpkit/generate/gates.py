"""Gates: what a drawn set must measure up to before a classifier may see it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svpkit.disk import write_json
from svpkit.errors import SvpkitError
from svpkit.safe import read_json
from svpkit.store import stage

# Measures that a gate may limit from above, by their absolute value, and from below.
AT_MOST = (
    "copy_rate",
    "kid_gap",
    "c2st",
    "memorised",
    "background_shift_sd",
    "grey_shift_sd",
)
# Of planted copies, the copy test must find this share at least for its rate to say anything.
FOUND = 0.8
AT_LEAST = ("precision", "recall", "density", "coverage")


@stage(revision=1)
def gate(out: Path, params: Mapping[str, Any], fidelity: Path) -> None:
    """Hold drawn sets to `params["gates"]` {measure: limit}; writes gate.json.

    Raises SvpkitError for a class that fails one, or that could not be measured: what cannot be
    judged does not pass.
    """
    found = read_json(fidelity / "fidelity.json")
    failed = [line for name, row in found.items() for line in failures(name, row, params["gates"])]
    if failed:
        raise SvpkitError(
            f"balance.synthetic.gates: {'; '.join(failed)} (the run stops here; the "
            f"drawn particles and their figures are kept: {fidelity})"
        )
    write_json(out / "gate.json", {"gates": dict(params["gates"]), "classes": sorted(found)})


def failures(name: str, row: Mapping[str, Any], gates: Mapping[str, float]) -> list[str]:
    """Return what is wrong with one class's figures, a clause for each gate that it fails.

    The copy rate counts as measured where `copy_recall` is 0.8 at least.
    """
    said = []
    for measure, limit in gates.items():
        value, blind = _value(row, measure), measure == "copy_rate" and _blind(row)
        if value is None or blind:
            said.append(
                f"{name}: {measure} could not be measured, {limit:g} is the limit{blind or ''}"
            )
        elif measure in AT_LEAST and value < limit:
            said.append(f"{name}: {measure} is {value:.3g}, at least {limit:g} is wanted")
        elif measure in AT_MOST and abs(value) > limit:
            said.append(f"{name}: {measure} is {value:.3g}, at most {limit:g} is allowed")
    return said


def _value(row: Mapping[str, Any], measure: str) -> float | None:
    value = row.get(measure)
    return value["value"] if isinstance(value, Mapping) else value


def _blind(row: Mapping[str, Any]) -> str:
    # why the copy test says nothing, empty where it does: many copies may pass unseen
    recall = _value(row, "copy_recall")
    if recall is None:
        return " (no copies could be planted to try the test on)"
    return f" (of planted copies {recall:.0%} are found, not {FOUND:.0%})" if recall < FOUND else ""
