"""`svpkit predict`: from an export to counts, on the toy run."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy import CLASSES, picture, write_folder

from svpkit import SvpkitError
from svpkit.classify.balance import Balance
from svpkit.classify.strategies import PriorCorrection
from svpkit.deployed import Deployed
from svpkit.predict import Ask, Source, predict

SCALE = 0.5


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """A folder of new particles of the toy's kind: 300 discs, 30 rings, 30 bars."""
    return write_folder(
        tmp_path_factory.mktemp("new"), {"disc": 300, "ring": 30, "bar": 30}, seed=9
    )


def source(run, path, **options):
    use = run.registry.use("reader", "folder", {"um_per_px": SCALE, **options}, "reader")
    return Source(use, path)


@pytest.fixture(scope="module")
def counted(run, new, tmp_path_factory):
    out = tmp_path_factory.mktemp("counted") / "out"
    ask = Ask(volume_ml=0.1, dilution=2.0, to_label=12)
    return out, predict(run.folder, run.registry, [source(run, new)], out, ask)


def test_every_particle_is_in_the_tables_once(counted, new):
    out, _ = counted
    table = pd.read_parquet(out / "predictions.parquet")
    pd.testing.assert_frame_equal(
        table[["id", "predicted"]], pd.read_csv(out / "predictions.csv")[["id", "predicted"]]
    )
    assert len(table) == table["id"].nunique() == 360
    assert set(table["predicted"]) <= {*CLASSES, "unknown"}
    calibrated = table[[f"calibrated_{c}" for c in CLASSES]].to_numpy()
    np.testing.assert_allclose(calibrated.sum(1), 1, atol=1e-5)
    assert (table["size_from"] == "pixels").all() and table["ecd_um"].between(1, 8).mean() > 0.95


def test_counts_are_those_of_the_predictions_per_ml(counted):
    out, page = counted
    table, counts = pd.read_parquet(out / "predictions.parquet"), pd.read_csv(out / "counts.csv")
    every = counts[counts["bin"] == "all"].set_index("class")
    named = table["predicted"].value_counts()
    for name in (*CLASSES, "unknown"):
        assert every.loc[name, "n_named"] == named.get(name, 0)
    row = every.loc["disc"]
    assert row["per_ml"] == pytest.approx(row["count"] / 0.1 * 2, rel=1e-6)
    assert row["per_ml_low"] <= row["per_ml"] <= row["per_ml_high"]
    assert every.loc["disc", "count_low"] < 300 < every.loc["disc", "count_high"] + 15
    big = counts[(counts["bin"] == ">= 2") & (counts["class"] == "disc")].iloc[0]
    sized = (table["predicted"] == "disc") & (table["ecd_um"] >= 2)
    assert big["n_named"] == sized.sum()
    assert len(page.counts) == len(counts)


def test_the_page_and_the_record_are_there(counted):
    out, _ = counted
    text = (out / "report.html").read_text()
    assert "disc" in text and "://" not in text.replace("http://www.w3.org", "")
    assert "passes USP" not in text
    record = json.loads((out / "prediction.json").read_text())
    assert record["runs"][0]["volume_ml"] == 0.1 and record["runs"][0]["particles"] == 360


def test_what_to_label_next_has_a_sheet_and_a_column_to_fill(counted):
    out, _ = counted
    queue = pd.read_csv(out / "to-label.csv", keep_default_na=False)
    assert len(queue) == 12 and (queue["label"] == "").all() and queue["id"].is_unique
    assert (out / "to-label.png").is_file()


def test_the_run_tells_how_well_its_probabilities_are_calibrated(run):
    found = run.results["calibration"]
    assert found["calibrator"]["kind"] in ("none", "temperature", "vector")
    for each in found["calibration"].values():
        brier = each["calibrated"]["brier"]
        assert 0 <= brier["low"] <= brier["value"] <= brier["high"] <= 2
    text = (run.folder / "report.html").read_text()
    assert "Calibrator chosen on validation" in text and "Reliability on test" in text


def test_a_used_folder_is_left_as_it_is(run, counted, new):
    out, _ = counted
    before = (out / "counts.csv").read_bytes()
    with pytest.raises(SvpkitError, match="already there; name a new folder"):
        predict(run.folder, run.registry, [source(run, new)], out)
    assert (out / "counts.csv").read_bytes() == before


def test_far_input_is_refused_unless_forced(run, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "far" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(path)
    with pytest.raises(SvpkitError, match="far from what the model was validated on.*--force"):
        predict(run.folder, run.registry, [source(run, tmp_path / "far")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    page = predict(
        run.folder, run.registry, [source(run, tmp_path / "far")], tmp_path / "out", Ask(force=True)
    )
    assert page.inputs[0]["forced"] and set(page.counts["method"]) == {"cc"}


def test_one_far_run_does_not_take_the_others_with_it(run, new, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "far").mkdir()
    for i in range(60):
        picture = rng.integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(picture).save(tmp_path / "far" / f"{i}.png")
    read = [source(run, new), source(run, tmp_path / "far")]
    page = predict(run.folder, run.registry, read, tmp_path / "out")
    assert page.runs == [new.name] and (tmp_path / "out" / "report.html").is_file()
    assert any("Left out, not counted" in w and "'far' is far" in w for w in page.warnings)
    blank = Source(read[1].reader, tmp_path / "far", blank=True)
    with pytest.raises(SvpkitError, match="far from what the model"):
        predict(run.folder, run.registry, [read[0], blank], tmp_path / "no")


def test_pictures_that_trained_the_model_are_told(run, place, new, tmp_path):
    known = predict(run.folder, run.registry, [source(run, place / "data")], tmp_path / "known")
    assert any("trained or chosen on 100% of these very pictures" in w for w in known.warnings)
    fresh = predict(run.folder, run.registry, [source(run, new)], tmp_path / "fresh")
    assert not any("these very pictures" in w for w in fresh.warnings)


def test_sizes_that_mean_another_diameter_are_not_corrected(run, new, tmp_path, monkeypatch):
    from svpkit import predict as module

    plain = predict(run.folder, run.registry, [source(run, new)], tmp_path / "plain")
    assert set(plain.counts["method"]) == {"acc"}
    deployed = Deployed.open(run.folder / "model", run.registry)
    opened = replace(deployed, record={**deployed.record, "size_ratio": 0.6})
    monkeypatch.setattr(module.Deployed, "open", lambda *args: opened)
    page = predict(run.folder, run.registry, [source(run, new)], tmp_path / "out")
    assert set(page.counts["method"]) == {"cc"}
    assert page.counts["note"].str.contains("another diameter is meant").all()


def test_another_mix_is_no_shift(run, tmp_path):
    few = write_folder(tmp_path / "few", {"disc": 5, "ring": 90, "bar": 5}, seed=11)
    page = predict(run.folder, run.registry, [source(run, few)], tmp_path / "out")
    assert page.inputs[0]["shift"]["level"] == "none"
    rings = page.counts[(page.counts["class"] == "ring") & (page.counts["bin"] == "all")].iloc[0]
    assert rings["count_low"] <= 90 <= rings["count_high"]
    assert np.isnan(rings["per_ml"])


def test_an_empty_blank_changes_nothing_but_the_limits(run, new, tmp_path):
    (tmp_path / "blank").mkdir()
    blank = Source(source(run, new).reader, tmp_path / "blank", blank=True)
    page = predict(
        run.folder, run.registry, [source(run, new), blank], tmp_path / "out", Ask(volume_ml=0.1)
    )
    plain = predict(
        run.folder, run.registry, [source(run, new)], tmp_path / "plain", Ask(volume_ml=0.1)
    )
    with_blank = page.counts[page.counts["bin"] == "all"].set_index("class")["per_ml"]
    without = plain.counts[plain.counts["bin"] == "all"].set_index("class")["per_ml"]
    np.testing.assert_allclose(with_blank, without, rtol=0.02, atol=5)


def test_replicates_are_pooled_and_runs_stand_apart(run, tmp_path):
    folders = [
        write_folder(tmp_path / name, {"disc": 100, "ring": 12, "bar": 12}, seed=20 + i)
        for i, name in enumerate("ab")
    ]
    read = [source(run, folder) for folder in folders]
    page = predict(run.folder, run.registry, read, tmp_path / "two", Ask(volume_ml=0.1))
    assert page.runs == ["a", "b"]
    pooled = predict(
        run.folder, run.registry, read, tmp_path / "one", Ask(volume_ml=0.1, pooled=True)
    )
    discs = pooled.counts[(pooled.counts["class"] == "disc") & (pooled.counts["bin"] == "all")]
    assert (discs["n_named"] > 180).any()
    with pytest.raises(SvpkitError, match="run 'a' is given twice"):
        predict(run.folder, run.registry, [read[0], read[0]], tmp_path / "no")


def test_a_model_without_its_reference_says_what_to_do(run, tmp_path):
    import shutil

    copy = shutil.copytree(run.folder, tmp_path / "copy")
    (copy / "model" / "reference.json").unlink()
    with pytest.raises(SvpkitError, match="reference.json: not here.*svpkit run"):
        Deployed.open(copy / "model", run.registry)


def test_the_intake_of_training_is_that_of_prediction(run, tmp_path):
    """A recipe that divides by the background: prediction does too, whatever the lamp."""
    import svpkit

    # the lamp of the new pictures is a quarter weaker; divided, they are what the model knows
    values = json.loads((run.folder / "run.json").read_text())["recipe"]
    assert values["data"]["background"] == "keep"
    rng = np.random.default_rng(5)
    for i in range(60):
        image = picture("disc", rng).astype(float) * 0.75
        path = tmp_path / "dim" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    recipe = run.folder.parent.parent / "toy.toml"
    divided = svpkit.run(
        recipe,
        overrides=["name=divided", "data.background=divide", "baselines=[]"]
        + ["balance.strategies=['augment']"],
        runs=tmp_path / "runs",
        store=run.folder.parent.parent / "store",
    )
    page = predict(divided.folder, run.registry, [source(run, tmp_path / "dim")], tmp_path / "out")
    row = page.counts[(page.counts["class"] == "disc") & (page.counts["bin"] == "all")].iloc[0]
    assert row["n_named"] >= 54


def test_a_particle_bears_one_name_in_validation_and_in_the_input(run):
    """Strategies that estimate the mix at work name validation by the mix of the input."""
    deployed = Deployed.open(run.folder / "model", run.registry)
    held = deployed.held
    asis = deployed.alike(deployed.rule(held.logits))
    np.testing.assert_array_equal(asis.named, deployed.val.named)
    by_mix = Balance((("prior_correction", PriorCorrection(prevalence="em")),))
    # unsure of itself: what it names hangs on the mix
    rng = np.random.Generator(np.random.Philox(3))
    unsure = 2.0 * np.eye(3)[deployed.val.labels] + rng.normal(size=held.logits.shape)
    held = replace(held, logits=unsure.astype(np.float32))
    model = replace(deployed.model, balance=by_mix)
    deployed = replace(deployed, model=model, held=held)
    rows = np.concatenate([np.flatnonzero(deployed.val.labels == 0).repeat(30), [0, 1, 2]])
    named = deployed.named(model.adjusted(held.logits[rows]), held.flagged[rows])
    alike = deployed.alike(deployed.rule(held.logits[rows]))
    np.testing.assert_array_equal(alike.named[rows], named)
    assert (alike.named != deployed.named(model.adjusted(held.logits), held.flagged)).any()
    assert deployed.alike(deployed.rule(held.logits[:0])) is deployed.val


def test_what_a_spreadsheet_would_run_is_quoted(run, tmp_path):
    write_folder(tmp_path / "plain", {"disc": 12}, seed=31)
    folder = (tmp_path / "plain" / "disc").rename(tmp_path / "=evil")
    for i, path in enumerate(sorted(folder.glob("*.png"))):
        path.rename(folder / f"={i}.png")
    use = run.registry.use("reader", "folder", {}, "reader")
    out = tmp_path / "out"
    predict(run.folder, run.registry, [Source(use, folder)], out, Ask(to_label=3))
    for name in ("predictions.csv", "counts.csv", "to-label.csv"):
        cells = (out / name).read_text().replace("\n", ",").split(",")
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))], name
    assert pd.read_parquet(out / "predictions.parquet")["id"].str.startswith("=").all()
