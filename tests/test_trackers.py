import importlib.util
import os
import re
import subprocess
import sys

import pytest

from svpkit import SvpkitError, events, trackers
from svpkit.recipe import validate

RECIPE = {
    "name": "tracked",
    "data": {"reader": "folder", "path": "/home/someone/data", "size": 16, "val": 0.1},
    "classifier": {"train": {"images": 640, "batch": 32, "lr": 0.25}},
}


def tell_a_run():
    told = {"stage": "classifier", "artifact": "classifier-1", "label": "classifier: none"}
    events.tell(events.STAGE_STARTED, **told)
    for images, loss in ((320, 1.5), (640, 0.75)):
        events.tell(events.TRAINING, images=images, loss=loss, lr=0.25)
    events.tell(events.TRAINING, images=640, val={"macro_auprc": 0.5})
    events.tell(events.STAGE_ENDED, **told, seconds=1.0)
    test = {"n": {"a": 3}, "macro_f1": {"value": 0.875, "low": 0.5, "high": None}}
    found = {"name": "tracked", "test": test, "arms": {}, "fidelity": {"a": {"kid": 0.125}}}
    trackers.tell_results(found)


def follow(folder, *names):
    recipe = validate(RECIPE, "recipe")
    with trackers.followed(folder, recipe, names):
        tell_a_run()


def test_tensorboard_reads_what_was_told(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow(tmp_path, "tensorboard")
    found = EventAccumulator(str(tmp_path / "trackers" / "tensorboard" / "tracked"))
    found.Reload()
    loss = [(e.step, e.value) for e in found.Scalars("classifier/none/loss")]
    assert loss == [(320, 1.5), (640, 0.75)]
    assert [e.value for e in found.Scalars("classifier/none/lr")] == [0.25, 0.25]
    assert [e.value for e in found.Scalars("classifier/none/val/macro_auprc")] == [0.5]
    assert [e.value for e in found.Scalars("test/tracked/macro_f1")] == [0.875]
    assert [e.value for e in found.Scalars("test/tracked/macro_f1/low")] == [0.5]
    assert [e.value for e in found.Scalars("fidelity/a/kid")] == [0.125]
    said = "".join(p.read_text() for p in tmp_path.rglob("hparams.yml"))
    assert "classifier.train.lr: 0.25" in said and "seed: 0" in said
    assert "someone" not in said
    assert not list(tmp_path.parent.glob("runs"))


def test_without_a_tracker_nothing_but_the_log_is_written(tmp_path):
    follow(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["events.jsonl"]


@pytest.mark.slow
def test_trackio_reads_what_was_told(tmp_path):
    pytest.importorskip("trackio")
    # of its own process: where it writes is read at its first import
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_trackers as t;"
        "t.follow(pathlib.Path(sys.argv[2]), 'trackio')"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    env.pop("TRACKIO_DIR", None)
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code, here, str(tmp_path)], env=env, check=True)
    import sqlite3

    (path,) = (tmp_path / "trackers" / "trackio").glob("tracked*.db")
    with sqlite3.connect(path) as base:
        rows = base.execute("select step, metrics from metrics order by id").fetchall()
    rows = [
        (step, metrics if isinstance(metrics, str) else bytes(metrics).decode())
        for step, metrics in rows
    ]
    assert rows[0][0] == 320 and re.search(r'"classifier/none/loss": ?1.5', rows[0][1])
    assert any(re.search(r'"test/tracked/macro_f1": ?0.875', metrics) for _, metrics in rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what mlflow uses
def test_mlflow_reads_what_was_told(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    follow(tmp_path, "mlflow")
    base = (tmp_path / "trackers" / "mlflow" / "mlflow.db").resolve()
    client = mlflow.MlflowClient(f"sqlite:///{base}")
    (experiment,) = client.search_experiments(filter_string="name = 'tracked'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["classifier/none/loss"] == 0.75
    assert run.data.params["classifier.train.lr"] == "0.25"


@pytest.mark.slow
def test_wandb_stays_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    follow(tmp_path, "wandb")
    assert list((tmp_path / "trackers" / "wandb").glob("offline-run-*"))


def test_wandb_is_offline_unless_told_and_counts_images_of_its_own(tmp_path, monkeypatch):
    made = []

    class Fake:
        def __init__(self, run, **options):
            self.options, self.logged, self.tracker = options, [], self
            made.append(self)

        def store_init_configuration(self, values):
            self.values = values

        def define_metric(self, name, step_metric):
            self.logged.append((name, step_metric))

        def log(self, values, step=None):
            self.logged.append((values, step))

        def finish(self):
            self.logged.append("end")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("accelerate.tracking.WandBTracker", Fake)
    follow(tmp_path, "wandb")
    assert made[0].options["mode"] == "offline"
    first, second = made[0].logged[:2]
    assert first == ("classifier/none/*", "classifier/none/images")
    assert second[0]["classifier/none/images"] == 320 and second[1] is None
    assert made[0].logged[-1] == "end"


class Gone:
    """A tracker whose server goes away."""

    def __init__(self, calls=0):
        self.calls = calls

    def store_init_configuration(self, values):
        self.log(values)

    def log(self, values, step=None):
        self.calls -= 1
        if self.calls < 0:
            raise ConnectionError("server gone")

    def finish(self):
        self.log({})


def test_a_run_goes_on_without_a_tracker_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker", lambda *_, **__: Gone(2))
    with pytest.warns(UserWarning, match="--tracker tensorboard: server gone; it is told no more"):
        follow(tmp_path, "tensorboard")
    told = events.read(tmp_path / events.LOG)
    assert told[-1]["outcome"] == "done"
    assert [line["kind"] for line in told if line["event"] == "warning"] == ["UserWarning"]


def test_a_tracker_that_cannot_be_started_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker", lambda *_, **__: Gone())
    with pytest.raises(
        SvpkitError, match=r"^--tracker tensorboard: cannot be started \(server gone"
    ):
        follow(tmp_path, "tensorboard")


def test_what_is_not_there_is_said_before_the_work():
    with pytest.raises(SvpkitError, match="--tracker.*tensorbord.*tensorboard"):
        trackers.check_trackers(["tensorbord"])
    missing = [n for n in trackers.KNOWN if importlib.util.find_spec(n) is None]
    if missing:
        with pytest.raises(SvpkitError, match=rf"{missing[0]}: not installed \(pip install"):
            trackers.check_trackers(missing)


def test_a_missing_tracker_is_one_line_with_its_hint(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SvpkitError, match=r"^--tracker wandb: not installed \(pip install wandb\)$"
    ):
        trackers.check_trackers(["wandb"])


def test_no_places_and_secrets_among_the_parameters():
    given = {"a": {"b": 1, "path": "x", "api_key": "y", "c": (1, 2), "d": "/etc/x", "e": None}}
    assert dict(trackers.parameters(given)) == {"a.b": 1, "a.c": "(1, 2)"}
