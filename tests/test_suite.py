"""Suites: cells from a recipe and a grid, what they share, and every mistake in one line."""

import pytest

from svpkit import suite
from svpkit.errors import SvpkitError

RECIPE = """
name = "base"
seed = 7
[data]
reader = "simulated"
options = { protein = 100, silicone_oil = 100 }
[generator]
classes = ["silicone_oil"]
options = { width = 64 }
sample = { steps = 4 }
[balance]
strategies = ["none"]
[balance.synthetic]
at_most = 30
[[baselines]]
name = "other"
"""
SUITE = """
recipe = "base.toml"
seeds = [0, 1]
baseline = "oversample"
set = { "classifier.train.images" = 5_000, data.size = 32 }
[arms.oversample]
balance.strategies = ["oversample"]
[arms.drawn]
"balance.strategies" = ["synthetic"]
balance.synthetic.to = 0.5
[arms.copies]
balance.strategies = ["synthetic"]
generator.plugin = "copy"
[grid]
"data.train" = [{ silicone_oil = 20 }, { silicone_oil = 50 }]
classifier.train.lr = [1e-3, 1e-4]
"""


def write(folder, text=SUITE, recipe=RECIPE):
    (folder / "base.toml").write_text(recipe)
    (folder / "trial.toml").write_text(text)
    return folder / "trial.toml"


def read(folder, text=SUITE, recipe=RECIPE):
    path = write(folder, text, recipe)
    return suite.cells(suite.load(path), path)


def test_a_suite_is_a_recipe_times_arms_grid_and_seeds(tmp_path):
    found = read(tmp_path)
    assert len(found) == 3 * 2 * 2 * 2
    assert len({c.digest for c in found}) == len({c.name for c in found}) == len(found)
    first = found[0]
    assert (first.arm, first.seed) == ("oversample", 0)
    assert first.at == {"data.train": "20", "classifier.train.lr": "0.001"}
    assert first.name.startswith("trial-oversample-20-0.001-s0-")
    assert first.recipe.data.train == {"silicone_oil": 20} and first.recipe.data.size == 32
    assert first.recipe.classifier.train.lr == 1e-3 and first.recipe.baselines == ()
    assert all(c.recipe.seed == c.seed and c.recipe.classifier.train.images == 5000 for c in found)
    # the arms of a point stand together, so that what they share is made once
    assert [c.arm for c in found[:3]] == ["oversample", "drawn", "copies"]
    assert first.value("seed") == "0" and first.value("data.train") == "20"


def test_an_arm_is_laid_over_key_by_key_and_another_plugin_starts_anew(tmp_path):
    _, drawn, copies = read(tmp_path)[:3]
    assert drawn.recipe.balance.model_extra == {"synthetic": {"at_most": 30, "to": 0.5}}
    assert drawn.recipe.generator.options == {"width": 64}
    assert copies.recipe.generator.plugin == "copy"
    assert copies.recipe.generator.options == copies.recipe.generator.sample == {}
    assert suite.flatten({"a": {"b": 1, "c": {}}, "d.e": 2}) == {"a.b": 1, "a.c": {}, "d.e": 2}


def test_the_digest_follows_the_recipe_and_not_its_name(tmp_path):
    before = {c.digest for c in read(tmp_path)}
    assert before == {c.digest for c in read(tmp_path, SUITE.replace("[arms.drawn]", "[arms.x]"))}
    assert not before & {c.digest for c in read(tmp_path, SUITE.replace("5_000", "6_000"))}
    # what is spelt out as it would be anyway is nothing new
    assert before == {
        c.digest
        for c in read(tmp_path, SUITE.replace("set = { ", "set = { evaluate.replicates = 2000, "))
    }


def test_without_arms_or_grid_a_suite_is_its_recipe(tmp_path):
    (cell,) = read(tmp_path, 'recipe = "base.toml"')
    assert (cell.arm, cell.seed, cell.at) == ("base", 0, {})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds", "seds", r"trial\.toml: seds: unknown key; did you mean 'seeds'"),
        ('recipe = "base.toml"', "", r"trial\.toml: recipe: missing"),
        ('"base.toml"', '"bse.toml"', r"bse\.toml: no such recipe; did you mean 'base\.toml'"),
        ("seeds = [0, 1]", "seeds = [-1]", r"seeds\.0: given -1"),
        ('"oversample"\nset', '"overample"\nset', "baseline: arm: unknown 'overample'; did you"),
        ("seeds = [0, 1]", 'select = "val.auprc"', r"select: given 'val\.auprc'"),
        ("seeds = [0, 1]", 'select = "test.macro_f1"', "not there to choose on"),
        ("seeds = [0, 1]", 'per = ["arm"]', "per: a winner is only sought"),
        ("seeds = [0, 1]", "draw = 3", "draw: a winner is only sought"),
        ("seeds = [0, 1]", "seeds = [2, 2]", "seeds: one of them twice"),
        ("[grid]", "[folds]\ndata.val = [0.1]\n[grid]", "folds.data.val: given .* a list of 2"),
        (
            "[grid]",
            "[folds]\nbalance.strategies = [['none'], ['augment']]\n[grid]",
            r"arms\.oversample: 'balance\.strategies' is in the grid or folds too",
        ),
        (
            "seeds = [0, 1]",
            'select = "val.macro_f1"\nper = ["data.tran"]',
            r"per: unknown 'data\.tran'; did you mean 'data\.train'",
        ),
        ("data.size", "data.sise", r"set: data\.sise: unknown key; did you mean 'size'"),
        ("generator.plugin", "generator.plgin", r"arms\.copies: generator\.plgin: unknown key; di"),
        ("generator.plugin =", "generator.options.x.y.z.w =", None),
        ('plugin = "copy"', 'classes.x = "copy"', r"arms\.copies: generator\.classes\.x: 'classes"),
        ("classifier.train.lr", "clasifier.train.lr", "clasifier: unknown key; did you mean 'cla"),
        ("[1e-3, 1e-4]", "1e-3", r"grid\.classifier\.train\.lr: given 0\.001, a list is wanted"),
        ("[1e-3, 1e-4]", "[1e-3, 1e-3]", "one value twice"),
        ("[1e-3, 1e-4]", "[-1.0]", r"oversample: classifier\.train\.lr: given -1\.0"),
        ("classifier.train.lr", "seed", r"grid: seed: not to be given, `seeds` says it"),
        ("data.size = 32", 'name = "x"', "set: name: not to be given, a cell has its own"),
        ("generator.plugin =", "data.train.silicone_oil = 3\ngenerator.plugin =", "in the grid"),
        (
            '[arms.drawn]\n"balance.strategies" = ["synthetic"]\nbalance.synthetic.to = 0.5',
            '[arms.drawn]\nbalance.strategies = ["oversample"]',
            "the same recipe as that of arm 'oversample'",
        ),
    ],
)
def test_every_mistake_is_one_line_that_names_file_and_key(tmp_path, old, new, said):
    assert old in SUITE
    text = SUITE.replace(old, new, 1)
    if said is None:
        return read(tmp_path, text) and None
    with pytest.raises(SvpkitError, match=said) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_fold_goes_with_its_seed(tmp_path):
    folds = "[folds]\ndata.test.fold = [3, 1]\ndata.test.of = [5, 5]\n[grid]"
    found = read(tmp_path, SUITE.replace("[grid]", folds))
    assert {(c.seed, c.recipe.data.test.fold) for c in found} == {(0, 3), (1, 1)}
    assert all(c.recipe.data.test.of == 5 for c in found)


@pytest.mark.parametrize("old", ["test = 0.3", 'test = { group = "b" }', "test = { share = 0.2 }"])
def test_one_way_to_hold_out_takes_the_place_of_another(tmp_path, old):
    recipe = RECIPE.replace("[data]", f"[data]\n{old}")
    for change in ('data.test.group = "a"', "data.test.fold = 1"):
        text = SUITE.replace("data.size = 32", change)
        found = read(tmp_path, text, recipe)[0].recipe.data.test
        assert [found.share, found.group, found.fold].count(None) == 2
        assert (found.group, found.fold) in (("a", None), (None, 1))


def test_a_search_may_draw_its_configurations(tmp_path):
    every = {c.digest for c in read(tmp_path)}
    text = SUITE.replace("seeds = [0, 1]", 'select = "val.macro_f1"\nseeds = [0, 1]\ndraw = 3')
    drawn = read(tmp_path, text)
    # three points of four, for every arm and seed the same
    assert {c.digest for c in drawn} < every and len(drawn) == 3 * 3 * 2
    points = {arm: [c.at for c in drawn if c.arm == arm] for arm in ("drawn", "copies")}
    assert points["drawn"] == points["copies"]
    assert [c.digest for c in read(tmp_path, text)] == [c.digest for c in drawn]
    assert len(read(tmp_path, text.replace("draw = 3", "draw = 30"))) == len(every)


def test_every_group_is_searched_over_the_same_configurations(tmp_path):
    text = SUITE.replace(
        "seeds = [0, 1]", 'select = "val.macro_f1"\nper = ["data.train"]\ndraw = 1'
    )
    drawn = read(tmp_path, text)
    assert {c.at["data.train"] for c in drawn} == {"20", "50"}
    assert len({c.at["classifier.train.lr"] for c in drawn}) == 1


def test_arms_that_change_more_than_their_remedy_are_named(tmp_path):
    changed = SUITE.replace("balance.synthetic.to", "classifier.options.width = 32\n#")
    for text, apart in ((SUITE, {}), (changed, {"drawn": ["classifier.options.width"]})):
        (tmp_path / "base.toml").write_text(RECIPE)
        (tmp_path / "trial.toml").write_text(text)
        assert suite.apart(suite.load(tmp_path / "trial.toml")) == apart
