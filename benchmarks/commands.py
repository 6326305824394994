"""How long the commands take as whole processes: help, lists, and a recipe cold and again.

    uv run python benchmarks/commands.py            # writes results/commands.csv

The quickstart runs in an empty folder; its results.json and report are copied beside the table.
"""

import csv
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHORT = {"svpkit --help": ["--help"], "svpkit plugins list": ["plugins", "list"]}


def timed(args, folder):
    """Return the seconds of one command; stops where it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "svpkit", *args], cwd=folder, check=True)
    return time.perf_counter() - started


def main():
    """Time the commands and write the table."""
    with tempfile.TemporaryDirectory() as place:
        rows = []
        for name, args in SHORT.items():
            times = [timed(args, place) for _ in range(6)][1:]
            rows.append([name, 5, f"{statistics.median(times):.2f}"])
        recipe = ["run", str(ROOT / "recipes" / "quickstart.toml")]
        rows.append(["svpkit run recipes/quickstart.toml (cold)", 1, f"{timed(recipe, place):.0f}"])
        again = [timed(recipe, place) for _ in range(3)]
        rows.append(["the same again", 3, f"{statistics.median(again):.1f}"])
        run = Path(place) / "runs" / "quickstart"
        shutil.copyfile(run / "results.json", RESULTS / "quickstart.json")
        shutil.copyfile(run / "report.html", Path(tempfile.gettempdir()) / "quickstart.html")
    with (RESULTS / "commands.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["command", "runs", "seconds (median)"], *rows])


if __name__ == "__main__":
    main()
