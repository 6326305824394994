"""`plugins new`: what it writes is a package that passes its own lint and its own tests at once."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from svpkit import scaffold
from svpkit.cli import cli
from svpkit.errors import SvpkitError
from svpkit.hookspecs import KINDS

REPO = Path(__file__).parents[1]
NAMES = {kind: f"own-{kind}".replace("_", "-") for kind in KINDS}
LIT = """from svpkit import hookimpl


class Lit:
    def read(self, path):
        return iter(())

    def sniff(self, path):
        return False


@hookimpl
def register_readers(register):
    register("lit", Lit())
"""


def call(*command, cwd, **env):
    """Run a Python module in a fresh process; returns what it said, fails where it failed."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""} | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One package of each kind, by kind."""
    place = tmp_path_factory.mktemp("written")
    return {kind: scaffold.new(kind, NAMES[kind], place) for kind in KINDS}


@pytest.fixture(scope="module")
def installed(written, tmp_path_factory):
    """A folder with all six wheels unpacked, as an installer would."""
    pytest.importorskip("hatchling")
    place = tmp_path_factory.mktemp("installed")
    for folder in written.values():
        call("hatchling", "build", "-t", "wheel", "-d", str(place / "wheels"), cwd=folder)
    for wheel in (place / "wheels").iterdir():
        zipfile.ZipFile(wheel).extractall(place / "site")
    return place / "site"


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_whole(written, kind):
    folder, module = written[kind], f"svpkit_{NAMES[kind]}".replace("-", "_")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/test.yml"}
    tested = f"tests/test_{module.removeprefix('svpkit_')}.py"
    assert wanted | {f"{module}/__init__.py", tested} <= files
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["svpkit"] == {module.removeprefix("svpkit_"): module}
    assert project["license"] == "Apache-2.0"
    assert any(each.startswith("svpkit>=") for each in project["dependencies"])
    left = [str(f) for f in folder.rglob("*") if f.is_file() and "$" in f.read_text()]
    assert [Path(f).name for f in left] == ["test.yml"]  # `${{ ... }}` is the workflow's own


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_passes_its_own_lint(written, tmp_path, kind):
    # a name as short, and one as long, as there are
    longest = "q" * scaffold.LONGEST
    for folder in (written[kind], *(scaffold.new(kind, n, tmp_path) for n in ("q", longest))):
        call("ruff", "check", "--no-cache", ".", cwd=folder)
        call("ruff", "format", "--check", "--no-cache", ".", cwd=folder)


def run_own_tests(written, installed, *more):
    """Run the packages' own tests in one process; returns what pytest said."""
    own = [str(folder / "tests") for folder in written.values()]
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    command = ("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", ".")
    return call(*command, *more, *own, cwd=installed, PYTHONPATH=path, OMP_NUM_THREADS="1")


def test_the_packages_pass_their_own_tests_but_for_the_longest(written, installed):
    # other processes and toy trainings: the slow test below has them too
    said = run_own_tests(written, installed, "-k", "not process and not learns and not labels")
    assert " failed" not in said and " passed" in said


@pytest.mark.slow
def test_the_packages_pass_all_their_own_tests(written, installed):
    assert " passed" in run_own_tests(written, installed)


def test_an_installed_package_is_listed_with_its_version(installed):
    rows = call("svpkit", "plugins", "list", cwd=installed, PYTHONPATH=str(installed))
    for kind, name in NAMES.items():
        line = next(row for row in rows.splitlines() if f" {name.replace('-', '_')} " in row)
        assert line.startswith(kind) and f"svpkit-{name} 0.1.0" in line


def test_the_wheel_of_svpkit_holds_the_templates(tmp_path):
    pytest.importorskip("hatchling")
    call("hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=REPO)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    there = {f for f in scaffold.TEMPLATES.rglob("*") if f.is_file()}
    assert {str(f.relative_to(REPO)) for f in there} <= names


def test_a_hyphen_in_the_kind_is_an_underscore(tmp_path):
    folder = scaffold.new("particle-type", "glass-bead", tmp_path / "not" / "there" / "yet")
    assert folder == tmp_path / "not" / "there" / "yet" / "svpkit-glass-bead"
    assert (folder / "svpkit_glass_bead" / "draw.py").is_file()


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("genrator", "mine", "kind of plugin: unknown 'genrator'; did you mean 'generator'?"),
        ("reader", "class", "'class' is a word of Python's own"),
        ("reader", "my reader", "given 'my reader'; a letter, then letters"),
        ("reader", "../mine", "given '../mine'"),
        ("reader", "3d", "given '3d'"),
        ("reader", "mine-", "given 'mine-'"),
        ("reader", "", "given ''"),
        ("reader", "x" * 31, "31 letters; 30 at most"),
        ("reader", "folder", "reader 'folder' is built in"),
        ("strategy", "tau-norm", "strategy 'tau_norm' is built in"),
        ("reader", "lit", "reader 'lit' comes with svpkit-lit 0.3 already"),
        ("generator", "lit", "svpkit-lit 0.3 is installed already"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, monkeypatch, kind, name, said):
    site = tmp_path.parent / f"{tmp_path.name}-site"
    metadata = site / "svpkit_lit-0.3.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: svpkit-lit\nVersion: 0.3\n")
    (metadata / "entry_points.txt").write_text("[svpkit]\nlit = svpkit_lit\n")
    (site / "svpkit_lit.py").write_text(LIT)
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(SvpkitError) as error:
        scaffold.new(kind, name, tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_steps_are_the_same_wherever_they_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(cli, ["plugins", "new", "particle_type", "trimer"]).output
    steps = [line.strip() for line in said.splitlines()[1:]]
    assert len(steps) == 3
    page = (REPO / "plugins" / "README.md").read_text(encoding="utf-8")
    own = Path("svpkit-trimer", "README.md").read_text(encoding="utf-8")
    assert "\n".join(steps) in page and "\n".join(steps) in own


def test_a_name_of_another_kind_is_free_and_a_folder_that_is_there_is_kept(tmp_path):
    kept = scaffold.new("generator", "folder", tmp_path)
    (kept / "mine.txt").write_text("mine")
    with pytest.raises(SvpkitError, match="is there already"):
        scaffold.new("generator", "folder", tmp_path)
    assert (kept / "mine.txt").read_text() == "mine"
