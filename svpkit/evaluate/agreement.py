"""Agreement of several annotators by class and size, and the label that most of them gave.

Fleiss' kappa (Psychol. Bull. 76, 1971, p. 378) in the form that lets the number of raters vary
(Gwet, Handbook of Inter-Rater Reliability, 4th ed. 2014, section 2.4). Of particle i with r_i >= 2
labels, r_ij of them class j: agreement P_i = sum_j r_ij (r_ij - 1) / (r_i (r_i - 1)), class share
pi_j = mean_i r_ij / r_i, kappa = (mean_i P_i - sum_j pi_j^2) / (1 - sum_j pi_j^2). Where every r_i
is the same it is Fleiss' own. Cohen's kappa is the plain mean over pairs of annotators (Light,
Psychol. Bull. 76, 1971, p. 365), each on the particles that both have labelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from svpkit.errors import SvpkitError, unknown
from svpkit.evaluate.intervals import interval
from svpkit.evaluate.metrics import ratio

SIZES_UM = (2.0, 5.0, 10.0, 25.0)
"""Lower edges of the size bins, ECD in um."""

FEW = 10
"""Particles below which an interval over resampled ones says next to nothing."""

MEASURES = ("cohen", "fleiss", "percent")


def agreement(
    labels: pd.DataFrame | np.ndarray,
    classes: Sequence[str],
    sizes_um: np.ndarray | None = None,
    bins: Sequence[float] = SIZES_UM,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how well annotators agree: overall, on each class against the rest, by size bin.

    labels (N, R), a column an annotator, names of classes, missing or "" where there is none;
    sizes_um (N,) ECD, NaN unknown; bins rising, um. Columns: part ("overall", "class", "size"),
    name, n (particles with two labels or more, which alone count), then cohen, fleiss and percent
    (chance that two labels of a particle agree, in [0, 1]), each with _low and _high, 95 % over
    resampled particles. NaN where it is not defined, as kappa where all labels are one class.
    Raises SvpkitError for an unknown class or sizes that do not fit.
    """
    codes = _codes(labels, classes)
    if sizes_um is not None and len(sizes_um) != len(codes):
        raise SvpkitError(f"agreement: {len(sizes_um)} sizes do not fit {len(codes)} particles")
    rows = []
    for at, (part, name, given, k) in enumerate(_parts(codes, classes, sizes_um, bins)):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, at])))
        rows.append({"part": part, "name": name} | _row(given, k, replicates, rng))
    return pd.DataFrame(rows)


def of_table(
    table: pd.DataFrame, annotators: Sequence[str], size: str | None, where: str
) -> pd.DataFrame:
    """Measure agreement on a table of text: a column an annotator, one of sizes (um) or None.

    Classes are those that were given. Raises SvpkitError for a column that is not there, fewer than
    two annotators and a size that is no number.
    """
    for name in (*annotators, *([size] if size else [])):
        if name not in table:
            raise unknown(f"{where}: column", name, list(map(str, table.columns)))
    if len(set(annotators)) < 2:
        raise SvpkitError(f"{where}: one annotator cannot agree; name two columns or more")
    labels = pd.DataFrame(table[list(annotators)])
    classes = sorted({str(v) for v in labels.to_numpy().ravel()} - {""})
    if not size:
        return agreement(labels, classes)
    sizes = pd.Series(pd.to_numeric(table[size].replace("", "nan"), errors="coerce"))
    return agreement(labels, classes, sizes.to_numpy(float))


def readable(found: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `agreement` for people: a measure a column, its interval behind it."""
    shown = pd.DataFrame(found[["part", "name", "n"]])
    for name in MEASURES:
        three = zip(*(found[name + end] for end in ("", "_low", "_high")), strict=True)
        shown[name] = ["-" if v != v else f"{v:.3f} ({a:.3f} to {b:.3f})" for v, a, b in three]
    return shown


def remarks(found: pd.DataFrame) -> list[str]:
    """Return what a table of `agreement` cannot tell, and why, a line each."""
    lines = []
    n = int(found["n"].iloc[0])
    if n < FEW:
        few = "1 particle has" if n == 1 else f"{n} particles have"
        lines.append(f"{few} two labels or more: too few for these intervals to mean much")
    if found[["cohen", "fleiss"]].isna().to_numpy().any():
        lines.append(
            "-: kappa is not defined where all labels are of one class, nor without two labels"
        )
    return lines


def consensus(labels: pd.DataFrame | np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Return the label that most annotators gave each particle: columns label, share and n.

    labels (N, R) as in `agreement`. `share` is that of the n labels given; where two classes tie
    or nobody gave one, label is "" (and share NaN for nobody).
    """
    codes = _codes(labels, classes)
    votes = _votes(codes, len(classes))
    n, most = votes.sum(1), votes.max(1)
    alone = (votes == most[:, None]).sum(1) == 1
    names = np.array([*classes, ""], dtype=object)
    label = names[np.where(alone & (n > 0), votes.argmax(1), len(classes))]
    index = labels.index if isinstance(labels, pd.DataFrame) else None
    return pd.DataFrame({"label": label, "share": ratio(most, n, np.nan), "n": n}, index)


def _codes(labels: pd.DataFrame | np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the class of each label, int (N, R), -1 where there is none."""
    table = pd.DataFrame(labels)
    if table.shape[1] < 2:
        raise SvpkitError(f"agreement: {table.shape[1]} column of labels is given, two are needed")
    blank = (table.isna() | (table == "")).to_numpy()
    names = table.to_numpy(dtype=object)
    codes = pd.Index(list(classes)).get_indexer(pd.Index(names.ravel(), dtype=object))
    codes = np.where(blank, -1, codes.reshape(names.shape))
    if (strange := (codes < 0) & ~blank).any():
        raise unknown("agreement: label", str(names[strange][0]), classes)
    return codes


def _parts(
    codes: np.ndarray,
    classes: Sequence[str],
    sizes_um: np.ndarray | None,
    bins: Sequence[float],
) -> Iterator[tuple[str, str, np.ndarray, int]]:
    """Yield part, name, labels of its particles and number of classes, in the table's order."""
    yield "overall", "all", codes, len(classes)
    for k, name in enumerate(classes):
        yield "class", name, np.where(codes < 0, -1, (codes == k).astype(int)), 2
    if sizes_um is None:
        return
    sizes = np.asarray(sizes_um, dtype=float)
    inside = [f"{low:g}-{high:g} um" for low, high in zip(bins[:-1], bins[1:], strict=True)]
    names = [f"< {bins[0]:g} um", *inside, f">= {bins[-1]:g} um"]
    for at, name in enumerate(names):
        of = np.isfinite(sizes) & (np.digitize(sizes, bins) == at)
        if at or of.any():
            yield "size", name, codes[of], len(classes)


def _votes(codes: np.ndarray, n_classes: int) -> np.ndarray:
    return (codes[:, :, None] == np.arange(n_classes)).sum(1)


def _row(codes: np.ndarray, n_classes: int, replicates: int, rng: np.random.Generator) -> dict:
    codes = codes[(codes >= 0).sum(1) >= 2]
    found: dict[str, float] = {"n": len(codes)}
    if not len(codes):
        return found | {
            f"{name}{end}": np.nan for name in MEASURES for end in ("", "_low", "_high")
        }
    # particles labelled alike are exchangeable: a replicate is one multinomial over such patterns
    patterns, n = np.unique(codes, axis=0, return_counts=True)
    value = _measured(patterns, n[None].astype(float), n_classes)
    draws = _measured(patterns, rng.multinomial(n.sum(), n / n.sum(), size=replicates), n_classes)
    for name in MEASURES:
        shown = interval(value[name][0], draws[name])
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
            found[name + end] = np.nan if (given := shown[key]) is None else given
    return found


def _measured(patterns: np.ndarray, times: np.ndarray, n_classes: int) -> dict[str, np.ndarray]:
    """Return each measure (B,) of particles of P patterns (P, R), each `times` (B, P)."""
    votes = _votes(patterns, n_classes)
    raters, total = votes.sum(1), times.sum(1)
    agreed = times @ ((votes * (votes - 1)).sum(1) / (raters * (raters - 1))) / total
    share = times @ (votes / raters[:, None]) / total[:, None]
    fleiss = _kappa(agreed, (share**2).sum(1))
    pairs = [_cohen(patterns[:, two], times, n_classes) for two in _pairs(patterns)]
    defined = np.isfinite(pairs)
    cohen = ratio(np.where(defined, pairs, 0.0).sum(0), defined.sum(0), np.nan)
    return {"cohen": cohen, "fleiss": fleiss, "percent": agreed}


def _pairs(patterns: np.ndarray) -> list[list[int]]:
    return [list(two) for two in combinations(range(patterns.shape[1]), 2)]


def _cohen(two: np.ndarray, times: np.ndarray, n_classes: int) -> np.ndarray:
    both = (two >= 0).all(1)
    cell = np.eye(n_classes**2)[two[both, 0] * n_classes + two[both, 1]]
    table = (times[:, both] @ cell).reshape(-1, n_classes, n_classes)
    total = table.sum((1, 2))
    by_chance = ratio((table.sum(1) * table.sum(2)).sum(1), total**2, np.nan)
    return _kappa(ratio(np.trace(table, axis1=1, axis2=2), total, np.nan), by_chance)


def _kappa(agreed: np.ndarray, by_chance: np.ndarray) -> np.ndarray:
    # chance agreement of 1 up to rounding: one class only, of which kappa says nothing
    room = np.where(1 - by_chance > 1e-12, 1 - by_chance, 0.0)
    return ratio(agreed - by_chance, room, np.nan)
