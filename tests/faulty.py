"""A stage that takes its time, for the tests of runs that meet or die."""

import time
from pathlib import Path

from svpkit.store import stage


@stage(revision=1)
def slow(out, params):
    """Write a value after the file `go` is there; `begun` says that it has begun."""
    (out / "half.txt").write_text("half")
    with Path("begun").open("a") as file:
        file.write("x")
    while not Path("go").exists():
        time.sleep(0.02)
    (out / "value.txt").write_text("whole")
