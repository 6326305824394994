"""The figures of a suite's report: a metric over an axis of the grid, and mean ranks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from svpkit.report import figures
from svpkit.report.numbers import listed, number, plain, value

if TYPE_CHECKING:
    from svpkit.report.trial import Board, Setting


def curve_panels(board: "Board", mark: str) -> list[figures.Panel]:
    """Draw the metric over each numeric axis of the grid, a panel a choice of the others."""
    found = []
    for axis in board.settings[0].at if board.settings else ():
        groups: dict[str, list[tuple[float, Setting]]] = {}
        for setting in board.settings:
            rest = ", ".join(f"{plain(k)} {v}" for k, v in setting.at.items() if k != axis)
            x = _float(setting.at[axis])
            if x is not None:
                groups.setdefault(rest, []).append((x, setting))
        for rest, points in groups.items():
            if len(points) > 1:
                found.append(_curve(board, axis, rest, sorted(points, key=lambda p: p[0]), mark))
    return found


def _curve(
    board: "Board", axis: str, rest: str, points: Sequence[tuple[float, "Setting"]], mark: str
) -> figures.Panel:
    caption = f"{board.metric_name} over {plain(axis)}" + (f", {rest}" if rest else "")
    xs = np.array([x for x, _ in points])
    # the bands of many arms would hide one another
    chosen = {board.baseline, board.oracle, *(s.said["picked"] for _, s in points)}
    arms = board.arms
    banded = arms if len(arms) <= len(figures.ARMS) else chosen
    with matplotlib.rc_context(figures._STYLE):
        figure, axes = figures._panel(plain(axis), board.metric_name, mark)
        figure.set_size_inches(5.4, 4.2)
        for i, arm in enumerate(arms):
            tests = [setting.said["arms"].get(arm, {}).get("test") for _, setting in points]
            y, low, high = (
                np.array([value(t, key) for t in tests], float) for key in ("value", "low", "high")
            )
            if np.isfinite(y).any():
                figures._line(axes, i, xs, y, figures.brief(arm), points=True)
                if arm in banded:
                    colour = figures.ARMS[i % len(figures.ARMS)][0]
                    axes.fill_between(xs, low, high, color=colour, alpha=0.1, lw=0)
        if xs.min() > 0 and xs.max() / xs.min() >= 10:
            axes.set_xscale("log")
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
            axes.minorticks_off()
        figures._legend(axes, "best")
        uri = figures.svg(figure)
    return figures.Panel(uri, f"{caption}: a line an arm, bands are t intervals.", caption)


def rank_panels(board: "Board", mark: str) -> list[figures.Panel]:
    """Draw the mean rank of each arm; none where there is nothing to rank."""
    if not board.ranks:
        return []
    arms = sorted(board.ranks, key=lambda arm: -board.ranks[arm]["value"])
    means = [board.ranks[arm]["value"] for arm in arms]
    ends = [(board.ranks[arm]["low"], board.ranks[arm]["high"]) for arm in arms]
    with matplotlib.rc_context(figures._STYLE):
        figure, axes = figures._panel("mean rank on test, 1 the best", "", mark)
        figure.set_size_inches(5.4, max(2.0, 0.32 * len(arms) + 0.9))
        colour = figures.ARMS[0][0]
        axes.hlines(range(len(arms)), *zip(*ends, strict=True), color=colour, alpha=0.35, lw=3)
        axes.plot(means, range(len(arms)), "o", color=colour, ms=6)
        axes.set_yticks(range(len(arms)), [figures.brief(plain(arm)) for arm in arms])
        axes.invert_xaxis()
        uri = figures.svg(figure)
    text = listed(f"{plain(arm)} {number(m, 1)}" for arm, m in zip(arms, means, strict=True))
    caption = "Mean rank over settings and subsets; the bar goes from the best to the worst rank"
    return [figures.Panel(uri, f"{caption}: {text}.", caption)]


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
