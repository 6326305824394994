"""How counts were made, in words, and what their intervals hold."""

from typing import TYPE_CHECKING

import pandas as pd

from svpkit.report.counts_cells import clean, clean_line, parts, short, whom

if TYPE_CHECKING:
    from svpkit.report.counts import Counted

METHODS = {
    "cc": "classify and count (cc): particles bearing each name, as they are",
    "pcc": "probabilistic count (pcc): the sum of calibrated probabilities",
    "acc": "adjusted count (acc): what is named, corrected by the confusion seen in validation",
    "em": "expectation and maximisation (em, Saerens) on calibrated probabilities",
}
DETECTORS = {
    "energy": "energy: how low the scores of all classes are",
    "knn": "knn, nearest neighbours: how far the nearest particles of training are",
    "vim": "vim, virtual logit matching: how far a particle lies outside the directions in which "
    "those of training vary, weighed against the scores of the classes",
}
"""How the finder of unknown particles, named in `run`, tells them."""
PLAIN = ("cc", "pcc")
"""Methods whose limits hold chance alone."""
HOLDS = (
    "how few particles were seen (Poisson, exact at zero), and how well the validation set knows "
    "the mistakes of the classifier: validation confusion and the particles of the run are drawn "
    "anew together"
)
CHANCE = (
    "how few particles were seen (Poisson, exact at zero) and nothing else: what the classifier "
    "misnames can move the count far beyond it"
)
BETWEEN = (
    "is wider where runs of one sample differ by more than chance can explain. Two or three runs "
    "tell little: where they spread by 10 % it held the truth in about 80 % of simulated samples, "
    "not 95 %"
)
LEFT_OUT = (
    "errors of the analysed volume or the dilution, of sampling and handling, of sizing, of the "
    "labels of the validation set, the spread between containers, particles unlike all that the "
    "model was shown, that each run may be misnamed in its own way, nor that validation also chose "
    "the checkpoint, the calibration and the thresholds, and so looks a little better than new runs"
)


def methods(found: "Counted") -> list[tuple[str, str, list[str]]]:
    """Return how runs were counted: (method in words, why, the runs of which this holds)."""
    made: dict[tuple[str, str], list[str]] = {}
    inputs = {str(each["run"]) for each in found.inputs}
    pooled = [_pooled(found.counts, run) for run in found.runs if run not in inputs]
    for each in [*pooled, *found.inputs]:
        key = str(each.get("method") or "not stated"), str(each.get("why") or "")
        made.setdefault(key, []).append(str(each["run"]))
    return [
        (METHODS.get(name.lower(), clean(name)), clean_line(why), own)
        for (name, why), own in made.items()
    ]


def intervals(found: "Counted") -> list[tuple[str, str]]:
    """Return what the intervals hold and do not hold, by how was counted: (what, in words)."""
    own = used(found)
    plain = any(method in PLAIN for method in own.values())
    corrected = not own or any(method not in PLAIN for method in own.values())
    both = plain and corrected
    said = []
    if corrected:
        said.append(("of corrected counts holds" if both else "holds", HOLDS))
    if plain:
        said.append(("of counts as named holds" if both else "holds", CHANCE))
    if set(own) - {str(each["run"]) for each in found.inputs}:
        said.append(("of pooled runs", BETWEEN))
    return [*said, ("does not hold", LEFT_OUT)]


def used(found: "Counted") -> dict[str, str]:
    """Return the method of each run that was counted."""
    counts = found.counts
    pairs = zip(counts["run"].astype(str), counts["method"].astype(str), strict=True)
    own = {str(each["run"]): str(each.get("method") or "") for each in found.inputs}
    return {run: (own.get(run) or method).lower() for run, method in dict(pairs).items()}


def _pooled(counts: pd.DataFrame, run: str) -> dict[str, str]:
    own = counts.loc[counts["run"].astype(str) == run, :]
    told = [parts(note) for note in own["note"]]
    shared = [part for part in told[0] if all(part in each for each in told)]
    return {"run": run, "method": str(own["method"].iloc[0]), "why": "; ".join(shared)}


def uncorrected(found: "Counted") -> str:
    """Say which runs were counted as named, and what their intervals leave out; "" for none."""
    every = used(found)
    own = [run for run, method in every.items() if method in PLAIN]
    where = "" if len(own) == len(every) else f" ({whom([short(found)[run] for run in own])})"
    said = "the intervals hold chance alone, not the mistakes of the classifier"
    return f"Not corrected for misnaming{where}: {said}." if own else ""


def mixed(found: "Counted") -> str:
    """Say that runs that stand side by side were counted by several methods; "" where not."""
    if len(set(used(found).values())) < 2:
        return ""
    return "Not all runs were counted by the same method: what differs may be the method."
