"""Class counts of unlabelled particles, from what a classifier says of them: cc, pcc, acc, em."""

from __future__ import annotations

import numpy as np

from svpkit.errors import SvpkitError
from svpkit.evaluate import metrics

CONDITION = 1e4
"""From this condition number on, the answers of a classifier do not tell the classes apart."""

TOLERANCE, ROUNDS = 1e-10, 2_000


def cc(named: np.ndarray, k: int) -> np.ndarray:
    """Classify and count: how many particles bear each name, (K + 1,), what is unknown last.

    named int (N,) in 0..K.
    """
    return np.bincount(named, minlength=k + 1).astype(float)


def pcc(p: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Probabilistic classify and count: sums of probabilities, (K + 1,), what is unknown last.

    p (N, K), named int (N,) in 0..K: what is unknown belongs to no class (Bella et al. 2010).
    """
    k = p.shape[1]
    return np.append(p[named < k].sum(0, dtype=float), (named == k).sum())


def rates(table: np.ndarray) -> np.ndarray:
    """P(name | class) (..., K, K + 1) from a table of validation particles of the same shape.

    NaN where a class has no validation particle.
    """
    return metrics.ratio(table, table.sum(-1, keepdims=True), np.nan)


def sources(rates: np.ndarray) -> np.ndarray:
    """Add what is foreign, (..., K + 1, K + 1): particles of no class, all of which are flagged.

    What is flagged in a run is a mixture of particles of the classes, flagged by mistake as often
    as in validation, and of others. Foreign particles that were named are not seen: the estimate
    of the foreign ones is a lower bound.
    """
    foreign = np.zeros((*rates.shape[:-2], 1, rates.shape[-1]))
    foreign[..., -1] = 1.0
    return np.concatenate([rates, foreign], -2)


def tellable(rates: np.ndarray) -> bool:
    """Say whether the rates (K, K + 1) can be inverted: every class is seen, and told apart."""
    return bool(np.isfinite(rates).all() and np.linalg.cond(sources(rates)) < CONDITION)


def unmixed(counts: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Counts by class (..., K + 1), foreign last, that explain counts by name (..., K + 1).

    Solves counts = rates' x (Forman 2008, the matrix form). Linear, hence unbiased where the rates
    are right; it may fall below 0. The sum is that of the counts. Raises SvpkitError where the
    rates (..., K, K + 1) cannot be inverted.
    """
    try:
        return np.linalg.solve(np.swapaxes(sources(rates), -1, -2), counts[..., None])[..., 0]
    except np.linalg.LinAlgError:
        raise SvpkitError(
            "method 'acc': the names given to the validation particles do not tell the classes "
            "apart; 'cc' counts what is named"
        ) from None


def admissible(counts: np.ndarray) -> np.ndarray:
    """Cut counts (..., K + 1) below 0 to 0, and scale the others so that the sum stays."""
    kept = np.maximum(counts, 0.0)
    return kept * metrics.ratio(counts.sum(-1, keepdims=True), kept.sum(-1, keepdims=True), 0.0)


def acc(counts: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Adjusted count (..., K + 1), foreign last: what explains the counts by name, none below 0.

    counts (..., K + 1) by name, rates (..., K, K + 1). A solution without negative counts has no
    residual, so that least squares on the simplex finds the same; others are cut and scaled.
    """
    return admissible(unmixed(counts, rates))


def em(
    p: np.ndarray,
    prior: np.ndarray,
    weight: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """Return class shares by expectation and maximisation (Saerens et al. 2002).

    p (N, K) are calibrated under the shares `prior` (..., K); weight (..., N) is how often each
    row counts, once without it. Leading axes are runs or replicates, side by side: (..., K). A
    class of prior 0 keeps the share 0, and so do all without particles. `tolerance` is the change
    of a share at which a row has settled.
    """
    weight = np.ones(len(p)) if weight is None else np.asarray(weight, float)
    lead = np.broadcast_shapes(prior.shape[:-1], weight.shape[:-1])
    n, (rows, k) = int(np.prod(lead)), p.shape
    prior = np.broadcast_to(prior, (*lead, k)).reshape(n, k)
    weight = np.broadcast_to(weight, (*lead, rows)).reshape(n, rows)
    return _em(p.astype(float), prior, weight, tolerance).reshape(*lead, k)


def _em(p: np.ndarray, prior: np.ndarray, weight: np.ndarray, tolerance: float) -> np.ndarray:
    # prior (R, K), weight (R, N); replicates that have settled are left alone
    total = weight.sum(1, keepdims=True)
    found, moving = np.where(total > 0, prior, 0.0), np.flatnonzero(total[:, 0] > 0)
    for _ in range(ROUNDS):
        before, own = found[moving], weight[moving]
        factor = metrics.ratio(before, prior[moving], 0.0)
        hits = metrics.ratio(own, factor @ p.T, 0.0)
        after = factor * (hits @ p) / total[moving]
        found[moving] = after
        moving = moving[np.abs(after - before).max(1) > tolerance]
        if not moving.size:
            break
    return found


def settled_prior(p: np.ndarray, share: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return the prior (K,) under which `em` finds in validation the shares that it has.

    p (M, K) of validation particles, share (K,) by their labels, weight (M,). For calibrated
    probabilities it is the share itself; within a size bin, where a classifier that is calibrated
    over all sizes may not be, it takes out the bias (bias correction of Alexandari et al. 2020).
    """
    weight = np.ones(len(p)) if weight is None else weight
    prior, known = share.astype(float), share > 0
    for _ in range(200):
        mean = weight @ tilted(p, share, prior) / weight.sum()
        step = np.where(known, mean / np.where(known, share, 1.0), 1.0)
        prior = prior * step
        if np.abs(step - 1).max() < 1e-5:
            break
    return prior / prior.sum()


def tilted(p: np.ndarray, share: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Move probabilities p (N, K) from the shares `prior` (K,) to the shares `share` (K,)."""
    moved = p * metrics.ratio(share, prior, 0.0)
    return metrics.ratio(moved, moved.sum(1, keepdims=True), 0.0)
