"""The store: made once, whole or absent, named by what went in."""

import pytest

from svpkit import keep
from svpkit.disk import file_digest
from svpkit.errors import SvpkitError
from svpkit.places import locate
from svpkit.plugin import Plugin
from svpkit.plugins import Use
from svpkit.store import Store, read_record, stage

CALLS = []


@stage(revision=1)
def leaf(out, params):
    CALLS.append("leaf")
    (out / "value.txt").write_text(str(params["x"]))
    if params.get("fail"):
        raise SvpkitError("planted")


@stage(revision=1)
def sum_up(out, params, *inputs):
    CALLS.append("sum")
    total = sum(int((i / "value.txt").read_text()) for i in inputs)
    (out / "value.txt").write_text(str(total))


@stage(revision=1, resumes=True)
def slow(out, params):
    done = out / "half.txt"
    if not done.exists():
        done.write_text("half")
        raise KeyboardInterrupt
    (out / "value.txt").write_text("whole")


@pytest.fixture(autouse=True)
def _forget():
    CALLS.clear()


def build(store, x=1):
    a = store.get(leaf, {"x": x}, label="a")
    b = store.get(leaf, {"x": 2}, label="b")
    return store.get(sum_up, {}, a, b, label="sum")


def test_an_artifact_is_made_once_and_shared(tmp_path):
    assert (build(Store(tmp_path)).path / "value.txt").read_text() == "3"
    again = Store(tmp_path)
    assert build(again).made and CALLS == ["leaf", "leaf", "sum"]
    assert [a.label for a in again.used] == ["a", "b", "sum"] and not again.made


def test_a_change_makes_what_depends_on_it_anew(tmp_path):
    first, second = build(Store(tmp_path)), build(Store(tmp_path), x=5)
    assert first.name != second.name and (second.path / "value.txt").read_text() == "7"
    assert CALLS == ["leaf", "leaf", "sum", "leaf", "sum"]


def test_a_revision_changes_the_key_and_code_does_not(tmp_path, monkeypatch):
    store = Store(tmp_path)
    before = store.name(leaf, {"x": 1})
    monkeypatch.setattr("svpkit.store.code_digest", lambda f: "other")
    assert store.name(leaf, {"x": 1}) == before
    monkeypatch.setattr(leaf, "revision", 2)
    assert store.name(leaf, {"x": 1}).name != before.name


def test_what_fails_leaves_nothing_complete(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(SvpkitError, match="planted"):
        store.get(leaf, {"x": 1, "fail": True})
    assert keep.artifacts(tmp_path) == []
    assert list((tmp_path / ".partial").glob("leaf-*/value.txt"))


def test_unfinished_work_resumes_or_starts_clean(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).get(slow, {})
    made = Store(tmp_path).get(slow, {})
    assert (made.path / "value.txt").read_text() == "whole"
    partial = tmp_path / ".partial" / Store(tmp_path).name(leaf, {"x": 9}).name
    partial.mkdir(parents=True)
    (partial / "stale.txt").write_text("old")
    assert not (Store(tmp_path).get(leaf, {"x": 9}).path / "stale.txt").exists()


def test_fresh_makes_a_stage_again_once_with_all_that_comes_from_it(tmp_path):
    build(Store(tmp_path))
    for fresh, calls in (("sum_up", ["sum"]), ("leaf", ["leaf", "leaf", "sum"])):
        CALLS.clear()
        store = Store(tmp_path, fresh=(fresh,))
        build(store)
        build(store)
        assert CALLS == calls


def test_an_interrupted_fresh_keeps_what_was_there(tmp_path):
    made = Store(tmp_path).get(leaf, {"x": 1})

    def stops(out, params):
        raise KeyboardInterrupt

    stops.__name__, stops.revision = "leaf", 1
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path, fresh=("leaf",)).get(stops, {"x": 1})
    assert (made.path / "value.txt").read_text() == "1"


def test_leftovers_of_an_interrupted_removal_do_not_stand_in_the_way(tmp_path):
    made = Store(tmp_path).get(leaf, {"x": 1})
    (made.path / "artifact.json").unlink()
    assert Store(tmp_path).get(leaf, {"x": 1}).made


def test_other_code_of_the_same_revision_is_noticed(tmp_path, monkeypatch):
    Store(tmp_path).get(leaf, {"x": 1})
    monkeypatch.setattr("svpkit.store.code_digest", lambda f: "other")
    store = Store(tmp_path)
    assert [a.stage for a in (store.get(leaf, {"x": 1}),)] == [a.stage for a in store.stale]


def test_the_record_holds_params_inputs_and_digests(tmp_path):
    made = build(Store(tmp_path))
    record = read_record(made.path)
    assert record["stage"] == "sum_up" and len(record["inputs"]) == 2
    assert set(record["files"]) == {"value.txt"}
    with pytest.raises(SvpkitError, match="not a complete artifact"):
        read_record(tmp_path / "nothing")


def test_listing_and_clearing_what_no_run_names(tmp_path):
    store, runs = Store(tmp_path / "store"), tmp_path / "runs"
    kept, lost = store.get(leaf, {"x": 1}), store.get(leaf, {"x": 2})
    with pytest.raises(SvpkitError, match="no folder of runs"):
        keep.unnamed(store.root, runs)
    keep.note_artifacts(runs / "one", [kept.name], done=True)
    keep.note_artifacts(runs / "one", [], done=False)
    table = keep.listing(store.root, runs).set_index("artifact")
    assert table.loc[kept.name, "runs"] == "one" and table.loc[lost.name, "runs"] == "-"
    found = keep.unnamed(store.root, runs)
    assert [path.name for path, _ in found] == [lost.name]
    keep.remove(store.root, [path for path, _ in found])
    assert [p.name for p in keep.artifacts(store.root)] == [kept.name]


@pytest.mark.parametrize("when", ["before", "while"])
@pytest.mark.parametrize("how", ["path", "option"])
def test_files_that_change_before_or_while_they_are_read_make_nothing(tmp_path, when, how):
    file = tmp_path / "data" / "a.txt"
    file.parent.mkdir()
    file.write_text("first")
    found = locate("data", [tmp_path], "data.path")
    plugin = Plugin("extractor", "mine", lambda weights: None, "here", "1", "file")
    params = {"given": found if how == "path" else [Use(plugin, {"weights": found})]}

    @stage(revision=1, resumes=True)
    def reads(out, params):
        CALLS.append("reads")
        (out / "value.txt").write_text(file.read_text())
        if when == "while":
            file.write_text("later")

    if when == "before":
        file.write_text("later")
    store = Store(tmp_path / "store")
    with pytest.raises(SvpkitError, match="data: changed before or while it was read") as said:
        store.get(reads, params)
    assert "\n" not in str(said.value)
    assert len(CALLS) == (when == "while") and keep.artifacts(store.root) == []
    assert not any(p.is_dir() for p in (store.root / ".partial").iterdir())
    file.write_text("first")
    when = "never"
    assert (Store(store.root).get(reads, params).path / "value.txt").read_text() == "first"


def test_an_artifact_is_digested_once_and_only_where_it_is_read(tmp_path, monkeypatch):
    digested = []
    monkeypatch.setattr("svpkit.store.file_digest", lambda p: digested.append(p) or file_digest(p))
    a = Store(tmp_path).get(leaf, {"x": 1})
    digested.clear()
    store = Store(tmp_path)
    store.name(sum_up, {}, store.name(leaf, {"x": 1}))
    a, b = store.get(leaf, {"x": 1}), store.get(leaf, {"x": 2})
    assert digested == [tmp_path / ".partial" / b.name / "value.txt"]
    for n in (1, 2, 3):
        store.get(sum_up, {"n": n}, a, b)
    store.check_used()
    assert [path.parent for path in digested].count(a.path) == 1
    assert b.path not in [path.parent for path in digested]


def test_what_lies_further_back_is_looked_at_too(tmp_path):
    store = Store(tmp_path)
    a = store.get(leaf, {"x": 1})
    middle = store.get(sum_up, {}, a)
    (a.path / "value.txt").write_text("7")
    CALLS.clear()
    again = Store(tmp_path)
    with pytest.raises(SvpkitError, match="value.txt: damaged.*--fresh leaf makes it again"):
        again.get(sum_up, {"n": 1}, again.get(sum_up, {}, a))
    assert CALLS == []
    with pytest.raises(SvpkitError, match="value.txt: damaged"):
        again.check_used()
    # what was cleared on the way is no fault
    keep.remove(tmp_path, [a.path])
    last = Store(tmp_path)
    assert last.get(sum_up, {"n": 1}, middle).made
    last.check_used()


def test_a_store_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SvpkitError, match="cannot write here"):
        Store(tmp_path / "file").get(leaf, {"x": 1})
