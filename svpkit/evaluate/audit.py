"""Which labels are probably wrong, by what models that never saw the particle say of it."""

import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from svpkit.errors import SvpkitError


def check_installed() -> None:
    """Raise SvpkitError where cleanlab, an extra, is not installed."""
    if importlib.util.find_spec("cleanlab") is None:
        raise SvpkitError("audit: cleanlab is not installed; pip install 'svpkit[audit]'")


def probable_errors(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the rows whose label is probably wrong, worst first, with what speaks against it.

    `rows` has `label` and out-of-fold probabilities p_<class>. Added: suggested (the likeliest
    class), p_label, p_suggested, and quality, 0 (surely wrong) to 1: the normalised margin. The
    rows are those that confident learning prunes (Northcutt, Jiang & Chuang 2021, by noise rate):
    as many of each pair of classes as the estimated joint distribution of given and true labels
    expects to be wrong. Raises SvpkitError without cleanlab.
    """
    check_installed()
    from cleanlab.filter import find_label_issues  # type: ignore[import-not-found]
    from cleanlab.rank import get_label_quality_scores  # type: ignore[import-not-found]

    p = rows[[f"p_{name}" for name in classes]].to_numpy(np.float64)
    p = p / p.sum(1, keepdims=True)
    labels = pd.Index(classes).get_indexer(pd.Index(rows["label"].astype(str)))
    with warnings.catch_warnings():
        # a class of very few particles: said here by its count
        warnings.simplefilter("ignore", UserWarning)
        # one process: the others would each load all that this one has loaded
        wrong = find_label_issues(labels, p, filter_by="prune_by_noise_rate", n_jobs=1)
    quality = get_label_quality_scores(labels, p, method="normalized_margin")
    found = rows.assign(
        suggested=np.asarray(classes, dtype=object)[p.argmax(1)],
        p_label=p[np.arange(len(p)), labels],
        p_suggested=p.max(1),
        quality=quality,
    )
    wrong = np.asarray(wrong, bool) & (p.argmax(1) != labels)
    order = np.argsort(quality, kind="stable")
    return found.iloc[order[wrong[order]]]
