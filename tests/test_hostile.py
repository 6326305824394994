"""Files of strangers: none ends in a traceback, hangs, or writes outside the folder asked for."""

import csv
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

if sys.platform != "linux":
    pytest.skip("pipes, devices and limits of memory as Linux has them", allow_module_level=True)

from hostile import models, pictures, recipes, tables
from hostile.case import snapshot, tried
from test_counts_report import counted

import svpkit
from svpkit.cells import safe_table, safe_text, unsafe
from svpkit.errors import SvpkitError
from svpkit.ledger import put
from svpkit.ledger import read as read_ledger
from svpkit.readers.tables import read_table

ONE = [*tables.cases(), *recipes.cases(), *models.cases()]
# By default all pictures are tried together, in one command.
ALONE = pictures.cases()
# Quick ones of each kind, in every suite.
QUICK = {case.name for case in [*ONE[::3], *recipes.cases()[::2]]}


def read_aside(folder):
    path = folder / "out" / "set" / "quarantine.csv"
    return list(csv.DictReader(path.read_text("utf-8").splitlines(True))) if path.is_file() else []


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "work"
    (folder / "guard").mkdir(parents=True)
    pictures.good(folder / "guard" / "secret.png")
    return folder


def check(case, place):
    arguments = case.build(place)
    before = snapshot(place, place / "out")
    code, said = tried(arguments, place)
    assert "Traceback" not in said and code in (0, 2), (code, said[-3000:])
    assert snapshot(place, place / "out") == before
    if case.refused:
        assert code == 2 and said.startswith("svpkit: ") and said.count("\n") == 1, (code, said)
        assert re.search(case.refused, said), said
        return
    assert code == 0, said
    rows = read_aside(place)
    said = "; ".join(f"{row['id']}: {row['reason']}" for row in rows)
    assert bool(rows) == bool(case.aside), said
    assert re.search(case.aside, said), said


def test_there_are_more_than_sixty_and_none_twice():
    names = [case.name for case in [*ONE, *ALONE]]
    assert len(names) == len(set(names)) > 150


def test_all_pictures_in_one_folder(place):
    arguments, reasons = pictures.together(place)
    before = snapshot(place, place / "out")
    code, said = tried(arguments, place)
    assert code == 0, said[-3000:]
    assert snapshot(place, place / "out") == before
    rows = {row["id"]: row["reason"] for row in read_aside(place)}
    assert set(rows) == {name for name, reason in reasons.items() if reason}
    for name, reason in rows.items():
        assert re.search(reasons[name], reason), (name, reason)
        assert str(place) not in reason


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow, id=case.name)
        for case in ONE
    ],
)
def test_hostile(case, place):
    check(case, place)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALONE, ids=[case.name for case in ALONE])
def test_hostile_pictures_one_by_one(case, place):
    check(case, place)


def test_tables_of_svpkit_are_read_back_unchanged(tmp_path):
    texts = ["=1+1", "+x", "-x", "@x", "'=x", "'x", "plain", "", "-1.5", "a,b", 'a"b', "ü"]
    numbers = np.linspace(-1, 1, len(texts))
    table = pd.DataFrame({"=id": texts, "n": numbers, "same": pd.Categorical(texts)})
    safe_table(table).to_csv(tmp_path / "t.csv", index=False)
    raw = list(csv.reader((tmp_path / "t.csv").read_text("utf-8").splitlines()))
    assert raw[0] == ["'=id", "n", "same"]
    assert all(row[0][:1] not in tuple("=+-@") for row in raw if row[0])
    assert [float(row[1]) for row in raw[1:]] == numbers.tolist()
    found = read_table(tmp_path / "t.csv")
    assert found["same"].tolist() == texts
    assert [unsafe(safe_text(text)) for text in texts] == texts
    assert [safe_text(text) for text in ("-1.5", "-inf", "+2e3", "-1+1")] == [
        *("-1.5", "'-inf", "+2e3", "'-1+1")
    ]


def test_results_of_suites_hold_no_formula(tmp_path):
    row = {"suite": "s", "arm": "=cmd|' /C calc'!A1", "digest": "d", "test.x": -0.25, "error": "@x"}
    put(tmp_path / "results.csv", row, tmp_path / "lock")
    put(tmp_path / "results.csv", {**row, "digest": "e"}, tmp_path / "lock")
    raw = (tmp_path / "results.csv").read_text()
    assert "'=cmd" in raw and "'@x" in raw and ",-0.25," in raw
    found = read_ledger(tmp_path / "results.csv")
    assert found["d"] == {k: str(v) for k, v in row.items()}


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_a_table_that_is_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(SvpkitError, match="not a regular file"):
        read_table(tmp_path / name)


PAGES = sorted((Path(svpkit.__file__).parent / "report").glob("*.html.j2"))
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_ask_for_nothing_and_let_nothing_run(path):
    text = path.read_text("utf-8")
    assert "<html" not in text or f'http-equiv="Content-Security-Policy" content="{POLICY}' in text
    # an empty icon, so that no browser asks for one
    text = text.replace('<link rel="icon" href="data:,">', "")
    assert not re.search(r"<(script|iframe|object|embed|form|link|base)\b|javascript:", text)
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?\s*(https?:)?//", text)
    marked = re.findall(r"{{([^}]*)\|\s*safe\s*}}", text)
    # colours and fonts of our own
    assert {each.strip() for each in marked} <= {"tokens(false)", "tokens(true)", "font"}


NAMES = ('<script>alert("1")</script>', "$x^{2$", "a\x07\x1bb", "\u202egnp", "' onload='x")


def test_counts_of_hostile_names_are_shown_and_not_obeyed():
    from svpkit.report.counts import render

    page = render(counted({"run": NAMES[0], "source": NAMES[4]}, classes=NAMES))
    seen = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: seen.extend([tag, *(name for name, _ in attrs)])
    parser.feed(page)
    assert "td" in seen and not {"script", "onload"} & set(seen)
    assert "&lt;script&gt;" in page
