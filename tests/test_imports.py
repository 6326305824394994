"""The house's rules that a machine can check: imports point one way."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "svpkit"
WINGS = ("readers", "particles", "simulate", "generate", "classify", "evaluate", "report")
SHARED = ("svpkit.particles.particleset", "svpkit.particles.describe", "svpkit.evaluate.metrics")
# The split is what the other wings' stages are handed.
SHARED += ("svpkit.particles.split",)
# A generator writes what it draws as any set is written.
SHARED += ("svpkit.particles.writer",)
# Class shares are estimated alike, be it to correct scores or to count.
SHARED += ("svpkit.evaluate.quantify",)
ABOVE = (
    "cli",
    "api",
    "likeness",
    "pipeline",
    "plan",
    "record",
    "provenance",
    "predict",
    "deployed",
    "named",
    "counted",
    "reference",
    "left",
    "looked",
    "compare",
    "pairs",
    "audit",
    "bind",
    "drawn",
    "export",
    "keep",
    "suite",
    "bench",
    "board",
    "launch",
    "held",
    "spawned",
    "ledger",
    "measured",
    "verify",
    "recounted",
    "collected",
    "crate",
)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("wing", WINGS)
def test_no_wing_imports_another_nor_what_stands_above(wing):
    others = [f"svpkit.{w}" for w in WINGS if w != wing] + [f"svpkit.{a}" for a in ABOVE]
    for path in (ROOT / wing).glob("*.py"):
        for module in imported(path):
            strange = any(module == o or module.startswith(o + ".") for o in others)
            shared = any(module == s or module.startswith(s + ".") for s in SHARED)
            assert not strange or shared, f"{path.name} imports {module}"


def test_only_score_opens_the_test_set():
    callers = [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if re.search(r"(?<!shift)\.test\(", path.read_text())
    ]
    assert callers == ["classify/score.py"]


def test_import_and_help_load_no_torch():
    code = (
        "import sys, svpkit, svpkit.cli\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_are_there():
    import svpkit

    for name in svpkit.__all__:
        assert getattr(svpkit, name) is not None
    with pytest.raises(AttributeError):
        _ = svpkit.nothing
