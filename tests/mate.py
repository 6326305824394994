"""A process of a launch whose fellow dies: it waits, works alone, trains, or raises, as told."""

import os
import sys
import time
from pathlib import Path

import numpy as np


def begin(folder):
    """Leave the process's number, so that it can be killed, once all are there."""
    from svpkit import ranks

    ranks.wait()
    (folder / f"{ranks.rank()}.pid").write_text(str(os.getpid()))
    ranks.wait()


def train(folder):
    """Train a small network for longer than anyone waits."""
    import torch
    from torch import nn

    from svpkit.fit import Plan, Task, fit

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 2)

        def forward(self, images, labels, seeds, part="main"):
            return nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def fetch(at):
        time.sleep(0.01)
        return np.zeros((len(at), 1, 4, 4), np.uint8), np.zeros(len(at), np.int64)

    def order(step):
        if step == 20:
            (folder / "begun").touch()
        return np.arange(8)

    plan = Plan(images=8_000_000, batch=8, lr=1e-3)
    task = Task(order=order, fetch=fetch)
    torch.manual_seed(0)
    fit(Net(), plan, task, out=folder / "out", seed=0)


def shared(folder):
    """Write what the processes share out, of networks that were never trained."""
    from toy import CLASSES, images

    from svpkit import draws, ranks
    from svpkit.classify import finish
    from svpkit.classify.balance import compose
    from svpkit.classify.context import Priors
    from svpkit.classify.model import Model
    from svpkit.classify.score import shared_logits, shared_outputs
    from svpkit.default_plugins.ddpm import ddpm
    from svpkit.default_plugins.timm_models import timm_model
    from svpkit.generate.drawing import draw_shared, seeds_of
    from svpkit.hookspecs import ImageSpec
    from svpkit.particles.particleset import ParticleSet

    spec = ImageSpec(1, 16, CLASSES)
    with draws.seeded(0, "shared"):
        net = timm_model(spec, model="resnet10t", width=16, stem="half").eval()
        drawer = ddpm(spec, architecture="lean", width=16, timesteps=50, blocks=1).eval()
    if ranks.rank():
        # as batch norms are after a training: each process has its own
        for buffer in net.buffers():
            buffer.add_(1)
    ranks.same(net)
    pixels, labels = images({"disc": 700, "ring": 500, "bar": 333})
    particles = ParticleSet.from_arrays(pixels, labels, CLASSES)
    model = Model(net, spec, compose(()), Priors(np.full(3, 1 / 3), None), {})
    some = np.arange(170) % 3
    found = {
        "score": shared_logits(model, particles),
        "outputs": shared_outputs(model, pixels)[1],
        "validation": finish.logits(net, particles),
        "features": finish._features(net, particles),
        "drawn": draw_shared(drawer, some, seeds_of(0, "disc", np.arange(170)), {"steps": 3}),
    }
    for name, array in found.items() if ranks.main() else ():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def work(job, folder):
    """Do one job on this process."""
    from svpkit import ranks
    from svpkit.errors import SvpkitError

    begin(folder)
    if job in ("train", "shared"):
        {"train": train, "shared": shared}[job](folder)
    if job == "raise" and ranks.rank() == 1:
        raise SvpkitError("data.path: nothing here")
    if job == "alone" and ranks.main():
        time.sleep(600)
    if job == "others" and not ranks.main():
        time.sleep(600)
    ranks.wait()
    print(f"done {ranks.rank()} {sys.argv[1:]}")
    print(f"noise of {ranks.rank()}", file=sys.stderr)


if __name__ == "__main__":
    import svpkit.cli
    from svpkit import __main__

    # the program's own ending, with a job in the place of its command
    svpkit.cli.cli.main = lambda **kw: work(sys.argv[1], Path(sys.argv[2]))
    __main__.main()
