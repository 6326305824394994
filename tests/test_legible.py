"""Names of strangers on pages and terminals: shown as text, obeyed by nothing."""

import base64
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from test_bench import TRIAL_OF_FOUR, made_up, simulated_scores
from test_counts_report import counted
from test_report import CLASSES, arm, fidelity, scores, story  # noqa: F401

from svpkit import SvpkitError, api
from svpkit.board import board
from svpkit.cli import cli
from svpkit.default_plugins.folder import FolderReader
from svpkit.legible import checked, hidden, legible
from svpkit.readers.labels import read_labels
from svpkit.report import audit, counts, trial
from svpkit.report.card import model_card
from svpkit.report.html import render
from svpkit.report.table import summary_table

HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=y>",
    "quotes": "\"' onload='x' style=\"color:red",
    "escapes": "a\x1b[2J\x07\x9b31mb\r\x00",
    "bidi": "\u202egnp.\u2066x\u200f\ufeff",
    "a template": "{{ 7 * 7 }}{% raw %}-->]]>&lt;b&gt;",
    "rich": "[bold red]x[/][link=http://localhost]y",
    "long": "n" * 20_000,
}
SVG = "data:image/svg+xml;base64,"


class Elements(HTMLParser):
    """How often each tag stands on a page with which attributes, and the text of it."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self.links = Counter(), [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found[tag, tuple(name for name, _ in attrs)] += 1
        self.text += [value for _, value in attrs if value]
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.text.append(data)


def three(name):
    return tuple(f"{name}{i}" for i in range(3))


def report(told, names):
    metrics = scores(0.9, classes=names)
    first, second, third = names
    gallery = dict(zip(names, told.gallery.values(), strict=True))
    return replace(
        told,
        recipe={**told.recipe, "name": first, "data": {"reader": "folder", "path": second}},
        sets={part: dict.fromkeys(names, 100) for part in ("train", "val", "test")},
        arms={first: arm(0.9, [third]) | {"metrics": metrics}, second: arm(0.8, [])},
        gallery=gallery,
        fidelity={first: fidelity(0.1)},
        errors=[{**told.errors[0], "label": first, "predicted": second, "id": third}],
        generators={first: {"history": [{"images": 1, "loss": 0.5}], "seconds": 3}},
        stages=[{**told.stages[0], "label": first, "stage": second, "key": third}],
        run={
            "commit": first,
            "datasheet": "DATASHEET.md",
            # no key may turn what stands beside it into a link
            "versions": {second: third, "datasheet": f"javascript:{first}"},
        },
    )


def audited(names, folder):
    first, second, third = names
    row = {"set": "train", "label": first, "suggested": second, "id": third, "group": first}
    row |= {"p_label": 0.1, "p_suggested": 0.9, "quality": 0.1, "source": second, "corrected": ""}
    flagged = pd.DataFrame([row, row | {"set": "test"}])
    looked = {part: dict.fromkeys(names, 9) for part in ("train", "val", "test")}
    record = {"run": first, "simulated": False, "folds": 2, "images": 9, "looked_at": looked}
    record |= {"flagged": {"train": 1, "test": 1}, "without": {second: third}}
    audit.write_page(folder / "a.html", record, flagged, {0: np.zeros((1, 8, 8), np.uint8)})
    made = audit.Audit(folder, flagged, looked, False, {second: third})
    return (folder / "a.html").read_text("utf-8"), audit.table(made)


def renamed(value, names):
    """Return a value with all of its texts that are in `names` replaced, keys too."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {renamed(k, names): renamed(v, names) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(renamed(v, names) for v in value)
    if is_dataclass(value):
        return replace(
            value, **{f.name: renamed(getattr(value, f.name), names) for f in fields(value)}
        )
    return value


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    found = board(made_up(tmp_path_factory.mktemp("suite"), TRIAL_OF_FOUR, simulated_scores))
    return replace(found, failed=[("a cell", "its error")], name="a suite")


def suite_of(suite, names):
    first, second, third = names
    known = {"none": first, "drawn": second, "oracle": third, "a suite": first}
    return renamed(suite, known | {"a cell": second, "its error": third, "50": second})


def printed(table):
    with (console := api.console()).capture() as text:
        console.print(table)
    return text.get()


def check(page, tame):
    found, wanted = Elements(page), Elements(tame)
    assert found.found == wanted.found
    assert all(link.startswith(("data:", "#", "DATASHEET.md")) for link in found.links)
    for link in found.links:
        if link.startswith(SVG):
            ElementTree.fromstring(base64.b64decode(link.removeprefix(SVG)))
    assert not hidden("".join(found.text).replace("\n", " ").replace("\t", " "))


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_pages_hold_the_elements_that_they_hold_with_tame_names(name, story, suite, tmp_path):  # noqa: F811
    names, tame = three(name), three("tame")
    check(render(report(story, names)), render(report(story, tame)))
    pages = (audited(each, tmp_path) for each in (names, tame))
    check(*(page for page, _ in pages))
    check(*(trial.render(suite_of(suite, each)) for each in (names, tame)))
    runs = ({"run": each[0], "source": each[1]} for each in (names, tame))
    check(*(counts.render(counted(r, classes=c)) for r, c in zip(runs, (names, tame), strict=True)))


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_the_terminal_is_given_no_orders(name, story, suite, tmp_path):  # noqa: F811
    names = three(name)
    tables = [summary_table(report(story, names)), audited(names, tmp_path)[1]]
    tables += [*trial.board_tables(suite_of(suite, names)), counts.table(counted({"run": name}))]
    tables.append(api.as_table(pd.DataFrame({name: [name]}), title=name))
    for table in tables:
        text = printed(table)
        assert not hidden(text.replace("\n", " ")) and "\x1b" not in text


def test_markup_in_a_cell_is_shown(tmp_path):
    assert "[bold red]x[/]" in printed(api.as_table(pd.DataFrame({"a": [HOSTILE["rich"]]}), "t"))


def test_the_card_holds_no_element(story):  # noqa: F811
    for name in HOSTILE.values():
        assert not {tag for tag, _ in Elements(model_card(report(story, three(name)))).found}


def test_what_is_seen_stays_as_it_is():
    for text in ("protein", "silicone oil", "Öl 5–10 µm", "粒子", "می\u200cخواهم", "a\u00a0b\n\tc"):
        assert legible(text) == text
    assert legible("a\x1b[2J\u202eb\x00") == r"a\x1b[2J\u202eb\x00"
    assert hidden("a\nb") == "U+000A" and hidden("a\udce9") == "" and hidden("粒子") == ""


@pytest.mark.parametrize("name", ["escapes", "bidi"])
def test_labels_that_cannot_be_shown_are_refused(name, tmp_path):
    label = HOSTILE[name].replace("\x00", "")
    with pytest.raises(SvpkitError, match="rename that class") as refused:
        checked(label, tmp_path)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 500
    (tmp_path / "labels.csv").write_text(f'id,label\n1,"{label}"\n', "utf-8", newline="")
    with pytest.raises(SvpkitError, match="rename that class"):
        read_labels(tmp_path / "labels.csv")


def test_class_folders_that_cannot_be_shown_are_refused_and_others_read(tmp_path):
    for label in ("tame", "粒子", "<b>&'\"", "a\x1b[2J"):
        (tmp_path / label).mkdir()
        Image.new("L", (8, 8), 128).save(tmp_path / label / "x.png")
    with pytest.raises(SvpkitError, match=r"holds the character U\+001B: rename"):
        list(FolderReader().read(tmp_path))
    known = ["tame", "粒子", "<b>&'\""]
    rows = [row for _, row in FolderReader().read(tmp_path, classes=known)]
    assert [row["label"] for row in rows] == known
    args = ["--no-plugins", "data", "import", str(tmp_path), str(tmp_path / "set")]
    done = CliRunner().invoke(cli, [*args, "--reader", "folder"])
    assert isinstance(done.exception, SvpkitError) and "\x1b" not in str(done.exception)
