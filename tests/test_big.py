"""Millions of particles: narrow tables, and stages that go on where they were killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from svpkit import ParticleSet, SvpkitError
from svpkit.particles import columns, going_on
from svpkit.particles import ingest as module
from svpkit.particles import names as names_module
from svpkit.particles import particleset as sets
from svpkit.particles import writer as writer_module
from svpkit.particles.division import groups_of
from svpkit.particles.duplicates import exact_pairs
from svpkit.particles.ingest import ingest
from svpkit.particles.names import Seen
from svpkit.plugins import Plugin, Use

N, PART = 900, 64


class Slow:
    """A reader that kills its own process when it has yielded `dies` items; some are damaged."""

    def read(self, path, *, dies=0, salt=0, log=""):
        """Yield images and rows."""
        for i in range(N):
            if dies and i == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            rng = np.random.default_rng((i, salt if i == 100 else 0))
            image = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            row = {"id": f"p{i}", "label": "ba"[i % 3 == 0], "run": f"run{i // 300}"}
            row |= {"volume_ml": 1.5, "raw": {"own": i}}
            yield (image if i % 50 else "cut off"), row


def small_parts(patch=setattr):
    patch(module, "BLOCK", 16)
    patch(writer_module, "PART", PART)


def make(out, **options):
    reader = Use(Plugin("reader", "slow", Slow(), "test", "", "test"), options)
    out.mkdir(exist_ok=True, parents=True)
    params = {"reader": reader, "path": None, "size": 8, "channels": 1}
    ingest(out, params)


def killed(out, what):
    """Run something of this file on a folder, in a process that kills itself."""
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_big as t;"
        f"out = pathlib.Path(sys.argv[2]); t.small_parts(); {what}"
    )
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(out)])
    assert done.returncode == -signal.SIGKILL


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "set"
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch.setattr)
        make(out)
    return content(out)


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    out = tmp_path_factory.mktemp("left") / "set"
    killed(out, "t.make(out, dies=500)")
    return out


@pytest.fixture
def out(left, tmp_path, monkeypatch):
    """What an ingest killed at item 500 left."""
    small_parts(monkeypatch.setattr)
    return shutil.copytree(left, tmp_path / "set")


def test_a_killed_ingest_goes_on_behind_its_last_whole_part(out, whole, monkeypatch):
    noted = json.loads((out / going_on.STATE).read_text())
    kept = len(noted["parts"])
    assert kept == 7 and noted["items"] < 500 and not (out / "manifest.json").exists()
    before = {n: (out / n).stat().st_ino for n in noted["files"]}
    fitted = []
    own = module.picture_hash
    monkeypatch.setattr(module, "picture_hash", lambda x: fitted.append(len(x)) or own(x))
    make(out)
    assert content(out) == whole
    # what was whole was neither worked on nor written again
    assert {n: (out / n).stat().st_ino for n in before} == before
    assert sum(fitted) == len(ParticleSet.open(out)) - sum(p["n"] for p in noted["parts"])


def test_killed_twice_it_still_ends_the_same(out, whole):
    killed(out, "t.make(out, dies=700)")
    assert len(json.loads((out / going_on.STATE).read_text())["parts"]) == 10
    make(out)
    assert content(out) == whole


def test_an_input_that_changed_in_between_is_read_from_its_beginning(tmp_path, out):
    make(out, salt=1)
    make(tmp_path / "fresh", salt=1)
    assert content(out) == content(tmp_path / "fresh")


def test_an_input_that_became_shorter_is_read_from_its_beginning(tmp_path, out, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "N", 150)
    make(out)
    make(tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_a_damaged_part_is_not_gone_on_from(out, whole):
    part = out / "part-00003.npy"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    make(out)
    assert content(out) == whole


def test_an_id_given_again_after_the_kill_is_still_refused(out, monkeypatch):
    own = Slow.read

    def twice(self, path, **options):
        for i, (image, row) in enumerate(own(self, path, **options)):
            yield image, row | ({"id": "p3"} if i == 800 else {})

    monkeypatch.setattr(Slow, "read", twice)
    with pytest.raises(SvpkitError, match="'p3' is given by rows 3 and 800"):
        make(out)


def test_names_met_before_are_known_wherever_they_are_kept(monkeypatch):
    monkeypatch.setattr(names_module, "_RECENT", 7)
    seen, known = Seen(), {}
    rng = np.random.default_rng(0)
    for place, i in enumerate(rng.integers(0, 60, 400).tolist()):
        assert seen.first(f"n{i}", place) == known.setdefault(f"n{i}", place)
    assert len(seen._recent) < 7


def frame(n, start=0, **more):
    table = pd.DataFrame({"id": [f"i{k}" for k in range(start, start + n)]}).assign(label="a")
    return sets.categorise(sets.complete(table.assign(**more)))


def test_parts_are_joined_as_one_table_would_be():
    one, two = frame(3, group="x", source=["s", "t", "s"]), frame(2, 3, group="y", source="t")
    both = columns.joined([one.copy(), two.copy()])
    wanted = sets.categorise(
        pd.concat([one.astype(object), two.astype(object)], ignore_index=True).infer_objects()
    )
    pd.testing.assert_frame_equal(both, wanted)
    assert list(both["group"].cat.categories) == ["x", "y"]


def test_columns_of_one_set_alone_are_joined_as_before():
    one = frame(3, hash=np.arange(3, dtype=np.uint64) + 2**63, seen=True)
    two = frame(2, 3)
    both = columns.joined([one.copy(), two])
    assert both["seen"].isna().sum() == 2 and both["hash"].isna().sum() == 2
    assert columns.joined([one.copy(), one])["hash"].dtype == np.uint64


def test_the_digest_of_a_table_is_that_of_its_whole_columns(monkeypatch):
    import hashlib

    table = frame(11).assign(digest=[f"{k:032x}" for k in range(11)])
    state = hashlib.blake2b(digest_size=16)
    for name in ("id", "label", "digest"):
        state.update("\x1f".join(table[name].astype(str)).encode() + b"\x1e")
    own = sets.batches
    monkeypatch.setattr(sets, "batches", lambda n, size: own(n, 4))
    assert sets.table_digest(table) == state.hexdigest()
    heads = table.assign(digest=[f"{k:016x}" + "0" * 16 for k in range(11)])
    assert sets.digest_heads(heads).tolist() == list(range(11))


def test_groups_are_the_texts_of_a_column():
    images = np.zeros((4, 1, 4, 4), np.uint8)
    found = ParticleSet.from_arrays(
        images, list("aabb"), ("a", "b"), run=[1, 2, 1, 2], part=["x", None, "y", "x"]
    )
    assert groups_of(found, "run").tolist() == ["1", "2", "1", "2"]
    assert groups_of(found, "part").tolist() == ["x", "", "y", "x"]
    assert groups_of(found, None).tolist() == [""] * 4


def test_half_a_digest_alone_makes_no_copy():
    images = np.arange(4 * 16, dtype=np.uint8).reshape(4, 1, 4, 4)
    found = ParticleSet.from_arrays(images, list("aabb"), ("a", "b"))
    first, second = found.take([0, 1]), found.take([1, 2, 3])
    assert exact_pairs(first, second) == [("particle-000001", "particle-000001")]
    alike = second.table["digest"].str[:16] + "f" * 16
    object.__setattr__(second, "table", second.table.assign(digest=alike))
    assert exact_pairs(first, second) == []


def params():
    from svpkit.plugins import discover

    options = {"model": "resnet10t", "width": 8, "stem": "half"}
    use = discover(builtin_only=True).use("classifier", "timm", options, "classifier.plugin")
    return {"classifier": use, "strategies": (), "prevalence": None}


def prepare(folder):
    """Write a set, a split and an untrained model."""
    from svpkit import checkpoint, draws
    from svpkit.hookspecs import ImageSpec
    from svpkit.particles.split import split

    images = np.random.default_rng(0).integers(0, 256, (1000, 1, 8, 8), dtype=np.uint8)
    labels = ["ab"[i % 2] for i in range(1000)]
    columns = {"group": [f"g{i % 20}" for i in range(1000)]}
    ParticleSet.from_arrays(images, labels, ("a", "b"), **columns).save(folder / "data")
    rules = {"seed": 0, "group": "group", "val": 0.3, "test": 0.5, "train": None, "min_val": 1}
    (folder / "split").mkdir()
    split(folder / "split", rules, folder / "data")
    use = params()["classifier"]
    with draws.seeded(0, "a network"):
        model = use(ImageSpec(1, 8, ("a", "b")))
    (folder / "model").mkdir()
    checkpoint.save_tensors(folder / "model" / "model.safetensors", model.state_dict())
    config = {"format": 1, "classifier": use.describe(), "strategies": [], "prevalence": None}
    config["spec"] = {"channels": 1, "size": 8, "classes": ["a", "b"]}
    config["prior"] = {"a": 0.5, "b": 0.5}
    (folder / "model" / "config.json").write_text(json.dumps(config))


def score_in_parts(folder, asked, looked, dies=0):
    from svpkit.classify import score as stage
    from svpkit.classify.model import Model

    own = Model.logits

    def logits(self, images, *more):
        looked.append(len(images))
        if len(looked) == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(self, images, *more)

    stage.PART, Model.logits, Model.block = 50, logits, 50
    (folder / "score").mkdir(exist_ok=True)
    stage.score(folder / "score", asked, folder / "model", folder / "split")


def test_a_killed_score_goes_on_where_it_was(tmp_path, monkeypatch):
    from svpkit.classify import score as stage
    from svpkit.classify.model import Model

    prepare(tmp_path)
    monkeypatch.setattr(stage, "PART", 50)
    monkeypatch.setattr(Model, "logits", Model.logits)
    monkeypatch.setattr(Model, "block", 50)
    killed(tmp_path, "t.score_in_parts(out, t.params(), [], dies=9)")
    chunks = list((tmp_path / "score" / "chunks").rglob("*.npy"))
    assert len(chunks) == 8
    looked = []
    score_in_parts(tmp_path, params(), looked)
    made = len(list((tmp_path / "score" / "chunks").rglob("*.npy")))
    assert len(looked) == made - 8
    for name in ("val", "test"):
        # the table in parts is the table made at once
        particles = getattr(stage.Split.open(tmp_path / "split"), name)()
        model = Model.load(tmp_path / "model", **params())
        at_once = stage.predictions(model, particles).assign(
            group=stage.groups_of(particles, "group")
        )
        found = pd.read_parquet(tmp_path / "score" / f"{name}.parquet")
        assert list(found.columns) == list(at_once.columns)
        for column in found:
            if str(found[column].dtype).startswith("float"):
                np.testing.assert_allclose(found[column], at_once[column], atol=1e-6)
            else:
                assert found[column].astype(str).tolist() == at_once[column].astype(str).tolist()
        assert found["label_code"].dtype == np.int64
    assert np.load(tmp_path / "score" / "worst.npy").shape == (48, 1, 8, 8)


@pytest.mark.parametrize("rows", [[3, 70, 71, 500], list(range(300)), [9, 2, 290, 1], []])
def test_rows_opened_alone_are_those_taken_of_the_whole(tmp_path, monkeypatch, rows):
    small_parts(monkeypatch.setattr)
    monkeypatch.setattr(sys.modules[__name__], "N", 600)
    make(tmp_path / "set")
    whole = ParticleSet.open(tmp_path / "set")
    rows = np.array([r for r in rows if r < len(whole)], np.int64)
    own, wanted = ParticleSet.open(tmp_path / "set", rows), whole.take(rows)
    pd.testing.assert_frame_equal(own.table, wanted.table)
    assert np.array_equal(own.images(), wanted.images()) and own.digest == wanted.digest
    few = ParticleSet.open(tmp_path / "set", rows, ("label", "source"))
    assert set(few.table) == {"label", "source"} and (few.labels == wanted.labels).all()
    with pytest.raises(SvpkitError, match="cannot be read"):
        ParticleSet.open(tmp_path / "set", np.array([len(whole)]))


def test_what_a_set_takes_goes_by_the_rows_asked_for(tmp_path):
    import pyarrow as pa

    images = np.zeros((20_000, 1, 4, 4), np.uint8)
    ParticleSet.from_arrays(images, ["a"] * 20_000, ("a",)).save(tmp_path / "set")

    def bytes_a_row(*asked):
        before = pa.total_allocated_bytes()
        own = ParticleSet.open(tmp_path / "set", *asked)
        held = own.table.select_dtypes("number").memory_usage(index=False).sum()
        return (pa.total_allocated_bytes() - before + held) / 20_000

    assert bytes_a_row() > 60
    assert bytes_a_row(np.arange(0, 20_000, 10)) < 15
    assert bytes_a_row(None, ("label", "um_per_px")) < 20
