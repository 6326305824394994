"""Checks of strategies: which particles are drawn, kept and seen, and what they are with others."""

import difflib
import inspect
from typing import Any

import numpy as np

from svpkit.classify.balance import compose
from svpkit.classify.context import Context
from svpkit.errors import SvpkitError
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import Use, discover
from svpkit.testing import strategy_images, strategy_teaching
from svpkit.testing.strategy_inputs import (
    COUNTS,
    VERBS,
    context,
    counts,
    equal,
    filled,
    method,
    plain,
    train,
    verb,
)
from svpkit.testing.subject import Failed, Subject, expect


def live(subject: Subject) -> dict[str, np.ndarray]:
    """Return all that a strategy gives, once: {what: array}."""
    particles, found = train(subject), {}
    told = context(subject, particles)
    if draw := verb(subject, "draws"):
        found["draws"] = np.array([draw(particles.counts).get(c, 0) for c in told.classes])
    if change := verb(subject, "particles"):
        changed = change(particles, told)
        found |= {"particles": changed.images(), "labels": changed.labels}
    if sample := verb(subject, "sampler"):
        found |= _weights("sampler", sample(particles.labels))
    if factors := verb(subject, "factors"):
        found |= _weights("factors", factors(filled(subject)))
    return found | strategy_images.live(subject) | strategy_teaching.live(subject)


def check_verbs(subject: Subject) -> None:
    """It has a method of the contract, each takes what the host gives, none is misspelt."""
    strategy = subject.use()
    have = [name for name in VERBS if callable(getattr(strategy, name, None))]
    for name in _public(strategy) - set(VERBS):
        meant = difflib.get_close_matches(name, VERBS, 1, 0.75)
        if meant and meant[0] not in have:
            raise Failed(f"{name} is no method of a strategy; did you mean {meant[0]}?")
    expect(bool(have), f"one of {', '.join(VERBS)} is expected, it has none")
    for name in have:
        given = inspect.signature(getattr(strategy, name))
        try:
            given.bind(*range(VERBS[name]))
        except TypeError as error:
            said = f"{name}{given} cannot take the host's {VERBS[name]} arguments: {error}"
            raise Failed(said) from None


def check_traits(subject: Subject) -> None:
    """What it says of itself (settles, cosine, soft, gates ...) is what the host can read."""
    strategy = subject.use()
    for name in ("soft", "needs_val", "prior_known", "wants_prevalence"):
        value = getattr(strategy, name, True)
        expect(value in (True, False), f"{name}: true or false is expected, {value!r} came")
    settles = getattr(strategy, "settles", 0.0)
    right = _is_number(settles) and 0 <= float(settles) <= 1
    expect(right, f"settles: 0 .. 1 is expected, {settles!r} came")
    cosine = getattr(strategy, "cosine", None)
    right = cosine is None or (_is_number(cosine) and float(cosine) > 0)
    expect(right, f"cosine: None or a scale above 0 is expected, {cosine!r} came")
    for name, limit in dict(getattr(strategy, "gates", None) or {}).items():
        expect(_is_number(limit), f"gates.{name}: a number is expected, {limit!r}")


def check_draws(subject: Subject) -> None:
    """It asks for a whole number, 0 or more, of particles of known classes, twice the same."""
    draw = method(subject, "draws")
    for n in (COUNTS, (3, 40, 1)):
        given = counts(subject, *n)
        asked = draw(dict(given))
        for name, more in asked.items():
            expect(name in given, f"draws: a class of {list(given)} is expected, '{name}' came")
            whole = isinstance(more, (int, np.integer)) and not isinstance(more, bool)
            expect(
                whole and bool(more >= 0), f"draws: '{name}': a count is expected, {more!r} came"
            )
        again = draw(dict(given))
        expect(again == asked, f"draws: {asked} is expected again, {again} came")


def check_particles(subject: Subject) -> None:
    """The set that it returns has the same shape and classes, every label known."""
    change = method(subject, "particles")
    for n in (COUNTS, (30, 12, 1)):
        given = train(subject, *n)
        try:
            found = change(given, context(subject, given))
        except SvpkitError:
            if min(n) > 1:
                raise
            continue  # a class of one particle may be refused
        _check_set(given, found)


def check_particles_input(subject: Subject) -> None:
    """It changes nothing in the set that it is given."""
    change = method(subject, "particles")
    given = train(subject)
    images, table = given.images(), given.table.copy(deep=True)
    told = context(subject, given)
    change(given, told)
    expect(equal(images, given.images()), "particles: the given images are changed in place")
    expect(table.equals(given.table), "particles: the given table is changed in place")


def check_particles_twice(subject: Subject) -> None:
    """The same set and the same context give the same particles."""
    method(subject, "particles")
    one, two = (_changed(subject) for _ in range(2))
    same = len(one) == len(two) and equal(one.images(), two.images())
    expect(same and equal(one.labels, two.labels), "particles: not the same when called again")


def check_particles_origin(subject: Subject) -> None:
    """Images that it adds are marked: origin "synthetic", and a lineage that tells of what."""
    method(subject, "particles")
    given = train(subject)
    table = _changed(subject).table
    new = table[~table["digest"].isin(list(given.table["digest"]))]
    for name, origin, lineage in zip(new["id"], new["origin"], new["lineage"], strict=True):
        said = f"particles: '{name}' is new and has origin '{origin}', lineage '{lineage}'"
        expect(origin == "synthetic" and lineage != "", f"{said}; mark it as synthetic")


def check_sampler(subject: Subject) -> None:
    """It weighs N particles, finite, 0 or more and not all 0, at all times of a run."""
    sample = method(subject, "sampler")
    for n in (COUNTS, (30, 0, 1)):
        labels = train(subject, *n).labels
        before = labels.copy()
        found = sample(labels)
        expect(equal(before, labels), "sampler: the given labels are changed in place")
        for name, weights in _weights("sampler", found).items():
            _check_weights(name, weights, len(labels))
        again = _weights("sampler", sample(labels))
        same = all(equal(w, again[name]) for name, w in _weights("sampler", found).items())
        expect(same, "sampler: not the same weights when called again")


def check_factors(subject: Subject) -> None:
    """It gives None, or a finite factor, 0 or more and not all 0, for each of N particles."""
    factors = method(subject, "factors")
    for given in (train(subject), filled(subject)):
        for name, weights in _weights("factors", factors(given)).items():
            _check_weights(name, weights, len(given))


def check_composes(subject: Subject) -> None:
    """With `none` before it and `augment` after it, the host prepares a training set."""
    registry = discover(builtin_only=True)
    first, last = (registry.use("strategy", n, {}, "balance") for n in ("none", "augment"))
    for uses in ((first, subject.use), (subject.use, last)):
        _check_prepared(subject, uses)


def _check_prepared(subject: Subject, uses: tuple[Use, ...]) -> None:
    balance, given = compose(uses), train(subject)
    wanted = balance.draws(given.counts)
    ready = balance.prepare(given, context(subject, given) if wanted else _told(subject))
    k, prior = len(subject.spec.classes), np.asarray(ready.prior)
    right = prior.shape == (k,) and bool(np.isfinite(prior).all()) and abs(prior.sum() - 1) < 1e-6
    expect(right, f"prior: {k} shares that sum to 1 are expected, {prior.tolist()} came")
    for name, weights in _weights("weights", ready.weights).items():
        _check_weights(name, weights, len(ready.train))


def _told(subject: Subject) -> Context:
    return Context(subject.spec.classes, subject.seed, context(subject, train(subject)).prevalence)


def _changed(subject: Subject) -> ParticleSet:
    given = train(subject)
    return verb(subject, "particles")(given, context(subject, given))


def _check_set(given: ParticleSet, found: Any) -> None:
    right = isinstance(found, ParticleSet)
    expect(right, f"particles: a ParticleSet is expected, a {type(found).__name__} came")
    for name in ("shape", "classes"):
        want, got = getattr(given, name), getattr(found, name)
        expect(want == got, f"particles: {name} {want} is expected, {got} came")
    expect(len(found) > 0, "particles: at least one particle is expected, none came")
    expect(len(found.table) == len(found), "particles: a table row a particle is expected")
    unknown = int((found.labels < 0).sum())
    expect(not unknown, f"particles: known labels are expected, {unknown} are not among them")
    images = found.images()
    expect(images.dtype == np.uint8, f"particles: uint8 is expected, {images.dtype} came")


def _weights(name: str, found: Any) -> dict[str, np.ndarray]:
    # what changes over the run at its start, in its middle and at its end
    if found is None:
        return {}
    if callable(found):
        return {f"{name} at {t}": plain(name, found(t)) for t in (0.0, 0.5, 1.0)}
    return {name: plain(name, found)}


def _check_weights(name: str, weights: np.ndarray, n: int) -> None:
    expect(weights.shape == (n,), f"{name}: shape ({n},) is expected, {weights.shape} came")
    right = bool(np.isfinite(weights).all()) and bool((weights >= 0).all())
    worst = weights[~(np.isfinite(weights) & (weights >= 0))][:1].tolist()
    expect(right, f"{name}: finite and 0 or more is expected, {worst} came")
    expect(bool(weights.any()), f"{name}: not all 0 is expected, all are")


def _public(thing: Any) -> set[str]:
    names = {name for name in dir(thing) if not name.startswith("_")}
    return {name for name in names if callable(getattr(thing, name, None))}


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return bool(number and np.isfinite(value))


CHECKS = (
    check_verbs,
    check_traits,
    check_draws,
    check_particles,
    check_particles_input,
    check_particles_twice,
    check_particles_origin,
    check_sampler,
    check_factors,
    check_composes,
    *strategy_images.CHECKS,
    *strategy_teaching.CHECKS,
)
