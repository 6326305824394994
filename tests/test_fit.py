"""The training loop: it learns, averages, chooses, resumes to the bit, and stops at NaN."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from svpkit import checkpoint, devices, draws, events
from svpkit.errors import SvpkitError
from svpkit.fit import Task, fit, learning_rate, to_float, to_uint8

IMAGES = np.random.default_rng(0).integers(0, 255, (200, 1, 8, 8), dtype=np.uint8)
LABELS = (IMAGES.mean((1, 2, 3)) > 127).astype(np.int64)
CE = nn.CrossEntropyLoss()


def plan(**changes):
    given = dict(images=2000, batch=20, lr=1e-2, schedule="cosine", warmup=0.05, clip=1.0)
    given |= dict(optimizer="adamw", weight_decay=0.0, ema=0.99)
    return SimpleNamespace(**{**given, **changes})


def network():
    with draws.seeded(0, "network"):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2)
        )


def loss(model, images, labels, seeds, part):
    return CE(model(images), labels)


def accuracy(model):
    with torch.no_grad():
        said = model(to_float(torch.from_numpy(IMAGES))).argmax(1)
    return {"macro_auprc": float((said == torch.from_numpy(LABELS)).float().mean())}


def task(**changes):
    given = dict(
        order=lambda step: np.random.default_rng(step).integers(0, 200, 20),
        fetch=lambda index: (IMAGES[index], LABELS[index]),
        loss=loss,
        validate=accuracy,
        choose=True,
    )
    return Task(**{**given, **changes})


def weights(model):
    return torch.cat([v.flatten().float() for v in model.state_dict().values()])


def train(out, the_plan=None, the_task=None):
    return fit(network(), the_plan or plan(), the_task or task(), out=out, seed=1)


def test_it_learns_and_tells_how(tmp_path):
    model, history = train(tmp_path)
    assert accuracy(model)["macro_auprc"] > 0.95
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < losses[0] / 2
    validated = [row["images"] for row in history if "val" in row]
    assert len(validated) == 8 and validated[-1] == 2000


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_an_interrupted_training_ends_as_one_never_interrupted(tmp_path, capsys, optimizer):
    calls = []

    def stops(*args, **more):
        calls.append(1)
        if len(calls) == 57:
            raise KeyboardInterrupt
        return loss(*args, **more)

    the_plan = plan(optimizer=optimizer)
    whole, history = train(tmp_path / "a", the_plan)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", the_plan, task(loss=stops))
    assert sorted(p.name for p in (tmp_path / "b").iterdir())[-1] == "checkpoint-000000050"
    assert "going on" not in capsys.readouterr().err
    again, history_again = train(tmp_path / "b", the_plan)
    assert torch.equal(weights(whole), weights(again)) and history == history_again
    said = "training: going on from a checkpoint at 1,000 images\n"
    assert capsys.readouterr().err == said


def test_the_line_of_a_stage_names_it_and_counts_what_was_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("svpkit.progress.QUIET_SECONDS", -1.0)
    events.tell(events.STAGE_STARTED, label="classifier: none")
    train(tmp_path, plan(images=90))
    events.tell(events.STAGE_ENDED, label="classifier: none")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("classifier: none: 90/90 images, ")
    assert [x.split(" images")[0][-5:] for x in lines[:3]] == ["20/90", "40/90", "60/90"]
    assert events.label("own") == "own"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    tensors = {"model": {"w": torch.arange(3.0)}}
    checkpoint.save(tmp_path, 1, tensors, {"step": 1})
    checkpoint.save(tmp_path, 2, tensors, {"step": 2})
    path = tmp_path / "checkpoint-000000002" / "model.safetensors"
    bytes_ = bytearray(path.read_bytes())
    bytes_[-1] ^= 1
    path.write_bytes(bytes_)
    found = checkpoint.load(tmp_path)
    assert (
        found and found[1] == {"step": 1} and torch.equal(found[0]["model"]["w"], torch.arange(3.0))
    )
    checkpoint.clear(tmp_path)
    assert checkpoint.load(tmp_path) is None


def test_a_loss_that_is_no_number_stops_with_the_step(tmp_path):
    def breaks(model, images, labels, seeds, part):
        return loss(model, images, labels, seeds, part) * float("nan")

    with pytest.raises(SvpkitError, match="the loss is nan at step"):
        train(tmp_path, the_task=task(loss=breaks))


def test_the_best_validation_is_kept_only_when_choosing(tmp_path):
    values = iter([0.1, 0.9, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1] * 2)
    seen = []

    def validate(model):
        seen.append(weights(model).clone())
        return {"macro_auprc": next(values)}

    chosen, _ = train(tmp_path / "a", the_task=task(validate=validate))
    assert torch.equal(weights(chosen), seen[1])
    last, _ = train(tmp_path / "b", the_task=task(validate=validate, choose=False))
    assert torch.equal(weights(last), seen[-1])


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1), (0.25, 1), (0.26, 3), (0.9, 7), (1.0, 7)])
def test_nothing_is_chosen_before_what_is_taught_has_settled(tmp_path, share, kept):
    values, seen = iter([0.1, 0.9, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1]), []

    def validate(model):
        seen.append(weights(model).clone())
        return {"macro_auprc": next(values)}

    chosen, _ = train(tmp_path, the_task=task(validate=validate, choose_from=share))
    assert torch.equal(weights(chosen), seen[kept])


def test_the_average_is_closer_to_the_end_than_the_start(tmp_path):
    raw, _ = train(tmp_path / "a", plan(ema=0.0), task(validate=None))
    averaged, _ = train(tmp_path / "b", plan(ema=0.9), task(validate=None))
    start = weights(network())
    assert 0 < (weights(raw) - weights(averaged)).norm() < (weights(raw) - start).norm()


def test_several_parts_have_an_optimizer_each(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 1), nn.Linear(64, 1)

        def parts(self):
            return {"a": self.a.parameters(), "b": self.b.parameters()}

        def forward(self, images, labels, seeds, *, part="main"):
            layer = {"a": self.a, "b": self.b}[part]
            goal = 1.0 if part == "a" else -1.0
            return (layer(images.flatten(1)).squeeze(1) - goal).square().mean()

    with draws.seeded(0, "pair"):
        pair = Pair()
    model, _ = fit(pair, plan(ema=0.0), task(loss=None, validate=None), out=tmp_path, seed=0)
    x = to_float(torch.from_numpy(IMAGES)).flatten(1)
    assert model.a(x).mean() > 0.5 and model.b(x).mean() < -0.5


def test_the_rate_warms_up_and_falls():
    p = plan(images=1000, batch=10, lr=1.0, warmup=0.1)
    rates = [learning_rate(p, i) for i in range(0, 1001, 10)]
    assert rates[0] == pytest.approx(10 / 110) and max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(plan(schedule="constant", lr=1.0), 1500) == 1.0


def test_grey_levels_survive_the_way_to_float_and_back():
    grey = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(grey)), grey)
    assert to_float(grey).min() == -1 and to_float(grey).max() == 1


def test_emulated_precision_is_refused():
    cpu = torch.device("cpu")
    assert devices.resolve_precision("auto", cpu) == "fp32"
    with pytest.raises(SvpkitError, match="fp16.*only emulated.*real here: fp32"):
        devices.resolve_precision("fp16", cpu)


def test_models_of_one_run_train_in_their_own_precision(tmp_path, monkeypatch):
    kinds = iter(["fp32", "bf16", "fp32"])
    monkeypatch.setattr("svpkit.fit.devices.resolve_precision", lambda asked, here: next(kinds))
    for name in "abc":
        model, _ = train(tmp_path / name, plan(images=100), task(validate=None))
        assert all(v.dtype == torch.float32 for v in model.state_dict().values())


def test_a_batch_must_divide_over_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("svpkit.fit.ranks.size", lambda: 3)
    with pytest.raises(SvpkitError, match="train.batch: 20 does not divide over 3 processes"):
        train(tmp_path)
