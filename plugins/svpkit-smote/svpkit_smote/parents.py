"""The two particles that a point lies between, found again from the point alone."""

import numpy as np

# Points that are traced at a time, and the largest class whose products are kept: 128 MB.
BLOCK, KEPT = 256, 4_000
# Rounding of a step, in single precision.
SLACK = 1e-4


def parents(
    made: np.ndarray, members: np.ndarray, neighbours: int, beyond: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a, b and step of each point (n, D): it is members[a] + step (members[b] - members[a]).

    members (m, D) are the particles of its class; a is the nearer of its two parents, step 0 to
    1/2, or down to -`beyond` where points may be put on the other side of a. The members nearer to
    a point than a are among the parents' own nearest `neighbours`, so that few have to be tried as
    a; every other member is tried as b, and the line that passes the point closest is the parents'.
    """
    first, second = (np.zeros(len(made), np.int64) for _ in range(2))
    step = np.zeros(len(made))
    if len(members) < 2:
        return first, second, step
    members = members.astype(np.float64)
    products = members @ members.T if len(members) <= KEPT else None
    tried = min(neighbours + 9, len(members))
    for start in range(0, len(made), BLOCK):
        rows = slice(start, start + BLOCK)
        x = made[rows].astype(np.float64)
        found = _nearest_line(x, members, products, tried, beyond)
        first[rows], second[rows], step[rows] = found
    return first, second, step


def _nearest_line(
    x: np.ndarray, members: np.ndarray, products: np.ndarray | None, tried: int, beyond: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    square, towards = (members**2).sum(1), x @ members.T
    far = (x**2).sum(1)[:, None] - 2 * towards + square
    candidates = np.argpartition(far, tried - 1, axis=1)[:, :tried]
    here, least = np.arange(len(x)), np.full(len(x), np.inf)
    # where nothing fits, the nearest member alone
    a = far.argmin(1)
    b = a.copy()
    for one in candidates.T:
        between = members[one] @ members.T if products is None else products[one]
        # (x - a) (b - a) and |b - a|^2 for every b
        along = towards - towards[here, one][:, None] - between + square[one][:, None]
        length = square[one][:, None] - 2 * between + square
        apart = length > 1e-9 * max(square.max(), 1e-30)
        place = along / np.where(apart, length, 1)
        fits = apart & (place > -beyond - SLACK) & (place < 0.5 + SLACK)
        miss = np.where(fits, far[here, one][:, None] - place * along, np.inf)
        other = miss.argmin(1)
        better = miss[here, other] < least
        least = np.where(better, miss[here, other], least)
        a, b = np.where(better, one, a), np.where(better, other, b)
    return a, b, _step(x, members[a], members[b])


def _step(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    length = ((b - a) ** 2).sum(1)
    return np.where(length > 0, ((x - a) * (b - a)).sum(1) / np.where(length > 0, length, 1), 0.0)
