"""Files of strangers: none ends in a traceback, hangs, or writes outside the folder asked for."""

import csv
import hashlib
import json
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

from hostile import models, pictures, recipes, runs, tables
from hostile.case import snapshot, tried
from hypothesis import given
from hypothesis import strategies as st
from test_counts_report import counted

import svpkit
from svpkit.cells import safe, safe_table, safe_text, unsafe
from svpkit.drawn_index import real_of
from svpkit.errors import SvpkitError
from svpkit.ledger import put
from svpkit.ledger import read as read_ledger
from svpkit.particles.fitting import Fit
from svpkit.particles.ingest import Intake
from svpkit.particles.split import Split
from svpkit.places import path_digest
from svpkit.readers.tables import read_table

FILES = [*tables.cases(), *recipes.cases(), *models.cases()]
ONE = [*FILES, *runs.cases()]
# By default all pictures are tried together, in one command.
ALONE = pictures.cases()
# Quick ones of each kind, in every suite.
QUICK = {case.name for case in [*FILES[::3], *recipes.cases()[::2], *runs.cases()[::12]]}


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
    assert len(names) == len(set(names)) > 250


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


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
@pytest.mark.parametrize("before", ["", "a;", "a\t", "a\n", "a\r\n", ";", "1;2;"])
def test_no_formula_begins_where_spreadsheets_of_other_countries_part(sign, before, tmp_path):
    text = f'{before}{sign}HYPERLINK("http://x")'
    safe_table(pd.DataFrame({"n": [1], "text": [text]})).to_csv(tmp_path / "t.csv", index=False)
    raw = (tmp_path / "t.csv").read_text("utf-8")
    # whatever of these it is that parts the cells
    assert not any(cell.strip('"').startswith(sign) for cell in re.split("[,;\t\r\n]", raw))
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert [unsafe(row["text"]) for row in csv.DictReader(file)] == [text]
    assert read_table(tmp_path / "t.csv")["text"].tolist() == [text.strip()]


@given(st.text("a'=;-\uff1d\t\n\r@1", max_size=12))
def test_what_is_marked_is_unmarked(text):
    assert unsafe(safe(text)) == text
    assert not re.search("(^|[;\t\r\n])[=+@\uff1d-]", safe(text))


def test_digests_of_data_are_of_its_bytes_whatever_room_it_takes(tmp_path):
    small, full, holes = (tmp_path / name for name in ("small", "full", "holes"))
    small.write_bytes(b"x" * 5000)
    full.write_bytes(os.urandom(2**20) * 2)
    os.truncate(small, 2**24)
    for path in (small, full):
        # as it was before holes were looked for: keys of the data of before stay what they were
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole = f"{path.name}\x1f{content}\x1e".encode()
        assert path_digest(path) == hashlib.sha256(whole).hexdigest()
    seen = set()
    for at, size in ((0, 2**40), (2**39, 2**40), (2**39 + 2**20, 2**40), (2**39, 2**40 + 1)):
        holes.unlink(missing_ok=True)
        with holes.open("wb") as file:
            file.truncate(size)
            file.seek(at)
            file.write(b"x")
        seen.add(path_digest(holes))
        assert path_digest(holes) in seen
    assert len(seen) == 4


class Toy:
    """A plugin's reader that gives a class whatever name it is told to."""

    def read(self, path, *, label: str = "a"):
        for i in range(4):
            yield np.full((16, 16), i, np.uint8), {"id": f"{i}", "label": label}


@pytest.mark.parametrize("label", ["a\u200b", "a\nb", "\u202ea", "a\x1b[2J"])
def test_labels_of_any_reader_hold_nothing_hidden(label):
    intake = Intake(Fit(16, 1), None)
    assert len(list(intake.blocks(Toy().read(None)))) == 1
    with pytest.raises(SvpkitError, match="particle '0'.*holds the character U"):
        list(Intake(Fit(16, 1), None).blocks(Toy().read(None, label=label)))


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_a_table_that_is_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(SvpkitError, match="not a regular file"):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 100_000,
        b"[]",
        b"\xff",
        b'{"classes": 7}',
        b'{"data": "../x", "classes": [], "sets": {}}',
    ],
)
def test_a_split_of_a_stranger_is_one_line(raw, tmp_path):
    (tmp_path / "split.json").write_bytes(raw)
    with pytest.raises(SvpkitError, match="no split here") as error:
        Split.open(tmp_path)
    assert "\n" not in str(error.value)


def test_an_artifact_made_from_itself_ends(tmp_path):
    for name, made_from in (("a-0", "b-0"), ("b-0", "a-0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "artifact.json").write_text(json.dumps({"inputs": [made_from]}))
    assert real_of(tmp_path, tmp_path / "a-0") == []


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
