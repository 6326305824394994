"""Which drawn images to keep: the likeliest of their class, the densest, or the most diverse."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svpkit.disk import write_json
from svpkit.errors import SvpkitError, unknown
from svpkit.fit import to_float
from svpkit.generate.extractor import Extractor, features, load_extractor
from svpkit.generate.manifold import radii
from svpkit.particles.particleset import ParticleSet, batches
from svpkit.particles.split import Split
from svpkit.safe import read_json
from svpkit.store import stage

BLOCK = 512
# Nearest real images that a density is measured on.
NEIGHBOURS = 5
# Share of the drawn images, the least dense, that diversity never keeps.
OUTLIERS = 0.1
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@stage(revision=1)
def selected(
    out: Path, params: Mapping[str, Any], extractor: Path, split: Path, synthetic: Path
) -> None:
    """Keep the best of the drawn images of each class; writes a ParticleSet and selection.json.

    `params`: by ("agreement", "density" or "diversity"). As many of a class are kept as `wanted`
    says in the synthetic.json of the drawn set; a class that it does not name is kept whole. The
    rows keep their order, ids and lineage. selection.json: for each class drawn, kept, reject_rate,
    by, and quantiles of the score over the drawn and the kept images. Raises SvpkitError where more
    are wanted than were drawn.
    """
    drawn, train, by = ParticleSet.open(synthetic), Split.open(split).train(), params["by"]
    if by not in RULES:
        raise unknown("generator.select.by", by, RULES)
    keep = _wanted(synthetic / "synthetic.json", drawn.counts)
    model = load_extractor(extractor)
    kept, said = [], {}
    for name in (name for name, n in drawn.counts.items() if n):
        rows = np.flatnonzero(drawn.table["label"] == name)
        real = train.of(name).images()
        label = train.classes.index(name)
        best, score = RULES[by](model, drawn.images(rows), real, label, keep[name])
        kept.append(rows[best])
        said[name] = {"by": by, **_record(score, best)}
    chosen = np.sort(np.concatenate([np.empty(0, np.int64), *kept]))
    drawn.take(chosen).save(out)
    write_json(out / "selection.json", said)


def agreement(model: Any, images: np.ndarray, label: int) -> Tensor:
    """Return the log probability float64 (N,) that the extractor gives to class `label`.

    Images uint8 (N, C, H, W). Raises SvpkitError for an extractor that names no classes.
    """
    if not isinstance(model, Extractor):
        raise SvpkitError(
            "generator.select.by: 'agreement' needs an extractor that names classes, as the "
            "trained one does; with this one use 'density' or 'diversity'"
        )
    device, found = next(model.parameters()).device, [torch.zeros(0, dtype=torch.float64)]
    for at in batches(len(images), BLOCK):
        with torch.no_grad():
            logits, _ = model(to_float(torch.from_numpy(images[at]).to(device)))
        found.append(logits.cpu().double().log_softmax(dim=1)[:, label])
    return torch.cat(found)


def density(drawn: Tensor, real: Tensor) -> Tensor:
    """Return the density float64 (N,) of real features (M, F) around drawn ones (N, F).

    1 / mean over the k = 5 nearest real o of r_k(x) / r_k(o), with r_k the distance to the k-th
    nearest real image other than itself: the inverse simplified local outlier factor (Schubert,
    Zimek & Kriegel 2014, after Breunig et al. 2000). About 1 where a drawn image lies as the real
    ones around it do, 0 far from all of them; a copy gains nothing. With fewer than six real images
    k is one less than there are; raises SvpkitError below two.
    """
    if len(real) < 2:
        raise SvpkitError(
            "generator.select.by: density and diversity need 2 real training images or more of "
            f"each class drawn, here is {len(real)}"
        )
    k = min(NEIGHBOURS, len(real) - 1)
    own = radii(real.double(), k).clamp(min=1e-9)
    distance, which = _nearest(drawn, real, k)
    return 1 / (distance[:, -1:] / own[which]).mean(dim=1).clamp(min=1e-9)


def farthest(drawn: Tensor, real: Tensor, allowed: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Return `keep` positions among the `allowed` bool (N,), each the farthest from all before it.

    Greedy k-centre (Gonzalez 1985) in features (N, F); the real ones (M, F) come first, so that
    what they cover is not kept again. Also returns float64 (N,): how far each lay from what was
    covered when it was kept, or lies in the end.
    """
    x = drawn.double()
    far, free, kept = _nearest(x, real, 1)[0][:, 0], allowed.clone(), []
    for _ in range(keep):
        at = int(torch.argmax(torch.where(free, far, -1.0)))
        free[at] = False
        kept.append((at, float(far[at])))
        far = torch.minimum(far, (x - x[at]).square().sum(dim=1).sqrt())
    best = torch.tensor([at for at, _ in kept], dtype=torch.int64)
    far[best] = torch.tensor([gap for _, gap in kept], dtype=torch.float64)
    return best, far


def _by_agreement(
    model: Any, images: np.ndarray, real: np.ndarray, label: int, keep: int
) -> tuple[np.ndarray, np.ndarray]:
    score = agreement(model, images, label)
    return _first(score, keep), score.exp().numpy()


def _by_density(
    model: Any, images: np.ndarray, real: np.ndarray, label: int, keep: int
) -> tuple[np.ndarray, np.ndarray]:
    score = density(features(model, images), features(model, real))
    return _first(score, keep), score.numpy()


def _by_diversity(
    model: Any, images: np.ndarray, real: np.ndarray, label: int, keep: int
) -> tuple[np.ndarray, np.ndarray]:
    seen, known = features(model, images), features(model, real)
    most = max(keep, int(np.ceil((1 - OUTLIERS) * len(images))))
    allowed = torch.zeros(len(images), dtype=torch.bool)
    allowed[_first(density(seen, known), most)] = True
    best, score = farthest(seen, known, allowed, keep)
    return best.numpy(), score.numpy()


Rule = Callable[[Any, np.ndarray, np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]
RULES: Mapping[str, Rule] = {
    "agreement": _by_agreement,
    "density": _by_density,
    "diversity": _by_diversity,
}


def _first(score: Tensor, keep: int) -> np.ndarray:
    # of equals the one drawn first
    return np.argsort(-score.numpy(), kind="stable")[:keep]


def _nearest(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances (N, k) and positions (N, k) of the nearest of b, in double precision."""
    a, b, found = a.double(), b.double(), []
    for at in batches(len(a), BLOCK):
        square = a[at].square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a[at] @ b.T
        found.append(square.clamp(min=0).topk(k, dim=1, largest=False, sorted=True))
    return torch.cat([f.values for f in found]).sqrt(), torch.cat([f.indices for f in found])


def _wanted(path: Path, counts: Mapping[str, int]) -> dict[str, int]:
    keep = read_json(path)["wanted"]
    for name, n in keep.items():
        if name not in counts:
            raise unknown(f"{path}: wanted", name, counts)
        if not 0 <= n <= counts[name]:
            raise SvpkitError(
                f"{path}: wanted.{name}: given {n}, allowed are 0 to {counts[name]}, as many as "
                "were drawn"
            )
    return {**counts, **keep}


def _record(score: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    return {
        "drawn": len(score),
        "kept": len(best),
        "reject_rate": 1 - len(best) / len(score),
        "score": {"drawn": _quantiles(score), "kept": _quantiles(score[best])},
    }


def _quantiles(score: np.ndarray) -> dict[str, float] | None:
    if not len(score):
        return None
    found = np.quantile(score, QUANTILES)
    return {str(q): float(value) for q, value in zip(QUANTILES, found, strict=True)}
