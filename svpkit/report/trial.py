"""A suite as a leaderboard: in the terminal, and as one HTML page that fetches nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svpkit.report import numbers
from svpkit.report.advice import SIMULATED
from svpkit.report.html import METRICS, _environment
from svpkit.report.numbers import (
    bounds,
    duration,
    interval,
    listed,
    number,
    percent,
    plain,
    signed,
    value,
)
from svpkit.report.trial_figures import curve_panels, rank_panels

if TYPE_CHECKING:
    from rich.table import Table

WITHIN = "over test particles, one real subset"
"""What the interval of a difference within one subset is said to be."""


@dataclass(frozen=True)
class Setting:
    """One point of the grid, {key: value as shown}, and what `evaluate.trial.settle` says of it.

    `within` holds by arm and seed the difference to the baseline {value, low, high} within one
    real subset, over its test particles, where it is known.
    """

    at: Mapping[str, str]
    said: Mapping[str, Any]
    within: Mapping[str, Mapping[int, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The setting in words; "all" for the mean over every setting."""
        return ", ".join(f"{plain(key)} {text}" for key, text in self.at.items()) or "all"

    @property
    def seeds(self) -> list[int]:
        """The seeds that have differences within their subset."""
        return sorted({seed for own in self.within.values() for seed in own})

    def lone(self, arm: str) -> Mapping[str, float] | None:
        """The difference of an arm within its subset, where that is the only one it has."""
        minus, own = self.said["arms"][arm]["minus"], self.within.get(arm, {})
        return next(iter(own.values())) if minus and minus["n"] == len(own) == 1 else None


@dataclass(frozen=True)
class Board:
    """Everything that the report of a suite tells, as plain values; any figure may be None or NaN.

    `settings` in order, `overall` their mean by seed where there are several; `ranks` by arm
    {value, low, high, n}; `costs` by arm {images_seen, images_generator, seconds, peak_rss_mb};
    `winners` of a grid search {arm, at, seed, configurations, val, test}; `failed` (cell, error);
    `others` rows of the results file that are no cells of the suite as it stands; `apart` by arm
    the keys by which it differs beyond its remedy; `unit` is what intervals are over.
    """

    name: str
    metric: str
    select: str | None
    baseline: str | None
    oracle: str | None
    beside: Sequence[str]
    simulated: bool
    cells: int
    done: int
    settings: Sequence[Setting]
    overall: Setting | None
    ranks: Mapping[str, Mapping[str, Any]]
    costs: Mapping[str, Mapping[str, float]]
    winners: Sequence[Mapping[str, Any]]
    failed: Sequence[tuple[str, str]]
    others: int = 0
    apart: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unit: str = "real subsets"

    @property
    def metric_name(self) -> str:
        """The metric in words."""
        return METRICS[self.metric].replace(" (average precision)", "")

    @property
    def uneven(self) -> list[str]:
        """What sets arms apart beyond their remedy, a sentence each: not on equal terms."""
        said = [f"{plain(arm)} changes {listed(keys)}" for arm, keys in self.apart.items()]
        if len({each.get("images_seen") for each in self.costs.values()}) > 1:
            said.append("the arms' classifiers did not see the same number of images")
        return said

    @property
    def classes(self) -> list[str]:
        """The classes whose average precision is known."""
        known = [key for s in self.settings for each in s.said["arms"].values() for key in each]
        found = (k.removeprefix("auprc.") for k in dict.fromkeys(known) if k.startswith("auprc."))
        return list(found)

    @property
    def arms(self) -> list[str]:
        """The arms, the highest mean on test first."""
        first = self.overall or (self.settings[0] if self.settings else None)
        known = [arm for arm, _ in ordered(first)] if first else []
        more = (arm for setting in self.settings for arm in setting.said["arms"])
        return list(dict.fromkeys([*known, *more]))

    @property
    def shown(self) -> list[Setting]:
        """The settings, the mean over all of them first."""
        return [*([self.overall] if self.overall else []), *self.settings]


def write_board(path: Path, board: Board) -> Path:
    """Write the report of a suite to one self-contained file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(board), encoding="utf-8")
    return path


def render(board: Board) -> str:
    """Return the report as HTML; the same board gives the same text."""
    page = _environment()
    page.filters |= {"interval": numbers.interval, "listed": numbers.listed}
    mark = "SIMULATED" if board.simulated else ""
    panels = [*curve_panels(board, mark), *rank_panels(board, mark)]
    return page.get_template("trial.html.j2").render(
        board=board,
        mark=mark,
        simulated=SIMULATED if mark else "",
        headlines=headlines(board),
        panels=panels,
        strength=_strengths(board),
        ordered=ordered,
        within=WITHIN,
        costs=costs(board),
    )


def headlines(board: Board) -> list[str]:
    """Return what each setting says of the arm picked on val, a sentence each."""
    return [_headline(board, setting) for setting in board.shown]


def winner_lines(board: Board) -> list[str]:
    """Return what won a grid search, a line each: its values, and of how many it was chosen."""
    return [
        f"{plain(each['arm'])}, seed {each['seed']}: "
        f"{listed(f'{plain(key)} {text}' for key, text in each['at'].items())}, the best of "
        f"{each['configurations']} on val ({number(each['val'])}), {number(each['test'])} on test"
        for each in board.winners
    ]


def board_tables(board: Board) -> list["Table"]:
    """Return the leaderboard for the terminal: a table a setting, arms by their mean on test."""
    from rich.markup import escape
    from rich.table import Table

    tag = " (SIMULATED particles)" if board.simulated else ""
    columns = ("arm", "val", "test", "minus baseline", "p (Holm)", "gap closed", "", "seconds")
    tables = []
    for setting, sentence in zip(board.shown, headlines(board), strict=True):
        title = f"{board.name}: {board.metric_name}, {setting.title}{tag}"
        table = Table(title=escape(title), caption=escape(sentence))
        for name in columns:
            table.add_column(name)
        for arm, each in ordered(setting):
            minus = each["minus"]
            around = bounds(minus) if minus else ""
            if one := setting.lone(arm):
                around = f"{bounds(one)} {WITHIN}"
            told = f"{signed(minus)} ({around})" if around else signed(minus) if minus else ""
            corrected = number({"value": minus["p_holm"]}) if minus else ""
            share = interval(each["share"]) if each["share"] else ""
            cells = (interval(each["test"]), told, corrected, share, each["letters"])
            seconds = number(board.costs.get(arm, {}).get("seconds"), 0)
            style = "bold" if arm == setting.said["picked"] else ""
            mark = " (oracle)" if arm == board.oracle else ""
            table.add_row(
                escape(plain(arm)) + mark, number(each["val"]), *cells, seconds, style=style
            )
        tables.append(table)
    return tables


def ordered(setting: Setting) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the arms of a setting, the highest mean on test first."""
    return sorted(setting.said["arms"].items(), key=lambda kv: -(value(kv[1]["test"]) or 0.0))


def _headline(board: Board, setting: Setting) -> str:
    arm = setting.said["picked"]
    if arm is None:
        return f"{setting.title}: no arm has every seed yet"
    said = f"{setting.title}: best on validation is {_told(board, setting, arm)}."
    drawn = setting.said["picked_drawn"]
    if drawn in (None, arm):
        return said
    return f"{said} Of the arms with drawn particles: {_told(board, setting, drawn)}."


def _told(board: Board, setting: Setting, arm: str) -> str:
    each = setting.said["arms"][arm]
    said = f"{plain(arm)}, {interval(each['test'])} on test"
    if each["minus"]:
        said += f", {signed(each['minus'])} against {plain(board.baseline)}"
        around, n = bounds(each["minus"]), each["minus"]["n"]
        one = setting.lone(arm)
        alone = f"{bounds(one)} {WITHIN}" if one else "one real subset: no interval"
        said += f" ({around}; {n} {board.unit})" if around else f" ({alone})"
    if each["share"]:
        closed = f"{percent(each['share'], 0)} of the gap to the oracle"
        low, high = (percent(each["share"][end], 0) for end in ("low", "high"))
        said += f"; it closes {closed} ({low} to {high})"
    elif setting.said["gap"] and arm != board.baseline:
        said += "; the gap to the oracle is not told from zero, so no share of it is given"
    return said


def _strengths(board: Board) -> list[dict[str, float]]:
    # how deep a cell of the heat map is coloured: its place between a setting's worst and best
    found = []
    for setting in board.settings:
        means = {arm: value(each["test"]) for arm, each in setting.said["arms"].items()}
        known = [v for v in means.values() if v is not None]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        width = max(high - low, 1e-9)
        found.append(
            {arm: round((v - low) / width, 3) for arm, v in means.items() if v is not None}
        )
    return found


def costs(board: Board) -> list[tuple[str, list[str]]]:
    """Return the cost of each arm, as text: images, images of the generator, time, peak memory."""
    return [
        (
            arm,
            [
                number(each.get("images_seen"), 0),
                number(each.get("images_generator"), 0),
                duration(each.get("seconds")),
                number(each.get("peak_rss_mb"), 0),
            ],
        )
        for arm, each in board.costs.items()
    ]
