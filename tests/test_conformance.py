"""The built-in generators and classifiers keep what svpkit promises of every plugin."""

import pytest

from svpkit.testing import parametrize_with_checks
from svpkit.testing.kit import CheckFunction, table
from svpkit.testing.processes import check_fresh_process, check_two_processes

NAMES = (
    *(f"generator:{name}" for name in ("ddpm", "diffusers_unet", "simulated")),
    *(f"generator:{name}" for name in ("copy", "copy_augment", "noise", "gaussian_pca")),
    *(f"classifier:{name}" for name in ("timm", "cifar_resnet")),
)
ELSEWHERE: tuple[CheckFunction, ...] = (check_fresh_process, check_two_processes)
SLOW = tuple(check.__name__.removeprefix("check_") for check in ELSEWHERE)


def _chosen(slow):
    found = parametrize_with_checks(*NAMES)
    kept = [bound for bound in found.args[1] if (bound.check.name in SLOW) == slow]
    return pytest.mark.parametrize("check", kept, ids=str)


@_chosen(slow=False)
def test_built_in_plugins_keep_the_promises(check):
    check()


@pytest.mark.slow
@_chosen(slow=True)
def test_built_in_plugins_give_the_same_in_other_processes(check):
    check()


def test_every_built_in_generator_and_classifier_is_tried():
    from svpkit.plugins import discover

    found = discover(builtin_only=True)
    names = {f"{kind}:{name}" for kind in ("generator", "classifier") for name in found.names(kind)}
    assert names == set(NAMES)
    assert {check in table()["generator"] for check in ELSEWHERE} == {True}
