"""Checks of particle types: what the simulator draws, by the seed of each particle."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from svpkit.testing import toys
from svpkit.testing.subject import Failed, Subject, expect

if TYPE_CHECKING:
    from svpkit.simulate.optics import Optics

Case = tuple[Literal["mfi-like", "flowcam-like"], int, int]
CASES: tuple[Case, ...] = (("mfi-like", 32, 2), ("flowcam-like", 32, 2))
WHOLE: Case = ("mfi-like", 64, 1)
N = 12
FAINT = 0.01  # of the background's intensity: 2 grey levels of an image
DARK, BRIGHT = 0.5, 1.5  # where the background has to lie
HIGHEST = 2**64 - 1

Drawn = tuple[np.ndarray, list[dict[str, Any]]]


def live(subject: Subject) -> dict[str, np.ndarray]:
    """Return what a type draws for both instruments, and its truths: {what: array}."""
    found = {}
    for case in CASES:
        intensity, rows = draw(subject, seeds(3), toys.optics(*case))
        found[case[0]] = intensity
        found[f"{case[0]} truth"] = np.frombuffer(repr(rows).encode(), np.uint8)
    return found


def draw(subject: Subject, given: np.ndarray, optics: "Optics | None" = None) -> Drawn:
    """Draw particles as the simulator does; raises Failed for anything but arrays and rows."""
    found = subject.plugin.thing.draw(given, toys.optics() if optics is None else optics)
    if not isinstance(found, tuple) or len(found) != 2:
        raise Failed(f"intensity and rows are expected, a {type(found).__name__} came")
    return np.asarray(found[0]), found[1]


def seeds(n: int = N, start: int = 7) -> np.ndarray:
    """Return seeds uint64 (n,) as the simulator makes them: a class above, a number below."""
    return (np.uint64(start) << np.uint64(32)) + np.arange(n, dtype=np.uint64)


def check_intensity(subject: Subject) -> None:
    """It draws float32 (n, M, M), finite, 0 or more, for both instruments and sizes; a row each."""
    for case, (found, rows) in {**_drawn(subject), WHOLE: _whole(subject)}.items():
        optics, n = toys.optics(*case), len(found)
        shape = (n, optics.size, optics.size)
        right = found.shape == shape and found.dtype == np.float32
        expect(right, f"{case}: float32 {shape} is expected, {found.dtype} {found.shape} came")
        right = bool(np.isfinite(found).all()) and float(found.min()) >= 0
        expect(right, f"{case}: finite and 0 or more is expected, {found.min()} came")
        expect(len(rows) == n, f"{case}: {n} rows are expected, {len(rows)} came")


def check_one(subject: Subject) -> None:
    """One particle can be drawn alone, and is the one that it is among others."""
    given = seeds()
    whole, rows = _drawn(subject)[CASES[0]]
    for i in (0, len(given) - 1):
        alone, row = draw(subject, given[i : i + 1])
        _check_same(whole[i : i + 1], alone, "in a batch and alone")
        _check_rows_same(rows[i : i + 1], row, "in a batch and alone")


def check_order(subject: Subject) -> None:
    """Particle i is a function of its seed and the optics alone, wherever it is in the batch."""
    whole, rows = _drawn(subject)[CASES[0]]
    chosen = [7, 2, 5, 4]
    turned, others = draw(subject, seeds()[chosen])
    _check_same(whole[chosen], turned, "in another order")
    _check_rows_same([rows[i] for i in chosen], others, "in another order")


def check_same_seed(subject: Subject) -> None:
    """The same seed draws the same particle, whatever other optics were asked for in between."""
    given, optics = seeds(4), toys.optics()
    before = given.copy()
    first, rows = draw(subject, given, optics)
    expect(np.array_equal(before, given), "the given seeds are changed in place")
    draw(subject, seeds(1), toys.optics("flowcam-like"))
    again, others = draw(subject, given, optics)
    _check_same(first, again, "when drawn again", 0.0)
    _check_rows_same(rows, others, "when drawn again")


def check_other_seed(subject: Subject) -> None:
    """Another seed draws another particle, near seeds and the largest ones included."""
    given = np.array([0, 1, 2, 2**32, 2**63, HIGHEST - 1, HIGHEST], np.uint64)
    found = draw(subject, given)[0]
    _check_differ(found, given)


def check_optics(subject: Subject) -> None:
    """Without binning the same seed is shown larger: it is drawn through the given optics."""
    first = _drawn(subject)[CASES[0]][0][:3]
    second = draw(subject, seeds(3), toys.optics("mfi-like", 32, 1))[0]
    same = first.shape == second.shape and np.allclose(first, second, atol=1e-5)
    expect(not same, "other optics are expected to show another image; they show the same")


def check_background(subject: Subject) -> None:
    """The background is 1: intensities are relative to it, not grey levels and not a contrast."""
    for case, (found, _) in _drawn(subject).items():
        level = float(np.median(found))
        said = f"{case}: a median near 1 ({DARK} .. {BRIGHT}) is expected, {level:.3g} came"
        expect(DARK < level < BRIGHT, said)


def check_visible(subject: Subject) -> None:
    """Three of four particles differ from the empty field, 1 everywhere, by 1 % or more."""
    for case, (found, _) in _drawn(subject).items():
        seen = float((np.abs(found - 1).reshape(len(found), -1).max(1) >= FAINT).mean())
        said = f"{case}: 75 % or more of the particles are expected to be seen, {seen:.0%} are"
        expect(seen >= 0.75, said)


def check_truth(subject: Subject) -> None:
    """Each row tells `ecd_um`, above 0, and else only what the table knows, as plain values."""
    from svpkit.default_plugins.simulated import TRUTH

    for _, rows in _drawn(subject).values():
        for row in rows:
            expect(isinstance(row, Mapping), f"a dict is expected, a {type(row).__name__} came")
            size = row.get("ecd_um")
            right = _is_number(size) and 0 < float(size or 0) < math.inf
            expect(right, f"ecd_um: a size above 0 is expected, {size!r} came")
            for name, value in row.items():
                known = name in TRUTH or name == "group"
                expect(known, f"one of {', '.join(TRUTH)}, group is expected, '{name}' came")
                text = isinstance(TRUTH.get(name, ""), str)
                right = isinstance(value, str) if text else _is_number(value)
                said = "a text" if text else "a number"
                expect(right, f"{name}: {said} is expected, {value!r} came")


def check_keys(subject: Subject) -> None:
    """Every row has the same keys, but for `group`, which not every particle has."""
    keys = {frozenset(set(row) - {"group"}) for _, rows in _drawn(subject).values() for row in rows}
    said = " and ".join(str(sorted(each)) for each in sorted(keys, key=sorted))
    expect(len(keys) == 1, f"the same keys in every row are expected, {said} came")


def check_camera(subject: Subject) -> None:
    """The camera takes what it draws: images uint8 that are neither black nor white throughout."""
    from svpkit.simulate.camera import expose

    for case, (intensity, _) in _drawn(subject).items():
        images = expose(intensity, seeds(), toys.optics(*case))
        level = float(np.median(images))
        said = f"{case}: a median grey of 20 .. 250 is expected, {level:g} came"
        expect(20 <= level <= 250, said)


def check_simulated(subject: Subject) -> None:
    """The reader `simulated` draws it by its name, with all that the rows have to tell."""
    from svpkit.default_plugins.simulated import SimulatedReader

    name, kinds = subject.plugin.name, {subject.plugin.name: subject.plugin.thing}
    counts: dict[str, Any] = {name: 3}
    read = SimulatedReader().read(particle_types=kinds, pixels=32, binning=2, **counts)
    found = [(image.shape, row["label"]) for image, row in read]
    expect(found == [((32, 32), name)] * 3, f"3 images of '{name}' are expected, {found} came")


def _drawn(subject: Subject) -> dict[Case, Drawn]:
    # drawn once for all checks: they may take a second of each plugin's time
    return subject.once("drawn", _draw_all)


def _draw_all(subject: Subject) -> dict[Case, Drawn]:
    return {case: draw(subject, seeds(), toys.optics(*case)) for case in CASES}


def _whole(subject: Subject) -> Drawn:
    return draw(subject, seeds(2), toys.optics(*WHOLE))


def _check_same(one: np.ndarray, other: np.ndarray, when: str, limit: float = 1e-5) -> None:
    expect(one.shape == other.shape, f"{when}: {one.shape} and {other.shape} came")
    apart = float(np.abs(one - other).max(initial=0))
    expect(apart <= limit, f"{when} an image differs by {apart:.3g}, {limit:g} is allowed")


def _check_rows_same(rows: list[dict[str, Any]], others: list[dict[str, Any]], when: str) -> None:
    for row, other in zip(rows, others, strict=True):
        expect(row.keys() == other.keys(), f"{when} a row has other keys")
        for name, value in row.items():
            same = _alike(value, other[name])
            expect(same, f"{when} {name} differs: {value!r} and {other[name]!r}")


def _check_differ(found: np.ndarray, given: np.ndarray) -> None:
    for i in range(len(found)):
        for j in range(i):
            said = f"seeds {given[j]} and {given[i]} are expected to draw two particles, they draw"
            expect(not np.array_equal(found[i], found[j]), f"{said} the same")


def _alike(one: Any, other: Any) -> bool:
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7) or (
            one != one and other != other
        )
    return one == other


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))


CHECKS = (
    check_intensity,
    check_one,
    check_order,
    check_same_seed,
    check_other_seed,
    check_optics,
    check_background,
    check_visible,
    check_truth,
    check_keys,
    check_camera,
    check_simulated,
)
