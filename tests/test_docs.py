"""What the pages say is so: their code runs, their tables are those of the results files."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from toy import write_folder

from svpkit import recipe
from svpkit.hookspecs import HOOKS, Hooks
from svpkit.schema import keys

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_notebook_example_runs(run, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    write_folder(tmp_path / "my_images", {"disc": 3, "ring": 3}, seed=9)
    code = blocks("python")[0]
    assert len(code.splitlines()) <= 10
    for old, new in (
        ("recipes/quickstart.toml", "toy.toml"),
        ("my_images", str(tmp_path / "my_images")),
        ("silicone_oil", "ring"),
        ("size=32", "size=16"),
    ):
        assert old in code
        code = code.replace(old, new)
    (tmp_path / "notebook.py").write_text(code)
    made = runpy.run_path(str(tmp_path / "notebook.py"))
    assert made["drawn"].shape == (16, 1, 16, 16) and len(made["named"]) == 6


def test_the_recipe_of_the_readme_is_one(tmp_path):
    text = blocks("toml")[0]
    assert len(text.splitlines()) <= 10
    (tmp_path / "mine.toml").write_text(text)
    assert recipe.load(tmp_path / "mine.toml").name == "mine"


def test_every_recipe_key_that_the_recipes_use_is_known():
    known = {dotted.split(".")[0].removesuffix("[]") for dotted, *_ in keys()} | {"extends"}
    for path in (ROOT / "recipes").glob("*.toml"):
        assert set(tomllib.loads(path.read_text())) <= known


def test_the_readme_names_every_command_and_no_other():
    from svpkit.cli import cli

    listed = re.search(r"lists the commands: (.*?`)\.\n", README, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed[1])) == set(cli.commands)


def test_every_hook_has_its_contract():
    for name in HOOKS:
        assert len(getattr(Hooks, name).__doc__) > 100


def test_the_tables_are_those_of_the_results_files(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    runpy.run_path(str(ROOT / "benchmarks" / "tables.py"), run_name="__main__")


def test_no_figure_in_a_sentence_that_no_table_holds():
    # a coarse net: it catches a figure left standing when its results file was made anew
    page = (ROOT / "benchmarks" / "README.md").read_text()
    made = re.compile(r"<!-- table:.*?<!-- end -->", re.DOTALL)
    number = re.compile(r"(?<![\w.])\d*\.\d+(?!\.?\d)")
    held = [float(n) for n in number.findall(" ".join(made.findall(page)))]
    for text in number.findall(
        re.sub(r"```.*?```|`[^`]*`", "", made.sub("", page), flags=re.DOTALL)
    ):
        last = 10.0 ** -len(text.partition(".")[2])
        assert any(abs(n - float(text)) <= last / 2 + 1e-9 for n in held), text


@pytest.mark.parametrize("page", ["README.md", "recipes/README.md", "benchmarks/README.md"])
def test_links_within_the_project_lead_somewhere(page):
    path = ROOT / page
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / link).exists(), link
