"""`svpkit verify`, `log` and `crate` on a run: whole, then with each fault planted in a copy."""

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from click.testing import CliRunner
from rocrate.rocrate import ROCrate
from toy import write_folder

import svpkit
from svpkit import auditlog
from svpkit.cli import cli
from svpkit.crate import write_crate
from svpkit.disk import file_digest, write_json
from svpkit.errors import SvpkitError
from svpkit.recipe import validate
from svpkit.recounted import MOST
from svpkit.verify import FAILED, GONE, OK, verify

RECIPE = """
name = "mini"
[data]
reader = "folder"
path = "data"
size = 16
val = { disc = 20, ring = 20 }
test = { reader = "folder", path = "test" }
[balance]
strategies = ["none"]
[classifier]
options = { model = "resnet10t", width = 8, stem = "half" }
train = { images = 64, batch = 16, validations = 1 }
[evaluate]
prevalence = { disc = 100, ring = 1 }
replicates = 100
precision = 0.5
[[baselines]]
name = "weighted"
strategies = ["class_weights"]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two arms without a generator, as `svpkit run` leaves it."""
    place = tmp_path_factory.mktemp("verify")
    write_folder(place / "data", {"disc": 40, "ring": 30})
    write_folder(place / "test", {"disc": 30, "ring": 20}, seed=1)
    (place / "data" / "ring" / "broken.png").write_bytes(b"no picture")
    (place / "mini.toml").write_text(RECIPE)
    run = svpkit.run(
        place / "mini.toml", overrides=["seed=1"], runs=place / "runs", store=place / "store"
    )
    return run.folder


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the run, and of its store, to plant faults in."""
    shutil.copytree(made.parents[1] / "store", tmp_path / "store")
    return shutil.copytree(made, tmp_path / "runs" / "mini")


def store(run):
    return run.parents[1] / "store"


def artifact(run, label):
    said = json.loads((run / "run.json").read_text())
    return store(run) / said["artifacts"][label]["name"]


def failed(run):
    return {c.what: c.reason for c in verify(run, store(run)) if c.state == FAILED}


def flip(path, at=-100):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(path, change):
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said, indent=1))


def test_a_whole_run_passes_every_check(copied):
    found = verify(copied, store(copied))
    assert {c.state for c in found} == {OK}
    what = " ".join(c.what for c in found)
    for each in ("test of mini", "val of weighted", "differences", "chain", "model.safetensors"):
        assert each in what
    said = CliRunner().invoke(cli, ["verify", str(copied), "--store", str(store(copied))])
    assert said.exit_code == 0 and f"{len(found)} checks, 0 failed" in said.output


def test_run_json_says_all_that_the_numbers_come_from(made):
    said = json.loads((made / "run.json").read_text())
    assert said["recipe"]["seed"] == said["seed"] == 1 and said["overrides"] == ["seed=1"]
    assert said["recipe_digest"] == file_digest(made.parents[1] / "mini.toml")
    assert said["started"] <= said["ended"] and said["ended"].endswith("Z")
    assert said["environment"]["OMP_NUM_THREADS"] == "1"
    assert {"torch", "numpy", "scikit-learn", "pyarrow", "python"} <= set(said["versions"])
    assert said["device"]["threads"] and said["platform"]["machine"] and said["processes"] == 1
    assert said["dirty"] in (True, False, None)
    assert all(len(each["content"]) == 64 for each in said["artifacts"].values())
    assert set(said["files"]) >= {"results.json", "report.html", "model/model.safetensors"}


def test_no_host_nor_secret_is_recorded(monkeypatch):
    import platform

    from svpkit.surroundings import surroundings

    monkeypatch.setenv("SVPKIT_TOKEN", "hidden-value")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-value")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    said = json.dumps(surroundings())
    assert "hidden-value" not in said and '"OMP_NUM_THREADS": "7"' in said
    assert not platform.node() or json.dumps(platform.node()) not in said


def test_a_flipped_byte_in_the_weights_is_named(copied):
    flip(copied / "model" / "model.safetensors")
    found = failed(copied)
    assert found["model/model.safetensors"] == "changed since the run was written"
    assert "model: weights as config.json names them" in found
    flip(copied / "model" / "model.safetensors")
    trained = artifact(copied, "classifier: mini")
    flip(trained / "model.safetensors")
    said = "model.safetensors: changed since it was made"
    assert failed(copied) == {f"artifact {trained.name} (classifier: mini)": said}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r["test"]["macro_auprc"].update(value=0.999), "test of mini"),
        (lambda r: r["arms"]["weighted"]["val"]["accuracy"].update(low=0.1), "val of weighted"),
        (lambda r: r["differences"][0]["macro_f1"].update(p=0.01), "differences"),
        (lambda r: r["test"]["n"].update(disc=31), "test of mini"),
        (lambda r: r.update(seed=7), "name, seed, arms, classes"),
        (lambda r: r.update(name="other"), "name, seed, arms, classes"),
        (lambda r: r["classes"].reverse(), "name, seed, arms, classes"),
        (lambda r: r["arms"].pop("weighted"), "name, seed, arms, classes"),
        (lambda r: r["calibration"]["calibrator"].update(extra=1), "calibration"),
        (lambda r: r["test"]["thresholds"].update(confidence=0.5), "test of mini"),
    ],
)
def test_an_edited_number_is_named_even_where_every_digest_was_made_to_fit(copied, change, named):
    edit(copied / "results.json", change)
    assert failed(copied)["results.json"] == "changed since the run was written"
    digest = file_digest(copied / "results.json")
    edit(copied / "run.json", lambda r: r["files"].update({"results.json": digest}))
    found = failed(copied)
    assert "results.json" not in found
    assert f"results.json: {named}" in found
    assert "run.json" in found and "report.html: of these results" in found


def test_the_number_is_named_with_what_it_should_be(copied):
    before = json.loads((copied / "results.json").read_text())["test"]["macro_auprc"]["value"]
    edit(copied / "results.json", lambda r: r["test"]["macro_auprc"].update(value=0.999))
    said = failed(copied)["results.json: test of mini"]
    assert said == f"macro_auprc.value is 0.999, worked out again it is {before!r}"


def test_the_last_digit_counts(copied):
    import math

    def nudge(results):
        found = results["test"]["macro_auprc"]
        found["high"] = math.nextafter(found["high"], 2)

    edit(copied / "results.json", nudge)
    assert "macro_auprc.high" in failed(copied)["results.json: test of mini"]


def test_edited_predictions_are_named(copied):
    path = copied / "predictions.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "p_disc"] = 1 - table.loc[0, "p_disc"]
    table.to_parquet(path)
    found = failed(copied)
    assert found["predictions.parquet"] == "changed since the run was written"
    assert "predictions.parquet: what was scored" in found


def test_a_changed_score_is_named_with_the_numbers_that_rest_on_it(copied):
    path = artifact(copied, "score: mini") / "test.parquet"
    table = pd.read_parquet(path)
    table["p_disc"] = table["p_disc"].to_numpy()[::-1]
    table.to_parquet(path)
    found = failed(copied)
    assert f"artifact {path.parent.name} (score: mini)" in found
    assert "results.json: test of mini" in found
    assert "results.json: val of mini" not in found


def test_a_missing_artifact_is_named(copied):
    gone = artifact(copied, "classifier: weighted")
    shutil.rmtree(gone)
    (what,) = failed(copied)
    assert what == f"artifact {gone.name} (classifier: weighted)"


def test_swapped_artifacts_are_named(copied):
    one, two = artifact(copied, "classifier: mini"), artifact(copied, "classifier: weighted")
    one.rename(one.with_name("aside"))
    two.rename(one)
    one.with_name("aside").rename(two)
    found = failed(copied)
    assert found[f"artifact {one.name} (classifier: mini)"] == f"holds what was made as {two.name}"
    assert len(found) == 2


def test_a_record_that_was_bent_to_its_content_is_named(copied):
    path = artifact(copied, "classifier: mini")
    flip(path / "model.safetensors")
    digest = file_digest(path / "model.safetensors")
    edit(path / "artifact.json", lambda r: r["files"].update({"model.safetensors": digest}))
    (said,) = failed(copied).values()
    assert said == "made again since the run was written, with other content"
    edit(path / "artifact.json", lambda r: r["params"].update(seed=7))
    (said,) = failed(copied).values()
    assert "key does not follow" in said
    (path / "more.txt").write_text("put in")
    (path / "history.json").unlink()
    (path / "artifact.json").write_text("{}")
    (said,) = failed(copied).values()
    assert said.startswith("artifact.json cannot be read")


def test_an_edited_report_is_named(copied):
    path = copied / "report.html"
    path.write_text(path.read_text().replace("precision", "Precision", 1))
    assert failed(copied) == {"report.html": "changed since the run was written"}
    digest = file_digest(copied / "results.json")
    path.write_text(path.read_text().replace(digest, "0" * 64))
    assert "report.html: of these results" in failed(copied)


def test_an_edited_record_is_named(copied):
    edit(copied / "run.json", lambda r: r.update(seed=2))
    assert failed(copied) == {"run.json": "changed since the log noted it as written"}


def test_what_a_stranger_wrote_is_shown_on_one_line_without_orders(copied):
    forged = "x\x1b[2J\nok        run.json\x07\u202e"

    def relabel(run):
        first, *_ = run["artifacts"]
        run["artifacts"][forged] = run["artifacts"].pop(first) | {"content": forged}
        run["files"][forged] = "0"
        run["data"] = {forged: forged}

    edit(copied / "run.json", relabel)
    found = verify(copied, store(copied))
    assert all(f"{c.what}{c.reason}".isprintable() for c in found)
    assert sum("ok        run.json" in f"{c.what}{c.reason}" for c in found) >= 2
    said = CliRunner().invoke(cli, ["verify", str(copied), "--store", str(store(copied))])
    assert not any(each in said.output for each in "\x1b\x07\u202e")
    assert len(said.output.splitlines()) == len(found) + 1 and said.exit_code == 1
    log = store(copied) / auditlog.LOG
    log.write_text(log.read_text() + json.dumps({"n": forged, "hash": forged}) + "\n")
    said = CliRunner().invoke(cli, ["log", "--store", str(store(copied)), "--verify"])
    assert "\nok " not in said.output and "\x1b" not in said.output


def test_no_file_outside_of_the_run_is_opened(copied, tmp_path, monkeypatch):
    (tmp_path / "aside").write_text("none of the run's")
    (copied / "link").symlink_to(tmp_path / "aside")
    digest = file_digest(tmp_path / "aside")
    names = ["../../aside", str(tmp_path / "aside"), "link", "model/../../../aside", "a\0b"]
    edit(copied / "run.json", lambda r: r["files"].update(dict.fromkeys(names, digest)))
    seen = []
    look = lambda path: seen.append(path) or file_digest(path)  # noqa: E731
    monkeypatch.setattr("svpkit.verify.file_digest", look)
    found = failed(copied)
    for name in names[:-1]:
        assert found[name] == "names a file outside of the run's folder: not opened"
    assert "a?b" in found
    assert seen and not any(path.resolve() == tmp_path / "aside" for path in seen)


@pytest.mark.parametrize("where", ["run.json", "artifact.json"])
@pytest.mark.parametrize("n", [10**9, 1e9, "many"])
def test_no_more_replicates_than_a_recipe_may_ask_for_are_worked_out(copied, where, n):
    if where == "run.json":
        shutil.rmtree(store(copied))
        edit(copied / where, lambda r: r["recipe"]["evaluate"].update(replicates=n))
    else:
        path = artifact(copied, "evidence")
        edit(path / where, lambda r: r["params"].update(replicates=n))
    said = {c.what: c.reason for c in verify(copied, store(copied)) if c.state == FAILED}
    assert f"replicates is {n}, up to 100000 " in said["numbers of results.json"]


def test_as_many_replicates_are_worked_out_as_a_recipe_may_ask_for():
    asked = {"name": "a", "data": {"reader": "folder"}, "evaluate": {"replicates": MOST}}
    assert validate(asked, "recipe").evaluate.replicates == MOST
    asked["evaluate"]["replicates"] += 1
    with pytest.raises(SvpkitError, match="evaluate.replicates"):
        validate(asked, "recipe")


def test_what_was_put_into_the_model_is_named(copied):
    (copied / "model" / "more.safetensors").write_bytes(b"")
    (copied / "DATASHEET.md").unlink()
    found = failed(copied)
    assert found["model/more.safetensors"] == "run.json does not name it"
    assert found["DATASHEET.md"] == "missing"


def test_a_log_that_was_edited_or_cut_off_is_named(copied):
    path = store(copied) / auditlog.LOG
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    assert set(failed(copied)) == {"audit log: holds the head of this run", "run.json"}
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    assert "no. 3 dropped" in failed(copied)["audit log: chain"]
    path.unlink()
    assert "audit log" in failed(copied)


def test_of_a_run_whose_store_was_cleared_it_says_what_cannot_be_checked(copied):
    shutil.rmtree(store(copied))
    found = verify(copied, store(copied))
    assert FAILED not in {c.state for c in found}
    gone = {c.what for c in found if c.state == GONE}
    assert {"audit log", "results.json: test of weighted", "results.json: differences"} <= gone
    # the run's own arm stands on what lies in its folder
    sure = {c.what for c in found if c.state == OK}
    assert {"results.json: test of mini", "results.json: val of mini", "results.json"} <= sure
    edit(copied / "results.json", lambda r: r["test"]["macro_f1"].update(high=0.999))
    assert "results.json: test of mini" in failed(copied)
    said = CliRunner().invoke(cli, ["verify", str(copied), "--store", str(store(copied)), "--json"])
    assert said.exit_code == 1
    states = {each["what"]: each["state"] for each in json.loads(said.output)}
    assert states["results.json: test of mini"] == FAILED


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"artifacts": 3}', '{"artifacts": {"a": 1}}'),
        *('{"artifacts": {"a": {"name": 5}}}', '{"artifacts": {"a": {"name": "../x"}}}'),
        *('{"artifacts": {}, "files": 7}', '{"artifacts": {}, "audit": [5]}'),
    ],
)
def test_what_is_no_run_is_one_line(copied, text):
    (copied / "run.json").write_text(text)
    with pytest.raises(SvpkitError):
        verify(copied)


def test_a_run_of_before_is_checked_as_far_as_it_goes(copied):
    def older(run):
        for key in ("files", "audit", "results"):
            del run[key]
        for each in run["artifacts"].values():
            del each["content"]

    edit(copied / "run.json", older)
    found = verify(copied, store(copied))
    assert FAILED not in {c.state for c in found}
    assert {c.what for c in found if c.state == GONE} == {"files of the run", "audit log"}


def test_the_log_is_shown_and_checked(copied):
    root = str(store(copied))
    said = CliRunner().invoke(cli, ["log", "--store", root, "--verify"])
    assert said.exit_code == 0 and "test set opened" in said.output and "ok  " in said.output
    assert auditlog.head(store(copied))["hash"] in said.output
    path = store(copied) / auditlog.LOG
    path.write_text(path.read_text().replace('"n": 50', '"n": 51', 1))
    said = CliRunner().invoke(cli, ["log", "--store", root, "--verify"])
    assert said.exit_code == 1 and "edited" in said.output


def test_the_crate_opens_with_rocrate_and_holds_what_it_lists(copied, tmp_path):
    out = tmp_path / "crate"
    said = CliRunner().invoke(
        cli, ["crate", str(copied), "--out", str(out), "--store", str(store(copied))]
    )
    assert said.exit_code == 0, said.output
    found = ROCrate(out)
    files = {unquote(e.id): e for e in found.data_entities}
    assert {"results.json", "report.html", "model/README.md", "DATASHEET.md"} <= set(files)
    assert {"recipe.toml", "audit-lines.jsonl", "predictions.parquet", "run.json"} <= set(files)
    for name, entity in files.items():
        content = (out / name).read_bytes()
        assert entity["sha256"] == sha256(content).hexdigest()
        assert int(entity["contentSize"]) == len(content)
    there = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert there == {*files, "ro-crate-metadata.json"}
    action = found.dereference("#run")
    assert action is not None
    assert action.type == "CreateAction" and action["instrument"]["name"] == "svpkit"
    assert action["instrument"]["softwareVersion"] == svpkit.__version__
    data = json.loads((copied / "run.json").read_text())["data"]
    assert {e["identifier"] for e in action["object"] if "data" in e.id} == set(data.values())
    assert {e.id for e in action["result"]} >= {"results.json", "report.html"}
    # every name that is pointed to is in it
    graph = json.loads((out / "ro-crate-metadata.json").read_text())["@graph"]
    text, known = json.dumps(graph), {e["@id"] for e in graph}
    pointed = set(re.findall(r'\{"@id": "([^"]+)"\}', text))
    assert {each for each in pointed - known if not each.startswith("http")} == set()
    assert not list(tmp_path.glob(".crate*"))


def test_what_is_handed_on_names_no_folder_of_this_machine(copied, tmp_path, monkeypatch):
    write_crate(copied, tmp_path / "crate")
    for path in (*tmp_path.glob("crate/**/*"), *copied.rglob("*")):
        assert not path.is_file() or str(tmp_path.parent).encode() not in path.read_bytes(), path
    # moved without its store, which is at hand
    (tmp_path / "far" / "off").mkdir(parents=True)
    moved = Path(shutil.move(copied, tmp_path / "far" / "off"))
    monkeypatch.chdir(tmp_path)
    assert {c.state for c in verify(moved)} == {OK}


def test_a_crate_takes_nothing_that_was_changed_and_no_folder_in_use(copied, tmp_path):
    with pytest.raises(SvpkitError, match="already there"):
        write_crate(copied, copied)
    path = copied / "report.html"
    path.write_text("other")
    with pytest.raises(SvpkitError, match="report.html: changed since"):
        write_crate(copied, tmp_path / "crate")
    path.unlink()
    with pytest.raises(SvpkitError, match="report.html: missing"):
        write_crate(copied, tmp_path / "crate")
    assert not list(tmp_path.glob("*crate*"))


def test_the_data_sheet_tells_what_the_files_say(made):
    text = (made / "DATASHEET.md").read_text()
    data = json.loads((made / "run.json").read_text())["data"]
    for digest in data.values():
        assert digest in text
    assert "| disc | 20 | 20 | 30 |" in text and "| ring | 10 | 20 | 20 |" in text
    # two arms, scored once each
    assert "It was opened 2 times in this store" in text
    assert "test openings: 2" in (made / "model" / "README.md").read_text()
    assert "Set aside as not readable: 1." in text and "cannot be read" in text
    assert "None: every particle of this run was read." in text
    assert "/tmp" not in text and "DATASHEET.md" in (made / "report.html").read_text()


def test_write_json_writes_the_bytes_that_the_record_counts(tmp_path):
    from svpkit.provenance import spelt

    said = {"a": [1, 0.1, None, "ü"], "b": {"c": True}}
    write_json(tmp_path / "a.json", said)
    assert (tmp_path / "a.json").read_bytes() == spelt(said)
