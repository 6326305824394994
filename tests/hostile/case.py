"""What a hostile input is, and the road on which it is tried: a command of its own process."""

import hashlib
import os
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

SECONDS = 60
# Address space beyond what the imported libraries take already.
MEMORY = 3 * 2**30


@dataclass(frozen=True)
class Case:
    """`build(folder)` writes the input and returns the command's arguments.

    It ends with 2 and one line that holds `refused`, or with 0, and then `aside` stands in the list
    of what was set aside; "" for both: it is read like any other.
    """

    name: str
    build: Callable[[Path], list[str]]
    refused: str = ""
    aside: str = ""


# Each case has a process of its own, forked from one that has imported the libraries and computed
# nothing: threads of sums do not survive a fork.
CHILDREN = get_context("forkserver")
CHILDREN.set_forkserver_preload(["svpkit.cli", "svpkit.predict", "svpkit.bench", "timm", "pandas"])


def tried(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run a command in a child process; returns its exit code and what it complained of.

    The code is -9 where it took too long, 99 where anything but an error of one line came out.
    """
    said = folder.with_name(f"{folder.name}.err")
    child = CHILDREN.Process(target=_child, args=(arguments, folder, said))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
    return child.exitcode or 0, said.read_text(errors="replace") if said.exists() else ""


def _child(arguments: list[str], folder: Path, said: Path) -> None:
    from svpkit import __main__

    code = 99
    try:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0), os.dup2(nothing, 1), os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        os.chdir(folder)
        sys.argv = ["svpkit", *arguments]
        __main__.main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def snapshot(root: Path, but: Path) -> dict[str, str]:
    """Return what lies below a folder, and in what state, but for one folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path != but and but not in path.parents:
            state = path.lstat()
            small = path.is_file() and not path.is_symlink() and state.st_size < 2**20
            content = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
            found[str(path)] = f"{state.st_mode} {state.st_size} {state.st_mtime_ns} {content}"
    return found
