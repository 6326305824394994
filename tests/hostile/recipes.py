"""Recipes and suites of strangers: paths, names, sizes and plugins that they should not have."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hostile.case import Case
from hostile.pictures import folders, good

GOOD = """
name = "r"
[data]
reader = "folder"
path = "data"
size = 16
"""


def run(folder: Path, text: str | bytes, *more: str, name: str = "r.toml") -> list[str]:
    """Write a recipe beside good data, and ask for its plan."""
    folders(folder, good)
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    (folder / name).write_bytes(raw)
    return ["run", name, "--plan", "--runs", "out/runs", "--store", "out/store", *more]


def _swap(old: str, new: str) -> str:
    assert old in GOOD, old
    return GOOD.replace(old, new)


def _path(given: str) -> str:
    return _swap('path = "data"', f"path = {given}")


def _thing(folder: Path, make: Callable[[Path], object], text: str = GOOD) -> list[str]:
    # something that is no file of data, at the place that a recipe names
    arguments = run(folder, text)
    (folder / "r.toml").rename(folder / "kept.toml")
    make(folder / "thing")
    if text == GOOD:
        (folder / "thing").rename(folder / "r.toml")
    else:
        (folder / "kept.toml").rename(folder / "r.toml")
    return arguments


def _chain(folder: Path, n: int) -> list[str]:
    arguments = run(folder, 'extends = "0.toml"\n')
    for i in range(n):
        (folder / f"{i}.toml").write_text(f'extends = "{i + 1}.toml"\n')
    (folder / f"{n}.toml").write_text(GOOD)
    return arguments


def _ring(folder: Path) -> list[str]:
    arguments = run(folder, 'extends = "a.toml"\n')
    (folder / "a.toml").write_text('extends = "./r.toml"\n')
    return arguments


def _outside(folder: Path) -> list[str]:
    # the recipe of another folder, its data beside this one
    arguments = run(folder, GOOD)
    (folder / "deep").mkdir()
    (folder / "deep" / "r.toml").write_text(_path('"../data"'))
    return [a if a != "r.toml" else "deep/r.toml" for a in arguments]


def _suite(folder: Path, text: str) -> list[str]:
    run(folder, GOOD)
    (folder / "s.toml").write_text(text)
    more = ["--out", "out/bench", "--runs", "out/runs", "--store", "out/store"]
    return ["bench", "s.toml", "--plan", *more]


def _text(text: str, said: str) -> tuple[Callable[[Path], list[str]], str]:
    return partial(run, text=text), said


def _sparse(folder: Path) -> list[str]:
    # a file that claims a terabyte and takes no room
    arguments = run(folder, GOOD)
    big = next((folder / "data").iterdir()) / "big.png"
    big.touch()
    os.truncate(big, 2**40)
    return arguments


def _network(plugin: str, options: str) -> str:
    return GOOD + f'[generator]\nclasses = ["a"]\nplugin = "{plugin}"\noptions = {{ {options} }}\n'


_HEX = "0x" + "f" * 9000
_GRID = "\n".join(f'"classifier.train.k{i}" = {list(range(30))}' for i in range(9))
_CASES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "recipe of no byte": _text("", "missing"),
    "recipe that is no TOML": _text("\x00\x01", "cannot be read"),
    "recipe of UTF-16": (partial(run, text=GOOD.encode("utf-16")), "cannot be read"),
    "recipe of 2 MB": _text(GOOD + "#" * 2**21, "bytes"),
    "recipe that is a pipe": (partial(_thing, make=os.mkfifo), "not a regular file"),
    "recipe that is a folder": (partial(_thing, make=Path.mkdir), "is a folder"),
    "recipe that is a device": (
        partial(_thing, make=lambda p: p.symlink_to("/dev/zero")),
        "not a regular file",
    ),
    "key of 100,000 parts": _text("a." * 100_000 + "a = 1", "parts"),
    "key of 100,000 quoted parts": _text('"a" . ' * 100_000 + "a = 1", "parts"),
    "lists 100,000 deep": _text("x = " + "[" * 100_000 + "]" * 100_000, "deep"),
    "tables 40 deep": _text("x = " + "{a = " * 40 + "1" + "}" * 40, "deep"),
    "number of 100,000 digits": _text("seed = " + "9" * 100_000, "cannot be read"),
    "seed of 10**30": _text(f"seed = {10**30}\n" + GOOD, "seed"),
    "seed of 9,000 hexadecimal digits": _text(f"seed = {_HEX}\n" + GOOD, "seed: .*64 bits"),
    "seed of 2**63": _text(f"seed = {2**63}\n" + GOOD, "seed: .*64 bits"),
    "option of 9,000 hexadecimal digits": _text(
        _network("ddpm", f"width = {_HEX}"), "width: .*64 bits"
    ),
    "list of 9,000 hexadecimal digits": _text(_network("ddpm", f"mults = [1, {_HEX}]"), "64 bits"),
    "override of 9,000 hexadecimal digits": (
        lambda f: run(f, GOOD, "-o", f"seed={_HEX}"),
        "seed: ",
    ),
    "generator of 10**9 channels": _text(_network("ddpm", f"width = {10**9}"), "width"),
    "generator of 10**9 widths": _text(_network("ddpm", f"mults = [{10**9}]"), "mults"),
    "generator of 10**9 blocks": _text(_network("ddpm", f"blocks = {10**9}"), "blocks"),
    "U-Net of 10**9 channels": _text(
        _network("diffusers_unet", f"channels = [{8 * 10**8}]"), "channels"
    ),
    "U-Net of 10**9 layers": _text(_network("diffusers_unet", f"layers = {10**9}"), "layers"),
    "pattern of 300 folders": _text(
        GOOD + f'options = {{ pattern = "{"**/*/" * 300}" }}', "pattern: .*200"
    ),
    "pattern of 30 folders": _text(
        GOOD + f'options = {{ pattern = "{"**/*/" * 30}*" }}', "pattern: .*'\\*\\*'"
    ),
    "data of a terabyte of nothing": (_sparse, ""),
    "size of 10**9": _text(_swap("size = 16", f"size = {10**9}"), "data.size"),
    "images of 10**30": _text(GOOD + f"[classifier]\ntrain = {{ images = {10**30} }}", "images"),
    "rate of NaN": _text(GOOD + "[classifier]\ntrain = { lr = nan }", "lr"),
    "rate of infinity": _text(GOOD + "[classifier]\ntrain = { lr = inf }", "lr"),
    "batch of 10**12": _text(GOOD + f"[classifier]\ntrain = {{ batch = {10**12} }}", "batch"),
    "mix of NaN": _text(GOOD + "[evaluate]\nprevalence = { a = nan }", "prevalence"),
    "name of a folder above": _text(_swap('"r"', '".."'), "name"),
    "name with a slash": _text(_swap('"r"', '"a/b"'), "name"),
    "name with a dash first": _text(_swap('"r"', '"-rf"'), "name"),
    "name of 300": _text(_swap('"r"', f'"{"n" * 300}"'), "name"),
    "name of a device": _text(_swap('"r"', '"CON"'), "device|every system"),
    "name with a line's end": _text(_swap('"r"', '"r\\n"'), "name"),
    "name that turns the order": _text(_swap('"r"', '"r\\u202Egnp"'), "name"),
    "arm that turns the order": _text(GOOD + '[[baselines]]\nname = "a\\u202E"', "U\\+202E"),
    "arm of no letter": _text(GOOD + '[[baselines]]\nname = " "', "baselines"),
    "class with a zero byte": _text(GOOD + 'classes = ["a\\u0000", "b"]', "control character"),
    "path with a zero byte": _text(_path('"a\\u0000b"'), "control character"),
    "path with a delete": _text(_path('"a\\u007fb"'), "control character"),
    "path that turns the order": _text(_path('"a\\u202Eb"'), "U\\+202E"),
    "path out of the folder": (_outside, "leaves the recipe's folder"),
    "path out and in again": _text(_path('"data/../../x"'), "leaves the recipe's folder"),
    "path of an address": _text(_path('"https://localhost/x"'), "an address"),
    "path of a file address": _text(_path('"file:///etc"'), "an address"),
    "path of a share": _text(_path("'\\\\server\\share'"), "a share"),
    "path of a share, slashed": _text(_path('"//server/share"'), "a share"),
    "path of a stream": _text(_path('"data:stream"'), "':'"),
    "path of a device": _text(_path('"data/NUL.png"'), "device"),
    "path of 5000": _text(_path(f'"{"a/" * 2500}"'), "longer"),
    "path of 300 in one": _text(_path(f'"{"a" * 300}"'), "nothing called|too long"),
    "path of a variable": _text(_path('"$HOME"'), "nothing called"),
    "path of a tilde": _text(_path('"~"'), "nothing called"),
    "path of a command": _text(_path('"$(touch guard/owned)"'), "nothing called"),
    "path of a pipe": (partial(_thing, make=os.mkfifo, text=_path('"thing"')), "not a regular"),
    "corrections of a pipe": (
        partial(_thing, make=os.mkfifo, text=GOOD + 'corrections = "thing"'),
        "not a regular",
    ),
    "extends of an address": _text('extends = "http://localhost/x.toml"', "an address"),
    "extends of an absolute path": _text('extends = "/etc/x.toml"', "absolute"),
    "extends of another file": _text('extends = "guard/secret.png"', "a .toml file"),
    "extends of a number": _text("extends = 7", "extends"),
    "extends in a ring": (_ring, "comes back to itself"),
    "extends 20 times": (partial(_chain, n=20), "one after the other"),
    "plugin of Python": _text(GOOD + '[classifier]\nplugin = "os:system"', "unknown 'os:system'"),
    "reader of Python": _text(_swap('"folder"', '"builtins.eval"'), "unknown 'builtins.eval'"),
    "plugins of a file": _text('plugins = ["/tmp/evil.py"]\n' + GOOD, "not loaded"),
    "plugins of an address": _text('plugins = ["x @ https://localhost/x"]\n' + GOOD, "plugins"),
    "options of a table": _text(GOOD + "options = { pattern = { a = 1 } }", "pattern"),
    "options of a date": _text(GOOD + "options = { pattern = 1979-05-27 }", "pattern"),
    "override of 50 parts": (
        lambda f: run(f, GOOD, "-o", "a." * 50 + "a=1"),
        "parts",
    ),
    "override of no table": (lambda f: run(f, GOOD, "-o", "name.x=1"), "not a table"),
    "override of depth": (
        lambda f: run(f, GOOD, "-o", "name=" + "[" * 5000 + "]" * 5000),
        "name",
    ),
    "suite of an address": (partial(_suite, text='recipe = "http://x/r.toml"'), "an address"),
    "suite of an absolute path": (partial(_suite, text='recipe = "/x/r.toml"'), "absolute"),
    "suite of 30**9 runs": (partial(_suite, text=f'recipe = "r.toml"\n[grid]\n{_GRID}'), "runs"),
    "suite of a number": (partial(_suite, text='recipe = "r.toml"\ngrid = 7'), "grid"),
}


def cases() -> list[Case]:
    """Return the recipes and suites as cases."""
    return [Case(name, build, refused=said) for name, (build, said) in _CASES.items()]
