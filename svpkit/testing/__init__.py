"""The conformance kit: what svpkit promises of every plugin, as checks that its author can run.

from svpkit.testing import parametrize_with_checks

@parametrize_with_checks("my_generator")
def test_it_keeps_the_promises(check):
    check()
"""

from svpkit.testing.kit import CheckFunction, checks, parametrize_with_checks, table
from svpkit.testing.subject import Check, Failed, NotAsked, Subject, expect, trial_of

__all__ = [
    "Check",
    "CheckFunction",
    "Failed",
    "NotAsked",
    "Subject",
    "checks",
    "expect",
    "parametrize_with_checks",
    "table",
    "trial_of",
]
