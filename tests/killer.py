"""Runs that can be killed at every write: a process that has all loaded forks one for each order.

Every write that commits something, and every named step of the work, is a point before, half way
through or after which the forked process kills itself by SIGKILL. The wrappers live here alone: the
program knows nothing of them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent


class Forks:
    """The side of the tests: starts processes of the server and waits for them."""

    def __init__(self):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen([sys.executable, __file__], env=env, **pipes)

    def ask(self, **order):
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, work, cwd, **more):
        """Begin `work` (a function of this file) in a folder; returns its process id."""
        return self.ask(work=work, cwd=str(cwd), **more)

    def wait(self, pid):
        """Return the exit code, -n where signal n ended it."""
        return self.ask(wait=pid)

    def run(self, work, cwd, **more):
        return self.wait(self.start(work, cwd, **more))

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


class Points:
    """The points that a process has passed, in a file; it dies at the one named `kill`."""

    def __init__(self, log, kill, count):
        self.log = open(log, "w") if log else None
        self.kill, self.seen, self.count = kill, Counter(), count
        self.here = os.getcwd() + "/"

    def at(self, when, what, path="", half=None):
        if self.count != os.getpid():
            return
        base = f"{when} {what} {str(path).replace(self.here, '')}"
        self.seen[base] += 1
        name = f"{base} #{self.seen[base]}"
        if self.log:
            print(name, file=self.log, flush=True)
        if name == self.kill:
            if half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, owner, name, what, path=lambda *a, **k: "", half=None):
        """Make a function of `owner` three points: before it, after half of it, after it."""
        before = getattr(owner, name)

        def call(*args, **more):
            where = path(*args, **more)
            self.at("before", what, where)
            found = before(*args, **more)
            if half:
                self.at("half", what, where, partial(half, *args, **more))
            self.at("after", what, where)
            return found

        setattr(owner, name, call)


def truncate(path):
    path = Path(path if isinstance(path, str | Path) else path.name)
    os.truncate(path, path.stat().st_size // 2)


def named(fd):
    return os.readlink(f"/proc/self/fd/{fd}")


def below(path, *, dir_fd=None):
    return f"{named(dir_fd)}/{path}" if dir_fd is not None else path


def halve(fd):
    with contextlib.suppress(OSError):  # a folder
        os.ftruncate(fd, os.fstat(fd).st_size // 2)


def watch(points):
    """Wrap all that writes, and the steps of the work that have a name."""
    import shutil

    import numpy as np
    import pandas as pd

    from svpkit import checkpoint, fit, reference
    from svpkit.classify import score
    from svpkit.generate import drawing

    points.wrap(os, "fsync", "fsync", named, halve)
    for name in ("replace", "rename"):
        points.wrap(os, name, name, lambda a, b: b)
    for name in ("unlink", "rmdir", "remove"):
        points.wrap(os, name, name, below)
    points.wrap(os, "mkdir", "mkdir", lambda path, *a, **k: path)
    at = {"path": lambda tensors, path: path, "half": lambda tensors, path: truncate(path)}
    points.wrap(checkpoint, "save_file", "save_file", **at)
    points.wrap(reference, "save_file", "save_file", **at)
    at = {"path": lambda a, *b, **k: a if isinstance(a, str | Path) else a.name}
    at |= {"half": lambda a, *b, **k: truncate(a)}
    points.wrap(np, "save", "np.save", **at)
    points.wrap(Path, "write_text", "write_text", **at)
    at = {"path": lambda a, b, *c, **k: b, "half": lambda a, b, *c, **k: truncate(b)}
    points.wrap(pd.DataFrame, "to_parquet", "to_parquet", **at)
    points.wrap(shutil, "copyfile", "copyfile", **at)
    points.wrap(fit._Training, "_step", "step")
    points.wrap(fit._Training, "_validate", "validate")
    points.wrap(drawing, "draw", "draw")
    points.wrap(score, "predictions", "predictions")


def small_fit(points=None, *, seconds=0.0, **more):
    """Train a small network into `out`; its weights and history go beside it when it ends."""
    import test_fit

    from svpkit import checkpoint, disk

    def loss(*args, **kept):
        time.sleep(seconds)
        return test_fit.loss(*args, **kept)

    plan = test_fit.plan(images=more.get("images", 120))
    task = test_fit.task(validations=2, loss=loss)
    model, history = test_fit.train(Path("out"), plan, task)
    checkpoint.save_tensors(Path("weights.safetensors"), model.state_dict())
    disk.write_json(Path("history.json"), history)


def slow_stage(points=None, *, seconds=0.0, fail=False):
    """Make one artifact slowly, in a store."""
    import faulty

    from svpkit.store import Store

    made = Store(Path("store")).get(faulty.slow, {}, label="slow")
    print("made", made.path.name, (made.path / "value.txt").read_text())


def command(points=None, *, argv):
    """Run a command line, as `svpkit ...` does."""
    from svpkit import __main__

    sys.argv = ["svpkit", *argv]
    __main__.main()


def child(order):
    os.chdir(order["cwd"])
    for stream, name in ((1, order.get("said", os.devnull)), (2, order.get("err", os.devnull))):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if limit := order.get("limit"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if order.get("log") or order.get("kill"):
        watch(Points(order.get("log"), order.get("kill"), os.getpid()))
    code = 0
    try:
        globals()[order["work"]](**order.get("args", {}))
    except SystemExit as done:
        code = done.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve():
    import test_fit  # noqa: F401 - loaded once, for all that are forked from here

    import svpkit.api
    import svpkit.classify.stage
    import svpkit.cli
    import svpkit.generate.stage
    import svpkit.record  # noqa: F401
    from svpkit import __main__  # noqa: F401

    # what libraries load when they are first used is loaded once too
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        small_fit()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            said = os.waitstatus_to_exitcode(status)
        else:
            said = os.fork()
            if not said:
                child(order)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    serve()
