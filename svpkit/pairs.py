"""Arms of a suite paired on the test particles of one real subset: what that subset alone tells."""

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from svpkit.errors import SvpkitError
from svpkit.ledger import Row, number
from svpkit.measured import bound
from svpkit.suite import Cell, Suite

if TYPE_CHECKING:
    import pandas as pd

    from svpkit.bench import Bench

MINUS = "test.minus"
ENDS = (".low", ".high")
ROUNDING = 3e-6
"""By how much a difference may miss that of two figures which the results file has rounded."""


def metric(suite: Suite) -> str:
    """Return the metric that a suite is about: what it selects by, or macro AUPRC."""
    return (suite.select or "val.macro_auprc").removeprefix("val.")


def axes(suite: Suite) -> list[str]:
    """Return the keys that make a setting: the grid's; of a grid search those that `per` names."""
    return [key for key in suite.grid if not suite.select or key in suite.per]


def add(bench: "Bench") -> int:
    """Put paired differences, arm minus baseline, into the rows that can have them; count them.

    Columns `test.minus`, `.low`, `.high`: the suite's metric with its 95 % interval by a stratified
    bootstrap of the test particles that both arms scored, two arms at a time. Only cells whose test
    is open and whose predictions are still at hand, in the run's folder or in the store, gain them;
    what stands there and agrees with both rows stays. One subset's interval does not hold
    beyond it.
    """
    rows, key, done = bench.rows, f"test.{metric(bench.suite)}", 0
    for base, arm in _pairs(bench, rows, key):
        row = rows[arm.digest]
        expected = number(row, key) - number(rows[base.digest], key)
        if abs(number(row, MINUS) - expected) <= ROUNDING:
            continue
        found = _paired(bench, base, arm)
        if found and abs(found[MINUS] - expected) > ROUNDING:
            found = {}  # these predictions are of another making than the rows
        bare = {k: v for k, v in row.items() if not k.startswith(MINUS)}
        # unless another process has put a new row there by now
        if (found or bare != row) and bench.rows.get(arm.digest) == row:
            bench.put(bare | found)
            done += bool(found)
    return done


def intervals(row: Mapping[str, str]) -> dict[str, float]:
    """Return the difference within one subset that a row holds, {value, low, high}; NaN: none."""
    return {end[1:] or "value": number(row, f"{MINUS}{end}") for end in ("", *ENDS)}


def _pairs(bench: "Bench", rows: Mapping[str, Row], key: str) -> Iterator[tuple[Cell, Cell]]:
    names = [*axes(bench.suite), "seed"]

    def place(cell: Cell) -> list[str]:
        return [cell.value(name) for name in names]

    opened = [c for c in bench.cells if math.isfinite(number(rows.get(c.digest, {}), key))]
    for _, group in groupby(sorted(opened, key=place), place):
        arms = {cell.arm: cell for cell in group}
        base = arms.pop(bench.suite.baseline or "", None)
        yield from ((base, arm) for arm in arms.values() if base)


def _paired(bench: "Bench", base: Cell, arm: Cell) -> dict[str, float]:
    # empty where predictions are missing or were made on other particles
    from svpkit.evaluate.evidence import compare_frames

    asked = arm.recipe.evaluate
    try:
        frames = {cell.arm: _predictions(bench, cell) for cell in (base, arm)}
        found = compare_frames(frames, prevalence=asked.prevalence, replicates=asked.replicates)
    except (SvpkitError, KeyError):
        return {}
    said = found["differences"][0][metric(bench.suite)]
    if said["low"] is None:
        return {}
    return {f"{MINUS}{end}": said[end[1:] or "value"] for end in ("", *ENDS)}


def _predictions(bench: "Bench", cell: Cell) -> "pd.DataFrame":
    from svpkit.evaluate.evidence import read_predictions

    path = next((path for path in _where(bench, cell) if path.is_file()), None)
    if path is None:
        raise SvpkitError(f"{cell.name}: no predictions are left")
    # without sizes nothing is evaluated by size, which nobody asks for here
    return read_predictions(path).assign(ecd_um=math.nan)


def _where(bench: "Bench", cell: Cell) -> Iterator[Path]:
    from svpkit.plan import plan

    yield bench.places.runs / cell.name / "predictions.parquet"
    if next(bench.places.store.glob("score-*"), None):
        try:
            experiment = bound(bench.task(cell, opens=True), bench.registry)
            planned = plan(experiment, bench.places.store, deploys=False)
        except SvpkitError:
            return
        for each in planned:
            if each.artifact.label == f"score: {cell.name}":
                yield each.artifact.path / "test.parquet"
