import json
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import pearsonr

from svpkit import ParticleSet, SvpkitError, plugins
from svpkit.particles.division import divide
from svpkit.particles.duplicates import near_pairs
from svpkit.particles.grouping import units_of
from svpkit.particles.ingest import import_set
from svpkit.particles.particleset import concat
from svpkit.particles.split import Split, split

CLASSES = ("a", "b", "c")
ASKED = {"seed": 0, "group": "group", "val": 0.1, "test": None, "train": None, "min_val": 30}


def particles(counts, seed=0, size=8, **columns):
    labels = np.repeat(CLASSES[: len(counts)], counts)
    labels = np.random.default_rng(seed).permutation(labels)
    images = np.random.default_rng(seed + 1).integers(
        0, 256, (len(labels), 1, size, size), np.uint8
    )
    columns = {k: v(len(labels)) if callable(v) else v for k, v in columns.items()}
    return ParticleSet.from_arrays(images, list(labels), CLASSES[: len(counts)], **columns)


def groups(n, name="run"):
    return lambda total: [f"{name}{i % n}" for i in range(total)]


def made(tmp_path, data, own_test=None, also=(), **params):
    """Split as the store does: in a partial folder that is renamed beside its inputs."""
    data.save(tmp_path / "ingest-data")
    inputs = [tmp_path / "ingest-data"]
    if own_test is not None:
        own_test.save(tmp_path / "ingest-test")
        inputs.append(tmp_path / "ingest-test")
    for i, each in enumerate(also):
        each.save(tmp_path / f"ingest-also{i}")
        inputs.append(tmp_path / f"ingest-also{i}")
    params |= {"also": len(also)} if also else {}
    partial = tmp_path / ".partial" / "split-x"
    partial.mkdir(parents=True)
    split(partial, ASKED | params, *inputs)
    assert len(Split.open(partial).train())
    return Split.open(partial.rename(tmp_path / "split-x"))


def parted(data, **params):
    return divide(data, ASKED | params)


def of(data, parts, column):
    return [
        set(data.take(p).table[column].astype(str)) for p in (parts.train, parts.val, parts.test)
    ]


def disjoint(sets):
    return all(not x & y for x, y in combinations(sets, 2))


def test_single_particles_are_stratified_exactly():
    data = particles([600, 60, 30])
    parts = parted(data, val=0.1, test=0.2)
    assert data.take(parts.test).counts == {"a": 120, "b": 12, "c": 6}
    assert data.take(parts.val).counts == {"a": 48, "b": 5, "c": 2}
    everything = np.concatenate([parts.train, parts.val, parts.test])
    np.testing.assert_array_equal(np.sort(everything), np.arange(690))


def test_groups_are_never_parted():
    data = particles([600, 60, 60], group=groups(40))
    parts = parted(data, val=0.2, test=0.2)
    assert disjoint(of(data, parts, "group"))
    for chosen in (parts.val, parts.test):
        share = np.array(list(data.take(chosen).counts.values())) / (600, 60, 60)
        assert np.abs(share - 0.18).max() < 0.09


def test_unequal_groups_still_come_near_the_share():
    rng = np.random.default_rng(5)
    data = particles([2000, 200, 50], group=lambda n: [f"g{i}" for i in rng.geometric(0.08, n)])
    parts = parted(data, val=0.15)
    assert disjoint(of(data, parts, "group"))
    share = np.array(list(data.take(parts.val).counts.values())) / (2000, 200, 50)
    assert np.abs(share - 0.15).max() < 0.08


def test_five_equal_groups_give_val_a_whole_one():
    data = particles([100, 50], group=groups(5))
    parts = parted(data, val=0.05)
    assert [len(g) for g in of(data, parts, "group")] == [4, 1, 0]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_under_five_groups_val_splits_inside_them_by_source(n):
    data = particles(
        [400, 80], group=groups(n), source=lambda total: [f"{i % 60}" for i in range(total)]
    )
    parts = parted(data, val=0.1)
    key = data.table["group"].astype(str) + "/" + data.table["source"].astype(str)
    assert not set(key[parts.train]) & set(key[parts.val])
    assert set(data.table["group"][parts.val]) == set(data.table["group"])
    assert f"{n} group" in parts.notes[0] and "inside by image source" in parts.notes[0]


def test_a_source_is_keyed_by_its_group():
    empty = np.array(["", ""], object)
    units = units_of(np.array(["r1", "r2"], object), np.array(["7", "7"], object), np.arange(2))
    assert len(set(units)) == 2
    assert len(set(units_of(empty, np.array(["7", "7"], object), np.arange(2)))) == 2


def test_without_groups_each_particle_stands_alone():
    data = particles([100, 40], source=["one"] * 140)
    for column in ("group", None):
        parts = parted(data, group=column, val=0.5)
        assert data.take(parts.val).counts == {"a": 50, "b": 20} and not parts.notes


def test_any_column_groups_and_a_wrong_one_is_named():
    data = particles([100, 40], run=groups(10))
    assert disjoint(of(data, parted(data, group="run", val=0.2), "run"))
    with pytest.raises(SvpkitError, match="data.group: column: unknown 'runn'; did you mean 'run'"):
        parted(data, group="runn")


def test_particles_without_a_group_stand_alone_among_groups():
    data = particles([200, 100], group=lambda n: [f"g{i % 9}" if i % 3 else "" for i in range(n)])
    parts = parted(data, val=0.2)
    train, val, _ = of(data, parts, "group")
    assert train & val <= {""}


def test_counts_are_met_exactly():
    data = particles([500, 100, 90])
    parts = parted(data, val={"a": 40, "b": 30, "c": 20})
    assert data.take(parts.val).counts == {"a": 40, "b": 30, "c": 20}
    assert len(parts.train) == 600 and not parts.notes


def test_counts_with_groups_leave_the_surplus_out():
    data = particles([500, 100, 90], group=groups(30))
    parts = parted(data, val={"a": 40, "b": 30, "c": 20})
    assert data.take(parts.val).counts == {"a": 40, "b": 30, "c": 20}
    assert disjoint(of(data, parts, "group"))
    left = 690 - len(parts.train) - len(parts.val)
    assert left > 0 and parts.notes == [
        f"{left} particles left out because their group or picture is in val"
    ]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"val": {"b": 100}}, "data.val.b: asked 100, only 60 there"),
        ({"val": {"bb": 10}}, "data.val: unknown 'bb'; did you mean 'b'"),
        ({"val": {"b": 60}}, "no 'b' is left to train on"),
        ({"train": {"b": 60}}, "data.train.b: asked 60, only 54 there"),
        ({"train": {"d": 6}}, "data.train: unknown 'd'"),
        ({"test": {"group": "run9"}}, "data.test.group: unknown 'run9'; did you mean 'run"),
    ],
)
def test_what_cannot_be_met_is_said(params, said):
    data = particles([600, 60], run=groups(8))
    with pytest.raises(SvpkitError) as error:
        parted(data, **({"group": "run"} if "test" in params else {}), **params)
    assert said in str(error.value)


def test_a_held_out_group_is_the_test_set():
    data = particles([300, 100], group=groups(8))
    for asked in ("run3", ["run3", "run5"]):
        parts = parted(data, test={"group": asked})
        assert of(data, parts, "group")[2] == {asked} if isinstance(asked, str) else set(asked)
        assert disjoint(of(data, parts, "group"))


def test_the_recipe_seed_never_moves_the_test_set():
    data = particles([600, 100], group=groups(20))
    a, b = (parted(data, seed=seed, test=0.2) for seed in (0, 1))
    np.testing.assert_array_equal(a.test, b.test)
    assert not np.array_equal(a.val, b.val)
    again = parted(data, seed=0, test=0.2)
    np.testing.assert_array_equal(a.val, again.val)


def test_fewer_training_images_are_among_the_more():
    data = particles([600, 100, 80])
    few, more = (set(parted(data, train={"b": n, "c": n}).train) for n in (20, 50))
    assert few < more
    assert data.take(sorted(few)).counts == {"a": 540, "b": 20, "c": 20}
    other = set(parted(data, seed=1, train={"b": 20, "c": 20}).train)
    assert other != few
    assert parted(data, train={"b": 0, "c": 1}).train.size == 541


def test_unlabelled_particles_are_left_out():
    data = particles([50, 50]).with_classes(("a",))
    parts = parted(data)
    assert len(parts.train) + len(parts.val) == 50
    assert parts.notes == ["50 particles left out without a label"]
    with pytest.raises(SvpkitError, match="no particle has a label"):
        parted(data.with_classes(("z",)))


def test_a_split_on_disk(tmp_path):
    data = particles([400, 320], group=groups(10), run=groups(10))
    found = made(tmp_path, data, test={"group": "run1"}, val=0.2)
    train, val, test = found.train(), found.val(), found.test()
    assert len(train) + len(val) + len(test) == 720
    assert set(test.table["group"]) == {"run1"}
    assert found.counts == {"train": train.counts, "val": val.counts, "test": test.counts}
    record = json.loads((tmp_path / "split-x" / "split.json").read_text())
    assert record["data"] == "ingest-data" and record["test"] is None
    assert record["sets"]["val"]["digest"] == val.digest
    assert record["sets"]["test"]["groups"] == ["run1"] and not record["separate_test"]
    assert found.choose_on_val and found.classes == ("a", "b")
    assert str(tmp_path) not in json.dumps(record)
    for name in ("train", "val", "test"):
        assert np.load(tmp_path / "split-x" / f"{name}.npy").dtype == np.int64


def test_under_thirty_validation_images_nothing_is_chosen(tmp_path):
    data = particles([400, 100])
    assert not made(tmp_path / "0", data, val={"a": 100, "b": 29}).choose_on_val
    assert made(tmp_path / "1", data, val={"a": 100, "b": 30}).choose_on_val
    assert made(tmp_path / "2", data, val={"a": 100, "b": 29}, min_val=29).choose_on_val


def test_a_test_set_of_its_own(tmp_path):
    data, test = particles([200, 100]), particles([50, 20], seed=7).with_classes(("b", "a"))
    found = made(tmp_path, data, test, test={"reader": "ignored here"})
    assert found.test().classes == ("a", "b") and found.test().counts == {"a": 50, "b": 20}
    assert found.record["separate_test"] and len(found.train()) + len(found.val()) == 300


def test_a_test_set_that_was_changed_is_refused(tmp_path):
    found = made(tmp_path, particles([200, 100]), particles([50, 20], seed=7))
    for file in (tmp_path / "ingest-test").iterdir():
        file.unlink()
    particles([50, 20], seed=8).save(tmp_path / "ingest-test")
    with pytest.raises(SvpkitError, match="not the one that was locked"):
        found.test()
    assert len(found.val()) == 30


def test_a_test_set_with_other_classes_or_sizes_is_refused(tmp_path):
    data = particles([200, 100])
    with pytest.raises(SvpkitError, match="data.test: class: unknown 'c'"):
        made(tmp_path / "0", data, particles([50, 20, 5], seed=7))
    with pytest.raises(SvpkitError, match="data.test: images are"):
        made(tmp_path / "1", data, particles([50, 20], seed=7, size=9))


@pytest.mark.parametrize("where", ["data", "test"])
def test_drawn_particles_never_enter(tmp_path, where):
    sets = {"data": particles([200, 100]), "test": particles([50, 20], seed=7)}
    n = len(sets[where])
    sets[where].table["origin"] = ["synthetic" if i == 5 else "real" for i in range(n)]
    with pytest.raises(SvpkitError, match="1 drawn .* 'particle-000005': they may never stand"):
        made(tmp_path, sets["data"], sets["test"])


def copied(data, pairs):
    """The same set, where picture j is also picture i."""
    images = data.images()
    for i, j in pairs:
        images[j] = images[i]
    table = data.table.drop(columns=["label", "digest"])
    labels = list(data.table["label"].astype(str))
    columns = {str(name): list(table[name]) for name in table}
    return ParticleSet.from_arrays(images, labels, data.classes, **columns)


def test_identical_pictures_stay_in_one_set(tmp_path):
    pairs = [(i, i + 150) for i in range(100)]
    data = copied(particles([200, 100]), pairs)
    for params in ({"val": 0.3, "test": 0.3}, {"val": {"a": 60, "b": 31}}):
        parts = parted(data, **params)
        assert disjoint(of(data, parts, "digest"))
        where = np.zeros(300, int)
        where[parts.val], where[parts.test] = 1, 2
        assert len(set(where)) == (3 if "test" in params else 2)


def test_identical_pictures_join_their_groups():
    data = copied(particles([300, 100], group=groups(40)), [(0, 1), (1, 42)])
    parts = parted(data, val=0.3)
    assert disjoint(of(data, parts, "group")) and disjoint(of(data, parts, "digest"))


def test_identical_pictures_across_what_was_fixed_are_refused(tmp_path):
    data = copied(particles([300, 100], group=groups(8)), [(3, 4), (11, 12)])
    with pytest.raises(SvpkitError) as error:
        made(tmp_path / "group", data, test={"group": "run3"})
    said = str(error.value)
    assert "'particle-000004' = 'particle-000003'" in said
    assert "'particle-000012' = 'particle-000011'" in said and "and test" in said
    test = particles([50, 20], seed=7)
    both = concat([test, data.take([9])]).take(np.arange(71))
    with pytest.raises(SvpkitError, match="'particle-000009' = 'particle-000009'; remove one"):
        made(tmp_path / "set", data, both)


def test_near_duplicates_are_reported_with_their_ids(tmp_path):
    data, test = particles([300, 100], size=16), particles([30, 20], seed=7, size=16)
    images = test.images()
    noise = np.random.default_rng(0).integers(-2, 3, images.shape[1:])
    for i, j in ((5, 40), (6, 41)):
        images[i] = np.clip(data.images([j])[0].astype(int) + noise, 0, 255)
    planted = ParticleSet.from_arrays(
        images, list(test.table["label"]), CLASSES[:2], id=[f"test-{i}" for i in range(50)]
    )
    found = made(tmp_path, data, planted, val=0.1).record["near_duplicates"]
    assert found["n"] == 2 and found["unsearched"] == 0
    pairs = {tuple(pair["ids"]) for pair in found["pairs"]}
    assert pairs == {("particle-000040", "test-5"), ("particle-000041", "test-6")}
    expected = pearsonr(images[5].ravel(), data.images([40]).ravel()).statistic
    by_id = {pair["ids"][1]: pair["correlation"] for pair in found["pairs"]}
    assert by_id["test-5"] == pytest.approx(expected, abs=1e-4)


def test_the_near_search_finds_what_brute_force_finds():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 256))
    mix = rng.uniform(0, 0.14, (300, 1))
    other = base + mix * rng.normal(size=base.shape)
    sets = []
    for values in (base, other):
        images = np.clip(128 + 25 * values, 0, 255).astype(np.uint8).reshape(-1, 1, 16, 16)
        sets.append(ParticleSet.from_arrays(images, ["a"] * 300, ("a",)))
    r = np.corrcoef(sets[0].images().reshape(300, -1), sets[1].images().reshape(300, -1))
    expected = set(zip(*np.nonzero(r[:300, 300:] >= 0.995), strict=True))
    near = near_pairs(*sets)
    found = set(zip(near.first, near.second, strict=True))
    assert 100 < len(expected) < 290
    assert found <= expected and len(found) >= 0.95 * len(expected)


def test_the_near_search_is_bounded_on_blank_images():
    images = np.full((20_000, 1, 8, 8), 200, np.uint8)
    images[:, 0, 0, 0] -= np.arange(20_000).astype(np.uint8) % 50
    blank = ParticleSet.from_arrays(images, ["a"] * 20_000, ("a",))
    found = near_pairs(blank, blank.take(np.arange(5_000)))
    assert found.unsearched > 4_000 and len(found.first) <= 200_000


def test_real_runs_held_out(real_data, tmp_path):
    columns = {"file": "tile", "label": "class", "group": "run", "source": "src_image"}
    options = {"labels": "labels.csv", "columns": columns}
    use = plugins.discover(builtin_only=True).use("reader", "folder", options, "data.reader")
    data = import_set(tmp_path / "data", use, real_data / "flowcam_protists", size=32)
    run = "7-Pygsuia-SF-SW-sulfate-day5-sample3-replicate3A-08April2024"
    found = made(tmp_path / "store", data, test={"group": run}, val=0.2)
    assert found.counts["test"] == {"Junk": 733, "Missed": 56, "Protist": 211}
    train, val = found.train(), found.val()
    keys = [set(zip(s.table["group"], s.table["source"], strict=True)) for s in (train, val)]
    assert disjoint(keys) and found.choose_on_val
    share = {name: n / (n + train.counts[name]) for name, n in val.counts.items()}
    assert share == pytest.approx({"Junk": 0.2, "Missed": 0.2, "Protist": 0.2}, abs=0.02)


def test_real_cells_grouped_by_source_image(real_data):
    columns = {"file": "tile", "label": "class", "group": "source_image"}
    data = ParticleSet.from_folder(
        real_data / "blood_cells", size=32, labels="boxes.csv", columns=columns
    )
    parts = parted(data, val={"RBC": 300, "WBC": 40, "Platelets": 40}, test=0.2)
    assert disjoint(of(data, parts, "group"))
    assert data.take(parts.val).counts == {"WBC": 40, "RBC": 300, "Platelets": 40}
    share = np.array(list(data.take(parts.test).counts.values())) / list(data.counts.values())
    assert np.abs(share - 0.2).max() < 0.02


def test_a_set_without_a_class_is_refused_by_name(tmp_path):
    with pytest.raises(SvpkitError, match="no particle of class 'b' in val .100 particles there"):
        made(tmp_path / "val", particles([400, 100]), val={"a": 100})
    only = particles([50, 0], seed=7)
    with pytest.raises(SvpkitError, match="no particle of class 'b' in test"):
        made(tmp_path / "test", particles([200, 100]), only)


def test_groups_that_stand_in_data_and_in_a_test_set_of_its_own_are_noted(tmp_path):
    shared = {"group": ["vial 7"] * 300}
    data = ParticleSet.from_arrays(
        particles([200, 100]).images(), ["a"] * 200 + ["b"] * 100, "ab", **shared
    )
    test = ParticleSet.from_arrays(
        particles([50, 20], seed=7).images(), ["a"] * 50 + ["b"] * 20, "ab", group="vial 7"
    )
    found = made(tmp_path, data, test)
    assert any("'vial 7'" in note for note in found.record["notes"])


def test_folds_part_the_data_and_keep_groups_whole():
    data = particles([500, 60, 40], group=groups(50))
    tests = []
    for fold in range(5):
        parts = divide(data, ASKED | {"test": {"fold": fold, "of": 5}, "seed": fold})
        again = divide(data, ASKED | {"test": {"fold": fold, "of": 5}, "seed": 9})
        assert np.array_equal(parts.test, again.test)
        rest = np.concatenate([parts.train, parts.val])
        assert not set(data.table["group"].iloc[parts.test]) & set(data.table["group"].iloc[rest])
        counts = np.array(list(data.take(parts.test).counts.values()))
        assert np.abs(counts / (500, 60, 40) - 0.2).max() < 0.1
        tests.append(parts.test)
    with pytest.raises(SvpkitError, match="fold 99 of 100 is empty: 50 groups"):
        divide(data, ASKED | {"test": {"fold": 99, "of": 100}})
    assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(600))


@pytest.mark.parametrize("own_test", [True, False])
def test_further_sets_only_train(tmp_path, own_test):
    data, far = particles((90, 40)), particles((20, 9), seed=7, source="far")
    test = {"own_test": particles((30, 30), seed=3)} if own_test else {"test": 0.2}
    plain = made(tmp_path / "a", data, **test)
    more = made(tmp_path / "b", data, also=[far], **test)
    assert len(more.train()) == len(plain.train()) + 29
    assert more.train().of("b").counts["b"] == plain.train().counts["b"] + 9
    assert (more.train().table["source"] == "far").sum() == 29
    np.testing.assert_array_equal(more.train().images()[-29:], far.images())
    for name in ("val", "test"):
        assert more.record["sets"][name]["digest"] == plain.record["sets"][name]["digest"]
    assert more.counts["train"] == more.train().counts


def test_a_further_set_may_not_hold_what_is_tested_on(tmp_path):
    data = particles((90, 40))
    with pytest.raises(SvpkitError, match="the same picture stands in train and"):
        made(tmp_path, data, also=[data.take(np.arange(130))], test=0.2)


def test_further_sets_of_the_groups_that_judge_are_told(tmp_path):
    data = particles((90, 40), group=groups(9)(130))
    again = ParticleSet.from_arrays(
        255 - data.images()[:60],
        list(data.table["label"].astype(str))[:60],
        data.classes,
        id=list(data.table["id"])[:60],
        group=list(data.table["group"].astype(str))[:60],
    )
    notes = made(tmp_path, data, also=[again], test=0.2).record["notes"]
    for what in ("groups stand in data.also and in val", "ids stand in data.also and in test"):
        assert any(what in note for note in notes)
