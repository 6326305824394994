"""The host: built-ins and strangers through one door, broken ones named and set aside."""

import importlib
import json
import subprocess
import sys
from typing import Annotated

import pytest
from annotated_types import Ge

from svpkit.errors import SvpkitError
from svpkit.options import Option, check_options, options_of, type_name
from svpkit.plugins import DEFAULT_PLUGINS, discover

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
