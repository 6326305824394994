"""The oracle: fresh particles of the data's own simulator, and none of the data's."""

import numpy as np
import pytest
import torch

from svpkit import draws
from svpkit.default_plugins.oracle import simulator_seed
from svpkit.errors import SvpkitError
from svpkit.fit import to_uint8
from svpkit.generate import stage, training
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import discover

CLASSES = ("silicone_oil", "air_bubble")
SIZE = 16
REGISTRY = discover(builtin_only=True)


def use(**options):
    options = {"binning": 2, **options}
    return REGISTRY.use("generator", "simulated", options, "generator.plugin")


def model(channels=1, **options):
    return use(**options)(ImageSpec(channels, SIZE, CLASSES))


def read(seed, n=40, **options):
    given = {"pixels": SIZE, "binning": 2, "seed": seed, **dict.fromkeys(CLASSES, n), **options}
    reader = REGISTRY.use("reader", "simulated", given, "data.reader")
    return [image for name in CLASSES for image, row in reader() if row["label"] == name]


def drawn(oracle, labels, first=0):
    labels = torch.as_tensor(labels)
    images = oracle.sample(labels, draws.seeds(0, "test", index=range(first, first + len(labels))))
    return to_uint8(images).numpy()


def test_an_image_is_a_function_of_its_label_and_seed_alone():
    oracle = model()
    labels = [0, 1, 1, 0, 0, 1]
    every = drawn(oracle, labels)
    alone = np.concatenate([drawn(oracle, [k], i) for i, k in enumerate(labels)])
    np.testing.assert_array_equal(every, alone)
    assert len({image.tobytes() for image in every}) == 6
    assert drawn(model(channels=3), [0, 1]).shape == (2, 3, SIZE, SIZE)


def test_no_image_is_one_of_the_data_nor_of_the_test_set():
    ours = {image.tobytes() for image in drawn(model(), [0] * 60 + [1] * 60)}
    assert len(ours) == 120
    for seed in (0, 1):
        assert not ours & {image.tobytes() for image in read(seed)}
    # the same numbers under the seed of a data set would be its particles: the seed is what differs
    assert simulator_seed(0) > 2**24 and simulator_seed(0) != simulator_seed(1)
    other = {image.tobytes() for image in drawn(model(seed=1), [0] * 60 + [1] * 60)}
    assert not ours & other


def test_it_draws_what_the_reader_would_under_the_oracles_seed():
    oracle = model()
    seeds = draws.seeds(0, "test", index=[7])
    number = int(draws.integers(seeds, (), 2**32, "oracle")[0])
    counts = {"silicone_oil": 1, "air_bubble": 0}
    (image,) = read(simulator_seed(0), start=number, **counts)
    ours = to_uint8(oracle.sample(torch.tensor([0]), seeds)).numpy()
    np.testing.assert_array_equal(ours[0, 0], image)


def test_grey_levels_are_those_of_the_data():
    theirs = np.stack(read(0, n=150)).reshape(2, 150, -1)
    ours = drawn(model(), [0] * 150 + [1] * 150).reshape(2, 150, -1)
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.mean(1), b.mean(1)
        error = np.sqrt(a.var() / a.size + b.var() / b.size)
        assert abs(a.mean() - b.mean()) < 4 * error


def test_the_stages_draw_with_it_and_say_that_it_is_an_oracle(tmp_path):
    particles = ParticleSet.from_arrays(
        np.stack(read(0, n=4))[:, None], [c for c in CLASSES for _ in range(4)], CLASSES
    )
    oracle = model(seed=3)
    oracle.fit(particles, 0)
    spec = ImageSpec(1, SIZE, CLASSES)
    training.save_generator(tmp_path, oracle, use(seed=3), spec, particles, [])
    again = training.load_generator(tmp_path, use(seed=3))
    assert again.oracle and again.state()["oracle"] == 1
    np.testing.assert_array_equal(drawn(oracle, [0, 1]), drawn(again, [0, 1]))
    assert stage.generator.revision


def test_a_class_that_no_simulator_draws_is_refused():
    with pytest.raises(SvpkitError, match="unknown 'silicone_oli'; did you mean 'silicone_oil'"):
        use()(ImageSpec(1, SIZE, ("silicone_oli",)))
    with pytest.raises(SvpkitError, match=r"generator\.options\.instrument: given 'mfi'"):
        use(instrument="mfi")
    with pytest.raises(SvpkitError, match="at most 256"):
        use()(ImageSpec(1, 300, CLASSES))
