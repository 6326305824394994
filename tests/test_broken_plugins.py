"""Packages that are broken, installed beside one that is not: each is named, the rest goes on."""

import json
import os
import subprocess
import sys

import pytest
from packages import build, install

from svpkit import __version__
from svpkit.errors import SvpkitError
from svpkit.plugins import discover
from svpkit.signals import Ended

HOOK = "from svpkit import hookimpl\n"
GOOD = HOOK + (
    "from typing import Annotated\n"
    "print('good is loaded')\n"
    "class Wink:\n"
    "    'Draws twice.'\n"
    "    def sample(self, labels, seeds, *, steps: Annotated[int, 'how many'] = 3): pass\n"
    "def wink(spec, *, power: Annotated[float, 'how strong'] = 2.0): return Wink()\n"
    "@hookimpl\ndef register_generators(register):\n    register('wink', wink)\n"
)


def hook(kind, body):
    return f"{HOOK}@hookimpl\ndef register_{kind}s(register):\n    {body}\n"


BROKEN = {
    # name: (module, what the state says)
    "lost-import": ("import no_such_module_here\n", "No module named 'no_such_module_here'"),
    "bad-syntax": ("def broken(:\n", "SyntaxError: invalid syntax"),
    "exits": ("import sys\nprint('bye')\nsys.exit(3)\n", "SystemExit: 3"),
    "raises": ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
    "wrong-hook": (
        HOOK + "@hookimpl\ndef register_readers(register, more): pass\n",
        "register_readers(register, more): its signature has to be register_readers(register)",
    ),
    "in-hook": (hook("reader", "1 / 0"), "register_readers raised ZeroDivisionError: division"),
    "misspelt": (
        HOOK + "@hookimpl\ndef register_generator(register): pass\n",
        "no hook 'register_generator'; did you mean 'register_generators'?",
    ),
    "unmarked": ("def register_readers(register): pass\n", "'register_readers' is not marked with"),
    "old-api": ("api = 0\n" + hook("classifier", "pass"), "written for plugin api 0, this is api"),
    "steals": (
        hook("reader", "register('folder', 1)"),
        "reader 'folder' is already registered by svpkit ",
    ),
    "shape": (
        hook("reader", "register('mine_reader', object())"),
        "reader 'mine_reader': a thing with `read` and `sniff`",
    ),
    "xtwin": (
        hook("generator", "register('wink', lambda spec: None)"),
        "generator 'wink' is already registered by good 1.0; xtwin 0.3 registers it again",
    ),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    wheels = [build(folder, "good", "1.0", GOOD)]
    wheels += [build(folder, name, "0.3", text) for name, (text, _) in BROKEN.items()]
    nowhere = "[svpkit]\nnowhere = nowhere.inside:thing\n"
    wheels.append(build(folder, "nowhere", "0.3", "", nowhere))
    install(wheels, folder / "site")
    return folder / "site"


def svpkit_(site, *command, **environment):
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "svpkit", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_each_broken_package_is_named_in_one_line_and_the_rest_goes_on(site):
    code, out, err = svpkit_(site, "plugins", "list", "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert "good is loaded" in err and "bye" in err
    wanted = {name: said for name, (_, said) in BROKEN.items()}
    wanted["nowhere"] = "entry point 'nowhere.inside:thing' leads nowhere: no module"
    for package, said in wanted.items():
        mine = [row for row in rows if row["package"] == package]
        assert [row["version"] for row in mine] == ["0.3"], package
        assert said in mine[0]["state"] and "\n" not in mine[0]["state"], mine
        assert mine[0]["origin"] == "entry point"
    ok = {(row["kind"], row["name"]) for row in rows if row["state"] == "ok"}
    assert {("generator", "wink"), ("reader", "folder"), ("classifier", "timm")} <= ok
    assert {row["version"] for row in rows if row["origin"] == "built-in"} == {__version__}


def test_another_command_goes_on_and_says_a_line_for_each(site):
    code, out, err = svpkit_(site, "schema")
    assert code == 0 and json.loads(out)["properties"]
    lines = [line for line in err.splitlines() if line.startswith("svpkit: plugin '")]
    assert len(lines) == len(BROKEN) + 1
    assert any(
        line.startswith("svpkit: plugin 'raises' (raises 0.3) was set aside: RuntimeError: two")
        for line in lines
    )
    assert "Traceback" not in err


def test_no_plugins_loads_none_of_them(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    registry = discover(builtin_only=True)
    assert not registry.broken
    assert {plugin.origin for plugin in registry.plugins.values()} == {"built-in"}


def test_strict_plugins_make_the_first_an_error(site):
    # first by name of entry point
    said = "svpkit: plugin 'bad_syntax' (bad-syntax 0.3) was set aside: SyntaxError: invalid syntax"
    code, out, err = svpkit_(site, "schema", SVPKIT_STRICT_PLUGINS="1")
    assert code == 2 and not out and err.splitlines()[-1].startswith(said)


def test_a_broken_plugin_is_shown_with_its_reason(site):
    code, _, err = svpkit_(site, "plugins", "show", "in_hook")
    said = "svpkit: plugin 'in_hook' (in-hook 0.3) was set aside: register_readers raised"
    assert code == 2 and err.splitlines()[-1].startswith(said)


CLASS = "class Thing:\n    "
SHAPES = {
    # what is registered: (kind, expression, what stands before it, the reason)
    "no_sniff": ("reader", "Thing()", CLASS + "def read(self, path): pass", "it has no sniff"),
    "a_class": (
        "reader",
        "Thing",
        CLASS + "def read(self, path): pass\n    def sniff(self, path): pass",
        "register Thing(), not the class",
    ),
    "no_path": (
        "reader",
        "Thing()",
        CLASS + "def read(self, file): pass\n    def sniff(self, path): pass",
        "the first parameter of `read` has to be called path",
    ),
    "sniffs_nothing": (
        "reader",
        "Thing()",
        CLASS + "def read(self, path): pass\n    def sniff(self): pass",
        "sniff: has to take (path), it takes ()",
    ),
    "no_draw": ("particle_type", "Thing()", CLASS + "pass", "it has no draw"),
    "draws_little": (
        "particle_type",
        "Thing()",
        CLASS + "def draw(self, seeds): pass",
        "has to take (seeds, optics), it takes (seeds)",
    ),
    "not_callable": ("classifier", "3", "", "a factory is wanted, not an int"),
    "no_spec": ("generator", "lambda: None", "", "has to take (spec), it takes ()"),
    "no_spec_either": ("extractor", "lambda *, width=3: None", "", "has to take (spec)"),
    "two_specs": ("classifier", "lambda spec, width: None", "", "width stand before the *"),
    "before_the_star": ("strategy", "lambda power=1.0: None", "", "power stand before the *"),
    "no_parameters": ("strategy", "type", "", "its parameters cannot be read"),
    "lost_type": (
        "strategy",
        "mine",
        "def mine(*, power: 'Lost' = 1.0): pass",
        "its options cannot be read: NameError: name 'Lost' is not defined",
    ),
    "odd_type": (
        "strategy",
        "mine",
        "class Odd: pass\ndef mine(*, power: Odd = None): pass",
        "option 'power' cannot be checked: PydanticSchemaGenerationError",
    ),
    "no_text": ("strategy", "mine", "", "strategy 3: a name is made of a-z, 0-9 and _"),
    "shouts": ("strategy", "mine", "", "strategy 'My One': a name is made of"),
    "a_key": ("strategy", "mine", "", "strategy 'strategies': [balance] has a key of that name"),
}
NAMES = {"no_text": 3, "shouts": "My One", "a_key": "strategies"}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_of_the_wrong_shape_is_set_aside_whole(tmp_path, shape):
    kind, thing, head, said = SHAPES[shape]
    hooks = {"strategy": "register_strategies"}.get(kind, f"register_{kind}s")
    body = f"register({NAMES.get(shape, shape)!r}, {thing if shape not in NAMES else 'int'})"
    text = (
        f"{HOOK}{head}\n@hookimpl\ndef {hooks}(register):\n    {body}\n"
        "@hookimpl(specname='register_classifiers')\ndef fine(register):\n"
        "    register('quite_fine', lambda spec: None)\n"
    )
    (tmp_path / f"{shape}.py").write_text(text)
    registry = discover(files=[tmp_path / f"{shape}.py"], builtin_only=True)
    [lost] = registry.broken
    assert said in lost.reason and "\n" not in lost.reason and len(lost.reason) < 330
    assert ("classifier", "quite_fine") not in registry.plugins


LOOSE = {
    "silent": ("x = 1\n", "registers nothing: no function of it is marked with @hookimpl"),
    "nearly": (
        "def register_generator(register): pass\n",
        "registers nothing: 'register_generator' is no hook and not marked with @hookimpl; did you "
        "mean 'register_generators'?",
    ),
    "quiet": (hook("reader", "pass"), "registers nothing: register_readers made no call"),
    "no_argument": (
        HOOK + "@hookimpl\ndef register_readers(): pass\n",
        "register_readers(): its signature has to be register_readers(register)",
    ),
    "short": (hook("reader", "register('x')"), "register_readers raised TypeError: "),
    "leaves": (hook("reader", "exit(1)"), "register_readers raised SystemExit: 1"),
    "new_api": ("api = 2\n" + GOOD, "written for plugin api 2, this is api 1: a newer svpkit"),
    "odd_api": ("api = '1'\n" + GOOD, "written for plugin api '1', this is api 1"),
    "again": (
        hook("generator", "[register('wonk', lambda spec: None) for _ in range(2)]"),
        "generator 'wonk' is registered twice by again.py",
    ),
    "long": ("raise ValueError('x' * 10_000)\n", "ValueError: xxx"),
    "unspeakable": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd\n",
        "Odd",
    ),
    "group": ("raise BaseException('base')\n", "BaseException: base"),
}


@pytest.mark.parametrize("case", LOOSE)
def test_a_loose_module_is_named_in_one_line(tmp_path, case):
    text, said = LOOSE[case]
    (tmp_path / f"{case}.py").write_text(text)
    [lost] = discover(files=[tmp_path / f"{case}.py"], builtin_only=True).broken
    assert said in lost.reason and "\n" not in lost.reason and len(lost.reason) < 400
    assert str(lost).startswith(f"plugin '{case}' ({case}.py ")


def test_a_file_that_is_missing_or_none_is_named(tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "text.txt").write_text("x")
    files = [tmp_path / name for name in ("missing.py", "folder.py", "text.txt")]
    lost = discover(files=files, builtin_only=True).broken
    assert [b.reason for b in lost] == [
        "there is no such file",
        "this is a folder",
        "not a Python file, its name has to end in .py",
    ]


def test_two_files_of_one_name_are_an_error(tmp_path):
    with pytest.raises(SvpkitError, match=r"--plugin: a/mine.py and b/mine.py have one name"):
        discover(files=[type(tmp_path)("a/mine.py"), type(tmp_path)("b/mine.py")])


def test_a_signal_to_end_goes_through(tmp_path):
    (tmp_path / "told.py").write_text("from svpkit.signals import end\nend(15)\n")
    with pytest.raises(Ended):
        discover(files=[tmp_path / "told.py"], builtin_only=True)


def test_an_interrupt_goes_through(tmp_path):
    for i, text in enumerate(
        ("raise KeyboardInterrupt\n", hook("reader", "raise KeyboardInterrupt"))
    ):
        (tmp_path / f"stop{i}.py").write_text(text)
        with pytest.raises(KeyboardInterrupt):
            discover(files=[tmp_path / f"stop{i}.py"], builtin_only=True)


def test_a_package_with_one_bad_module_is_set_aside_whole(tmp_path, monkeypatch):
    entry = "[svpkit]\nfine = whole_pack\nwrong = whole_pack_not_there\n"
    install([build(tmp_path, "whole-pack", "2.0", GOOD.replace("wink", "blink"), entry)], tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = discover()
    assert ("generator", "blink") not in registry.plugins
    assert {b.name: b.package for b in registry.broken} == {
        "fine": "whole-pack",
        "wrong": "whole-pack",
    }
    with pytest.raises(SvpkitError, match="x: 'blink' was set aside: .*leads nowhere"):
        registry.get("generator", "blink", "x")


def test_metadata_that_cannot_be_read_hurt_nobody_else(tmp_path, monkeypatch):
    unread = build(tmp_path, "unread-pack", "2.0", GOOD, "[svpkit]\nno equals sign\n")
    other = build(tmp_path, "other-pack", "2.0", "", "[console_scripts]\nnor here\n")
    fine = build(tmp_path, "fine-pack", "2.0", GOOD.replace("wink", "blink"))
    for wheel in (unread, other, fine):
        install([wheel], tmp_path / "site", unpack=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry = discover()
    [lost] = registry.broken
    assert lost.package == "unread-pack" and "entry_points.txt cannot be read" in lost.reason
    assert registry.get("generator", "blink").package == "fine-pack"
