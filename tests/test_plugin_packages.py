"""The packages in plugins/: each whole by itself, a stranger to the host's inside, and harmless."""

import ast
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from svpkit import hookspecs
from svpkit.plugins import discover

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(p.parent for p in (ROOT / "plugins").glob("*/pyproject.toml"))
NAMES = [package.name for package in PACKAGES]

# What a package may import of the host beside its top-level names: nothing.
ALLOWED: dict[str, set[str]] = {}

HARMFUL_MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "requests", "urllib",
    "http", "socket", "httpx", "aiohttp", "ftplib", "huggingface_hub", "subprocess",
}  # fmt: skip
HARMFUL_CALLS = {"eval", "exec", "compile", "__import__"}
HARMFUL_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("torch", "hub"), ("os", "system")}

each_package = pytest.mark.parametrize("package", PACKAGES, ids=NAMES)


def project(package):
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def module(package):
    return package.name.replace("-", "_")


def sources(folder):
    return sorted(path for path in folder.rglob("*.py") if "build" not in path.parts)


def nodes(path):
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))))


def imports(tree):
    """Yield (module, name) of every import: name is None for `import module`."""
    for node in tree:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.module or "", alias.name) for alias in node.names)


def inside(tree, *open_doors):
    """Return the imports that reach into the host beyond `svpkit` and these modules."""
    public = set(__import__("svpkit").__all__)
    found = []
    for name, what in imports(tree):
        host = name == "svpkit" or name.startswith("svpkit.")
        door = any(name == d or name.startswith(f"{d}.") for d in open_doors)
        if not host or door or (name == "svpkit" and (what is None or what in public)):
            continue
        if name == "svpkit" and f"svpkit.{what}" in open_doors:
            continue
        found.append(f"{name}{f' import {what}' if what else ''}")
    return found


def harmful(tree):
    """Return what runs code that a file brings, starts programs or goes to the network."""
    found = [name for name, _ in imports(tree) if name.split(".")[0] in HARMFUL_MODULES]
    found += [
        f"{name}.{what}" for name, what in imports(tree) if (name, what) in HARMFUL_ATTRIBUTES
    ]
    for node in tree:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] if node.func.id in HARMFUL_CALLS else []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pair = (node.value.id, node.attr)
            found += [".".join(pair)] if pair in HARMFUL_ATTRIBUTES else []
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if off else ["allow_pickle"]
    return found


def test_there_are_packages():
    assert "svpkit-particles" in NAMES and "svpkit-imagestream" in NAMES


@each_package
def test_it_is_whole_by_itself(package):
    for name in ("README.md", "LICENSE", "tests", module(package)):
        assert (package / name).exists(), f"{package.name}: no {name}"
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert list((package / "tests").glob("test_*.py"))
    said = project(package)
    assert said["name"] == package.name
    assert said["license"] == "Apache-2.0" and said["readme"] == "README.md"
    assert package.name in (package / "README.md").read_text()


@each_package
def test_it_says_what_it_needs(package):
    said = project(package)
    python = SpecifierSet(said["requires-python"])
    assert "3.11" in python and "3.10" not in python
    needed = {Requirement(text).name for text in said["dependencies"]}
    assert "svpkit" in needed
    assert list(said["entry-points"]) == ["svpkit"]
    assert set(said["entry-points"]["svpkit"].values()) == {module(package)}
    tree = nodes(package / module(package) / "__init__.py")
    versions = [n.value.value for n in tree if isinstance(n, ast.Assign)
                and [getattr(t, "id", "") for t in n.targets] == ["__version__"]]  # fmt: skip
    assert versions in ([], [said["version"]])


@each_package
def test_its_entry_point_brings_plugins(package):
    try:
        metadata.distribution(package.name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package.name} is not installed")
    registry = discover(strict=True)
    brought = [p for p in registry.plugins.values() if p.package == package.name]
    assert brought and {p.origin for p in brought} == {"entry point"}
    assert {p.version for p in brought} == {project(package)["version"]}
    assert {p.kind for p in brought} <= set(hookspecs.KINDS)
    readme = (package / "README.md").read_text()
    assert [p.name for p in brought if p.name not in readme] == []


@each_package
def test_it_imports_nothing_from_inside_the_host(package):
    allowed = ALLOWED.get(package.name, set())
    for path in sources(package / module(package)):
        found = set(inside(nodes(path))) - allowed
        assert not found, f"{path.relative_to(ROOT)}: {found}"
    for path in sources(package / "tests"):
        found = set(inside(nodes(path), "svpkit.testing")) - allowed
        assert not found, f"{path.relative_to(ROOT)}: {found}"


@each_package
def test_it_runs_no_code_of_files_and_goes_nowhere(package):
    for path in sources(package / module(package)):
        found = harmful(nodes(path))
        assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize(
    "code, found",
    [
        ("import svpkit.errors", ["svpkit.errors"]),
        ("from svpkit.simulate import optics", ["svpkit.simulate import optics"]),
        ("from svpkit import classify", ["svpkit import classify"]),
        ("def f():\n    from svpkit.testing import toys", ["svpkit.testing import toys"]),
        ("import svpkit\nfrom svpkit import SvpkitError\nimport svpkit_x.svpkit", []),
    ],
)
def test_what_reaches_inside_is_found(code, found):
    assert inside(list(ast.walk(ast.parse(code)))) == found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "import urllib.request", "eval('1')",
        "def f():\n    import torch\n    torch.load('x')", "from torch import load",
        "import numpy as np\nnp.load('x', allow_pickle=True)", "import os\nos.system('x')",
    ],
)  # fmt: skip
def test_what_is_harmful_is_found(code):
    assert harmful(list(ast.walk(ast.parse(code))))


def particle_types():
    """Return the package of every particle type that a package in plugins/ registers."""
    found = {}
    for package in PACKAGES:
        for node in nodes(package / module(package) / "__init__.py"):
            if isinstance(node, ast.FunctionDef) and node.name == "register_particle_types":
                calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and n.args]
                named = [c.args[0] for c in calls if isinstance(c.args[0], ast.Constant)]
                found |= {name.value: package.name for name in named}
    return found


def test_particle_types_are_found():
    assert {"glass", "fibre", "rubber", "latex"} <= set(particle_types())


@pytest.mark.parametrize(
    "recipe",
    sorted((ROOT / "recipes").glob("*.toml")) + sorted((ROOT / "plugins").glob("*/*.toml")),
    ids=lambda path: path.name,
)
def test_recipes_name_the_packages_of_their_particles(recipe):
    said = tomllib.loads(recipe.read_text(encoding="utf-8"))
    data = said.get("data", {})
    asked = [part for part in (data, data.get("test")) if isinstance(part, dict)]
    drawn = {name for part in asked for name in part.get("options", {})}
    packages = {package for name, package in particle_types().items() if name in drawn}
    assert packages <= {Requirement(text).name for text in said.get("plugins", [])}
