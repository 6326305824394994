"""Counter-based random numbers against their distributions, and as pure functions."""

import numpy as np
import pytest
import torch
from scipy import stats

from svpkit import draws


def seeds(n):
    return draws.seeds(7, "test", index=range(n))


def test_normal_has_the_moments_and_the_distribution_of_a_normal():
    z = draws.normal(seeds(64), (1, 33, 31), "noise").numpy().ravel()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
    assert np.isfinite(z).all()


def test_uniform_and_integers_cover_their_ranges_evenly():
    u = draws.uniform(seeds(64), (1000,), "t").numpy().ravel()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert 0 < u.min() and u.max() < 1
    k = draws.integers(seeds(64), (1000,), 8, "turn").numpy().ravel()
    assert stats.chisquare(np.bincount(k, minlength=8)).pvalue > 1e-3


def test_the_row_of_a_seed_does_not_depend_on_the_batch():
    all_ = draws.normal(seeds(10), (4,), "noise")
    assert torch.equal(draws.normal(seeds(10)[3:5], (4,), "noise"), all_[3:5])
    more = draws.seeds(7, "test", index=range(5, 10))
    assert torch.equal(draws.normal(more, (4,), "noise"), all_[5:])


def test_seeds_streams_and_roles_are_independent():
    a, b = draws.normal(seeds(2), (4000,), "noise").numpy()
    c = draws.normal(seeds(1), (4000,), "time").numpy()[0]
    for x, y in ((a, b), (a, c)):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.06
    assert draws.key(0, "a", 1) != draws.key(0, "a1")
    first, second = draws.rng(0, "split").random(3), draws.rng(0, "split").random(3)
    assert (first == second).all() and (first != draws.rng(1, "split").random(3)).all()


@pytest.mark.gpu
def test_cpu_and_gpu_draw_the_same():
    cpu, gpu = (draws.normal(seeds(8).to(d), (100,), "noise").cpu() for d in ("cpu", "cuda"))
    torch.testing.assert_close(cpu, gpu, atol=1e-5, rtol=1e-5)
