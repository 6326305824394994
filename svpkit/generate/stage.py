"""The stages that train a generator and draw particles with it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from svpkit import auditlog, drawn_index, draws, ranks
from svpkit.disk import file_digest, write_json
from svpkit.errors import SvpkitError, unknown
from svpkit.generate.drawing import assemble, draw_chunks, record
from svpkit.generate.extractor import load_extractor
from svpkit.generate.looks import Looks
from svpkit.generate.pretrain import adopt
from svpkit.generate.training import WEIGHTS, load_generator, save_generator, train_module
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import Split
from svpkit.store import stage


@stage(revision=2, everywhere=True, resumes=True)
def generator(out: Path, params: Mapping[str, Any], split: Path, *more: Path) -> None:
    """Train a generator on the real training images of `classes` and write its weights.

    `params`: generator (a plugin with its options), classes, train (a plan), seed, precision,
    pretrained (bool), source (a value of that column, or None). `more` holds the extractor where
    the plan has looks, then the pre-trained weights to start from. Validation images are looked at,
    and chosen on only where the plan has patience and each class has 30 of them. Writes
    model.safetensors, config.json and history.json.
    Raises SvpkitError for a class that the split does not know or has no training images of.
    """
    sets = Split.open(split)
    train = training_images(sets, params["classes"], params.get("source"))
    use, seed = params["generator"], params["seed"]
    spec = ImageSpec(train.shape[0], train.shape[1], train.classes)
    with draws.seeded(seed, "generator", *spec.classes):
        model = use(spec)
    history: list[dict[str, Any]] = []
    said: dict[str, Any] = {}
    if isinstance(model, nn.Module):
        if params["pretrained"]:
            said["adopted"] = adopt(model, more[-1])
        look = _looks(sets, train, more[0], params) if params["train"].looks else None
        choose = sets.choose_on_val
        model, history = train_module(model, train, out, params, look=look, choose=choose)
    elif ranks.main():
        model.fit(train, seed)
    ranks.on_main(lambda: save_generator(out, model, use, spec, train, history, **said))


@stage(revision=2, everywhere=True, resumes=True)
def synthetic(out: Path, params: Mapping[str, Any], generator: Path, split: Path) -> None:
    """Draw as many particles of each class as the strategy asks for; writes a ParticleSet.

    `params`: generator (a plugin with its options), classes, sample (options of its `sample`),
    seed, rule (a strategy with `draws(counts) -> {class: n}`), keep (the share that a selection
    will leave, or 1). Image i of a class is a function of (model, label, seed, i). Writes
    synthetic.json beside the set: images, those wanted of them, and seconds.
    """
    train = Split.open(split).train()
    asked = params["rule"]().draws(train.counts)
    wanted = {name: int(asked.get(name, 0)) for name in params["classes"]}
    counts = {name: math.ceil(n / params["keep"]) for name, n in wanted.items()}
    model = load_generator(generator, params["generator"])
    seconds = draw_chunks(out / "chunks", model, counts, params)
    ranks.wait()
    if ranks.main():
        digest = file_digest(generator / WEIGHTS)
        assemble(out, counts, digest, params, train)
        said = {"wanted": wanted, **record(counts, digest, seconds)}
        write_json(out / "synthetic.json", said)
        if root := auditlog.store_of(out):
            drawn_index.note_set(root, out, split)
    ranks.wait()


def training_images(split: Split, classes: list[str], source: str | None = None) -> ParticleSet:
    """Return the real training images of these classes, in this label order.

    Those of one `source` alone where it is given. Raises SvpkitError where there are none.
    """
    train = split.train()
    if source:
        known = train.table["source"].astype(str)
        if source not in set(known):
            raise unknown("generator.source", source, sorted(known.unique())[:20])
        train = train.take(np.flatnonzero(known == source))
    parts = {name: train.of(name) for name in classes}
    for name, found in parts.items():
        if not len(found):
            raise SvpkitError(f"generator.classes: '{name}' has no training images")
    wanted = np.flatnonzero(train.table["label"].isin(classes).to_numpy())
    return train.take(wanted).with_classes(classes)


def _looks(sets: Split, train: ParticleSet, extractor: Path, params: Mapping[str, Any]) -> Looks:
    label = f"generator {' '.join(train.classes)}"
    return Looks(load_extractor(extractor), train, sets.val(), params["seed"], label)
