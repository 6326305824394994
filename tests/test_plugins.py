"""The host: built-ins and strangers through one door, broken ones named and set aside."""

import importlib
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Ge
from click.testing import CliRunner
from packages import build, install

from svpkit import __version__, recipe, suite, testing
from svpkit.api import reader_for
from svpkit.bind import bind, trained_by
from svpkit.cli import cli
from svpkit.discovery import DEFAULT_PLUGINS
from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec
from svpkit.options import Option, check_options, options_of, type_name
from svpkit.pipeline import generator_params
from svpkit.plan import plan
from svpkit.plugins import discover
from svpkit.provenance import plugins_used

GOOD = """
from svpkit import hookimpl
@hookimpl
def register_strategies(register):
    register("mine", lambda *, power=1.0: None)
"""
BAD = {
    "import_error": ("import no_such_module_here\n", "No module named"),
    "exception": (
        "from svpkit import hookimpl\n@hookimpl\ndef register_readers(register):\n    1 / 0\n",
        "division by zero",
    ),
    "signature": (
        "from svpkit import hookimpl\n@hookimpl\ndef register_readers(register, extra): pass\n",
        "extra",
    ),
    "misspelt": (
        "from svpkit import hookimpl\n@hookimpl\ndef register_reader(register):\n    pass\n",
        "register_reader",
    ),
    "old_api": ("api = 0\n" + GOOD, "api 0"),
    "double": (
        "from svpkit import hookimpl\n@hookimpl\ndef register_readers(register):\n"
        "    register('folder', None)\n",
        "already registered by svpkit",
    ),
}


def write(folder, name, text):
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def test_the_built_ins_load_through_the_hooks():
    registry = discover(builtin_only=True)
    assert not registry.broken
    assert {"folder", "simulated"} <= set(registry.names("reader"))
    assert {"protein", "silicone_oil", "air_bubble"} <= set(registry.names("particle_type"))
    assert {"ddpm"} <= set(registry.names("generator"))
    assert {"timm"} <= set(registry.names("classifier"))
    wanted = {"none", "class_weights", "oversample", "augment", "prior_correction", "synthetic"}
    assert wanted <= set(registry.names("strategy"))
    assert len(set(DEFAULT_PLUGINS)) == len(DEFAULT_PLUGINS)


@pytest.mark.parametrize("kind", BAD)
def test_a_broken_plugin_is_named_and_the_rest_goes_on(tmp_path, kind):
    text, reason = BAD[kind]
    files = [write(tmp_path, f"bad_{kind}", text), write(tmp_path, "good", GOOD)]
    registry = discover(files=files)
    assert [b.name for b in registry.broken] == [f"bad_{kind}"]
    assert reason in registry.broken[0].reason and "\n" not in registry.broken[0].reason
    assert "mine" in registry.names("strategy") and "folder" in registry.names("reader")
    with pytest.raises(SvpkitError, match=f"bad_{kind}"):
        discover(files=files, strict=True)


def test_entry_points_are_found_and_broken_ones_isolated(tmp_path, monkeypatch):
    for name, text in (("good_dist", GOOD), ("bad_dist", "raise RuntimeError('boom')\n")):
        write(tmp_path, name, text)
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[svpkit]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    registry = discover()
    mine = registry.get("strategy", "mine")
    assert (mine.package, mine.version, mine.origin) == ("good_dist", "1.2", "entry point")
    assert [(b.name, b.reason) for b in registry.broken] == [("bad_dist", "RuntimeError: boom")]
    with pytest.raises(SvpkitError, match="set aside: RuntimeError: boom"):
        registry.get("strategy", "bad_dist", "balance.strategies")
    assert "mine" not in discover(builtin_only=True).names("strategy")
    assert mine.version in str(registry.use("strategy", "mine", {}, "b").describe())


def test_an_edited_one_file_plugin_is_another_version(tmp_path):
    path = write(tmp_path, "mine", GOOD)
    said = [discover(files=[path]).use("strategy", "mine", {}, "b").describe()]
    write(tmp_path, "mine", GOOD + "# changed")
    said.append(discover(files=[path]).use("strategy", "mine", {}, "b").describe())
    assert said[0] != said[1]


def test_a_strangers_particle_type_is_part_of_what_names_the_data(tmp_path):
    text = (
        "from svpkit import hookimpl\nclass Flake:\n    def draw(self, seeds, optics): pass\n"
        "@hookimpl\ndef register_particle_types(register):\n    register('flake', Flake())\n"
    )
    registry = discover(files=[write(tmp_path, "flakes", text)])
    use = registry.use("reader", "simulated", {"flake": 3, "protein": 2}, "data.reader")
    assert "flakes.py" in use.describe()["particle_types"]["flake"]
    assert set(use.hosted["particle_types"]) >= {"flake", "protein"}


def test_a_wrong_name_is_told_the_nearest():
    with pytest.raises(SvpkitError, match="data.reader: unknown 'foldr'; did you mean 'folder'"):
        discover().get("reader", "foldr", "data.reader")


def factory(spec, *, width: Annotated[int, Ge(8), "channels"] = 64, flip: bool = True, name: str):
    """A factory."""


def test_options_are_the_keyword_only_parameters():
    options = options_of(factory)
    assert list(options) == ["width", "flip", "name"]
    assert options["width"].doc == "channels" and options["name"].required
    assert type_name(options["width"].type) == "int"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"widht": 3, "name": "a"}, "x.options: unknown 'widht'; did you mean 'width'"),
        ({"width": 3, "name": "a"}, "x.options.width: given 3: .*greater than or equal to 8"),
        ({"width": "many", "name": "a"}, "x.options.width: given 'many'"),
        ({"width": True, "name": "a"}, "x.options.width: given True"),
        ({"flip": 3, "name": "a"}, "x.options.flip: given 3"),
        ({}, "x.options.name: missing"),
    ],
)
def test_a_bad_option_is_one_line_with_its_key(given, said):
    with pytest.raises(SvpkitError, match=said) as caught:
        check_options(options_of(factory), given, "x.options")
    assert "\n" not in str(caught.value)


def test_defaults_are_filled_in():
    checked = check_options(options_of(factory), {"name": "a"}, "x")
    assert checked == {"width": 64, "flip": True, "name": "a"}
    assert isinstance(options_of(factory)["flip"], Option)


def test_listing_loads_no_torch_and_prints_json():
    code = (
        "import sys, runpy; sys.argv = ['svpkit', 'plugins', 'list', '--json']\n"
        "try: runpy.run_module('svpkit', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {"kind", "name", "package", "version", "origin", "state"} == set(rows[0])


FAILING = """
from svpkit import hookimpl, SvpkitError
class Reader:
    def read(self, path, *, at_once: bool = False, known: bool = False):
        if known:
            raise SvpkitError("this line")
        if at_once:
            raise OSError("no such disk")
        return self.rows()
    def rows(self):
        yield "a", {}
        raise ValueError("row 2\\nis odd")
    def sniff(self, path):
        raise RuntimeError("no nose")
class Type:
    def draw(self, seeds, optics):
        1 / 0
@hookimpl
def register_readers(register): register("failing", Reader())
@hookimpl
def register_particle_types(register): register("shard", Type())
@hookimpl
def register_classifiers(register): register("leaves", lambda spec: exit("now"))
"""


@pytest.fixture
def failing(tmp_path):
    return discover(files=[write(tmp_path, "failing", FAILING)], builtin_only=True)


def test_what_a_stranger_raises_when_it_is_called_is_one_line(failing):
    version = failing.get("reader", "failing").version
    source = f"(failing.py {version})"
    rows = failing.use("reader", "failing", {}, "data.reader")("x")
    assert next(rows) == ("a", {})
    with pytest.raises(SvpkitError) as caught:
        next(rows)
    assert str(caught.value) == f"reader 'failing' {source} raised ValueError: row 2 is odd"
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(SvpkitError, match="raised OSError: no such disk"):
        failing.use("reader", "failing", {"at_once": True}, "data.reader")("x")
    with pytest.raises(SvpkitError, match="^this line$"):
        failing.use("reader", "failing", {"known": True}, "data.reader")("x")
    with pytest.raises(SvpkitError, match="classifier 'leaves' .* raised SystemExit: now"):
        failing.use("classifier", "leaves", {}, "classifier")(ImageSpec(1, 16, ("a",)))


def test_a_type_that_fails_to_draw_is_named(failing):
    rows = failing.use("reader", "simulated", {"shard": 2}, "data.reader")(None)
    with pytest.raises(SvpkitError, match="particle_type 'shard' .* raised ZeroDivisionError"):
        list(rows)


def test_an_error_of_a_built_in_passes_as_it_is(monkeypatch):
    registry = discover(builtin_only=True)
    use = registry.use("reader", "folder", {}, "data.reader")
    monkeypatch.setattr(type(use.thing), "read", lambda self, path, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        use("x")


def test_a_reader_whose_look_fails_does_not_know_it_and_is_told_once(failing, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.png").write_text("x")
    for _ in range(2):
        assert reader_for(failing, tmp_path, None, {}).plugin.name == "folder"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "reader 'failing' (failing.py" in said[0] and "no nose" in said[0]


def test_the_environment_makes_plugins_strict(tmp_path, monkeypatch):
    files = [write(tmp_path, "lost", "import no_such_module_here\n")]
    monkeypatch.setenv("SVPKIT_STRICT_PLUGINS", "1")
    with pytest.raises(SvpkitError, match=r"plugin 'lost' \(lost.py .*\) was set aside: Module"):
        discover(files=files, builtin_only=True)
    monkeypatch.setenv("SVPKIT_STRICT_PLUGINS", "0")
    assert len(discover(files=files, builtin_only=True).broken) == 1


GLASS = """
from svpkit import hookimpl
class Shard:
    def draw(self, seeds, optics): pass
class Reader:
    def read(self, path=None, *, n: int = 1): yield from ()
    def sniff(self, path): return False
@hookimpl
def register_particle_types(register): register("shard", Shard())
@hookimpl
def register_readers(register): register("lab", Reader())
@hookimpl
def register_generators(register): register("blower", lambda spec: None)
@hookimpl
def register_classifiers(register): register("looker", lambda spec: None)
@hookimpl
def register_strategies(register): register("anneal", lambda *, power=1.0: object())
"""
ODD = "from svpkit import hookimpl\n@hookimpl\ndef register_strategies(register):\n"
PACKAGES = {
    "svpkit-shard": GLASS,
    "svpkit-odd": ODD + "    register('odd', lambda: object())\n",
    "svpkit-torn": "raise ValueError('torn')\n",
}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Return registries of packages at a version; none is loaded twice from the same place."""

    def at(version, names=tuple(PACKAGES)):
        site = tmp_path / version
        wheels = [build(tmp_path, name, version, PACKAGES[name]) for name in names]
        install(wheels, site, unpack=True)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(site))
            importlib.invalidate_caches()
            for name in names:
                sys.modules.pop(name.replace("-", "_"), None)
            return discover()

    return at


def asked(**more):
    data = {"reader": "simulated", "options": {"protein": 9, "shard": 3}}
    return {"name": "mine", "data": data, **more}


def bound(registry, values):
    return bind(recipe.validate(values, "r"), registry, where="r")


def test_a_list_of_plugins_admits_no_others(shelf):
    registry = shelf("0.2.0")
    assert bound(registry, asked(balance={"strategies": ["odd"]}))
    listed = asked(plugins=["svpkit-shard>=0.1,<1"])
    assert bound(registry, listed).reader.options["shard"] == 3
    assert bound(registry, listed | {"plugins": ["Svpkit_Shard", "svpkit"]})
    known = bound(registry, listed).reader.kinds
    assert "shard" in known and "glass" not in known
    for changes, said in (
        (
            {"balance": {"strategies": ["odd"]}},
            "r: balance.strategies: 'odd' is not in the recipe's plugins: "
            "[svpkit-shard>=0.1,<1]; add 'svpkit-odd'",
        ),
        ({"balance": {"odd": {}}}, "r: balance.odd: 'odd' is not in the recipe's plugins"),
        ({"plugins": ["svpkit-odd"]}, "r: data.options.shard: 'shard' is not in the recipe's"),
    ):
        with pytest.raises(SvpkitError) as caught:
            bound(registry, listed | changes)
        assert str(caught.value).startswith(said)
    with pytest.raises(SvpkitError, match="'odd' is not in the recipe's plugins"):
        values = listed | {"balance": {"strategies": ["odd"]}}
        trained_by(recipe.validate(values, "r"), registry, "r")
    assert registry.only(()) is registry and ("strategy", "odd") in registry.plugins


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("svpkit-shard>=0.3", "'svpkit-shard>=0.3' is wanted, 0.2.0 is installed"),
        ("svpkit-shart", "'svpkit-shart' is not installed; did you mean 'svpkit-shard'"),
        ("svpkit-elsewhere", "'svpkit-elsewhere' is not installed; pip install svpkit-elsewhere$"),
        ("svpkit-torn", "'svpkit-torn' was set aside: ValueError: torn"),
        ("pluggy>=1", "'pluggy' [0-9.]+ is installed, but no plugin of it is loaded"),
        ("svpkit shard", "given 'svpkit shard': a name with versions such as"),
        ("svpkit-shard[gpu]", "given 'svpkit-shard\\[gpu\\]': a name with versions"),
        ("mine.py", "'mine.py' is not loaded; give --plugin PATH/mine.py"),
    ],
)
def test_a_package_that_a_recipe_needs_has_to_be_there(shelf, entry, said):
    with pytest.raises(SvpkitError, match=rf"^r: plugins\[0\]: {said}") as caught:
        bound(shelf("0.2.0"), asked(plugins=[entry, "svpkit-shard"]))
    assert "\n" not in str(caught.value)


def test_a_list_of_plugins_names_files_too(tmp_path):
    registry = discover(files=[write(tmp_path, "mine", GOOD)])
    values = {"name": "a", "data": {"reader": "simulated", "options": {"protein": 9}}}
    values |= {"balance": {"strategies": ["mine"]}, "plugins": ["mine.py"]}
    assert "glass" not in bound(registry, values).reader.kinds


def test_a_list_of_plugins_is_part_of_no_key(shelf, tmp_path):
    registry = shelf("0.2.0")
    plain, listed = (bound(registry, asked(plugins=p)) for p in ([], ["svpkit-shard"]))
    assert keys(plain, tmp_path) == keys(listed, tmp_path)
    (tmp_path / "base.toml").write_text(
        'name = "a"\nplugins = ["svpkit-shard"]\n[data]\nreader = "simulated"\n'
    )
    (tmp_path / "suite.toml").write_text('recipe = "base.toml"\n')
    (tmp_path / "free.toml").write_text('recipe = "base.toml"\nset = { plugins = [] }\n')
    own, free = (
        suite.cells(suite.load(tmp_path / name), tmp_path / name)[0]
        for name in ("suite.toml", "free.toml")
    )
    assert own.recipe.plugins == ("svpkit-shard",) and free.recipe.plugins == ()
    assert own.digest == free.digest


def keys(experiment, folder):
    return {p.artifact.label: p.artifact.key for p in plan(experiment, folder)}


def everywhere(**more):
    """A recipe that names a plugin of the shelf wherever one can be named."""
    shards = {"reader": "simulated", "options": {"shard": 5, "seed": 3}}
    return asked(
        data=asked()["data"] | {"test": shards, "also": [{"reader": "lab"}]},
        generator={
            "plugin": "blower",
            "classes": ["shard"],
            "pretrain": {"on": "simulated:flowcam-like"},
            "train": {"looks": 0},
        },
        classifier={"plugin": "looker"},
        balance={"strategies": ["synthetic"]},
        baselines=[{"name": "other", "strategies": ["anneal"]}],
        **more,
    )


def test_another_version_of_a_package_makes_other_keys_wherever_it_is_used(shelf, tmp_path):
    here = ("svpkit-shard",)
    old, new = (keys(bound(shelf(v, here), everywhere()), tmp_path) for v in ("0.1", "0.2"))
    assert set(old) == set(new) and {"ingest: test", "ingest: also 1", "pretrain"} <= set(old)
    # one that is made from nothing of the package's would keep its key
    assert not [label for label in old if old[label] == new[label]]


def test_the_types_that_a_simulating_generator_draws_are_part_of_its_key(shelf):
    here = ("svpkit-shard",)
    drawn = {"plugin": "simulated", "classes": ["shard"]}
    found = []
    for version in ("0.1", "0.2"):
        experiment = bound(shelf(version, here), asked(generator=drawn))
        found.append(generator_params(experiment, ("shard",))["generator"].describe())
    assert found[0] | {"particle_types": {"shard": "svpkit-shard 0.2"}} == found[1]
    own = bound(shelf("0.3", here), asked(generator=drawn | {"classes": ["protein"]}))
    assert own.generator.describe() == {
        "plugin": "simulated",
        "options": {"instrument": "mfi-like", "binning": 1, "seed": 0},
    }


def test_what_is_installed_changes_no_key_of_the_built_ins(shelf, tmp_path):
    values = {"name": "a", "data": {"reader": "simulated", "options": {"protein": 9}}}
    values["generator"] = {"classes": ["protein"], "train": {"looks": 0}}
    values["balance"] = {"strategies": ["synthetic"]}
    alone = keys(bound(discover(builtin_only=True), values), tmp_path)
    assert alone == keys(bound(shelf("0.2"), values), tmp_path)
    # as it was before plugins of svpkit itself had a version
    assert alone["ingest"] == "9f457446267dc856"


def test_a_run_tells_every_plugin_that_it_used(shelf):
    found = plugins_used(bound(shelf("0.2", ("svpkit-shard",)), everywhere()))
    code = found["reader"]["lab"].get("code", "")
    assert len(code) == 64
    mine = {"package": "svpkit-shard", "version": "0.2", "origin": "entry point", "code": code}
    own = {"package": "svpkit", "version": __version__, "origin": "built-in"}
    assert found == {
        "reader": {"simulated": own, "lab": mine},
        "particle_type": {"shard": mine, "protein": own},
        "generator": {"blower": mine},
        "classifier": {"looker": mine},
        "strategy": {"synthetic": own, "anneal": mine},
    }


def svpkit_(*command):
    done = CliRunner().invoke(cli, [str(each) for each in command])
    return done


def test_list_and_show_tell_all_of_it(tmp_path):
    path = write(tmp_path, "failing", FAILING)
    rows = json.loads(
        svpkit_("--plugin", path, "plugins", "list", "--json", "--kind", "reader").output
    )
    assert {row["kind"] for row in rows} == {"reader"}
    mine = next(row for row in rows if row["name"] == "failing")
    assert mine["origin"] == str(path) and mine["package"] == "failing.py" and mine["version"]
    said = svpkit_("--plugin", path, "plugins", "show", "failing").output
    assert f"reader 'failing' (failing.py {mine['version']}, {path})" in said
    assert "registered by register_readers" in said and "at_once: bool = False" in said
    [ddpm] = json.loads(svpkit_("plugins", "show", "ddpm", "--json").output)
    assert ddpm["hook"] == "register_generators" and ddpm["version"] == __version__
    steps = next(each for each in ddpm["sample"] if each["name"] == "steps")
    assert set(steps) == {"name", "type", "required", "default", "doc"} and steps["doc"]


@pytest.mark.parametrize("command", [["run", "r.toml"], ["plugins", "show", "ddpm"]])
def test_a_file_that_is_given_and_cannot_be_used_is_an_error_but_for_the_list(tmp_path, command):
    lost = write(tmp_path, "lost", "1 / 0\n")
    for path, why in (
        (lost, "ZeroDivisionError: division by zero"),
        (tmp_path / "none.py", "there is no such file"),
        (tmp_path, "this is a folder"),
    ):
        said = str(svpkit_("--plugin", path, *command).exception)
        assert said == f"--plugin {path}: {why}"
        listed = svpkit_("--plugin", path, "plugins", "list")
        [row] = [line for line in listed.output.splitlines() if line.startswith("? ")]
        assert listed.exit_code == 0 and row.endswith(f"{path}  set aside: {why}")


def test_the_list_keeps_its_columns_and_tells_a_digest_once(tmp_path):
    files = [write(tmp_path, "lost", "1 / 0\n"), write(tmp_path, "mine", GOOD)]
    given = [each for path in files for each in ("--plugin", path)]
    lines = svpkit_(*given, "--no-plugins", "plugins", "list").output.splitlines()
    own = [line for line in lines if str(tmp_path) in line]
    assert {line.index(str(tmp_path)) for line in own} == {lines[0].index("built-in")}
    assert all(len(re.findall(r"\b[0-9a-f]{8,}\b", line)) == 1 for line in own)


def test_an_unknown_name_tells_the_nearest_few_and_what_was_set_aside(tmp_path):
    registry = discover(files=[write(tmp_path, "hook", "1 / 0\n")], builtin_only=True)
    for find in (registry.find, partial(registry.get, "strategy")):
        with pytest.raises(SvpkitError) as error:
            find("clas_weights")
        said = str(error.value)
        assert "did you mean 'class_weights'? (nearest of " in said and said.count(",") == 2
        assert "; svpkit plugins list); set aside: hook.py: ZeroDivisionError" in said
    with pytest.raises(SvpkitError, match=r"\(known: copy, .*, ddpm, "):
        discover(builtin_only=True).get("generator", "dpm")


def test_a_file_given_twice_is_read_once(tmp_path, monkeypatch):
    path = write(tmp_path, "mine", GOOD)
    monkeypatch.chdir(tmp_path)
    files = [path, Path("mine.py"), path]
    registry = discover(files=files, builtin_only=True, strict=True)
    assert [p.origin for p in registry.plugins.values() if p.strange] == [str(path)]


def test_values_of_another_type_are_told_in_plain_words():
    registry = discover(builtin_only=True)
    for name, value, said in (
        ("width", True, "given True: an integer is wanted"),
        ("width", "much", "given 'much': an integer is wanted"),
        ("width", 1.5, "given 1.5: an integer is wanted"),
    ):
        with pytest.raises(SvpkitError, match=rf"generator\.options\.{name}: {said}$"):
            registry.use("generator", "ddpm", {name: value}, "generator.plugin")
    select = {"generator": {"classes": ["oil"], "select": {"by": "density", "keep": "much"}}}
    with pytest.raises(SvpkitError, match=r"select\.keep: given 'much': a number is wanted$"):
        recipe.validate(asked() | select, "r")


def test_several_files_may_be_given(tmp_path):
    files = [write(tmp_path, "mine", GOOD), write(tmp_path, "failing", FAILING)]
    given = [each for path in files for each in ("--plugin", path)]
    rows = json.loads(svpkit_(*given, "plugins", "list", "--json").output)
    assert {"mine", "failing"} <= {row["name"] for row in rows}


def test_check_prints_a_line_for_each_promise(tmp_path, monkeypatch):
    seen = []

    def broken():
        raise testing.Failed("labels: two came")

    def checks(plugin, trial):
        seen.append((plugin.kind, dict(trial.options), trial.example and trial.example(None)))
        return [
            testing.Check("options", "They are documented.", lambda: None),
            testing.Check(
                "labels", "They are honoured.", broken if trial.options else lambda: None
            ),
            testing.Check("network", "None is used.", broken, "it has to"),
            testing.Check("mix", "It mixes.", lambda: "it has no mix"),
        ]

    monkeypatch.setattr(testing, "checks", checks)
    done = svpkit_("plugins", "check", "focal")
    assert done.exit_code == 0 and done.output.splitlines() == [
        f"strategy 'focal' (svpkit {__version__})",
        "ok      options: They are documented.",
        "ok      labels: They are honoured.",
        "spared  network: it has to",
        "2 ok, 0 FAILED, 1 spared, 1 not applicable",
    ]
    done = svpkit_("plugins", "check", "focal", "--only", "network", "--only", "options")
    assert done.exit_code == 0 and done.output.count("\n") == 4
    done = svpkit_("plugins", "check", "focal", "--only", "netwrk")
    assert str(done.exception).startswith("--only: check: unknown 'netwrk'; did you mean 'network'")
    done = svpkit_("plugins", "check", "focal", "-o", "gamma=3.0")
    assert done.exit_code == 1 and "FAILED  labels: two came\n" in done.output
    given = ("--kind", "reader", "--example", tmp_path)
    assert svpkit_("plugins", "check", "imported", *given).exit_code == 0
    assert seen[-2:] == [("strategy", {"gamma": 3.0}, None), ("reader", {}, tmp_path)]
    done = svpkit_("plugins", "check", "focal", "--example", tmp_path)
    assert str(done.exception) == "--example: is for a reader, 'focal' is a strategy"
    assert "did you mean 'focal'" in str(svpkit_("plugins", "check", "focl").exception)
    done = svpkit_("plugins", "check", "flowcam")
    assert str(done.exception) == "reader 'flowcam' brings no export: --example PATH names one"


def test_new_says_what_comes_next(tmp_path):
    done = svpkit_("plugins", "new", "strategy", "even_out", "--into", tmp_path)
    assert done.exit_code == 0 and "pip install -e" in done.output
    assert (tmp_path / "svpkit-even_out").is_dir()
