"""A model of several parts: an optimizer each, the others held still, alone or on two processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from svpkit import checkpoint, draws
from svpkit.errors import SvpkitError
from svpkit.fit import Task, fit, to_float

IMAGES = np.random.default_rng(0).integers(0, 255, (64, 1, 4, 4), dtype=np.uint8)
LABELS = np.arange(64) % 2
BETAS = (0.0, 0.9)


class Rivals(nn.Module):
    """`maker` draws a level that `judge` has to take for the real one; `stray` is in no part."""

    def __init__(self):
        super().__init__()
        with draws.seeded(0, "rivals"):
            self.judge, self.maker = nn.Linear(16, 1), nn.Linear(3, 16)
            self.stray = nn.Parameter(torch.ones(1))
        self.seen = []

    def parts(self):
        return {"judge": self.judge.parameters(), "maker": self.maker.parameters()}

    def forward(self, images, labels, seeds, *, part="main"):
        wants = {n for n, p in self.named_parameters() if p.requires_grad}
        self.seen.append((part, {n.split(".")[0] for n in wants}))
        drawn = self.maker(draws.normal(seeds, (3,), part))
        if part == "maker":
            return nn.functional.softplus(-self.judge(drawn) * self.stray).mean()
        real = nn.functional.softplus(-self.judge(images.flatten(1)))
        return (real + nn.functional.softplus(self.judge(drawn.detach()))).mean()


class Grouped(Rivals):
    """The judge by torch's groups, at a tenth of the rate."""

    def parts(self):
        judge = {"params": self.judge.parameters(), "betas": BETAS, "rate": 0.1}
        return {"judge": [judge], "maker": self.maker.parameters()}


def plan(**changes):
    given = dict(images=640, batch=16, lr=1e-2, schedule="cosine", warmup=0.05, clip=0.05)
    given |= dict(optimizer="adam", weight_decay=0.0, ema=0.9)
    return SimpleNamespace(**{**given, **changes})


def task(**changes):
    given = dict(
        order=draws.epochs(64, 16, 3),
        fetch=lambda index: (IMAGES[index], LABELS[index]),
    )
    return Task(**{**given, **changes})


def weights(model):
    return torch.cat([v.flatten() for v in model.state_dict().values()])


def by_hand(model, the_plan, steps, betas=(0.9, 0.999), slow=1.0):
    """Train as the host should: gradients of each part by themselves, and Adam from its formula."""
    parts = {n: list(p["params"] if isinstance(p, dict) else p) for n, p in given(model)}
    state = {n: [(torch.zeros_like(p), torch.zeros_like(p)) for p in ps] for n, ps in parts.items()}
    order = draws.epochs(64, 16, 3)
    for step in range(steps):
        x = to_float(torch.from_numpy(IMAGES[order(step)]))
        seeds = draws.seeds(7, "fit", index=step * 16 + np.arange(16))
        for name, own in parts.items():
            found = torch.autograd.grad(model(x, None, seeds, part=name), own)
            norm = torch.cat([g.flatten() for g in found]).norm()
            b1, b2 = betas if name == "judge" else (0.9, 0.999)
            rate = the_plan.lr * (slow if name == "judge" else 1.0)
            for p, g, (mean, square) in zip(own, found, state[name], strict=True):
                g = g * min(1.0, the_plan.clip / float(norm))
                mean.mul_(b1).add_(g, alpha=1 - b1)
                square.mul_(b2).addcmul_(g, g, value=1 - b2)
                by = (mean / (1 - b1 ** (step + 1))) / (
                    (square / (1 - b2 ** (step + 1))).sqrt() + 1e-8
                )
                with torch.no_grad():
                    p.sub_(rate * by)
    return model


def given(model):
    return [(n, p[0] if isinstance(p, list) else p) for n, p in model.parts().items()]


def test_each_part_learns_by_its_own_loss_and_clip_alone(tmp_path):
    the_plan = plan(schedule="constant", warmup=0.0, ema=0.0)
    model, _ = fit(Rivals(), the_plan, task(), out=tmp_path, seed=7)
    torch.testing.assert_close(weights(model), weights(by_hand(Rivals(), the_plan, 40)))
    assert model.stray.item() == 1 and model.stray.grad is None


def test_a_part_may_have_a_rate_and_settings_of_its_own(tmp_path):
    the_plan = plan(schedule="constant", warmup=0.0, ema=0.0)
    model, _ = fit(Grouped(), the_plan, task(), out=tmp_path, seed=7)
    hand = by_hand(Grouped(), the_plan, 40, betas=BETAS, slow=0.1)
    torch.testing.assert_close(weights(model), weights(hand))


def test_while_one_part_learns_the_others_are_held_still(tmp_path):
    model, _ = fit(Rivals(), plan(images=32, ema=0.0), task(), out=tmp_path, seed=7)
    assert model.seen == [("judge", {"judge"}), ("maker", {"maker"})] * 2
    assert all(p.requires_grad for p in model.parameters())


def test_parts_are_let_go_when_a_loss_raises(tmp_path):
    def stops(model, images, labels, seeds, part):
        raise KeyboardInterrupt

    model = Rivals()
    with pytest.raises(KeyboardInterrupt):
        fit(model, plan(), task(loss=stops), out=tmp_path, seed=7)
    assert all(p.requires_grad for p in model.parameters())


def test_the_history_tells_the_parts_apart(tmp_path):
    model, history = fit(Rivals(), plan(), task(), out=tmp_path, seed=7)
    assert [row["images"] for row in history] == [16 * k for k in range(1, 41)]
    for row in history:
        assert list(row["losses"]) == ["judge", "maker"]
        assert row["loss"] == pytest.approx(np.mean(list(row["losses"].values())))
    x = to_float(torch.from_numpy(IMAGES[draws.epochs(64, 16, 3)(0)]))
    seeds = draws.seeds(7, "fit", index=range(16))
    first = float(Rivals()(x, None, seeds, part="judge").detach())
    assert history[0]["losses"]["judge"] == pytest.approx(first)


@pytest.mark.parametrize("kind", [Rivals, Grouped])
def test_a_stopped_run_of_two_optimizers_ends_as_one_never_stopped(tmp_path, kind):
    whole, history = fit(kind(), plan(), task(), out=tmp_path / "a", seed=7)
    calls = []

    def fetch(index):
        calls.append(1)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return IMAGES[index], LABELS[index]

    with pytest.raises(KeyboardInterrupt):
        fit(kind(), plan(), task(fetch=fetch), out=tmp_path / "b", seed=7)
    assert list((tmp_path / "b").glob("checkpoint-*/optimizer.maker.safetensors"))
    again, history_again = fit(kind(), plan(), task(), out=tmp_path / "b", seed=7)
    assert torch.equal(weights(whole), weights(again)) and history == history_again


def test_losses_between_two_notes_survive_a_stop(tmp_path):
    # 200 steps: a note every second, a checkpoint first after the 19th
    the_plan, calls = plan(images=550_000, batch=2750), []
    every = task(order=lambda step: (step + np.arange(2750)) % 64)

    def loss(model, *batch, part):
        calls.append(part)
        if len(calls) == 2 * 25:
            raise KeyboardInterrupt
        return model(*batch, part=part)

    whole, history = fit(Rivals(), the_plan, every, out=tmp_path / "a", seed=7)
    with pytest.raises(KeyboardInterrupt):
        fit(Rivals(), the_plan, replace(every, loss=loss), out=tmp_path / "b", seed=7)
    extra = checkpoint.load(tmp_path / "b")[1]
    assert (extra["step"], len(extra["pending"])) == (19, 2)
    again, history_again = fit(Rivals(), the_plan, every, out=tmp_path / "b", seed=7)
    assert torch.equal(weights(whole), weights(again)) and history == history_again


@pytest.mark.parametrize("broken", ["judge", "maker"])
def test_the_part_that_breaks_first_is_named(tmp_path, broken):
    steps = []

    def loss(model, *batch, part):
        steps.append(part)
        late = part == broken and len(steps) > 50
        return model(*batch, part=part) * (float("nan") if late else 1.0)

    with pytest.raises(SvpkitError, match=f"the loss of '{broken}' is nan at step"):
        fit(Rivals(), plan(images=6400), task(loss=loss), out=tmp_path, seed=7)


def test_the_average_follows_every_part(tmp_path):
    raw, _ = fit(Rivals(), plan(ema=0.0), task(), out=tmp_path / "a", seed=7)
    mean, _ = fit(Rivals(), plan(), task(), out=tmp_path / "b", seed=7)
    for part in ("judge", "maker"):
        start, end, between = (getattr(m, part).weight for m in (Rivals(), raw, mean))
        assert 0 < (end - between).norm() < (end - start).norm()


PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_parts as t
from svpkit import ranks
model, history = t.fit(t.Rivals(), t.plan(), t.task(), out=Path(sys.argv[2]), seed=7)
if ranks.main():
    said = {"history": history, "weights": t.weights(model).tolist(), "size": ranks.size()}
    Path(sys.argv[3]).write_text(json.dumps(said))
"""


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    here = os.path.dirname(__file__)
    found = []
    for n in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(n)] if n > 1 else []
        places = [here, str(tmp_path / f"out-{n}"), str(tmp_path / f"{n}.json")]
        command = [sys.executable, *launcher, str(tmp_path / "program.py"), *places]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads((tmp_path / f"{n}.json").read_text()))
    one, two = found
    assert (one["size"], two["size"]) == (1, 2)
    np.testing.assert_allclose(one["weights"], two["weights"], atol=1e-5)
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["losses"] == pytest.approx(b["losses"], abs=1e-5)
