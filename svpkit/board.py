"""From the rows of a suite to its leaderboard: settings settled, arms ranked, cost beside."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from svpkit.bench import Bench
from svpkit.evaluate.trial import mean_ranks, overlap, settle
from svpkit.ledger import Row, number
from svpkit.pairs import axes, intervals, metric
from svpkit.report.trial import Board, Setting
from svpkit.suite import Cell, Suite, apart

BESIDE = ("macro_precision", "macro_recall", "at_prevalence.macro_auprc")
COSTS = ("images_seen", "images_generator", "seconds")

Pair = tuple[Cell, Row]
Scores = dict[str, np.ndarray]
Both = tuple[Scores, Scores]  # on test and on val
Table = Callable[[str], Scores]


def board(bench: Bench) -> Board:
    """Return what a suite says so far, from the rows of its cells alone."""
    suite, rows = bench.suite, bench.rows
    pairs = [(cell, rows[cell.digest]) for cell in bench.cells if cell.digest in rows]
    settled, scores = _settings(suite, pairs)
    recipe = bench.cells[0].recipe
    return Board(
        name=bench.path.stem,
        metric=metric(suite),
        select=suite.select,
        baseline=suite.baseline,
        oracle=suite.oracle,
        beside=suite.beside,
        simulated="simulated" in (recipe.data.reader, recipe.data.test.reader),
        cells=len(bench.cells),
        done=sum("error" not in row for _, row in pairs),
        settings=settled,
        overall=_overall(suite, pairs, scores, settled),
        ranks=mean_ranks(_comparable(scores)),
        costs=_costs([pair for pair in pairs if "error" not in pair[1]]),
        winners=_winners(suite, pairs),
        failed=[(cell.name, row["error"]) for cell, row in pairs if "error" in row],
        apart=apart(suite),
        unit="folds" if suite.folds else "real subsets",
        others=len(set(rows) - {cell.digest for cell in bench.cells}),
    )


def _settings(suite: Suite, pairs: Sequence[Pair]) -> tuple[list[Setting], list[Both]]:
    # a point of the grid each; of a grid search what `per` names of it, winners alone
    keys, shown = axes(suite), metric(suite)
    points: dict[tuple[str, ...], list[Pair]] = {}
    for cell, row in pairs:
        if f"test.{shown}" in row:
            points.setdefault(tuple(cell.value(key) for key in keys), []).append((cell, row))
    found, scores = [], []
    for point in sorted(points, key=_place):
        table = _tables(suite, points[point])
        test, val = table(f"test.{shown}"), table(f"val.{shown}")
        said = _settled(suite, pairs, test, val)
        columns = {key for _, row in points[point] for key in row if key.startswith("test.auprc.")}
        for key in (*BESIDE, *sorted(key.removeprefix("test.") for key in columns)):
            for arm, values in table(f"test.{key}").items():
                said["arms"][arm][key] = _mean(values)
        at = dict(zip(keys, point, strict=True))
        found.append(Setting(at, said, _within(points[point])))
        scores.append((test, val))
    return found, scores


def _within(pairs: Sequence[Pair]) -> dict[str, dict[int, dict[str, float]]]:
    found: dict[str, dict[int, dict[str, float]]] = {}
    for cell, row in pairs:
        if np.isfinite((said := intervals(row))["value"]):
            found.setdefault(cell.arm, {})[cell.seed] = said
    return found


def _tables(suite: Suite, pairs: Sequence[Pair]) -> Table:
    arms = [arm for arm in suite.arms if any(c.arm == arm for c, _ in pairs)]
    arms = arms or list(dict.fromkeys(cell.arm for cell, _ in pairs))

    def table(key: str) -> dict[str, np.ndarray]:
        made = {arm: np.full(len(suite.seeds), np.nan) for arm in arms}
        for cell, row in pairs:
            made[cell.arm][suite.seeds.index(cell.seed)] = number(row, key)
        return made

    return table


def _place(point: Sequence[str]) -> tuple[Any, ...]:
    # numbers in their order, else as they came
    return tuple((float(v), v) if _is_number(v) else (np.inf, v) for v in point)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _settled(suite: Suite, pairs: Sequence[Pair], test: Scores, val: Scores) -> dict[str, Any]:
    drawing = {cell.arm for cell, _ in pairs if "synthetic" in cell.recipe.balance.strategies}
    return settle(
        test,
        val,
        baseline=suite.baseline,
        oracle=suite.oracle,
        beside=suite.beside,
        drawing=sorted(drawing),
        widen=overlap(len(suite.seeds)) if suite.folds else 1.0,
    )


def _overall(
    suite: Suite, pairs: Sequence[Pair], scores: Sequence[Both], settled: Sequence[Setting]
) -> Setting | None:
    # settings of one seed share their subset: their mean is one observation
    if len(scores) < 2:
        return None
    arms = [arm for arm in scores[0][0] if all(arm in test for test, _ in scores)]
    test, val = (
        {arm: np.mean([each[side][arm] for each in scores], axis=0) for arm in arms}
        for side in (0, 1)
    )
    said = _settled(suite, pairs, test, val)
    for arm, key in product(arms, {key: 0 for s in settled for key in s.said["arms"][arms[0]]}):
        values = [s.said["arms"][arm].get(key) for s in settled]
        if key not in said["arms"][arm]:
            said["arms"][arm][key] = _mean(np.array(values, float))
    return Setting({}, said)


def _comparable(
    scores: Sequence[Both],
) -> list[dict[str, np.ndarray]]:
    # ranks are over the arms that every setting has
    arms = [arm for arm in (scores[0][0] if scores else ()) if all(arm in t for t, _ in scores)]
    return [{arm: test[arm] for arm in arms} for test, _ in scores] if len(arms) > 1 else []


def _costs(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for arm in dict.fromkeys(cell.arm for cell, _ in pairs):
        own = [row for cell, row in pairs if cell.arm == arm]
        columns = {key: np.array([number(row, key) for row in own]) for key in COSTS}
        found[arm] = {key: _mean(values) for key, values in columns.items()}
        found[arm]["peak_rss_mb"] = max(number(row, "peak_rss_mb") for row in own)
    return found


def _winners(suite: Suite, pairs: Sequence[Pair]) -> list[Mapping[str, Any]]:
    shown = metric(suite)
    return [
        {
            "arm": cell.arm,
            "at": cell.at,
            "seed": cell.seed,
            "configurations": row["configurations"],
            **{
                side: {
                    "value": number(row, f"{side}.{shown}"),
                    **{end: number(row, f"{side}.{shown}.{end}") for end in ("low", "high")},
                }
                for side in ("val", "test")
            },
        }
        for cell, row in pairs
        if "configurations" in row
    ]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
