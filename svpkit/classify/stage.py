"""The stage `classifier`: strategies applied to the training set, then one fit, chosen on val."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file as save_arrays
from torch import Tensor, nn
from torch.nn.functional import one_hot

from svpkit import checkpoint, draws, fit, ranks
from svpkit.classify import finish
from svpkit.classify.balance import Balance, Prepared, compose, deployment
from svpkit.classify.context import Context, Priors
from svpkit.classify.model import FORMAT, WEIGHTS, softmax
from svpkit.classify.order import order
from svpkit.disk import file_digest, write_json
from svpkit.errors import SvpkitError
from svpkit.evaluate.metrics import class_auprc, confusion, per_class
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet, concat
from svpkit.particles.split import Split
from svpkit.plugins import Use
from svpkit.store import plain, stage


@stage(revision=3, everywhere=True, resumes=True)
def classifier(out: Path, params: Mapping[str, Any], split: Path, *synthetic: Path) -> None:
    """Train a classifier on a split's training set and write a model folder.

    `params`: classifier (Use), strategies (Uses), train (a plan), validations, seed, precision and
    prevalence ({class: weight} or None); `synthetic` are the drawn sets. The weights are the best
    on val by macro AUPRC where val may choose, else the last. Writes `model.safetensors`,
    `config.json`, `history.json` and `train_counts.json`.
    """
    sets, use = Split.open(split), params["classifier"]
    train, val = sets.train(), sets.val()
    classes, seed = train.classes, params["seed"]
    balance = compose(params["strategies"])
    context = Context(classes, seed, params["prevalence"], _drawn(synthetic, classes))
    prepared = balance.prepare(train, context)
    spec = ImageSpec(train.shape[0], train.shape[1], classes)
    choose = sets.choose_on_val and len(val) > 0
    with draws.seeded(seed, "classifier", "init"):
        network = use(spec)
        finish.ready(network, balance, spec, use.plugin.name, choose)
    priors = Priors(prepared.prior, deployment(params["prevalence"], classes))
    check = partial(validation, val=val, balance=balance, priors=priors) if len(val) else None
    if isinstance(network, nn.Module):
        task = _task(prepared, balance, seed, params, check, choose)
        network, history = fit.fit(
            network, params["train"], task, out=out, seed=seed, precision=params["precision"]
        )
    else:
        # it ends where it ends: val measures it and chooses nothing
        history, choose = _fit_object(network, use, prepared, balance, seed, check), False
    head = finish.second_stage(network, prepared, balance, params, val if choose else None)
    if head:
        prepared = replace(prepared, prior=head.prior)
    config = _config(params, spec, prepared, choose) | {"train_digest": train.digest}
    config["chosen_at_images"] = _chosen_at(history, choose, balance, params["train"].images)
    config |= finish.found(network, val, balance, head)
    ranks.on_main(lambda: _write(out, network, config, history, _counts(prepared)))


def validation(
    network: Any, *, val: ParticleSet, balance: Balance, priors: Priors
) -> dict[str, Any]:
    """Return macro AUPRC, precision and recall over the classes that val has."""
    return scores(val.labels, softmax(balance.adjust(finish.logits(network, val), priors)))


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Return macro values over the classes that labels (N,) hold; probabilities are (N, K)."""
    k = probabilities.shape[1]
    there = np.unique(labels)
    each = per_class(confusion(labels, probabilities.argmax(1), k))
    values = {
        "macro_auprc": class_auprc(labels, probabilities),
        "macro_precision": each["precision"],
        "macro_recall": each["recall"],
    }
    return {name: float(value[there].mean()) for name, value in values.items()}


def _drawn(folders: Sequence[Path], classes: Sequence[str]) -> ParticleSet | None:
    sets = [ParticleSet.open(folder).with_classes(classes) for folder in folders]
    return concat(sets) if sets else None


def _task(
    prepared: Prepared,
    balance: Balance,
    seed: int,
    params: Mapping[str, Any],
    check: Callable[[nn.Module], dict[str, Any]] | None,
    choose: bool,
) -> fit.Task:
    train, labels, plan = prepared.train, prepared.train.labels, params["train"]
    told, k = fit.takes(prepared.loss, "progress"), len(train.classes)

    def loss(
        model: nn.Module, images: Tensor, y: Tensor, seeds: Tensor, part: str, progress: float
    ) -> Tensor:
        logits = model(images)
        return prepared.loss(logits, y, progress=progress) if told else prepared.loss(logits, y)

    def mix(x: Tensor, y: Tensor, px: Tensor, py: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        return prepared.mix(x, one_hot(y, k).float(), px, one_hot(py, k).float(), seeds)

    return fit.Task(
        order=order(len(train), plan.batch, seed, prepared.weights, plan.images),
        fetch=lambda positions: (train.images(positions), labels[positions]),
        loss=loss,
        augment=balance.augment,
        mix=mix if prepared.mix else None,
        validate=check,
        validations=params["validations"],
        choose=choose,
        choose_from=balance.settles,
        label="classifier",
    )


def _fit_object(
    network: Any,
    use: Use,
    prepared: Prepared,
    balance: Balance,
    seed: int,
    check: Callable[[Any], dict[str, Any]] | None,
) -> list[dict[str, Any]]:
    for method in ("loss", "augment", "mix", "second_stage"):
        for name, _ in balance.having(method):
            raise SvpkitError(
                f"balance.strategies: classifier '{use.plugin.name}' trains itself and cannot take "
                f"the {method} of '{name}'"
            )
    train = prepared.train
    if callable(prepared.weights):
        raise SvpkitError(
            f"balance.strategies: classifier '{use.plugin.name}' trains itself and cannot take "
            "particles whose weight changes over the run"
        )
    if prepared.weights is not None:
        train = train.take(order(len(train), len(train), seed, prepared.weights)(0))
    network.fit(train, seed)
    return [{"images": len(train), "val": check(network)}] if check else []


def _config(
    params: Mapping[str, Any],
    spec: ImageSpec,
    prepared: Prepared,
    choose: bool,
) -> dict[str, Any]:
    by_class = dict(zip(spec.classes, prepared.prior.tolist(), strict=True))
    return {
        "format": FORMAT,
        "classifier": _said(params["classifier"]),
        "strategies": [_said(use) for use in params["strategies"]],
        "spec": {"channels": spec.channels, "size": spec.size, "classes": list(spec.classes)},
        "prior": by_class,
        "prevalence": plain(params["prevalence"]),
        "um_per_px": _median(prepared.train.table["um_per_px"].to_numpy(float)),
        "train": plain(params["train"]),
        "seed": params["seed"],
        "chosen_on_val": choose,
    }


def _said(use: Use) -> dict[str, Any]:
    plugin = use.plugin
    made_by = {"package": plugin.package, "version": plugin.version}
    return {"plugin": plugin.name, "options": plain(use.options), **made_by}


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _chosen_at(
    history: Sequence[Mapping[str, Any]], choose: bool, balance: Balance, images: int
) -> int | None:
    late = [row for row in history if row["images"] >= balance.settles * images]
    rows = [row for row in late if "val" in row] if choose else history[-1:]
    # max returns the first of equals, as the choice in `fit` does
    best = max(rows, key=lambda row: row["val"]["macro_auprc"] if choose else 0, default=None)
    return None if best is None else int(best["images"])


def _counts(prepared: Prepared) -> dict[str, Any]:
    drawn = (prepared.train.table["origin"] == "synthetic").to_numpy()
    real, made = (prepared.train.take(np.flatnonzero(rows)) for rows in (~drawn, drawn))
    seen = dict(zip(prepared.train.classes, prepared.prior.tolist(), strict=True))
    return {"real": real.counts, "drawn": made.counts, "share_seen": seen}


def _write(
    out: Path,
    network: Any,
    config: Mapping[str, Any],
    history: list[dict[str, Any]],
    counts: Mapping[str, Any],
) -> None:
    if isinstance(network, nn.Module):
        checkpoint.save_tensors(out / WEIGHTS, network.state_dict())
    else:
        save_arrays(_arrays(network), out / WEIGHTS)
    write_json(out / "config.json", {**config, "weights": file_digest(out / WEIGHTS)})
    write_json(out / "history.json", history)
    write_json(out / "train_counts.json", counts)


def _arrays(network: Any) -> dict[str, np.ndarray]:
    found = dict(network.state())
    for name, each in found.items():
        if not isinstance(each, np.ndarray | np.generic) or each.dtype.kind not in "biuf":
            kind = getattr(each, "dtype", type(each).__name__)
            raise SvpkitError(
                f"classifier {type(network).__name__}: '{name}' of its state is {kind}, an array "
                "of numbers is wanted"
            )
    # a number alone stays one, which ascontiguousarray makes a row of
    return {name: np.array(each, order="C") for name, each in found.items()}
