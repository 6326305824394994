"""Two runs beside each other, with paired intervals where they share a test set."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit.errors import SvpkitError
from svpkit.evaluate.evidence import compare_frames, read_predictions
from svpkit.safe import opened
from svpkit.shapes import read_run

if TYPE_CHECKING:
    from rich.table import Table

METRICS = ("macro_auprc", "macro_precision", "macro_recall", "macro_f1", "accuracy")


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Return {"arms": {run: evaluation}, "differences": [...], "paired": bool}.

    Runs on the same test particles are resampled together, second minus first; others stand beside
    each other with their own intervals only.
    """
    if first.resolve() == second.resolve():
        raise SvpkitError(f"{first}: compared with itself; name two runs")
    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    frames = [read_predictions(run / "predictions.parquet") for run in (first, second)]
    ids = [frame.sort_values("id", ignore_index=True) for frame in frames]
    # ids may be the same where pictures are not: the test sets must be one to the digest
    if _test(first) == _test(second) and ids[0]["id"].equals(ids[1]["id"]):
        found = compare_frames(dict(zip(names, ids, strict=True)), prevalence=None)
        return {**found, "paired": True}
    arms = {}
    for name, frame in zip(names, frames, strict=True):
        arms |= compare_frames({name: frame}, prevalence=None)["arms"]
    return {"arms": arms, "differences": [], "paired": False}


def compare_table(first: Path, second: Path) -> "Table":
    """Return two runs as a table: each metric with its interval, and the paired difference."""
    from rich.table import Table

    with opened(f"{first} and {second}", "cannot be compared"):
        found = compare_runs(first, second)
    names = list(found["arms"])
    table = Table(title=f"{names[1]} against {names[0]}", caption_justify="left")
    for column in ("metric", *names, "difference (95 %)"):
        table.add_column(column)
    for metric in METRICS:
        cells = [_cell(found["arms"][name][metric]) for name in names]
        gap = _cell(found["differences"][0][metric], "+") if found["paired"] else "-"
        table.add_row(metric.replace("_", " "), *cells, gap)
    seeds = [_seed(run) for run in (first, second)]
    table.caption = (
        "paired: both were scored on the same particles"
        if found["paired"]
        else "not paired: the runs were scored on different particles"
    ) + f"; seeds {seeds[0]} and {seeds[1]}, one subset and one training each"
    return table


def _cell(found: dict[str, Any], sign: str = "") -> str:
    value, low, high = (found.get(k) for k in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "-"
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _seed(run: Path) -> Any:
    return read_run(run).get("seed")


def _test(run: Path) -> str:
    # one that names no data is like no other
    return read_run(run).get("data", {}).get("test") or str(run)
