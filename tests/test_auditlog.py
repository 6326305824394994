"""The audit log: its chain, what breaks it, several writers, a full disk, what a run logs."""

import json
import multiprocessing
import os
import subprocess
import sys
import tomllib
from hashlib import sha256

import pytest
from toy import RECIPE, images, write_folder

import svpkit
from svpkit import auditlog
from svpkit.errors import SvpkitError


@pytest.fixture
def store(tmp_path):
    for i in range(6):
        auditlog.append(tmp_path, auditlog.OPENED, test={"set": f"{i:02x}", "n": i}, label="süß\n")
    return tmp_path


def raw(store):
    return (store / auditlog.LOG).read_bytes().splitlines(keepends=True)


def rewritten(store, lines):
    (store / auditlog.LOG).write_bytes(b"".join(lines))
    return auditlog.faults(store)


def test_the_chain_is_what_it_says_worked_out_apart(store):
    before = "0" * 64
    for n, line in enumerate(raw(store), 1):
        said = json.loads(line)
        body = line.decode().rsplit(', "hash": ', 1)[0] + "}"
        assert said["hash"] == sha256(body.encode()).hexdigest()
        assert (said["n"], said["before"]) == (n, before)
        before = said["hash"]
    assert auditlog.faults(store) == []
    assert auditlog.head(store) == {"n": 6, "hash": before}


@pytest.mark.parametrize(("old", "new"), [(b'"n": 2}', b'"n": 9}'), (b"02", b"03")])
def test_an_edited_line_is_named(store, old, new):
    lines = raw(store)
    assert old in lines[2]
    lines[2] = lines[2].replace(old, new, 1)
    (said,) = rewritten(store, lines)
    assert said.startswith("line 3:") and "edited" in said


def test_a_key_that_is_there_twice_shows_people_nothing_else(store):
    lines = raw(store)
    lines[2] = lines[2].replace(b'"event": ', b'"event": "nothing", "event": ', 1)
    said, *_ = rewritten(store, lines)
    assert said.startswith("line 3:") and "no line of the log" in said


def test_an_edited_line_hashed_anew_breaks_the_next(store):
    lines = raw(store)
    line = json.loads(lines[2])
    line["test"]["n"] = 99
    line["hash"] = auditlog._hash({k: v for k, v in line.items() if k != "hash"})
    lines[2] = json.dumps(line).encode() + b"\n"
    (said,) = rewritten(store, lines)
    assert said.startswith("line 4:")


def test_dropped_reordered_doubled_and_foreign_lines_are_named(store):
    lines = raw(store)
    (said,) = rewritten(store, lines[:2] + lines[3:])
    assert said.startswith("line 3:") and "no. 3 dropped" in said
    said = rewritten(store, [*lines[:2], lines[3], lines[2], *lines[4:]])
    assert said[0].startswith("line 3:") and said[1].startswith("line 4:")
    said = rewritten(store, [*lines[:3], lines[2], *lines[3:]])
    assert said[0].startswith("line 4:") and "put in" in said[0]
    said = rewritten(store, [*lines[:3], b"nonsense\n", *lines[3:]])
    assert said == ["line 4: is no line of the log (changed or put in)"]
    assert rewritten(store, [*lines, b"nonsense\n"]) == ["last line: is no line of the log"]
    assert rewritten(store, lines[1:])[0].startswith("line 1:")


def test_lines_cut_off_are_found_by_a_head_noted_elsewhere_alone(store):
    head = auditlog.head(store)
    assert rewritten(store, raw(store)[:4]) == []
    assert not auditlog.holds(store, head)
    assert auditlog.holds(store, auditlog.head(store))
    # grown again to the same length, it is another
    for _ in range(2):
        auditlog.append(store, auditlog.OPENED)
    assert auditlog.head(store)["n"] == head["n"] and not auditlog.holds(store, head)


@pytest.mark.parametrize("cut", [1, 40, 0])
def test_a_line_that_a_crash_cut_off_stops_nothing_and_stays(store, cut):
    lines = raw(store)
    # the last byte, or the line but for its line break
    (store / auditlog.LOG).write_bytes(b"".join(lines)[: -cut or None])
    assert auditlog.faults(store) == []
    auditlog.append(store, auditlog.IMPORTED)
    auditlog.append(store, auditlog.IMPORTED)
    assert auditlog.faults(store) == []
    lines = raw(store)
    assert len(lines) == 8
    if cut == 40:
        # and may not be changed later
        lines[5] = lines[5].replace(b"05", b"06", 1)
        assert rewritten(store, lines) == ["line 6: is no line of the log (changed or put in)"]


def long_line(store, event=auditlog.IMPORTED):
    """Write a line of over 1 MiB, as logs hold them of before they were kept short."""
    head = auditlog.head(store)
    line = {"n": head["n"] + 1, "event": event, "counts": {f"{i:0250d}": i for i in range(4_200)}}
    line["before"] = head["hash"]
    line["hash"] = auditlog._hash(line)
    with (store / auditlog.LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize("first", [True, False])
def test_the_log_goes_on_behind_a_line_of_over_a_megabyte(tmp_path, first):
    if not first:
        auditlog.append(tmp_path, auditlog.OPENED)
    long_line(tmp_path)
    assert len(raw(tmp_path)[-1]) > 2**20 and auditlog.faults(tmp_path) == []
    n = 1 if first else 2
    assert auditlog.head(tmp_path)["n"] == n
    assert [auditlog.append(tmp_path, auditlog.OPENED)["n"] for _ in range(2)] == [n + 1, n + 2]
    assert auditlog.faults(tmp_path) == []
    assert [line["n"] for line in auditlog.lines(tmp_path)] == list(range(1, n + 3))


def test_a_long_line_that_a_crash_cut_off_stops_nothing(store):
    long_line(store)
    whole = (store / auditlog.LOG).read_bytes()
    (store / auditlog.LOG).write_bytes(whole[:-9])
    assert auditlog.append(store, auditlog.OPENED)["n"] == 7
    assert auditlog.faults(store) == []


def test_what_is_said_at_length_is_said_by_its_digest(store):
    counts = {f"{i:0250d}": i for i in range(4_200)}
    line = auditlog.append(store, auditlog.IMPORTED, set="ingest-ab", counts=counts)
    assert line["set"] == "ingest-ab" and len(raw(store)[-1]) < 1000
    assert line["counts"]["n"] == 4_200
    assert line["counts"]["digest"] == sha256(json.dumps(counts).encode()).hexdigest()
    assert auditlog.append(store, auditlog.OPENED)["n"] == 8 and auditlog.faults(store) == []


def test_nothing_is_written_behind_what_is_no_log(tmp_path):
    path = tmp_path / auditlog.LOG
    path.write_text("a line\nof something else\n" * 50_000)
    for asked in (
        lambda: auditlog.append(tmp_path, auditlog.OPENED),
        lambda: auditlog.head(tmp_path),
    ):
        with pytest.raises(SvpkitError, match=r"audit\.jsonl: no line of an audit log") as said:
            asked()
        assert "\n" not in str(said.value)
    # what a crash left of the very first line is no reason to stop, nor is an empty file
    for left in ("", '{"n": 1, "ti'):
        path.write_text(left)
        assert auditlog.append(tmp_path, auditlog.OPENED)["n"] == 1
        assert auditlog.faults(tmp_path) == []


def test_a_number_that_is_none_is_shown_on_its_own_line(store):
    lines = raw(store)
    line = json.loads(lines[2]) | {"n": "3\nok        7 lines\x1b[2J"}
    (said, *_) = rewritten(store, [*lines[:2], json.dumps(line).encode() + b"\n"])[1:]
    assert said.isprintable() and "moved or put in" in said


def _many(folder):
    for _ in range(20):
        auditlog.append(folder, auditlog.IMPORTED, by=os.getpid())


def test_several_processes_write_one_chain(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        pool.map(_many, [tmp_path] * 3)
    lines = auditlog.lines(tmp_path)
    assert [line["n"] for line in lines] == list(range(1, 61))
    assert auditlog.faults(tmp_path) == []


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(auditlog.ranks, "main", lambda: False)
    assert auditlog.append(tmp_path, auditlog.IMPORTED) == {}
    assert not (tmp_path / auditlog.LOG).exists()


_FULL = """
import resource, signal, sys
from pathlib import Path
from svpkit import auditlog
from svpkit.errors import SvpkitError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = (Path(sys.argv[1]) / auditlog.LOG).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, size + 50))
try:
    auditlog.append(Path(sys.argv[1]), auditlog.IMPORTED)
except SvpkitError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_the_chain(store):
    said = subprocess.run(
        [sys.executable, "-c", _FULL, str(store)], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"{store / auditlog.LOG}: cannot be written (File too large)\n"
    assert len(raw(store)) == 6 and auditlog.faults(store) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(SvpkitError, match="cannot be written") as said:
        auditlog.append(tmp_path / "store", auditlog.IMPORTED)
    assert "\n" not in str(said.value)


def test_a_run_logs_what_it_imports_opens_and_writes(run, place):
    lines = [x for x in auditlog.lines(place / "store") if x.get("run", "toy") == "toy"]
    record = json.loads((run.folder / "run.json").read_text())
    names = {label: each["name"] for label, each in record["artifacts"].items()}
    started = next(x for x in lines if x["event"] == auditlog.STARTED)
    assert started["scores"] == {k: v for k, v in names.items() if k.startswith("score")}
    assert started["gates"] == {"toy": {}}
    opened = [x for x in lines if x["event"] == auditlog.OPENED]
    # other tests of this store open its test set too
    assert set(started["scores"].values()) <= {x["artifact"] for x in opened}
    assert {x["test"]["set"] for x in opened} == {record["data"]["test"]}
    imported = {x["set"] for x in lines if x["event"] == auditlog.IMPORTED}
    assert {names["ingest"], names["ingest: test"]} <= imported
    assert auditlog.holds(place / "store", record["audit"])
    assert auditlog.faults(place / "store") == []


def test_gates_set_aside_and_stages_made_again_are_logged(tmp_path):
    from svpkit import api
    from svpkit.provenance import note_start
    from svpkit.store import Artifact

    write_folder(tmp_path / "data", {"disc": 2, "ring": 2, "bar": 2})
    write_folder(tmp_path / "test", {"disc": 2, "ring": 2, "bar": 2}, seed=1)
    (tmp_path / "toy.toml").write_text(RECIPE)
    changes = ["balance.synthetic.gates={copy_rate = 0.5}", "seed=3"]
    bound = api.experiment(tmp_path / "toy.toml", changes)
    score = Artifact("score", "ab", tmp_path / "store" / "score-ab", "score: toy")
    (tmp_path / "store").mkdir()
    note_start(tmp_path / "store", tmp_path / "runs" / "toy", bound, [score], ["split"])
    start, gates, fresh = auditlog.lines(tmp_path / "store")
    assert start["gates"] == {"toy": {"copy_rate": 0.5}} and start["seed"] == 3
    digest = sha256((tmp_path / "toy.toml").read_bytes()).hexdigest()
    assert start["recipe_digest"] == digest
    assert gates["event"] == auditlog.GATES and gates["overrides"] == changes[:1]
    assert fresh["event"] == auditlog.FRESH and fresh["stages"] == ["split"]
    assert svpkit.__version__ == start["svpkit"]


GATED = RECIPE.replace("at_most = 30", "at_most = 30\ngates = { copy_rate = 0.5 }")
GATED += '\n[[baselines]]\nname = "other"\nstrategies = ["synthetic"]\n'


def gates_noted(folder, changes, recipe=None):
    from svpkit import api
    from svpkit.provenance import note_start

    root = folder / f"store-{len(list(folder.glob('store-*')))}"
    given = recipe or folder / "toy.toml"
    bound = api.experiment(given, changes, data_root=folder)
    note_start(root, folder / "runs" / "toy", bound, [], [])
    return [x for x in auditlog.lines(root) if x["event"] == auditlog.GATES]


@pytest.fixture
def gated(tmp_path):
    write_folder(tmp_path / "data", {"disc": 2, "ring": 2, "bar": 2})
    write_folder(tmp_path / "test", {"disc": 2, "ring": 2, "bar": 2}, seed=1)
    (tmp_path / "toy.toml").write_text(GATED)
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        "balance.synthetic={at_most=20}",
        'balance={strategies=["synthetic"]}',
        "balance.synthetic.gates={copy_rate = 0.9}",
        "balance.synthetic.gates={}",
        'baselines=[{name="other", strategies=["synthetic"], synthetic={at_most=20}}]',
        'baselines=[{name="new", strategies=["synthetic"], synthetic={}}]',
    ],
)
def test_gates_set_aside_by_a_table_above_them_are_logged(gated, change):
    (said,) = gates_noted(gated, ["seed=3", change])
    assert said["overrides"] == [change]
    assert said["gates"]["toy"] != {"copy_rate": 0.5} or list(said["gates"].values())[1] == {}
    (said,) = gates_noted(gated, [change], tomllib.loads(GATED))
    assert said["overrides"] == [change]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["seed=3", "name=renamed"],
        ["balance.synthetic.at_most=20"],
        ["balance.synthetic={at_most=20, gates={copy_rate=0.5}}"],
        ['balance.strategies=["none"]', "baselines=[]"],
    ],
)
def test_gates_that_stand_as_written_are_not_logged_as_set_aside(gated, changes):
    assert gates_noted(gated, changes) == []


def test_gates_are_compared_for_what_the_run_draws(gated):
    text = GATED.replace('["synthetic", "augment"]', '["none"]')
    (gated / "toy.toml").write_text(text)
    on = 'balance.strategies=["synthetic"]'
    assert gates_noted(gated, [on]) == []
    changes = [on, "balance.synthetic={}"]
    (said,) = gates_noted(gated, changes)
    assert said["overrides"] == changes and said["gates"]["toy"] == {}


def test_what_is_counted_by_force_is_logged_where_the_store_is(tmp_path):
    from svpkit.provenance import note_forced

    (tmp_path / "store").mkdir()
    (tmp_path / "run").mkdir()
    note_forced(tmp_path / "run", ["a"])
    record = {"artifacts": {}, "store": str(tmp_path / "store")}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    note_forced(tmp_path / "run", ["a"])
    assert auditlog.lines(tmp_path / "store") == []
    auditlog.append(tmp_path / "store", auditlog.STARTED)
    note_forced(tmp_path / "run", [])
    note_forced(tmp_path / "run", ["a", "b"])
    _, line = auditlog.lines(tmp_path / "store")
    assert (line["event"], line["inputs"], line["run"]) == (auditlog.FORCED, ["a", "b"], "run")


def test_corrected_labels_are_logged(tmp_path):
    from svpkit.particles.corrections import APPLIED, filled
    from svpkit.particles.particleset import ParticleSet
    from svpkit.particles.split import split

    pixels, labels = images({"disc": 8, "ring": 8})
    out = tmp_path / ".partial" / "split-ab"
    out.mkdir(parents=True)
    ParticleSet.from_arrays(pixels, labels, ("disc", "ring")).save(tmp_path / "data")
    (tmp_path / "fix.csv").write_text("id,label,corrected\nparticle-000001,disc,ring\n")
    rules = {"seed": 0, "group": None, "val": 0.25, "test": None}
    fixes = filled([tmp_path / "fix.csv"])
    split(out, {**rules, "corrections": fixes}, tmp_path / "data")
    (line,) = auditlog.lines(tmp_path)
    assert line["event"] == auditlog.CORRECTED and line["counts"][APPLIED] == 1
    assert line["applied"] == [{"from": "disc", "to": "ring", "n": 1}]
    digest = sha256((tmp_path / "fix.csv").read_bytes()).hexdigest()
    assert line["files"] == [{"name": "fix.csv", "digest": digest}]
