"""The whole walk on a toy: a run and what it leaves, run again, planned, explained, put to work."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy import CLASSES, images, write_folder

import svpkit
from svpkit import __main__, auditlog
from svpkit.evaluate.evidence import classes_of
from svpkit.particles.particleset import ParticleSet


@pytest.fixture
def svpkit_(place, monkeypatch, capsys):
    """Run a command in the place; returns (exit code, what it printed, what it complained)."""

    def call(*args):
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["svpkit", *map(str, args)])
        code = 0
        try:
            __main__.main()
        except SystemExit as done:
            code = done.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_run_leaves_what_the_house_promises(run):
    left = {p.name for p in run.folder.iterdir()}
    assert {"results.json", "report.html", "run.json", "predictions.parquet", "model"} <= left
    results = run.results
    assert results["classes"] == sorted(CLASSES)
    assert results["test"]["n"] == {"disc": 60, "ring": 30, "bar": 30}
    assert set(results["arms"]) == {"none", "corrected"}
    for metric in ("macro_precision", "macro_recall", "macro_f1", "macro_auprc"):
        found = results["test"][metric]
        assert found["low"] <= found["value"] <= found["high"]
    assert results["val"]["n"] == {"disc": 40, "ring": 35, "bar": 35}
    assert set(results["fidelity"]) == {"ring", "bar"}
    pairs = {(d["arm"], d["against"]) for d in results["differences"]}
    assert ("toy", "none") in pairs


def test_the_scores_are_those_of_scikit_learn(run):
    from sklearn.metrics import average_precision_score, precision_score, recall_score

    table, results = run.predictions, run.results["test"]
    classes = list(classes_of(table))
    p = table[[f"p_{c}" for c in classes]].to_numpy()
    said, truth = np.asarray(classes)[p.argmax(1)], table["label"].to_numpy()
    each = [average_precision_score(truth == c, p[:, k]) for k, c in enumerate(classes)]
    assert results["macro_auprc"]["value"] == pytest.approx(np.mean(each), abs=1e-9)
    precision = precision_score(truth, said, average="macro", zero_division=0)
    assert results["macro_precision"]["value"] == pytest.approx(precision)
    recall = recall_score(truth, said, average="macro")
    assert results["macro_recall"]["value"] == pytest.approx(recall)


def test_drawn_particles_train_and_never_measure(run, place):
    drawn = [ParticleSet.open(p) for p in (place / "store").glob("synthetic-*")]
    assert sum(len(d) for d in drawn) == 60
    ids = set(run.predictions["id"]) | set(pd.read_parquet(run.folder / "model/val.parquet")["id"])
    for each in drawn:
        assert (each.table["origin"] == "synthetic").all()
        assert not ids & set(each.table["id"])
        assert {"model", "label", "seed", "i"} == set(json.loads(each.table["lineage"][0]))
    counts = json.loads((run.folder / "model" / "train_counts.json").read_text())
    assert counts["drawn"] == {"bar": 30, "disc": 0, "ring": 30}


def test_arms_that_train_alike_share_one_network(run):
    record = json.loads((run.folder / "run.json").read_text())["artifacts"]
    assert (
        record["classifier: none"]["name"]
        == record.get("classifier: corrected", record["classifier: none"])["name"]
    )


def test_the_same_command_again_makes_nothing(run, svpkit_, place):
    before = {p: p.stat().st_mtime_ns for p in (place / "store").glob("*/artifact.json")}
    code, out, _ = svpkit_("run", "toy.toml")
    after = {p: p.stat().st_mtime_ns for p in (place / "store").glob("*/artifact.json")}
    assert code == 0 and before == after
    assert "report:" in out and "macro" in out


def test_a_plan_runs_nothing_and_says_why(run, svpkit_, place):
    code, out, _ = svpkit_("run", "toy.toml", "--plan", "--store", "store")
    assert code == 0 and "made" in out and "not made" not in out
    code, out, _ = svpkit_("run", "toy.toml", "--plan", "-o", "classifier.train.lr=1e-3")
    assert code == 0 and "nearest differs in" in out
    assert "about" in next(line for line in out.splitlines() if "in all" in line)


def test_why_names_the_key_that_differs(run, svpkit_):
    code, out, _ = svpkit_("why", "toy.toml", "generator", "-o", "generator.train.lr=0.5")
    assert code == 0 and "train.lr: 0.001 -> 0.5" in out
    code, out, _ = svpkit_("why", "toy.toml", "generator: ring")
    assert code == 0 and out.count("\n") == 1
    code, out, _ = svpkit_("why", "toy.toml", "split")
    assert code == 0 and ": made" in out
    code, _, err = svpkit_("why", "toy.toml", "splitt")
    assert code == 2 and "did you mean 'split'" in err


def test_predict_names_and_counts_particles(run, svpkit_, place):
    write_folder(place / "new", {"disc": 5, "ring": 4, "bar": 3}, seed=2)
    (place / "new" / "disc" / "broken.png").write_bytes(b"no picture")
    code, out, _ = svpkit_("predict", "toy", "new", "--out", "named")
    assert code == 0 and "1 files could not be read" in out
    table = pd.read_csv(place / "named" / "predictions.csv")
    assert len(table) == 12 and set(table["predicted"]) <= set(CLASSES)
    counts = pd.read_csv(place / "named" / "counts.csv")
    assert counts.loc[counts["bin"] == "all", "n_named"].sum() == 12
    assert "broken.png" in (place / "named" / "quarantine.csv").read_text()
    parquet = pd.read_parquet(place / "named" / "predictions.parquet")
    assert parquet["predicted"].tolist() == table["predicted"].tolist()


def test_the_model_folder_moves_to_another_machine(run, tmp_path):
    moved = shutil.copytree(run.folder, tmp_path / "moved")
    pixels, _ = images({"disc": 3, "ring": 3}, seed=3)
    here, there = run.predict(pixels), svpkit.load(moved).predict(pixels)
    pd.testing.assert_frame_equal(here, there)
    text = (moved / "model" / "README.md").read_text()
    assert "passes USP" not in text and "macro" in text.lower()


def test_generate_writes_tagged_pictures_that_can_be_drawn_again(run, svpkit_, place):
    code, _, _ = svpkit_("generate", "toy", "--class", "ring", "-n", 3, "--out", "drawn")
    files = sorted((place / "drawn").glob("*.png"))
    assert code == 0 and len(files) == 3
    with Image.open(files[1]) as image:
        lineage = json.loads(image.text["svpkit-lineage"])
        assert image.text["svpkit-origin"] == "synthetic" and lineage["label"] == "ring"
        pixels = np.asarray(image)
    np.testing.assert_array_equal(pixels, run.generate("ring", 2)[1, 0])
    code, _, err = svpkit_("generate", "toy", "--class", "rng", "--out", "drawn")
    assert code == 2 and "did you mean 'ring'" in err
    with pytest.raises(svpkit.SvpkitError, match="not in this store"):
        svpkit.load(run.folder, store=place / "elsewhere").generate("ring", 1)


def test_drawn_pictures_put_back_as_data_are_refused(run, svpkit_, place):
    shutil.copytree(place / "test", place / "back")
    svpkit_("generate", "toy", "--class", "ring", "-n", 3, "--out", "back/ring")
    code, _, err = svpkit_("run", "toy.toml", "-o", "data.test={ reader='folder', path='back' }")
    assert code == 2 and "synthetic" in err


@pytest.mark.slow
def test_compare_pairs_runs_on_the_same_particles(run, svpkit_):
    code, _, err = svpkit_(
        "run", "toy.toml", "-o", "name=again", "-o", "seed=1", "-o", "baselines=[]"
    )
    assert code == 0, err
    code, out, _ = svpkit_("compare", "toy", "again")
    assert code == 0 and "paired: both" in out and "macro auprc" in out
    code, _, err = svpkit_("compare", "toy", "agin")
    assert code == 2 and "did you mean 'again'" in err


def test_the_store_is_listed_and_cleared_of_what_no_run_names(run, svpkit_, place):
    code, out, _ = svpkit_("store", "ls")
    assert code == 0 and "toy" in out
    record = json.loads((run.folder / "run.json").read_text())
    kept = {artifact["name"] for artifact in record["artifacts"].values()}
    code, out, _ = svpkit_("store", "gc", "--yes")
    assert code == 0 and "that no run in runs names" in out
    assert kept <= {p.name for p in (place / "store").iterdir()}
    assert "nothing that no run" in svpkit_("store", "gc", "--yes")[1]


def test_import_and_inspect_show_what_is_there(svpkit_, place):
    code, out, _ = svpkit_("data", "import", "test", "imported", "--size", 16)
    assert code == 0 and "120 particles" in out
    code, out, _ = svpkit_("data", "inspect", "imported", "--out", "sheets")
    assert code == 0 and "ring" in out
    assert len(list((place / "sheets").glob("*.png"))) == 3
    assert "nan" not in out and "no scale: " in out and "ecd_um" not in out


def test_inspecting_another_set_leaves_the_sheets_of_the_first(svpkit_, place):
    write_folder(place / "few", {"disc": 2, "bar": 2})
    for name in ("few", "test"):
        svpkit_("data", "import", name, f"{name}-set", "--size", 16)
        assert svpkit_("data", "inspect", f"{name}-set")[0] == 0
    sheets = {p.name for p in (place / "inspect-few-set").iterdir()}
    assert sheets == {"disc.png", "bar.png"} and (place / "inspect-test-set").is_dir()
    assert svpkit_("data", "inspect", "few-set")[0] == 0
    code, _, err = svpkit_("data", "inspect", "few-set", "--out", "inspect-test-set")
    assert code == 2 and "inspect-test-set: holds ring.png, no sheet of this set" in err


def test_import_tells_of_what_it_passes_over(svpkit_, place):
    folder = write_folder(place / "mixed", {"disc": 2, "bar": 2})
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("of no concern")
    frames = [Image.new("L", (16, 16), grey) for grey in (10, 200)]
    frames[0].save(folder / "bar" / "moves.gif", save_all=True, append_images=frames[1:])
    (folder / "disc" / "gif.png").write_bytes((folder / "bar" / "moves.gif").read_bytes())
    code, out, _ = svpkit_("data", "import", "mixed", "mixed-set", "--size", 16)
    assert code == 0 and "4 particles" in out and "1 files could not be read" in out
    assert "folders without a picture, no class: empty\n" in out
    assert "2 other files passed over: bar/moves.gif, notes.txt (read: .png, " in out
    assert "disc/gif.png" in (place / "mixed-set" / "quarantine.csv").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("generator.classes=['rng']", "generator.classes: unknown 'rng'; did you mean 'ring'"),
        ("evaluate.prevalence={ dsc=1 }", "evaluate.prevalence: unknown 'dsc'"),
        ("evaluate.precision={ dsc=0.9 }", "evaluate.precision: unknown 'dsc'"),
        ("data.val={ dsc=9 }", "data.val: unknown 'dsc'"),
        ("data.train={ dsc=9 }", "data.train: unknown 'dsc'"),
    ],
)
@pytest.mark.parametrize("known", ["read", "given"])
def test_classes_are_checked_before_any_work_where_they_are_known(
    run, svpkit_, place, change, said, known
):
    args = ["run", "toy.toml", "-o", change, "-o", "name=typo"]
    if known == "given":
        args += ["-o", "data.classes=['bar','disc','ring']", "--store", "none-yet"]
    before = (place / "store" / auditlog.LOG).read_bytes()
    for more in (["--plan"], []):
        code, _, err = svpkit_(*args, *more)
        assert code == 2 and f"toy.toml: {said}" in err
    assert (place / "store" / auditlog.LOG).read_bytes() == before
    assert not (place / "runs" / "typo").exists() and not (place / "none-yet").exists()


def test_a_run_that_is_refused_later_says_so_in_the_log(run, svpkit_, place):
    change = "generator.classes=['rng']"
    code, _, _ = svpkit_("run", "toy.toml", "-o", change, "-o", "name=typo", "--store", "late")
    *_, last = auditlog.lines(place / "late")
    assert code == 2 and last["event"] == auditlog.REFUSED and last["run"] == "typo"
    assert "generator.classes: unknown 'rng'" in last["why"] and str(place) not in last["why"]
    assert not auditlog.faults(place / "late")


def test_another_reader_is_not_the_nearest(run, svpkit_, place):
    (place / "other.toml").write_text(
        'name = "other"\n[data]\nreader = "simulated"\nsize = 16\n'
        "options = { protein = 9 }\n[classifier]\nplugin = 'cifar_resnet'\n"
    )
    code, out, _ = svpkit_("why", "other.toml", "ingest")
    assert code == 0 and out.rstrip().endswith("not made yet")
    code, out, _ = svpkit_("why", "other.toml", "classifier")
    assert code == 0 and "nearest" not in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "toi.toml"], "no such recipe; did you mean 'toy.toml'"),
        (["run", "toy.toml", "-o", "data.size=17"], "generator"),
        (["run", "toy.toml", "-o", "data.path='dta'"], "data.path: nothing called 'dta'"),
        (["run", "toy.toml", "-o", "precision=fp16"], "precision: 'fp16' is only emulated"),
        (["run", "toy.toml", "-o", "classifier.options.model=resnet19"], "resnet1"),
        (["run", "toy.toml", "-o", "generator.sample.stps=3"], "did you mean 'steps'"),
        (["run", "toy.toml", "-o", "generator.sample.steps=99"], "at most the 50 timesteps"),
        (["run", "toy.toml", "-o", "generator.classes=['rng']", "--store", "s2"], "rng"),
        (["run", "toy.toml", "-o", "data.val={ disc=900 }", "--store", "s2"], "data.val.disc"),
        (["run", "toy.toml", "-o", "evaluate.prevalence={ dsc=1 }", "--store", "s2"], "dsc"),
        (["predict", "toy", "nowhere", "--out", "x"], "nothing here to read"),
        (["predict", "tyo", "test", "--out", "x"], "no run 'tyo' in runs; did you mean 'toy'? (th"),
        (["predict", "tyo", "nowhere", "--out", "x"], "no run 'tyo' in runs"),
        (["run", "."], ".: is a folder; a recipe is a .toml file"),
        (["store", "ls", "--store", "nope"], "nope: no store here"),
        (["store", "gc", "--store", "nope"], "nope: no store here"),
        (["export", "toy", "--to", "timm", "--out", "/proc/x"], "/proc/x: cannot be written ("),
        (
            ["run", "toy.toml", "-o", "data.reader=folder", "-o", "data.path=''"],
            "data.path: missing",
        ),
        (["run", "toy.toml", "--fresh", "clasifier"], "did you mean 'classifier'"),
        (["run", "toy.toml", "--plan", "-o", "generator.sample.stps=3"], "did you mean 'steps'"),
        (
            ["run", "toy.toml", "-o", "balance.synthetic.to={ disc=200 }"],
            "synthetic.to: class that",
        ),
        (["run", "toy.toml", "-o", "generator.classes=[]"], "generator.classes: "),
        (
            ["predict", "toy", "test", "--out", "toy.toml"],
            "this is a file, a folder is wanted",
        ),
        (["data", "import", "test", "x", "--size", 0], "0 is not in the range"),
        (["data", "inspect", "nowhere"], "no particle set here"),
        (["plugins", "show", "tim"], "did you mean 'timm'"),
    ],
)
def test_every_mistake_is_one_line_and_exit_code_2(run, svpkit_, args, said):
    code, _, err = svpkit_(*args)
    assert code == 2 and said in err
    assert "Traceback" not in err
    lines = [x for x in err.strip().splitlines() if not x.startswith(("Usage:", "Try "))]
    assert len([x for x in lines if x]) == 1, err


def test_doctor_schema_and_help_answer(svpkit_):
    code, out, _ = svpkit_("doctor")
    assert code == 0 and "torch" in out and "precision" in out
    code, out, _ = svpkit_("schema")
    assert code == 0 and json.loads(out)["properties"]["data"]
    code, out, _ = svpkit_("plugins", "show", "timm")
    assert code == 0 and "model: str" in out
    assert svpkit_("--help")[0] == 0 and svpkit_("run")[0] == 2
