"""What no code here may do: run what a file brings, ask a shell, or talk to the network."""

import ast
from pathlib import Path

import pytest

from svpkit.safe import load_arrays

REPO = Path(__file__).parents[1]
CODE = sorted(
    path
    for root in (REPO / "svpkit", *(REPO / "plugins").glob("svpkit-*/svpkit_*"))
    for path in root.rglob("*.py")
)
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml"}
MODULES |= {"requests", "urllib", "http", "httpx", "aiohttp", "ftplib", "smtplib", "socket"}
MODULES |= {"telnetlib", "xmlrpc", "huggingface_hub", "ctypes", "code", "codeop", "pty"}
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
DOTTED = {"os.system", "os.popen", "os.execv", "os.execve", "os.spawnv", "torch.load", "torch.save"}
DOTTED |= {"torch.hub.load", "pandas.read_pickle", "pd.read_pickle", "shutil.unpack_archive"}
DOTTED |= {"np.fromregex", "numpy.fromregex", "subprocess.getoutput", "torch.jit.load", "pd.eval"}
# Where something of this is, and why it may be.
ALLOWED = {
    ("svpkit/particles/cifar.py", "pickle"): "its reader of CIFAR calls nothing that a file names",
    ("svpkit/testing/watch.py", "pickle"): "the conformance kit stops it where a plugin tries",
    ("svpkit/launch.py", "socket"): "processes of one run meet at a local port",
    ("svpkit/launch.py", "ctypes"): "asks the kernel to end a process with the one that began it",
}


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def banned(tree):
    """Yield (line, what) of everything in a module that is not allowed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module or ""] if not node.level else []
        else:
            found = []
        heads = (name.split(".")[0] for name in found if name != "urllib.parse")
        yield from ((node.lineno, head) for head in heads if head in MODULES)
        if isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in called(node))


def called(node):
    name = dotted(node.func)
    given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
    if name in CALLS or name in DOTTED:
        yield name
    if given.get("shell"):
        yield "shell=True"
    if given.get("trust_remote_code"):
        yield "trust_remote_code=True"
    pickling = name in ("np.load", "numpy.load", "np.save", "numpy.save")
    if given.get("allow_pickle") or (pickling and given.get("allow_pickle") is not False):
        yield f"{name} without allow_pickle=False"
    if name in ("np.savez", "np.savez_compressed"):
        yield name


@pytest.mark.parametrize("path", CODE, ids=lambda p: p.relative_to(REPO).as_posix())
def test_no_code_runs_what_a_file_brings(path):
    name = path.relative_to(REPO).as_posix()
    found = banned(ast.parse(path.read_text(encoding="utf-8")))
    wrong = [f"{name}:{line}: {what}" for line, what in found if (name, what) not in ALLOWED]
    assert not wrong, wrong


def test_every_exception_is_needed():
    for name, what in ALLOWED:
        found = banned(ast.parse((REPO / name).read_text(encoding="utf-8")))
        assert what in {each for _, each in found}, (name, what)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import urllib.request",
        "eval('1')",
        "import torch\ntorch.load('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.savez('x', a=1)",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import os\nos.system('x')",
        "from yaml import load",
    ],
)
def test_the_lint_finds_what_is_planted(code):
    assert list(banned(ast.parse(code)))


def test_the_reader_of_cifar_finds_no_class_but_by_its_own_rule():
    code = (REPO / "svpkit/particles/cifar.py").read_text(encoding="utf-8")
    assert code.count("import pickle\n") == code.count("def find_class") == 1
    tree = ast.parse(code)
    used = {dotted(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} == {"pickle.Unpickler"}
    watch = ast.parse((REPO / "svpkit/testing/watch.py").read_text(encoding="utf-8"))
    calls = {dotted(n.func) for n in ast.walk(watch) if isinstance(n, ast.Call)}
    assert not {name for name in calls if name.startswith("pickle.")}


ENDINGS = {".safetensors", ".json", ".parquet", ".npy", ".png", ".html", ".md", ".csv", ".toml"}
ENDINGS |= {".jsonl", ".lock"}
# How files begin that hold code or other files: pickles of protocol 2 to 5, zip, gzip, ELF, HDF5.
MAGIC = (*(b"\x80" + bytes([n]) for n in range(2, 6)), b"PK\x03\x04", b"\x1f\x8b", b"\x7fELF")
MAGIC += (b"\x89HDF", b"(dp", b"cos\n")


def test_what_a_run_leaves_holds_no_code(run, place):
    files = [
        path
        for folder in (place / "store", place / "runs")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert len(files) > 50
    for path in files:
        assert path.suffix in ENDINGS, path
        with path.open("rb") as file:
            head = file.read(8)
        if path.suffix == ".safetensors":
            # the first eight bytes are the header's length: any number may stand there
            load_arrays(path)
            continue
        assert not head.startswith(MAGIC), (path, head)
        if path.suffix == ".npy":
            # objects in it would be a pickle
            assert b"'O'" not in path.read_bytes()[:200] and b"|O" not in path.read_bytes()[:200]
