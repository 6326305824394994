"""What the figures of drawn particles come to, in a word and in sentences."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Where the words change: share of the way to noise or another class, copies, background in sd.
VERDICTS = (
    (0.15, "close", "Close to real"),
    (0.5, "some way", "Some way from real"),
    (np.inf, "far", "Still far from real"),
)
MANY_COPIES, SHIFTED = 0.01, 0.25


def words(found: Mapping[str, Any]) -> str:
    """Return plain sentences on what `fidelity.judge` found of a class."""
    said = [verdict(found)[1]]
    copies, alike = found["copy_rate"] or 0, found["copy_rate_floor"] or 0
    if copies > MANY_COPIES + alike:
        said.append(
            f"At least {copies:.1%} of them pass for copies of training images (real ones: "
            f"{alike:.1%}; of planted copies {found['copy_recall']:.0%} are found)."
        )
    said += _variety(found)
    if abs(found["background_shift_sd"]) > SHIFTED:
        way = "brighter" if found["background_shift_sd"] > 0 else "darker"
        by = abs(found["background_shift_sd"])
        said.append(f"Their background is {by:.1f} standard deviations {way} than the real one.")
    return " ".join(said)


def verdict(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return "close", "some way", "far" or "cannot tell", and a sentence that says why."""
    if "kid" not in found:
        n = f"{found['n_drawn']} drawn, {found['n_real']} held-out real"
        return "cannot tell", f"Too few images to compare: {n}."
    # KID is a squared distance: its root grows evenly on the way from real to something else
    floor, other = found["kid_floor"]["value"], found["kid_other_class"]
    marks = [("noise", found["kid_ceiling"]["value"])]
    marks += [(other["class"].replace("_", " "), other["value"])] if other else []
    name, mark = min(marks, key=lambda each: each[1])
    if mark <= found["kid_floor"]["high"]:
        said = f"This measure cannot tell real images from {name} here: KID says nothing."
        return "cannot tell", said
    way = (max(found["kid"]["value"] - floor, 0) / (mark - floor)) ** 0.5
    kind, said = next(v[1:] for v in VERDICTS if way < v[0])
    said = f"{said}: {min(way, 1):.0%} of the way from real images to {name}"
    n = found["n_compared"]
    if found["kid"]["value"] <= found["kid_floor"]["high"]:
        said += f", within the scatter of {n} real images against {n} others"
    return kind, f"{said}."


def _variety(found: Mapping[str, Any]) -> list[str]:
    # of the two, the one that fell the further says it
    lost = [
        (found[m]["value"] - found[f"{m}_floor"]["value"], m)
        for m in ("recall", "coverage")
        if m in found and found[m]["high"] < found[f"{m}_floor"]["low"]
    ]
    if not lost:
        return []
    measure = min(lost)[1]
    here, there = (found[measure + end]["value"] for end in ("", "_floor"))
    return [
        f"They lack variety of the real ones: {measure} {here:.2f}, of real images {there:.2f}."
    ]
