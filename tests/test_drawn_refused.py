"""Drawn particles in a test set: refused by their tags and, without them, by their pixels."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy import images, write_folder

from svpkit import auditlog, drawn_index
from svpkit.default_plugins.folder import FolderReader
from svpkit.drawn import Drawn, write_png
from svpkit.drawn_index import READ, Index, mark, note, real_of
from svpkit.errors import SvpkitError
from svpkit.particles.ingest import import_set, ingest
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import refuse_drawn, split
from svpkit.plugin import Plugin
from svpkit.plugins import Use, discover

RULES = {"seed": 0, "group": None, "val": {"disc": 4, "ring": 4}, "test": None}


@pytest.fixture
def store(tmp_path):
    """A store that knows 8 drawn pictures of noise, and a folder with a test set beside it."""
    root = tmp_path / "store"
    (root / ".partial").mkdir(parents=True)
    write_folder(tmp_path / "data", {"disc": 9, "ring": 9}, size=16)
    write_folder(tmp_path / "test", {"disc": 3, "ring": 3}, seed=1, size=16)
    assert note(root, "synthetic-ab", [pixels()], []) == 8
    return root


def pixels(n=8, size=16, seed=5):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 1, size, size)).astype(np.uint8)


def reader(name):
    return discover(builtin_only=True).use("reader", name, {}, "data.reader")


def read(store, folder, name="ingest-aa", size=16, channels=1, by="folder"):
    use = reader(by)
    out = store / ".partial" / name
    out.mkdir()
    ingest(out, {"reader": use, "path": str(folder), "size": size, "channels": channels})
    return out.rename(store / name)


def divided(store, folder=None):
    inputs = [read(store, store.parent / "data")]
    inputs += [read(store, folder, "ingest-bb")] if folder else []
    out = store / ".partial" / "split-cc"
    out.mkdir()
    split(out, RULES | ({} if folder else {"test": 0.2}), *inputs)
    return out.rename(store / "split-cc")


def planted(store, file, write):
    write(store.parent / "test" / "ring" / file)
    return store.parent / "test"


def test_a_tagged_one_is_refused_in_the_test_set_by_name(store):
    folder = store.parent / "test"
    write_png(Drawn(pixels(2, seed=9), "ring", 0, "ab" * 32), folder / "ring")
    with pytest.raises(SvpkitError) as said:
        divided(store, folder)
    assert str(said.value).startswith("data.test: 2 drawn (synthetic) particles, such as ")
    assert "'ring/synthetic-ring-0-000000.png', 'ring/synthetic-ring-0-000001.png'" in str(
        said.value
    )


def test_a_tagged_one_is_refused_in_data_that_is_split(store):
    write_png(Drawn(pixels(1, seed=9), "ring", 0, "ab" * 32), store.parent / "data" / "ring")
    with pytest.raises(SvpkitError, match="data: 1 drawn .*may never stand in train, val or test"):
        divided(store)


def bmp_and_back(path):
    Image.fromarray(pixels()[3, 0]).convert("RGB").save(path.with_suffix(".bmp"))
    Image.open(path.with_suffix(".bmp")).save(path)
    path.with_suffix(".bmp").unlink()


def sixteen_bits(path):
    Image.fromarray(pixels()[3, 0].astype(np.uint16) * 257).save(path)


def opaque(path):
    Image.fromarray(pixels()[3, 0]).convert("RGBA").save(path)


def untagged(path):
    Image.fromarray(pixels()[3, 0]).save(path)


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("real-7.png", untagged),
        ("real-7.tif", untagged),
        ("real-7.bmp", untagged),
        ("real-7.png", bmp_and_back),
        ("real-7.png", opaque),
        ("real-7.png", sixteen_bits),
    ],
)
def test_one_without_its_tag_is_refused_by_its_pixels(store, file, write):
    folder = planted(store, file, write)
    with pytest.raises(SvpkitError) as said:
        read(store, folder)
    assert "\n" not in str(said.value)
    assert f"{folder}: 1 drawn (synthetic) images under another name: 'ring/{file}'" in str(
        said.value
    )
    assert "synthetic-ab" in str(said.value)


@pytest.mark.parametrize(("size", "channels"), [(24, 1), (12, 1), (16, 3)])
def test_the_size_and_channels_that_are_asked_for_hide_nothing(store, size, channels):
    with pytest.raises(SvpkitError, match="1 drawn .* 'ring/x.png'"):
        read(store, planted(store, "x.png", untagged), size=size, channels=channels)


def test_a_set_read_before_the_picture_was_drawn_is_refused_when_split(store):
    late = pixels(1, seed=77)
    folder = planted(store, "late.png", lambda path: Image.fromarray(late[0, 0]).save(path))
    data, test = read(store, store.parent / "data"), read(store, folder, "ingest-bb")
    note(store, "generator-cd", [late], [])
    out = store / ".partial" / "split-cc"
    out.mkdir()
    with pytest.raises(SvpkitError, match="data.test: 1 drawn .* 'ring/late.png' .*generator-cd"):
        split(out, RULES, data, test)
    particles = ParticleSet.open(test)
    with pytest.raises(SvpkitError, match="test: 1 drawn"):
        refuse_drawn(particles, "test", Index(store))
    refuse_drawn(particles, "test")


@pytest.mark.parametrize("sizes", [(64,), (24,), (64, 32)])
def test_an_import_at_another_size_hides_nothing(store, sizes):
    place, by = planted(store, "x.png", untagged), "folder"
    for size in sizes:
        out = store.parent / f"set-{size}"
        import_set(out, reader(by), place, size=size)
        place, by = out, "imported"
    with pytest.raises(SvpkitError, match="1 drawn .* 'ring/x.png' .*synthetic-ab"):
        read(store, place, by=by)


def test_one_imported_at_another_size_before_it_was_drawn_is_refused_when_split(store):
    late = pixels(1, seed=77)
    folder = planted(store, "x.png", lambda path: Image.fromarray(late[0, 0]).save(path))
    import_set(store.parent / "late", reader("folder"), folder, size=64)
    test = read(store, store.parent / "late", "ingest-bb", by="imported")
    data, out = read(store, store.parent / "data"), store / ".partial" / "split-cc"
    out.mkdir()
    note(store, "generator-cd", [late], [])
    with pytest.raises(SvpkitError, match="data.test: 1 drawn .* 'ring/x.png' .*generator-cd"):
        split(out, RULES, data, test)


def test_real_ones_imported_at_another_size_pass_and_sets_of_before_read_as_they_did(store):
    out = store.parent / "set"
    import_set(out, reader("folder"), store.parent / "test", size=64)
    part, folder = out / "part-00000.parquet", store.parent / "test"
    found = ParticleSet.open(read(store, out, by="imported"))
    firsts = {r["id"]: mark(i) for i, r in FolderReader().read(folder)}
    assert found.table[READ].dtype == np.uint64
    assert found.table[READ].tolist() == [firsts[name] for name in found.table["id"]]
    table = pd.read_parquet(part)
    table.drop(columns=READ).to_parquet(part, index=False)
    before = ParticleSet.open(read(store, out, "ingest-bb", by="imported"))
    assert before.digest == found.digest
    assert READ not in ParticleSet.open(out).table
    refuse_drawn(ParticleSet.open(out), "data", Index(store))
    # what is no mark in the table of a set is none here either
    for other in ("none", -1.5, 2.0**70):
        table.assign(**{READ: other}).to_parquet(part, index=False)
        assert ParticleSet.open(read(store, out, f"ingest-{other}", by="imported")).digest


def test_real_particles_pass_and_what_cannot_be_found_is_as_documented(store):
    changed = pixels()[3, 0].copy()
    changed[0, 0] ^= 1
    folder = planted(store, "one-level.png", lambda p: Image.fromarray(changed).save(p))
    Image.fromarray(pixels()[4, 0]).resize((20, 20)).save(folder / "ring" / "resized.png")
    Image.fromarray(np.full((16, 16), 200, np.uint8)).save(folder / "ring" / "blank.png")
    divided(store, folder)
    assert auditlog.faults(store) == []


def test_an_exact_copy_of_a_real_image_makes_its_original_not_suspect(store):
    made = divided(store)
    real = ParticleSet.open(store / "ingest-aa")
    assert [len(each) for each in real_of(store, made)] == [18]
    drawn = np.concatenate([real.images([0, 1]), pixels(2, seed=8)])
    drawn = np.concatenate([drawn, np.full((1, 1, 16, 16), 9, np.uint8)])
    assert note(store, "synthetic-ee", [drawn], real_of(store, made)) == 2
    refuse_drawn(real, "data", Index(store))
    # found from what the split went into as well
    generator = store / "generator-ff"
    generator.mkdir()
    (generator / "artifact.json").write_text(json.dumps({"inputs": ["split-cc"]}))
    assert len(real_of(store, generator)) == 1


def test_the_index_is_small_sorted_and_keeps_what_it_knew(store):
    assert note(store, "synthetic-ab", [pixels(3, seed=6), pixels(2)], []) == 11
    found = np.load(store / "drawn" / "synthetic-ab.npy", allow_pickle=False)
    assert found.dtype == np.uint64 and (np.diff(found) > 0).all()
    assert mark(pixels()[0]) in found
    assert drawn_index.described(store)["synthetic-ab"]["images"] == 11


def test_a_picture_is_known_however_its_channels_lie():
    grey = pixels(1)[0]
    colour = np.random.default_rng(0).integers(0, 256, (3, 16, 16)).astype(np.uint8)
    assert mark(grey) == mark(grey[0]) == mark(np.repeat(grey, 3, 0))
    assert mark(np.moveaxis(colour, 0, -1)) == mark(colour) != mark(colour[::-1])


def test_what_a_run_draws_is_known_in_its_store(run, place, tmp_path):
    index = Index(place / "store")
    for path in (place / "store").glob("synthetic-*"):
        assert path.name in index.names
        assert (index.who(drawn_index.marks_of(ParticleSet.open(path))) >= 0).all()
    drawn = run.draw("ring", 3, seed=11)
    write_png(drawn, tmp_path / "ring")
    for path in (tmp_path / "ring").iterdir():
        Image.fromarray(np.asarray(Image.open(path))).save(path)
    stripped = [row for _, row in FolderReader().read(tmp_path)]
    assert all("origin" not in row for row in stripped)
    with pytest.raises(SvpkitError, match="3 drawn .*under another name"):
        list(Index(place / "store").watched(FolderReader().read(tmp_path), "test"))
    real = ParticleSet.open(next((place / "store").glob("ingest-*")))
    refuse_drawn(real, "data", Index(place / "store"))


def test_it_is_refused_by_any_reader(store):
    class Reader:
        def read(self, path):
            yield images({"disc": 1})[0][0, 0], {"id": "a", "label": "disc"}
            yield pixels()[0, 0], {"id": "b", "label": "disc"}

    use = Use(Plugin("reader", "mine", Reader(), "here", "1", "file"), {})
    out = store / ".partial" / "ingest-mine"
    out.mkdir()
    with pytest.raises(SvpkitError, match="mine: 1 drawn .*'b'"):
        ingest(out, {"reader": use, "path": None, "size": 16, "channels": 1})


def test_a_tagged_one_in_an_export_is_refused(tmp_path):
    from svpkit.readers.exports import picture

    write_png(Drawn(pixels(1), "ring", 0, "ab" * 32), tmp_path)
    with pytest.raises(SvpkitError, match="'synthetic-ring-0-000000.png' is a drawn"):
        picture(tmp_path.resolve(), "synthetic-ring-0-000000.png")
