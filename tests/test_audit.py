"""Label errors: found out of fold, corrected by a person, applied with a record."""

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

import svpkit
from svpkit import ParticleSet, SvpkitError, audit, keep, plugins
from svpkit.audit import Asked, table
from svpkit.cells import safe, unsafe
from svpkit.cli import cli
from svpkit.evaluate.audit import probable_errors
from svpkit.particles import corrections
from svpkit.particles.corrections import Correction
from svpkit.particles.folds import deal
from svpkit.particles.split import Split, split
from svpkit.store import Artifact, plain

CLASSES = ("bar", "disc", "ring")
PLUGIN = """
import numpy as np
from svpkit import hookimpl
from test_audit import Logistic

@hookimpl
def register_classifiers(register):
    register("logistic", logistic)

def logistic(spec, *, broken_at: int = -1):
    return Logistic(broken_at)
"""


class Logistic:
    """A classifier that is no network: quick, and it counts how often it was fitted."""

    fits, stop_at = 0, None

    def __init__(self, broken_at):
        self.arrays = {}

    @staticmethod
    def described(images):
        x = np.asarray(images, float)[:, 0] - 170
        return np.stack([x.mean((1, 2)), x.std((1, 2)), np.abs(x).mean((1, 2))], 1) / 8

    def fit(self, particles, seed):
        if type(self).fits == type(self).stop_at:
            raise KeyboardInterrupt
        type(self).fits += 1
        model = LogisticRegression(C=10, max_iter=5000)
        found = model.fit(self.described(particles.images()), particles.labels)
        self.arrays = {"weights": found.coef_, "bias": found.intercept_}

    def predict_proba(self, images):
        logits = self.described(images) @ self.arrays["weights"].T + self.arrays["bias"]
        each = np.exp(logits - logits.max(1, keepdims=True))
        return each / each.sum(1, keepdims=True)

    def state(self):
        return self.arrays

    def load_state(self, arrays):
        self.arrays = arrays


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A toy data set with six rings called discs in the data and one in the test set."""
    folder = tmp_path_factory.mktemp("audit")
    toy.write_folder(folder / "data", {"disc": 90, "ring": 60, "bar": 60})
    toy.write_folder(folder / "test", {"disc": 30, "ring": 20, "bar": 20}, seed=1)
    for k, i in enumerate(range(90, 96)):
        name = "=ring.png" if k == 0 else f"ring-{i}<b>.png"
        (folder / "data" / "ring" / f"ring-0-{i:05d}.png").rename(folder / "data" / "disc" / name)
    (folder / "test" / "ring" / "ring-1-00030.png").rename(folder / "test" / "disc" / "r.png")
    (folder / "plugin.py").write_text(PLUGIN)
    return folder


@pytest.fixture(scope="module")
def registry(place):
    return plugins.discover(files=[place / "plugin.py"], builtin_only=True)


def recipe(place, **data):
    given = {"reader": "folder", "path": str(place / "data"), "size": 16, "val": 0.2}
    given["test"] = {"reader": "folder", "path": str(place / "test")}
    return {
        "name": "toy",
        "data": given | data,
        "balance": {"strategies": ["oversample", "prior_correction"]},
        "classifier": {"plugin": "logistic"},
        "evaluate": {"replicates": 100, "prevalence": {"disc": 1, "ring": 1, "bar": 1}},
    }


@pytest.fixture(scope="module")
def run(place, registry):
    given = {"runs": place / "runs", "store": place / "store", "registry": registry}
    return svpkit.run(recipe(place), **given)


@pytest.fixture(scope="module")
def found(run, registry):
    return audit.audit(Asked(run.folder), registry)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_planted_errors_are_found_out_of_fold(found, run):
    own = found.flagged[found.flagged["set"] != "test"]
    planted = [name for name in own["id"] if "ring" in Path(name).name and "disc/" in name]
    assert len(planted) >= 5 and len(own) <= 9
    best = own.iloc[0]
    assert best["label"] == "disc" and best["suggested"] == "ring" and best["p_suggested"] > 0.5
    assert own["quality"].is_monotonic_increasing
    # of the test set the flip is reported too, after what can be corrected
    assert "disc/r.png" in set(found.flagged.loc[found.flagged["set"] == "test", "id"])
    assert (found.flagged["set"] == "test").is_monotonic_increasing
    rows = rows_of(found.folder / "corrections.csv")
    assert list(rows[0]) == list(audit.COLUMNS) and {row["corrected"] for row in rows} == {""}
    assert [row["id"] for row in rows] == found.flagged["id"].tolist()


def test_no_model_is_asked_of_what_it_learned_from(found, run):
    store = run.folder / json.loads((run.folder / "run.json").read_text())["store"]
    record = json.loads((found.folder / "audit.json").read_text())
    folds = [store / name for name in record["artifacts"] if name.startswith("fold-")]
    assert len(folds) == 5
    held = [np.load(folder / "val.npy") for folder in folds]
    for folder, out in zip(folds, held, strict=True):
        kept = Split.open(folder)
        assert not kept.choose_on_val
        assert not set(np.load(folder / "train.npy")) & set(out)
        assert min(kept.val().counts.values()) >= 10
    everything = np.sort(np.concatenate(held))
    np.testing.assert_array_equal(everything, np.arange(210))


def test_the_page_is_one_file_and_shows_names_as_text(found):
    page = (found.folder / "audit.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)|<script|https?://", page)
    assert page.count("data:image/png") >= len(found.flagged[found.flagged["set"] != "test"])
    assert "<b>.png" not in page and "&lt;b&gt;.png" in page
    assert "labelled disc, looks like ring" in page and "never corrected" in page


def test_the_command_reads_the_store_the_second_time(found, run, place):
    fits = Logistic.fits
    before = (found.folder / "corrections.csv").read_bytes()
    command = ["--plugin", str(place / "plugin.py"), "--no-plugins", "audit", "toy"]
    done = CliRunner().invoke(cli, [*command, "--runs", str(place / "runs")])
    assert done.exit_code == 0, done.output
    assert "Logistic" not in done.output and "disc" in done.output and "ring" in done.output
    assert "corrections.csv" in done.output and "audit.html" in done.output
    assert (found.folder / "corrections.csv").read_bytes() == before
    assert Logistic.fits == fits
    assert table(found).row_count


def test_clearing_the_store_spares_what_audits_made(found, run, place, registry, tmp_path):
    made = set(json.loads((found.folder / "audit.json").read_text())["artifacts"])
    other = Asked(run.folder, folds=2, out=tmp_path / "other")
    audit.audit(other, registry)
    made |= set(json.loads((other.folder / "audit.json").read_text())["artifacts"])
    # the run again, with all of it in the store: it names its own artifacts anew
    given = {"runs": place / "runs", "store": place / "store", "registry": registry}
    svpkit.run(recipe(place), **given)
    assert made <= set(keep.named(place / "runs"))
    assert keep.named(place / "runs")[min(made)] == ["toy"]
    assert not made & {path.name for path, _ in keep.unnamed(place / "store", place / "runs")}
    # the same folder written anew stands on other artifacts, and no longer on those before
    for names in (["fold-a"], ["fold-b"]):
        keep.note_audit(tmp_path, tmp_path / "out", names, done=False)
    assert {"fold-a", "fold-b"} <= set(keep.named(tmp_path.parent))
    keep.note_audit(tmp_path, tmp_path / "out", ["fold-b"], done=True)
    assert "fold-a" not in keep.named(tmp_path.parent)


def test_folds_learn_without_drawn_particles(place, registry, tmp_path):
    from svpkit import api

    more = {"generator": {"plugin": "copy", "classes": ["ring"]}}
    drawing = recipe(place) | more | {"balance": {"strategies": ["synthetic", "oversample"]}}
    bound = api.experiment(drawing, registry=registry)
    asked = []

    def note(function, params, *inputs, label):
        asked.append((function.__name__, params, inputs))
        return Artifact(function.__name__, "0", tmp_path, label)

    assert len(audit._scored(bound, Artifact("split", "0", tmp_path), 4, note)) == 4
    learned = [(params, inputs) for name, params, inputs in asked if name == "classifier"]
    assert len(asked) == 12 and all(len(inputs) == 1 for _, inputs in learned)
    assert [use.plugin.name for use in learned[0][0]["strategies"]] == ["oversample"]


def test_folds_learn_without_strategies_that_choose_on_val(place, registry, found):
    from svpkit import api

    def judged(strategy):
        balance = {"strategies": ["oversample", "tau_norm"], "tau_norm": strategy}
        bound = api.experiment(recipe(place) | {"balance": balance}, registry=registry)
        asked = {}

        def note(function, params, *inputs, label):
            asked[function.__name__] = [use.plugin.name for use in params.get("strategies", ())]
            return Artifact(function.__name__, "0", place, label)

        audit._scored(bound, Artifact("split", "0", place), 2, note)
        assert asked["classifier"] == asked["score"]
        return asked["score"], audit._judging(bound)[1]

    names, without = judged({})
    assert names == ["oversample"] and list(without) == ["tau_norm"]
    # a value that the recipe gives chooses nothing
    assert judged({"tau": 1.0}) == (["oversample", "tau_norm"], {})
    assert json.loads((found.folder / "audit.json").read_text())["without"] == {}
    assert "without" not in str(table(found).caption)
    said = str(table(replace(found, without=without)).caption)
    assert "judged without tau_norm (val is judged, and may not choose)" in said


def test_images_shorten_the_training_of_a_fold(run, registry):
    record = json.loads((run.folder / "run.json").read_text())
    short = audit._experiment(Asked(run.folder, images=7), record, registry)
    assert short.recipe.classifier.train.images == 7
    whole = audit._experiment(Asked(run.folder), record, registry)
    assert whole.recipe.model_dump(mode="json") == record["recipe"]


def test_a_killed_audit_goes_on_where_it_was(run, place, registry, tmp_path, monkeypatch):
    asked = Asked(run.folder, folds=3, out=tmp_path / "out")
    monkeypatch.setattr(Logistic, "fits", 0)
    monkeypatch.setattr(Logistic, "stop_at", 2)
    with pytest.raises(KeyboardInterrupt):
        audit.audit(asked, registry)
    monkeypatch.setattr(Logistic, "stop_at", None)
    audit.audit(asked, registry)
    assert Logistic.fits == 3 and (tmp_path / "out" / "audit.html").is_file()
    # what a person wrote is never lost
    path = tmp_path / "out" / "corrections.csv"
    edited = path.read_text() + "\n"
    path.write_text(edited)
    with pytest.raises(SvpkitError, match="changed since it was written.*--out"):
        audit.audit(asked, registry)
    assert path.read_text() == edited


@pytest.mark.parametrize("at", ["write_page", "write_json", "rename"])
def test_an_audit_cut_off_while_writing_is_taken_up(run, registry, tmp_path, monkeypatch, at):
    asked = Asked(run.folder, folds=2, out=tmp_path / "out")
    audit.audit(asked, registry)
    rows = rows_of(tmp_path / "out" / "corrections.csv")

    def cut(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # this time with other rows to write
        patch.setattr(audit, "COLUMNS", audit.COLUMNS[:-1])
        patch.setattr(*((Path, "replace") if at == "rename" else (audit, at)), _after(at, cut))
        with pytest.raises(KeyboardInterrupt):
            audit.audit(asked, registry)
    # what stands there is whole, and what was written before
    assert rows_of(tmp_path / "out" / "corrections.csv") == rows
    audit.audit(asked, registry)
    assert rows_of(tmp_path / "out" / "corrections.csv") == rows
    assert not list((tmp_path / "out").glob(".*"))


def _after(at, cut):
    """Cut off at once, or, where files are renamed, when the table's turn comes."""
    rename = Path.replace
    if at != "rename":
        return cut
    return lambda path, to: cut() if Path(to).name == "corrections.csv" else rename(path, to)


def test_only_pictures_that_the_page_shows_are_loaded(found, run, monkeypatch):
    record = json.loads((run.folder / "run.json").read_text())
    split = Split.open(run.folder / record["store"] / record["artifacts"]["split"]["name"])
    positions = np.load(split.folder / "train.npy")[:80]
    rows = pd.DataFrame({"position": positions, "set": "train", "label": "disc"})
    rows["suggested"] = ["ring"] * 60 + ["bar"] * 20
    asked = []
    images = ParticleSet.images
    note = lambda self, index: asked.append(len(index)) or images(self, index)  # noqa: E731
    monkeypatch.setattr(ParticleSet, "images", note)
    made = audit._pictures(rows, Artifact("split", "0", split.folder), [])
    assert asked == [68] and sorted(made) == [*range(48), *range(60, 80)]
    np.testing.assert_array_equal(made[79], images(split.train(), [79])[0])


def test_what_cannot_be_audited_is_said_in_one_line(run, registry, tmp_path, monkeypatch):
    with pytest.raises(SvpkitError, match="not in this store"):
        audit.audit(Asked(run.folder, store=tmp_path, out=tmp_path / "out"), registry)
    with pytest.raises(SvpkitError, match="300 folds: .* would be empty"):
        audit.audit(Asked(run.folder, folds=300, out=tmp_path / "out"), registry)
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SvpkitError, match=r"pip install 'svpkit\[audit\]'"):
        audit.audit(Asked(run.folder, out=tmp_path / "out"), registry)


def test_corrections_change_train_and_val_and_never_the_test(found, run, place, registry):
    path = place / "corrections.csv"
    rows = rows_of(found.folder / "corrections.csv")
    for row in rows:
        row["corrected"] = row["suggested"] if row["label"] == "disc" else row["label"]
    columns = list(audit.COLUMNS)
    # as a spreadsheet of another country saves it
    text = "\n".join(
        ";".join([*(row[c] for c in columns)])
        for row in [dict(zip(columns, columns, strict=True)), *rows]
    )
    path.write_text("\ufeff" + text + "\n", encoding="utf-8")
    given = {"runs": place / "runs", "store": place / "store", "registry": registry}
    again = svpkit.run(recipe(place, corrections=str(path)) | {"name": "mended"}, **given)
    before, after = (json.loads((r.folder / "run.json").read_text()) for r in (run, again))
    assert before["data"]["test"] == after["data"]["test"]
    assert "corrections" not in before
    said = after["corrections"]
    own = [row for row in rows if row["set"] != "test"]
    changed = [row for row in own if row["corrected"] != row["label"]]
    assert sum(each["n"] for each in said["applied"]) == len(changed) >= 5
    assert said["counts"]["test: reported, not applied"] == len(rows) - len(own) >= 1
    assert said["files"][0]["name"] == "corrections.csv" and len(said["files"][0]["digest"]) == 64
    old, new = (
        Split.open(place / "store" / r["artifacts"]["split"]["name"]) for r in (before, after)
    )
    labels = {
        r: pd.concat([s.train().table, s.val().table]).set_index("id")["label"].astype(str)
        for r, s in (("old", old), ("new", new))
    }
    assert set(labels["old"].index) == set(labels["new"].index)
    moved = {k for k in labels["old"].index if labels["old"][k] != labels["new"][k]}
    assert moved == {unsafe(row["id"]) for row in changed}
    assert new.counts["test"] == old.counts["test"]
    np.testing.assert_array_equal(*(np.load(s.folder / "val.npy") for s in (old, new)))
    page = (again.folder / "report.html").read_text()
    assert "Labels corrected in train and val" in page and "disc to ring" in page
    # looked at again, what was corrected is no longer in doubt
    doubted = audit.audit(Asked(again.folder), registry).flagged
    assert not moved & set(doubted.loc[doubted["label"] == "disc", "id"])
    # the test's error stays what it was: reported on
    assert (again.predictions.set_index("id")["label"]["disc/r.png"]) == "disc"


def particles(n=30, **columns):
    images = np.random.default_rng(0).integers(0, 256, (3 * n, 1, 8, 8), np.uint8)
    return ParticleSet.from_arrays(images, list(CLASSES) * n, CLASSES, **columns)


def made(tmp_path, text, *, own_test=None, **params):
    """Split a set of 90 with a corrections file, and return the split."""
    tmp_path.mkdir(exist_ok=True)
    for name, each in (("ingest-data", particles()), ("ingest-test", own_test)):
        if each is not None and not (tmp_path / name).is_dir():
            each.save(tmp_path / name)
    paths = []
    for i, each in enumerate([text] if isinstance(text, str) else text):
        (tmp_path / f"c{i}.csv").write_text(each)
        paths.append(tmp_path / f"c{i}.csv")
    asked = {"seed": 0, "group": None, "val": 0.2, "test": 0.2, "train": None, **params}
    rows = {"corrections": corrections.filled(paths)} if paths else {}
    out = tmp_path / f"split-{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    inputs = [tmp_path / "ingest-data", *([tmp_path / "ingest-test"] if own_test else [])]
    split(out, asked | rows, *inputs)
    return Split.open(out)


HEAD = "id,set,label,corrected\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,label\nx,disc\n", "c0.csv: column 'corrected' is missing (columns: id, label)"),
        (HEAD + "particle-000000,,bar,dics\n", "line 2: corrected: unknown 'dics'; did you mean"),
        (HEAD + "particle-0,,bar,disc\n", "no particle has the id 'particle-0'; did you mean"),
        (HEAD + "particle-000000,,ring,disc\n", "is labelled 'bar', the file says 'ring'"),
        (HEAD + 2 * "particle-000000,,bar,disc\n", "line 3: id 'particle-000000' is corrected twi"),
        (HEAD + '"a', "no CSV in UTF-8 to read"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(tmp_path, text, said):
    with pytest.raises(SvpkitError, match=re.escape(said)) as error:
        made(tmp_path, text)
    assert str(error.value).startswith("data.corrections: c0.csv") and "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "c.csv").write_bytes(b"id,label,corrected\n\xff\xfe,bar,disc\n")
    with pytest.raises(SvpkitError, match="no CSV in UTF-8"):
        corrections.filled([tmp_path / "c.csv"])


def test_rows_of_test_particles_are_reported_and_not_applied(tmp_path):
    plain = made(tmp_path, [])
    everything = particles().table
    held = np.load(plain.folder / "test.npy")
    free = np.load(plain.folder / "train.npy")
    rows = [f"{everything['id'][i]},,{everything['label'][i]},ring" for i in (held[0], free[0])]
    rows.append(f"{everything['id'][free[1]]},,{everything['label'][free[1]]},")
    found = made(tmp_path, HEAD + "\n".join(rows))
    for name in ("train", "val", "test"):
        np.testing.assert_array_equal(
            np.load(plain.folder / f"{name}.npy"), np.load(found.folder / f"{name}.npy")
        )
    assert found.record["sets"]["test"] == plain.record["sets"]["test"]
    fates = {row["position"]: row["what"] for row in found.record["corrections"]["rows"]}
    # a row whose `corrected` is empty says nothing
    assert set(fates) == {held[0], free[0]}
    assert fates[held[0]] == "test: reported, not applied"
    assert str(found.train().table["label"][0]) == "ring"
    assert "corrections" not in plain.record


def test_counts_to_train_on_are_drawn_by_the_corrected_labels(tmp_path):
    plain = made(tmp_path, [])
    there = plain.train().of("ring").table["id"].tolist()
    rows = [f"{name},train,ring,bar" for name in there[:5]]
    n = len(there)
    with pytest.raises(SvpkitError, match=f"data.train.ring: asked {n}, only {n - 5} there"):
        made(tmp_path, HEAD + "\n".join(rows), train={"ring": n})
    found = made(tmp_path, HEAD + "\n".join(rows), train={"ring": n - 5})
    assert found.counts["train"]["ring"] == n - 5
    assert found.counts["train"]["bar"] == plain.counts["train"]["bar"] + 5
    assert found.train().digest == found.record["sets"]["train"]["digest"]


def test_files_are_applied_one_after_the_other(tmp_path):
    name = made(tmp_path, []).train().of("bar").table["id"][0]
    first, then = (HEAD + f"{name},,{a},{b}\n" for a, b in (("bar", "disc"), ("disc", "ring")))
    found = made(tmp_path, [first, then])
    labels = found.train().table.set_index("id")["label"]
    assert labels[name] == "ring"
    with pytest.raises(SvpkitError, match="c0.csv, line 2.*is labelled 'bar', the file says"):
        made(tmp_path, [then, first])


def test_rows_that_are_not_applied_move_no_label(tmp_path):
    plain = made(tmp_path, [])
    table = particles().table.set_index("id")["label"].astype(str)
    held = table.index[np.load(plain.folder / "test.npy")[0]]
    # a test row filled in, and the next audit's file, which reads the label that is still there
    row = f"{held},{{}},{table[held]},{{}}\n"
    other = next(c for c in CLASSES if c != table[held])
    for stated in ("", "test"):
        files = [HEAD + row.format(stated, c) for c in (other, table[held])]
        said = made(tmp_path, files).record["corrections"]
        assert said["counts"]["test: reported, not applied"] == 2 and not said["applied"]
    # particles left out by the counts to train on move none either
    asked = {"train": {"ring": 5}}
    used = set(made(tmp_path, [], **asked).train().table["id"])
    spare = next(i for i in plain.train().of("ring").table["id"] if i not in used)
    files = [HEAD + f"{spare},,ring,{c}\n" for c in ("bar", "ring")]
    assert made(tmp_path, files, **asked).record["corrections"]["counts"][corrections.UNUSED] == 2
    # nor do those of a test set of its own
    images = 255 - particles().images()
    own = ParticleSet.from_arrays(images, list(CLASSES) * 30, CLASSES)
    files = [HEAD + f"particle-000000,test,bar,{c}\n" for c in ("disc", "ring")]
    said = made(tmp_path / "own", files, own_test=own, test=None).record["corrections"]
    assert said["counts"]["test: reported, not applied"] == 2
    # where a row is applied, the next must start from what it left
    name = plain.train().of("bar").table["id"][0]
    files = [HEAD + f"{name},train,bar,{c}\n" for c in ("disc", "ring")]
    with pytest.raises(SvpkitError, match="c1.csv, line 2.*is labelled 'disc', the file says 'ba"):
        made(tmp_path, files)


def test_rows_that_say_test_are_never_applied(tmp_path):
    name = made(tmp_path, []).train().of("bar").table["id"][0]
    found = made(tmp_path, HEAD + f"{name},test,bar,disc\n")
    assert found.train().table.set_index("id")["label"][name] == "bar"
    assert found.record["corrections"]["counts"]["test: reported, not applied"] == 1


def test_an_id_in_both_sets_needs_the_column_that_tells(tmp_path):
    other = particles()
    other = replace(other, parts=tuple(255 - part for part in other.parts))
    other = ParticleSet.from_arrays(other.images(), list(CLASSES) * 30, CLASSES)
    row = "particle-000000,{},bar,disc\n"
    with pytest.raises(SvpkitError, match="the column 'set' must say which"):
        made(tmp_path, HEAD + row.format(""), own_test=other, test=None)
    tested = made(tmp_path, HEAD + row.format("test"), own_test=other, test=None)
    assert tested.record["corrections"]["counts"]["test: reported, not applied"] == 1
    trained = made(tmp_path, HEAD + row.format("train"), own_test=other, test=None)
    assert trained.record["corrections"]["applied"] == [{"from": "bar", "to": "disc", "n": 1}]
    assert trained.record["sets"]["test"] == tested.record["sets"]["test"]


def test_no_key_no_change_in_what_is_stored(place, registry, tmp_path):
    from svpkit import api
    from svpkit.plan import plan

    def rules(**data):
        bound = api.experiment(recipe(place, **data), registry=registry)
        return next(p.params for p in plan(bound, tmp_path) if p.artifact.stage == "split")

    assert "corrections" not in rules()
    # a file that nobody has filled in, or of test alone, is as none
    for text in ("", "a,train,disc,\n", "a,test,disc,ring\n"):
        (tmp_path / "c.csv").write_text(HEAD + text)
        assert "corrections" not in rules(corrections=[str(tmp_path / "c.csv")])
    with pytest.raises(SvpkitError, match="data.corrections: nothing called 'none.csv'"):
        rules(corrections="none.csv")


def test_what_is_stored_goes_by_the_rows_that_are_applied(tmp_path):
    def key(*texts):
        there = len(list(tmp_path.iterdir()))
        paths = [tmp_path / f"{there + i}.csv" for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text, encoding="utf-8")
        return plain({"corrections": corrections.filled(paths)})

    first = key(HEAD + "a,train,bar,disc\n'=b,val,bar,ring\n")
    assert first == {"corrections": [["a", "train", "bar", "disc"], ["=b", "val", "bar", "ring"]]}
    # renamed, saved anew elsewhere, with rows not filled in and rows of test
    text = "\ufeffset;id;label;corrected;quality\n\ntrain;a;bar; disc;1\nval;'=b;bar;ring;0\n"
    assert key(text + "train;c;bar;;1\ntest;d;bar;ring;1\n") == first
    assert key(HEAD + "a,train,bar,disc\n", HEAD + "'=b,val,bar,ring\n") == first
    # another label, another order, one row more
    for rows in ("a,train,bar,ring\n", "'=b,val,bar,ring\na,train,bar,disc\n"):
        assert key(HEAD + rows) != first
    assert key(HEAD + "a,train,bar,disc\n'=b,val,bar,ring\nc,train,bar,disc\n") != first


def test_cells_that_a_spreadsheet_would_run_are_marked(tmp_path):
    for text in ("=1+1", "+x", "-x", "@x", "\tx", "'x", "'=x", "'", "x'", "plain", ""):
        assert unsafe(safe(text)) == text
        assert not safe(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    corrections.write_rows(tmp_path / "c.csv", ["id", "label"], [{"id": "=a,\n", "label": '"'}])
    with (tmp_path / "c.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "label"], ["'=a,\n", '"']]


def test_folds_keep_groups_whole_and_classes_even():
    groups = [f"g{i % 23}" for i in range(240)]
    rng = np.random.default_rng(1)
    labels = rng.choice(CLASSES, 240, p=[0.6, 0.3, 0.1])
    found = ParticleSet.from_arrays(
        rng.integers(0, 256, (240, 1, 4, 4), np.uint8), list(labels), CLASSES, group=groups
    )
    units = np.arange(240) % 23
    dealt = deal(found, units, 4, 0)
    assert all(len(set(dealt[units == u])) == 1 for u in range(23))
    assert set(dealt) == {0, 1, 2, 3}
    np.testing.assert_array_equal(dealt, deal(found, units, 4, 0))
    assert (dealt != deal(found, units, 4, 1)).any()
    singles = deal(found, np.arange(240), 4, 0)
    for c in range(3):
        n = np.bincount(singles[found.labels == c], minlength=4)
        assert n.max() - n.min() <= 1
    with pytest.raises(SvpkitError, match="3 of.*|nothing would be left|would be empty"):
        deal(found, np.zeros(240, int), 4, 0)
    one = np.where(found.labels == 2, 0, 1 + np.arange(240))
    with pytest.raises(SvpkitError, match="all .* 'ring' are of one group"):
        deal(found, one, 4, 0)


def test_probable_errors_are_those_that_the_probabilities_speak_against():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    p = np.full((300, 3), 0.05)
    p[np.arange(300), true] = 0.9
    said = true.copy()
    said[:9] = (true[:9] + 1) % 3
    rows = pd.DataFrame(p, columns=[f"p_{c}" for c in CLASSES], dtype=np.float32)
    rows["label"] = [CLASSES[c] for c in said]
    found = probable_errors(rows, CLASSES)
    assert sorted(found.index) == list(range(9))
    assert [CLASSES.index(s) for s in found["suggested"]] == true[found.index].tolist()
    # the normalised margin: (p of the label - the highest other + 1) / 2
    np.testing.assert_allclose(found["quality"], (0.05 - 0.9 + 1) / 2, atol=1e-6)
    clean = rows.assign(label=[CLASSES[c] for c in true])
    assert probable_errors(clean, CLASSES).empty


def test_a_row_is_plain_values():
    asked = corrections.Filled(({"name": "c.csv", "digest": "0"},), ())
    said = corrections.recorded(asked, [Correction(3, "a", "bar", "disc", "line 2")], [3], [])
    row = {"position": 3, "id": "a", "label": "bar", "corrected": "disc", "what": "applied"}
    assert said["rows"] == [row] and json.loads(json.dumps(said)) == said
