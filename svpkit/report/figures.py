"""Pictures that live inside the page: particles as PNG, curves as SVG that follow its colours."""

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from svpkit.legible import legible
from svpkit.report.numbers import number, plain, value

# Okabe and Ito's colour-blind-safe set, darkened where it would fade on white; light, dark.
ARMS = (
    ("#0072b2", "#62b5e5"),
    ("#c65500", "#f2935c"),
    ("#00845f", "#3fcf9f"),
    ("#a8508a", "#e3a3c9"),
    ("#947000", "#e8bd4a"),
    ("#505a66", "#c2cad3"),
)
INKS = {
    "ink": ("#18212b", "#e8ecf1"),
    "soft": ("#566270", "#a5b1bf"),
    "line": ("#dde3e9", "#323c48"),
}
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.2)), (0, (6, 1.5, 1.4, 1.5)))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "svpkit",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INKS["ink"][0],
    "axes.edgecolor": INKS["soft"][0],
    "axes.labelcolor": INKS["soft"][0],
    "xtick.color": INKS["soft"][0],
    "ytick.color": INKS["soft"][0],
    "grid.color": INKS["line"][0],
    "grid.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.7,
}


@dataclass(frozen=True)
class Panel:
    """One picture of the report: a data URI, what it shows in words, and its caption."""

    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Span:
    """A common axis for rows of intervals; `at` gives a position on it in percent."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, x: float) -> float:
        """Return where a value lies between the ends, in percent, held inside them."""
        share = (x - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)


def span(entries: Iterable[Any], include: Sequence[float] = ()) -> Span:
    """Return an axis that holds every value and interval given, with ticks at round values."""
    ends = [*include]
    for entry in entries:
        found = (value(entry), value(entry, "low"), value(entry, "high"))
        ends += [v for v in found if v is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)
    ticks = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return Span(low, high, tuple(float(t) for t in ticks if low <= t <= high))


def tokens(dark: bool) -> str:
    """Return the colours of the page and of its figures as CSS custom properties."""
    pairs = {**INKS, **{f"arm{i}": pair for i, pair in enumerate(ARMS)}}
    return "".join(f"--{name}:{pair[dark]};" for name, pair in pairs.items())


def grey_range(images: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return the grey levels between which nearly all pixels lie (0.1 to 99.9 percent)."""
    pixels = [np.asarray(block).reshape(-1) for block in images if block is not None]
    pixels = [block for block in pixels if block.size]
    if not pixels:
        return 0.0, 255.0
    low, high = np.percentile(np.concatenate(pixels), (0.1, 99.9))
    return (float(low), float(high)) if high - low >= 8 else (0.0, 255.0)


def png(image: np.ndarray, greys: tuple[float, float] = (0.0, 255.0)) -> str:
    """Return an image uint8 (C, H, W), stretched over `greys`, as a PNG data URI."""
    low, high = greys
    scaled = (np.asarray(image, float) - low) * (255 / (high - low))
    pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    drawn = Image.fromarray(np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[0])
    out = io.BytesIO()
    drawn.save(out, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def svg(figure: Figure) -> str:
    """Return a figure as an SVG data URI whose colours follow the reader's light or dark setting.

    Call it, and draw the figure, inside `matplotlib.rc_context`.
    """
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"font-family: [^;\"]*(?:; )?", "", text)
    text = text.replace("#000000", "var(--ink)")
    for name, (light, _) in [*INKS.items(), *((f"arm{i}", pair) for i, pair in enumerate(ARMS))]:
        text = text.replace(light, f"var(--{name})")
    style = (
        f"svg{{{tokens(False)}font-family:{FONT}}}text{{fill:var(--ink)}}"
        f"@media(prefers-color-scheme:dark){{svg{{{tokens(True)}}}}}"
    )
    text = text.replace("<defs>", f"<style>{style}</style><defs>", 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def brief(name: str, most: int = 48) -> str:
    """Return a name as a picture has room for it, without what no SVG may hold."""
    text = legible(name)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def precision_recall(
    arms: Mapping[str, Any], name: str, mark: str = "", points: int = 120
) -> Panel | None:
    """Draw precision against recall for one class, a line and a band an arm; None without curves.

    The dotted line is chance, the share of the class in the test set. `mark` goes in a corner.
    """
    found = {arm: _curve(each, name, points) for arm, each in arms.items()}
    if not any(curve is not None for curve in found.values()):
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel("recall", "precision", mark)
        for i, (arm, curve) in enumerate(found.items()):
            if curve is not None:
                _band(axes, i, curve)
                area = number(_auprc(arms[arm], name))
                _line(axes, i, curve["recall"], curve["precision"], f"{area}  {brief(arm)}")
        chance = _share(arms, name)
        axes.axhline(chance, color=INKS["soft"][0], lw=1, ls=":")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        _legend(axes, "lower left", above=chance if chance < 0.4 else 0.0)
        uri = svg(figure)
    areas = ", ".join(f"{plain(arm)} {number(_auprc(arms[arm], name))}" for arm in found)
    return Panel(uri, f"Precision against recall for {plain(name)}. AUPRC: {areas}.", plain(name))


def reliability(rows: Sequence[Mapping[str, Any]], name: str, mark: str = "") -> Panel:
    """Draw how often the top class was right against how likely it was said to be.

    rows {"p", "share", "low", "high", "n"}, a bin of particles each; the dotted line is perfect.
    """
    p, share, low, high = (
        np.array([row[key] for row in rows], float) for key in ("p", "share", "low", "high")
    )
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel("stated probability", "share that was right", mark)
        axes.plot((0, 1), (0, 1), color=INKS["soft"][0], lw=1, ls=":")
        ends = np.stack([np.maximum(share - low, 0), np.maximum(high - share, 0)])
        axes.errorbar(p, share, ends, fmt="o", ms=3, lw=1, color=ARMS[0][0])
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        uri = svg(figure)
    return Panel(uri, f"Reliability on {name}, {len(rows)} bins of particles.", f"on {name}")


def curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], key: str, label: str, mark: str = ""
) -> Panel | None:
    """Draw one quantity of the training histories over the images seen; None where none has it.

    `key` is "loss", "lr" or, for what was measured on the validation set, "val.NAME".
    """
    found = {name: _history(rows, key) for name, rows in histories.items()}
    found = {name: xy for name, xy in found.items() if len(xy[0])}
    if not found:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel("images seen in training", label, mark)
        for i, name in enumerate(histories):
            if name in found:
                _line(axes, i, *found[name], name, points=len(found[name][0]) < 25)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        _legend(axes, "best")
        uri = svg(figure)
    last = ", ".join(f"{plain(name)} {number(float(y[-1]))}" for name, (_, y) in found.items())
    return Panel(uri, f"{label} over training. Last: {last}.", label)


def _panel(x: str, y: str, mark: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.6, 2.85), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if mark:
        axes.set_title(mark, loc="right", fontsize=7.5, color=INKS["soft"][0])
    return figure, axes


def _line(axes: Axes, i: int, x: Any, y: Any, label: str, points: bool = False) -> None:
    short = plain(label) if len(label) <= 32 else f"{plain(label)[:31]}…"
    colour, dash = ARMS[i % len(ARMS)][0], DASHES[i % len(DASHES)]
    marker = "o" if points else ""
    axes.plot(x, y, color=colour, ls=dash, label=short, marker=marker, ms=3)


def _band(axes: Axes, i: int, curve: Mapping[str, np.ndarray]) -> None:
    if "low" in curve and "high" in curve:
        colour = ARMS[i % len(ARMS)][0]
        axes.fill_between(
            curve["recall"], curve["low"], curve["high"], color=colour, alpha=0.14, lw=0
        )


def _legend(axes: Axes, where: Any, above: float = 0.0) -> None:
    box = (0, above, 1, 1 - above)
    axes.legend(
        loc=where, bbox_to_anchor=box, handlelength=2.2, labelspacing=0.3, borderaxespad=0.3
    )


def _curve(arm: Any, name: str, points: int) -> dict[str, np.ndarray] | None:
    curve = ((arm.get("metrics") or {}).get("curves") or {}).get(name)
    if not curve or not len(curve.get("recall", ())):
        return None
    n = len(curve["recall"])
    keep = np.unique(np.linspace(0, n - 1, min(n, points)).round().astype(int))
    columns = {k: curve.get(k) for k in ("recall", "precision", "low", "high")}
    return {k: np.array(v, float)[keep] for k, v in columns.items() if v is not None}


def _auprc(arm: Any, name: str) -> Any:
    return ((arm.get("metrics") or {}).get("per_class") or {}).get(name, {}).get("auprc")


def _share(arms: Mapping[str, Any], name: str) -> float:
    counts = next((arm["metrics"]["n"] for arm in arms.values() if arm.get("metrics")), {})
    return counts.get(name, 0) / max(1, sum(counts.values()))


def _history(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    group, _, name = key.rpartition(".")
    pairs = [
        (row.get("images"), (row.get(group) or {} if group else row).get(name)) for row in rows
    ]
    kept = [(value(x), value(y)) for x, y in pairs if value(x) is not None and value(y) is not None]
    xy = np.array(kept, float).reshape(-1, 2)
    keep = np.unique(np.linspace(0, max(0, len(xy) - 1), min(len(xy), 300)).astype(int))
    return xy[keep, 0], xy[keep, 1]
