"""Recipes: what is read is what was written, and a wrong key is one line that helps."""

import json
import re
from pathlib import Path

import pytest

from svpkit import recipe, schema, toml
from svpkit.bind import bind
from svpkit.errors import SvpkitError
from svpkit.plugins import discover
from svpkit.suite import Suite

ROOT = Path(__file__).parents[1]
SMALL = """
name = "small"
[data]
reader = "simulated"
options = { protein = 10 }
"""


def write(folder, text, name="recipe.toml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL + "siz = 32", r"data.siz: unknown key; did you mean 'size'\?"),
        (SMALL + "size = 3", "data.size: given 3: .*greater than or equal to 8"),
        (SMALL + "channels = 2", "data.channels: given 2: .*1 or 3"),
        (SMALL + "val = 'half'", "data.val: given 'half'"),
        (SMALL + "val = { protein = -1 }", "data.val.protein: given -1"),
        (SMALL + "test = 1.5", "data.test.share: given 1.5"),
        (SMALL + "test = { grup = 'a' }", r"data.test.grup: unknown key; did you mean 'group'\?"),
        (SMALL + "test = { group = 'a', share = 0.1 }", "data.test: wants one of"),
        (SMALL + "[classifier.train]\nlr = 0", "classifier.train.lr: given 0"),
        (SMALL + "[classifier.train]\nschedule = 'cosin'", "did you mean 'cosine'"),
        (SMALL + "[generator]\nplugin = 'ddpm'", "generator.classes: missing"),
        (SMALL + "[[baselines]]\nname = 'small'", "two arms are called 'small'"),
        (SMALL + "[[baselines]]\nstrategies = ['none']", r"baselines\[0\].name: missing"),
        (SMALL.replace("name =", "nam ="), "nam: unknown key; did you mean 'name'"),
        (SMALL + '"[" = 1', r"data\.\[: unknown key"),
        (SMALL + "float = 1", r"data\.float: unknown key"),
        (SMALL.replace("small", "../up"), "name: given '../up'"),
        ("name = ", "cannot be read: "),
        ("extends = 'recipe.toml'", "comes back to itself"),
        ("extends = 'recipe.tml'", "recipe.tml: no such recipe; did you mean 'recipe.toml'"),
        ("extends = 3", "extends: given 3"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_file_and_key(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(SvpkitError, match=said) as caught:
        recipe.load(path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_recipe_is_told_the_nearest(tmp_path):
    write(tmp_path, SMALL, "quickstart.toml")
    with pytest.raises(SvpkitError, match="no such recipe; did you mean 'quickstart.toml'"):
        recipe.load(tmp_path / "quickstrat.toml")


def test_extends_lays_tables_over_one_another(tmp_path):
    write(tmp_path, SMALL + "size = 32\n[classifier.train]\nlr = 0.1\nbatch = 7", "base.toml")
    path = write(tmp_path, "extends = 'base.toml'\nname = 'b'\n[classifier.train]\nlr = 0.2\n")
    loaded = recipe.load(path)
    assert loaded.name == "b" and loaded.data.size == 32
    assert (loaded.classifier.train.lr, loaded.classifier.train.batch) == (0.2, 7)


def test_overrides_take_toml_values_or_bare_strings(tmp_path):
    changes = ["classifier.train.lr=3e-4", "data.val={ protein = 3 }", "name=other"]
    loaded = recipe.load(write(tmp_path, SMALL), changes)
    assert loaded.classifier.train.lr == 3e-4 and loaded.data.val == {"protein": 3}
    assert loaded.name == "other"
    for bad in ("name", "name.x=3"):
        with pytest.raises(SvpkitError, match=f"-o {bad}"):
            recipe.load(write(tmp_path, SMALL), [bad])


def test_a_recipe_is_frozen_and_survives_being_written_out(tmp_path):
    loaded = recipe.load(ROOT / "recipes" / "mixed3.toml")
    with pytest.raises(ValueError, match="frozen"):
        loaded.seed = 3
    again = write(tmp_path, toml.to_toml(loaded.model_dump(mode="json")))
    assert recipe.load(again) == loaded


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_binds(path, real_data):
    bound = bind(
        recipe.load(path), discover(), where=str(path), folder=path.parent, data_root=real_data
    )
    assert bound.arms[0].name == bound.recipe.name == path.stem


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "[balance]\nstrategies = ['augmnt']",
            "strategies: unknown 'augmnt'; did you mean",
        ),
        ("[balance]\n[balance.nonne]\nx = 3", "balance: unknown 'nonne'"),
        ("[balance]\nnone = 3", "balance.none: given 3, a table is wanted"),
        ("[balance]\nstrategies = ['synthetic']", "wants drawn particles, .* no .generator."),
        ("[balance]\nstrategies = ['prior_correction']", "evaluate.prevalence is missing"),
        ("[balance]\nstrategies = ['augment']\naugment = { shft = 3 }", "balance.augment: unknown"),
        ("[[baselines]]\nname = 'b'\nstrategies = ['nne']", r"baselines\[0\].strategies: unknown"),
        ("[classifier]\nplugin = 'tim'", "classifier.plugin: unknown 'tim'; did you mean 'timm'"),
        ("[classifier]\noptions = { modl = 'a' }", "classifier.options: unknown 'modl'"),
        ("[generator]\nclasses = ['a']\noptions = { wdth = 3 }", "generator.options: unknown"),
    ],
)
def test_names_and_options_are_checked_before_anything_runs(tmp_path, more, said):
    loaded = recipe.load(write(tmp_path, SMALL + more))
    with pytest.raises(SvpkitError, match=said) as caught:
        bind(loaded, discover(), where="a/recipe.toml")
    assert str(caught.value).startswith("a/recipe.toml: ")


def test_paths_resolve_against_the_folder_then_the_data_root(tmp_path, monkeypatch):
    monkeypatch.delenv("SVPKIT_REAL_DATA", raising=False)
    (tmp_path / "root" / "set").mkdir(parents=True)
    (tmp_path / "root" / "set" / "a.txt").write_text("1")
    loaded = recipe.load(write(tmp_path, "name = 'a'\n[data]\nreader = 'folder'\npath = 'set'\n"))
    with pytest.raises(SvpkitError, match="data.path: nothing called 'set'.*--data-root"):
        bind(loaded, discover(), folder=tmp_path)
    bound = bind(loaded, discover(), folder=tmp_path, data_root=tmp_path / "root")
    assert bound.path and bound.path.path == tmp_path / "root" / "set"
    monkeypatch.setenv("SVPKIT_REAL_DATA", str(tmp_path / "root"))
    again = bind(loaded, discover(), folder=tmp_path)
    assert again.path and again.path.digest == bound.path.digest
    (tmp_path / "root" / "set" / "a.txt").write_text("2")
    changed = bind(loaded, discover(), folder=tmp_path)
    assert changed.path and changed.path.digest != bound.path.digest


def test_the_schema_accepts_every_shipped_recipe_and_knows_every_key():
    text = json.dumps(schema.json_schema())
    for dotted, *_ in schema.keys():
        assert f'"{re.split(r"[.]", dotted)[-1]}"' in text


def test_the_page_of_keys_is_up_to_date():
    page = (ROOT / "recipes" / "README.md").read_text()
    assert schema.markdown() in page, "run: svpkit schema --keys"
    for _, _, _, about in schema.keys():
        assert about


def test_the_page_of_suite_keys_is_up_to_date():
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert schema.markdown(Suite) in page, "run: svpkit schema --suite --keys"
