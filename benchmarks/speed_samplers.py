"""Part a of speed.py: samplers on the same weights, their speed and their images."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from speed_networks import built, now, ready

from svpkit import devices, draws
from svpkit.checkpoint import save_tensors
from svpkit.default_plugins.simulated import SimulatedReader, register_particle_types
from svpkit.fit import Plan, Task, fit
from svpkit.generate.copies import copy_rate
from svpkit.generate.distances import compare
from svpkit.generate.drawing import draw, seeds_of
from svpkit.generate.extractor import extractor, features, load_extractor
from svpkit.generate.gap import gap
from svpkit.generate.resample import again
from svpkit.particles.describe import background
from svpkit.particles.particleset import ParticleSet
from svpkit.particles.split import Split, split

OIL, CLASSES = "silicone_oil", ("protein", "silicone_oil", "air_bubble")
DRAWS = {
    "ancestral-500": {"sampler": "ancestral", "steps": 500},
    "dpmpp2m-25": {"sampler": "dpmpp2m", "steps": 25},
    "dpmpp2m-15": {"sampler": "dpmpp2m", "steps": 15},
}
UNSEEN = 1_000_000  # number of the first simulated particle that no generator was trained on
VAL = 100
TRAINED = ("train_real", "train_images")
COMPARED = 500  # images a side of one KID


def simulated(counts, size, start=0):
    """Return simulated particles; the same field of view at any size."""
    kinds = {}
    register_particle_types(kinds.__setitem__)
    given = {"pixels": size, "binning": 64 // size, "start": start, **counts}
    found = list(SimulatedReader().read(None, particle_types=kinds, **given))
    images = np.stack([image for image, _ in found])[:, None]
    return ParticleSet.from_arrays(images, [row["label"] for _, row in found], CLASSES)


def trained(train, asked, size, work):
    """Return the generator of width 16, loaded or trained, and what the rows say of that."""
    model = built("ddpm", {"architecture": "reference", "width": 16}, size)
    if asked.weights and asked.weights.is_file():
        state = load_file(asked.weights)
        said = dict(zip(TRAINED, state.pop("trained").tolist(), strict=True))
        model.load_state_dict(state)
        return ready(model), said
    model.prepare(train)
    plan = Plan(asked.train_images, 16, 1e-3, ema=0.999)
    none = np.zeros(plan.batch, np.int64)
    order = draws.epochs(len(train), plan.batch, 0)
    task = Task(order, lambda at: (train.images(at), none), label=f"width 16, {len(train)} images")
    model, _ = fit(model, plan, task, out=work / "model", seed=0, precision="fp32")
    said = dict(zip(TRAINED, (len(train), asked.train_images), strict=True))
    if asked.weights:
        written = {"trained": torch.tensor(list(said.values()))}
        save_tensors(asked.weights, {**model.state_dict(), **written})
    return ready(model), said


def drawn(model, n, chunk):
    """Return what each sampler draws, uint8 (n, C, H, W), and its seconds, a chunk each."""
    images, seconds = ({name: [] for name in DRAWS} for _ in range(2))
    names, label = list(DRAWS), np.zeros(chunk, np.int64)
    draw(model, label, seeds_of(1, OIL, np.arange(chunk)), {"steps": 2}, chunk=chunk)
    for k, start in enumerate(range(0, n, chunk)):
        seeds = seeds_of(0, OIL, np.arange(start, start + chunk))
        for name in names[k % len(names) :] + names[: k % len(names)]:
            began = now()
            images[name].append(draw(model, label, seeds, DRAWS[name], chunk=chunk))
            seconds[name].append(now() - began)
    return {name: np.concatenate(x)[:n] for name, x in images.items()}, seconds


def kid_less(a, b, real):
    """Return KID of a minus KID of b, features (n, F) each and (m, F), with its interval.

    Row i of a and of b began with the same noise: they are drawn again together.
    """
    rng = draws.rng(0, "kid less")
    # row 0 counts each image once, the others are the replicates
    x, y = (np.vstack([np.ones(len(f)), again(np.arange(len(f)), rng)]) for f in (a, real))
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    apart = 1 - torch.eye(len(a), dtype=torch.float64)

    def kernel(p, q):
        return (p.double() @ q.double().T / p.shape[1] + 1) ** 3

    def part(f):  # what is KID but for the real images among themselves, the same for both
        within = ((x @ (kernel(f, f) * apart)) * x).sum(1) / ((x @ apart) * x).sum(1)
        return within - 2 * ((x @ kernel(f, real)) * y).sum(1) / (x.sum(1) * y.sum(1))

    each = (part(a) - part(b)).numpy()
    return (each[0], *np.quantile(each[1:], [0.025, 0.975]))


def rows(asked):
    """Return the rows of sampling_speed.csv."""
    size, found = 32, []
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for name in ("split", "extractor", "model"):
            (work / name).mkdir()
        every = simulated(dict.fromkeys(CLASSES, asked.real + VAL), size)
        every.save(work / "data")
        params = {"seed": 0, "val": dict.fromkeys(CLASSES, VAL), "group": None, "test": None}
        split(work / "split", params, work / "data")
        train = Split.open(work / "split").train().of(OIL).with_classes((OIL,))
        extractor(work / "extractor", {"seed": 0}, work / "split")
        judge = load_extractor(work / "extractor")
        real = simulated({OIL: asked.n}, size, UNSEEN).images()
        model, said = trained(train, asked, size, work)
        images, seconds = drawn(model, asked.n, asked.chunk)
        seen = {name: features(judge, x) for name, x in images.items()}
        held = features(judge, real)
        for name in DRAWS:
            quality = judged(images[name], seen[name], real, held, train.images())
            less = kid_less(seen[name], seen["ancestral-500"], held)
            quality |= dict(zip(("kid_less", "kid_less_low", "kid_less_high"), less, strict=True))
            found.append(timed(16, size, name, asked, seconds) | said | rounded(quality))
    if asked.large:
        wide = ready(built("ddpm", {"architecture": "reference", "width": 64}, 64))
        _, seconds = drawn(wide, asked.large, asked.large)
        found += [timed(64, 64, name, asked, seconds) for name in DRAWS]
    return found


def judged(images, seen, real, held, train):
    """Return the quality of drawn images against unseen real ones."""
    size, units = min(COMPARED, len(real) // 2), np.arange(len(real))
    kid = compare("kid", seen, held, size, 0)["value"]
    floor = compare("kid", held, None, size, 0, units)["value"]
    low, high = gap(seen, held, units, 0)
    ours, theirs = background(images).mean(1), background(real).mean(1)
    return {
        "kid": kid,
        "kid_floor": floor,
        "kid_gap": kid - floor,
        "kid_gap_low": min(low, kid - floor),
        "kid_gap_high": max(high, kid - floor),
        "background_sd": (ours.mean() - theirs.mean()) / theirs.std(),
        "copy_rate": copy_rate(images, train),
        "copy_rate_real": copy_rate(real, train),
    }


def timed(width, size, name, asked, seconds):
    """Return the part of a row that says how long it took."""
    each = [sum(seconds[other]) for other in (name, "ancestral-500")]
    chunk = asked.chunk if width == 16 else asked.large
    n = chunk * len(seconds[name])
    return {
        "width": width,
        "size": size,
        "sampler": name,
        "drawn": n,
        "chunk": chunk,
        "threads": torch.get_num_threads(),
        "device": str(devices.device()),
        "seconds": round(each[0], 1),
        "s_image": float(f"{each[0] / n:.4g}"),
        "times_faster": round(each[1] / each[0], 1),
    }


def rounded(numbers):
    """Return numbers with four decimals."""
    return {name: round(float(value), 4) for name, value in numbers.items()}
