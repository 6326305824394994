"""Write the tables of README.md and benchmarks/README.md from the files in benchmarks/results.

uv run python benchmarks/tables.py          # rewrite them
uv run python benchmarks/tables.py --check  # exit 1 when a page is not what the files say
"""

import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
MARK = re.compile(r"(<!-- table: ([\w.:-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    stale = False
    for page in PAGES:
        old = page.read_text()
        new = MARK.sub(lambda m: m[1] + table(m[2]) + "\n" + m[3], old)
        stale |= new != old
        if "--check" not in sys.argv:
            page.write_text(new)
    if stale and "--check" in sys.argv:
        sys.exit("tables are stale: python benchmarks/tables.py")


def table(name: str) -> str:
    """Return one table: of a CSV as it stands, or arms or fidelity of a run's results."""
    kind, _, file = name.rpartition(":")
    path = RESULTS / file
    if kind:
        return {"arms": arms, "fidelity": fidelity, "seconds": seconds}[kind](
            json.loads(path.read_text())
        )
    with path.open() as lines:
        head, *rows = csv.reader(lines)
    return markdown(head, rows)


def arms(results: dict) -> str:
    own = {results["name"]: {"test": results["test"]}}
    gaps = {d["against"]: d for d in results["differences"] if d["arm"] == results["name"]}
    rows = []
    for name, arm in {**own, **results["arms"]}.items():
        metrics = [cell(arm["test"][m]) for m in ("macro_auprc", "macro_precision", "macro_recall")]
        gap = cell(gaps[name]["macro_auprc"], "+") if name in gaps else "-"
        rows.append([name, *metrics, gap])
    head = ["arm", "macro AUPRC", "macro precision", "macro recall"]
    return markdown([*head, f"macro AUPRC, {results['name']} minus it"], rows)


def fidelity(results: dict) -> str:
    head = ["class", "KID", "floor: real to real", "ceiling: noise", "copies", "drawn", "real"]
    rows = []
    for name, found in results["fidelity"].items():
        kids = [cell(found.get(k)) for k in ("kid", "kid_floor", "kid_ceiling")]
        copies = f"{100 * found['copy_rate']:.1f} %"
        rows.append([name, *kids, copies, f"{found['n_drawn']:,}", f"{found['n_real']:,}"])
    return markdown(head, rows)


def seconds(results: dict) -> str:
    spent = results["seconds"]
    rows = [[name, f"{s:,.0f}"] for name, s in spent.items()]
    return markdown(["stage", "seconds"], [*rows, ["all", f"{sum(spent.values()):,.0f}"]])


def cell(found: dict | None, sign: str = "") -> str:
    if not found or found["value"] is None:
        return "-"
    return f"{found['value']:{sign}.3f} ({found['low']:{sign}.3f} to {found['high']:{sign}.3f})"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
