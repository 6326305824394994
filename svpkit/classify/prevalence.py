"""The class shares of unlabelled particles, from what a classifier says of them."""

import numpy as np
from scipy.special import softmax

from svpkit.errors import SvpkitError
from svpkit.evaluate.quantify import em as shares_of


def em(logits: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return class shares (K,) by expectation and maximisation (Saerens et al. 2002).

    logits (N, K) are log-posteriors under the shares `train` (K,), up to a constant a row: they
    have to be calibrated. A class that training never saw keeps the share 0.
    """
    return shares_of(softmax(logits.astype(np.float64), axis=1), train)


def bbse(logits: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Return class shares (K,) by black-box shift estimation (BBSE, Lipton et al. 2018).

    The shares for which val's `answers` (K, K) explain those to the logits (N, K); below 0 is cut
    to 0. Answers are probabilities (BBSE-soft, Garg et al. 2020): a rare class that never has the
    highest one can be told all the same. Raises SvpkitError where val lacks a class or the answers
    do not tell the classes apart.
    """
    n = confusion.sum(1, keepdims=True)
    rates = confusion / np.maximum(n, 1)
    if (n == 0).any() or np.linalg.cond(rates) > 1e4:
        raise SvpkitError(
            "balance.prior_correction.prevalence: 'bbse' needs val particles of every class, and "
            "answers that tell the classes apart; 'em' or 'stated' can do without"
        )
    given = softmax(logits.astype(np.float64), axis=1).mean(0)
    found = np.maximum(np.linalg.solve(rates.T, given), 0.0)
    return found / found.sum()


def answers(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probabilities (K, K) given to each class, summed by true class (rows)."""
    p, k = softmax(logits.astype(np.float64), axis=1), logits.shape[1]
    return np.stack([p[labels == c].sum(0) for c in range(k)])


def at_least(shares: np.ndarray, n: int) -> np.ndarray:
    """Return shares (K,) of n particles, each half a particle or more: fewer cannot be told."""
    found = np.maximum(shares, 0.5 / max(n, 1))
    return found / found.sum()
