"""plugins/README.md is so: its plugins load and keep the contract, its commands run."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from svpkit.classify.context import Context
from svpkit.cli import cli
from svpkit.hookspecs import HOOKS, KINDS, ImageSpec
from svpkit.options import options_of
from svpkit.plugins import discover
from svpkit.schema import keys
from svpkit.suite import Suite
from svpkit.testing import Failed, Subject, checks
from svpkit.testing.strategy_inputs import VERBS
from svpkit.testing.toys import particles as toy_particles

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
PLUGINS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
LINES = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
# a fault that the page tells of: plugin, what it has, what stands there instead, who catches it
FAULTS = {
    "numbers of nobody's seed": (
        "eigen.py",
        'draws.normal(seeds, (self.components,), "eigen").double().numpy()',
        "np.random.normal(size=(len(labels), self.components))",
        ("global_randomness", "same_twice"),
    ),
    "neighbours": (
        "moments.py",
        "return torch.cat([mean, sd, *found], dim=1)",
        "return torch.cat([mean, sd, *found], dim=1) - mean.mean()",
        ("batches",),
    ),
    "no type": (
        "small_net.py",
        'width: Annotated[int, Ge(1), "channels of the first layer"] = 32',
        "width=32",
        ("documented", "wrong_type"),
    ),
}


def load(folder, name, text=""):
    """Write a one-file plugin and return what it registers, one plugin."""
    (folder / name).write_text(text or PLUGINS[name], encoding="utf-8")
    registry = discover(files=[folder / name], builtin_only=True, strict=True)
    (plugin,) = [p for p in registry.plugins.values() if p.origin == str(folder / name)]
    return plugin


def test_there_is_one_whole_plugin_of_each_kind(tmp_path):
    assert sorted(load(tmp_path, name).kind for name in PLUGINS) == sorted(KINDS)
    for name, text in PLUGINS.items():
        assert len(text.splitlines()) <= 60, name


@pytest.mark.parametrize("name", PLUGINS)
def test_the_plugin_keeps_the_contract(name, tmp_path):
    for check in checks(load(tmp_path, name)):
        if "process" not in check.name:
            check.run()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLUGINS)
def test_the_plugin_keeps_the_contract_in_other_processes(name, tmp_path):
    for check in checks(load(tmp_path, name)):
        if "process" in check.name:
            check.run()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_the_page_tells_of_is_caught(fault, tmp_path):
    name, right, wrong, caught = FAULTS[fault]
    assert right in PLUGINS[name]
    plugin = load(tmp_path, name, PLUGINS[name].replace(right, wrong))
    found = {check.name: check for check in checks(plugin)}
    for each in caught:
        assert f"`{each}`" in PAGE
        with pytest.raises(Failed, match="."):
            found[each].run()


def run_line(line, monkeypatch, folder):
    """Run a line of the page as it stands, in a folder that holds its files."""
    command, *words = shlex.split(line)
    assert command == "svpkit"
    monkeypatch.chdir(folder)
    (folder / "dimer.py").write_text(PLUGINS["dimer.py"], encoding="utf-8")
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 0, f"{line}: {found.output}"
    return found.output


def test_every_line_for_the_shell_is_one_that_is_run_here():
    known = ("svpkit plugins check trimer", "pytest svpkit-trimer")
    ours = [line for line in LINES if not line.startswith("uv pip ") and line not in known]
    assert set(known) < set(LINES) and len(ours) == 4
    assert all(line.startswith("svpkit ") for line in ours)


@pytest.mark.parametrize(
    "line",
    [
        # other processes are started by `check` alone
        pytest.param(line, marks=pytest.mark.slow if " check " in line else ())
        for line in LINES
        if "--plugin dimer.py" in line
    ],
)
def test_a_line_about_one_file_runs(line, monkeypatch, tmp_path):
    said = run_line(line, monkeypatch, tmp_path)
    assert "dimer" in said and "set aside" not in said  # a failed check is another exit code


def test_the_line_that_writes_a_package_runs_and_its_tests_are_there(monkeypatch, tmp_path):
    (line,) = [line for line in LINES if " new " in line]
    said = run_line(line, monkeypatch, tmp_path)
    assert "svpkit-trimer" in said
    assert (tmp_path / "svpkit-trimer" / "tests" / "test_trimer.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["svpkit plugins check trimer", "pytest svpkit-trimer"])
def test_the_package_of_the_page_keeps_the_contract(words, monkeypatch, tmp_path):
    run_line("svpkit plugins new particle_type trimer", monkeypatch, tmp_path)
    package = tmp_path / "svpkit-trimer"
    # as `pip install -e` does it: the module, and metadata with the entry point
    metadata = package / "svpkit_trimer-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: svpkit-trimer\nVersion: 0.1.0\n"
    )
    (metadata / "entry_points.txt").write_text("[svpkit]\ntrimer = svpkit_trimer\n")
    env = os.environ | {"PYTHONPATH": str(package), "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    command = [sys.executable, "-m", *shlex.split(words)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_test_of_the_page_is_that_of_the_template():
    (block,) = re.findall(r"```python\n(from svpkit\.testing.*?)```", PAGE, re.DOTALL)
    template = ROOT / "svpkit" / "templates" / "particle_type" / "tests" / "test_NAME.py.tmpl"
    decorated = block[block.index("@") :].replace("dimer", "$name").strip()
    assert decorated in template.read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_on_the_page_with_its_signature(hook):
    assert f"`{hook}(register)`" in PAGE
    assert any(f"def {hook}(register):" in text for text in PLUGINS.values())


def test_every_package_of_the_folder_is_on_the_page_with_its_hook():
    for folder in (ROOT / "plugins").glob("svpkit-*"):
        if not (folder / "pyproject.toml").is_file():
            continue
        row = next(line for line in PAGE.splitlines() if f"]({folder.name})" in line)
        hook = re.search(r"`(register_\w+)`", row)[1]
        modules = folder.glob("svpkit_*/*.py")
        assert any(f"def {hook}(" in m.read_text(encoding="utf-8") for m in modules), folder.name


def test_the_page_names_what_a_plugin_is_told_and_may_ask():
    for each in fields(Context):
        assert f"`{each.name}`" in PAGE
    for verb in VERBS:
        assert f"\n| `{verb}` | " in PAGE
    block = PAGE[PAGE.index("| member | what it is |") :].partition("\n\n")[0]
    cells = [line.split(" | ")[0] for line in block.splitlines()[2:]]
    names = {n for cell in cells for n in re.findall(r"`(\w+)", cell) if n != "len"}
    assert {"images", "labels", "counts", "classes", "take", "with_made"} <= names
    particles = toy_particles({"a": 2, "b": 1}, 0, ImageSpec(1, 16, ("a", "b")))
    assert all(hasattr(particles, name) for name in names)


# Nothing that a recipe can say lacks a line that explains it, or a test that says it.


def words_of_tests():
    files = [*ROOT.glob("tests/*.py"), *ROOT.glob("plugins/*/tests/*.py")]
    return set(re.findall(r"\w+", "\n".join(f.read_text(encoding="utf-8") for f in files)))


def test_every_option_of_every_built_in_is_explained_and_tested():
    registry, words = discover(builtin_only=True), words_of_tests()
    for plugin in registry.plugins.values():
        options = dict(plugin.options)
        if plugin.kind == "generator":
            options |= options_of(Subject.of(plugin).build().sample)
        for name, option in options.items():
            assert option.doc, f"{plugin.kind} {plugin.name}: {name} has no doc"
            assert name in words, f"{plugin.kind} {plugin.name}: {name} is in no test"


@pytest.mark.parametrize("page", ["recipe", "suite"])
def test_every_key_is_explained_and_tested(page):
    words = words_of_tests()
    for dotted, _, _, about in keys() if page == "recipe" else keys(Suite):
        assert about, f"{dotted} has no doc"
        assert set(re.findall(r"\w+", dotted)) <= words, f"{dotted} is in no test"


def test_every_hook_has_a_test():
    assert set(HOOKS) <= words_of_tests()
