"""The built-in strategies, readers and particle types keep what the conformance kit asks of all."""

import numpy as np
import pytest
from test_cifar import NAMES, batch, dump
from test_flowcam import make_run

from svpkit.plugins import discover
from svpkit.testing import checks, parametrize_with_checks, trial_of

REGISTRY = discover(builtin_only=True)


def of(kind):
    return [REGISTRY.get(kind, name) for name in REGISTRY.names(kind)]


def flowcam(folder):
    make_run(folder / "run")
    return folder / "run"


def cifar(folder):
    for i in range(1, 6):
        dump(folder / f"data_batch_{i}", batch(np.arange(10), i))
    dump(folder / "test_batch", batch(np.arange(10), 9))
    dump(folder / "batches.meta", {b"label_names": [name.encode() for name in NAMES]})
    return folder


EXAMPLES = {"flowcam": flowcam, "cifar": cifar}


READERS = [p for p in of("reader") if p.name not in EXAMPLES]


# all at once, so that they share one fresh process
@parametrize_with_checks(*of("strategy"), *of("particle_type"), *READERS)
def test_built_in_plugins(check):
    check()


@pytest.mark.parametrize("name", EXAMPLES)
def test_readers_without_an_example_of_their_own(name):
    plugin = REGISTRY.get("reader", name)
    tried = checks(plugin, trial_of(plugin, example=EXAMPLES[name]))
    said = {each.name: each.outcome() for each in tried if each.name != "fresh_process"}
    assert {n: reason for n, (outcome, reason) in said.items() if outcome == "FAILED"} == {}


def test_every_reader_has_an_example():
    own = {
        p.name for p in of("reader") if getattr(p.thing, "tried", None) and p.thing.tried.example
    }
    assert own | set(EXAMPLES) == set(REGISTRY.names("reader"))
    with pytest.raises(AssertionError, match="--example PATH"):
        from svpkit.testing import Subject
        from svpkit.testing.readers import check_sniff
        from svpkit.testing.subject import check_of

        check_of(check_sniff, Subject.of(REGISTRY.get("reader", "flowcam"))).run()
