"""`svpkit fidelity`: two sets compared from the command line."""

import json
from dataclasses import replace

import pytest
import toy
from click.testing import CliRunner

from svpkit.cli import cli
from svpkit.drawn import Drawn, write_png
from svpkit.errors import SvpkitError
from svpkit.generate import extractor
from svpkit.likeness import Asked, tables
from svpkit.particles.particleset import ParticleSet

COUNTS = {"disc": 60, "ring": 40, "bar": 40}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("likeness")
    toy.write_folder(folder / "real", COUNTS)
    toy.write_folder(folder / "drawn", {"disc": 40}, seed=1)
    return folder


@pytest.fixture
def call(place, tmp_path, monkeypatch):
    """Run the command with a short training, in a store that the tests share."""
    monkeypatch.setattr(extractor, "PLAN", replace(extractor.PLAN, images=1920))

    def run(real, drawn, *more):
        command = ["fidelity", str(real), str(drawn), "--out", str(tmp_path / "out")]
        command += ["--store", str(place / "store"), *more]
        done = CliRunner().invoke(cli, command)
        if isinstance(done.exception, SvpkitError):
            return str(done.exception), None
        assert done.exit_code == 0, done.output
        return done.output, json.loads((tmp_path / "out" / "fidelity.json").read_text())

    return run


def test_two_folders_are_compared(place, call, tmp_path):
    said, found = call(place / "real", place / "drawn", "--size", "16")
    assert list(found) == ["disc"]
    assert found["disc"]["n_drawn"] == 40 and found["disc"]["n_real"] == 30
    for text in ("disc: close", "KID above", "coverage", "told apart", "copies", "median ecd"):
        assert text in said
    # half of the real images says nothing of the ones that the generator learned from
    for name in ("copy_rate", "copy_interval", "copy_rate_floor", "copy_recall", "memorised"):
        assert found["disc"][name] is None
    assert said.count("not known: give --train") == 2 and "copies.png" not in said
    assert json.loads((tmp_path / "out" / "copies.json").read_text()) == []
    assert not (tmp_path / "out" / "copies.png").exists()
    made = sorted(path.name for path in (place / "store").glob("*-*"))
    again = call(place / "real", place / "drawn", "--size", "16")
    assert again == (said, found)
    assert sorted(path.name for path in (place / "store").glob("*-*")) == made


def test_a_set_and_what_was_learned_from_are_taken(place, call, tmp_path):
    # the drawn ones are the training images again
    pixels, labels = toy.images({"disc": 30}, seed=5)
    particles = ParticleSet.from_arrays(pixels, labels, ["disc"], um_per_px=0.5)
    particles.save(tmp_path / "set")
    toy.write_folder(tmp_path / "learned", {"disc": 30}, seed=5)
    said, found = call(place / "real", tmp_path / "set", "--train", str(tmp_path / "learned"))
    assert found["disc"]["copy_rate"] == 1 and found["disc"]["copy_interval"]["low"] > 0.85
    assert "pass for copies of training images" in " ".join(said.split())
    assert found["disc"]["memorised"]["low"] > 0.7 and "planted copies found" in said
    assert (tmp_path / "out" / "copies.png").stat().st_size > 1000
    rows = json.loads((tmp_path / "out" / "copies.json").read_text())
    assert rows[0]["train"].endswith(".png") and rows[0]["drawn"].startswith("particle-")


def test_pictures_that_svpkit_drew_know_their_class(place, call, tmp_path):
    pixels, _ = toy.images({"bar": 20}, seed=6)
    write_png(Drawn(pixels, "bar", 0, "digest"), tmp_path / "drawn")
    _, found = call(place / "real", tmp_path / "drawn", "--size", "16")
    assert list(found) == ["bar"] and found["bar"]["n_drawn"] == 20


def test_what_cannot_be_compared_is_refused(place, call, tmp_path):
    size = ("--size", "16")
    toy.write_folder(tmp_path / "other" / "x", {"disc": 3}, seed=2)
    (tmp_path / "other" / "x" / "disc").rename(tmp_path / "other" / "dics")
    said, _ = call(place / "real", tmp_path / "other", *size)
    assert "unknown 'dics'; did you mean 'disc'? (known: " in said
    said, _ = call(place / "real", tmp_path / "none", *size)
    assert said == f"{tmp_path / 'none'}: nothing here to read"
    flat = toy.write_folder(tmp_path / "flat", {"disc": 3}, seed=3) / "disc"
    said, _ = call(place / "real", flat, *size)
    assert "no particle has a label" in said
    pixels, labels = toy.images({"disc": 3})
    ParticleSet.from_arrays(pixels, labels, ["disc"]).save(tmp_path / "set")
    said, _ = call(place / "real", tmp_path / "set", "--size", "32")
    assert "a set of 16 x 16 pixels in 1 channel; 32 x 32 pixels in 1 channel is wanted" in said
    said, _ = call(place / "real", place / "drawn", *size, "--train", str(place / "real"))
    assert "among those that judge" in said
    said, _ = call(tmp_path / "set", place / "drawn")
    assert "disc: cannot tell" in said and "Too few images" in said


def test_a_class_of_few_images_has_a_table_too():
    row = {
        "n_drawn": 3,
        "n_real": 4,
        "verdict": "cannot tell",
        "words": "Too few images to compare.",
        "copy_rate": None,
        "background_shift": {"value": 0.0, "low": -1.0, "high": 1.0},
    }
    (table,) = tables({"disc": row})
    assert table.row_count == 4 and "cannot tell" in str(table.title)
    assert Asked(real=None, drawn=None).seed == 0


def test_pictures_in_flat_folders_are_of_one_class(place, call, tmp_path):
    for side in ("real", "drawn"):
        (tmp_path / side).mkdir()
        for path in (place / side / "disc").glob("*.png"):
            (tmp_path / side / path.name).write_bytes(path.read_bytes())
    _, found = call(tmp_path / "real", tmp_path / "drawn", "--size", "16")
    assert list(found) == ["particle"] and found["particle"]["n_drawn"] == 40
    # the other side names them, if it has one name
    _, found = call(tmp_path / "real", place / "drawn", "--size", "16")
    assert list(found) == ["disc"]
