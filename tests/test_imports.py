"""The house's rules that a machine can check: imports point one way, and nothing pickles."""

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
    "keep",
    "suite",
    "bench",
    "board",
    "ledger",
    "measured",
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


def test_nothing_pickles():
    banned = re.compile(
        r"import pickle\b|from pickle\b|\bpickle\.[a-zA-Z]|torch\.load\(|torch\.save\(|joblib"
        r"|allow_pickle=True|\beval\("
    )
    for path in ROOT.rglob("*.py"):
        code = "\n".join(re.sub(r"\.eval\(", "", x) for x in path.read_text().splitlines())
        if path == ROOT / "particles" / "cifar.py":
            # CIFAR comes as pickles: one reader of them, that calls nothing which a file names
            assert len(re.findall(r"import pickle\b", code)) == code.count("find_class") == 1
            code = code.replace("import pickle\n", "").replace("pickle.Unpickler):", "")
        if path == ROOT / "testing" / "watch.py":
            # the conformance kit patches it, so that a plugin that uses it is found out
            assert not re.search(r"pickle\.(load|dump)s?\(", code)
            continue
        assert not banned.search(code), f"{path}: {banned.search(code)}"


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
