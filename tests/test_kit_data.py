"""Each check of strategies, readers and particle types catches the fault that it is there for."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svpkit.classify.second import Head
from svpkit.errors import SvpkitError
from svpkit.hookspecs import Trial
from svpkit.particles.particleset import ParticleSet, concat
from svpkit.plugins import Plugin
from svpkit.testing import Failed, NotAsked, Subject, particle_types, readers, strategies


class Loss:
    def __init__(self, counts):
        n = np.array(list(counts.values()), float)
        self.prior = n / n.sum()

    def __call__(self, logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels)


class Strategy:
    """A right one: every verb, done simply."""

    settles = 0.5

    def draws(self, counts):
        return {name: max(counts.values()) - n for name, n in counts.items()}

    def particles(self, train, context):
        return concat([train, context.drawn]) if context.drawn else train

    def sampler(self, labels):
        return np.ones(len(labels))

    def factors(self, train):
        return np.ones(len(train))

    def augment(self, images, labels, seeds):
        back = (seeds % 2 == 0)[:, None, None, None]
        return torch.where(back, images.flip(-1), images), labels

    def mix(self, counts):
        def mixed(x, y, px, py, seeds):
            share = ((seeds % 8).float() / 8)[:, None]
            return x + share[..., None, None] * (px - x), y + share * (py - y)

        return mixed

    def loss(self, counts):
        return Loss(counts)

    def second_stage(self, head, seen, seed):
        return Head(head.weight * 0.5, head.bias * 0.5, head.prior)

    def adjust(self, logits, priors):
        return logits + np.log(priors.train).astype(np.float32)


def with_(base, **methods):
    return type("Broken", (base,), methods)


def inplace(value):
    value *= 0.5
    return value


def random_head(self, head, seen, seed):
    return Head(np.random.default_rng().normal(size=head.weight.shape), head.bias, head.prior)


def new_images(origin):
    def particles(self, train, context):
        more = ParticleSet.from_arrays(
            255 - train.images(), list(train.table["label"]), train.classes, origin=origin
        )
        return concat([train, more])

    return particles


def some_rows(self, train, context):
    return train.take(np.random.default_rng().permutation(len(train))[:20])


def relabel(self, train, context):
    train.table["source"] = "changed"
    return train


def mixes(call):
    return lambda self, counts: lambda x, y, px, py, seeds: call(x, y, px, py, seeds)


def loss_of(call, prior=None):
    class Other(Loss):
        def __init__(self, counts):
            super().__init__(counts)
            if prior is not None:
                self.prior = prior

        def __call__(self, logits, labels):
            return call(logits, labels)

    return lambda self, counts: Other(counts)


def cross(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels)


def first_draw(self, images, labels, seeds):
    return images + 0 * images * torch.rand(1) - 0.01 * torch.rand(1), labels


STRATEGIES = {
    "verbs": with_(object),
    "traits": with_(Strategy, settles=3),
    "draws": with_(Strategy, draws=lambda self, counts: {"unknown": 2}),
    "particles": with_(Strategy, particles=lambda self, t, c: t.with_classes(t.classes[:2])),
    "particles_input": with_(Strategy, particles=relabel),
    "particles_twice": with_(Strategy, particles=some_rows),
    "particles_origin": with_(Strategy, particles=new_images("real")),
    "sampler": with_(Strategy, sampler=lambda self, labels: np.zeros(len(labels))),
    "factors": with_(Strategy, factors=lambda self, train: np.full(len(train), -1.0)),
    "composes": with_(Strategy, loss=loss_of(cross, np.array([0.5, 0.5]))),
    "augment": with_(Strategy, augment=lambda self, x, y, s: (x * 127.5, y)),
    "augment_input": with_(Strategy, augment=lambda self, x, y, s: (inplace(x), y)),
    "augment_alone": with_(Strategy, augment=lambda self, x, y, s: (0.1 * (x - x.mean()), y)),
    "augment_seed": with_(Strategy, augment=first_draw),
    "mix": with_(Strategy, mix=mixes(lambda x, y, px, py, s: (x, y + py))),
    "mix_input": with_(Strategy, mix=mixes(lambda x, y, px, py, s: (inplace(x), y))),
    "mix_alone": with_(Strategy, mix=mixes(lambda x, y, px, py, s: ((x + x.roll(2, 0)) / 2, y))),
    "mix_seed": with_(Strategy, mix=mixes(lambda x, y, px, py, s: ((x + px) / 2, (y + py) / 2))),
    "loss": with_(Strategy, loss=loss_of(lambda x, y: cross(x.detach(), y))),
    "loss_mean": with_(Strategy, loss=loss_of(lambda x, y: len(x) * cross(x, y))),
    "loss_far": with_(Strategy, loss=loss_of(lambda x, y: cross(x.exp(), y))),
    "loss_soft": with_(Strategy, loss=loss_of(lambda x, y: cross(x, y) * (1 + (y.dim() == 2)))),
    "prior": with_(Strategy, loss=loss_of(cross, np.ones(3))),
    "second_stage": with_(
        Strategy, second_stage=lambda self, h, seen, seed: Head(h.weight[:2], h.bias[:2], h.prior)
    ),
    "second_stage_input": with_(
        Strategy,
        second_stage=lambda self, h, seen, seed: Head(inplace(h.weight), h.bias, h.prior),
    ),
    "second_stage_twice": with_(Strategy, second_stage=random_head),
    "adjust": with_(Strategy, adjust=lambda self, logits, priors: inplace(logits)),
    "adjust_rows": with_(Strategy, adjust=lambda self, z, p: z + np.arange(len(z))[:, None]),
    "adjust_prevalence": with_(
        Strategy,
        wants_prevalence=False,
        adjust=lambda self, z, p: z * (np.nan if p.deployment is None else 1),
    ),
}


def decoded(file):
    return np.array(Image.open(io.BytesIO(file.read_bytes())))


class Reader:
    """A right one: PNG files in a folder with `.toy` beside each."""

    def files(self, path):
        root = Path(path)
        if not root.is_dir():
            raise SvpkitError(f"{root}: no such folder")
        return sorted(root.glob("*.png"))

    def row(self, file):
        return {"id": file.name, "label": "a", "run": "r", "volume_ml": 0.5, "um_per_px": 1.0}

    def image(self, file):
        try:
            if file.is_symlink():
                return "a link"
            return decoded(file)
        except Exception as error:  # noqa: BLE001
            return f"cannot be read: {error}"

    def read(self, path):
        for file in self.files(path):
            yield self.image(file), self.row(file)

    def sniff(self, path):
        return (Path(path) / "toy.toy").is_file()


def export(folder):
    (folder / "toy.toy").touch()
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 256, (8, 9), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def at_once(self, path):
    found = [(self.image(file), self.row(file)) for file in self.files(path)]
    yield from found


def shuffled(self, path):
    for i in np.random.default_rng().permutation(len(self.files(path))):
        file = self.files(path)[i]
        yield self.image(file), self.row(file)


def notes(self, file):
    (file.parent / "cache.txt").write_text("seen")
    return Reader.row(self, file)


READERS = {
    "sniff": with_(Reader, sniff=lambda self, path: False),
    "sniff_nothing": with_(Reader, sniff=lambda self, path: bool(list(Path(path).iterdir()))),
    "sniff_others": with_(Reader, sniff=lambda self, path: any(Path(path).rglob("*.png"))),
    "images": with_(Reader, image=lambda self, file: np.zeros((4, 4))),
    "rows": with_(Reader, row=lambda self, file: {"id": "same"}),
    "runs": with_(
        Reader, row=lambda self, file: {"id": file.name, "volume_ml": 1.0 + int(file.stem)}
    ),
    "streaming": with_(Reader, read=at_once),
    "read_again": with_(Reader, read=shuffled),
    "leaves_export": with_(Reader, row=notes),
    "nothing_there": with_(Reader, files=lambda self, path: sorted(Path(path).glob("*.png"))),
    "damaged": with_(Reader, image=lambda self, file: decoded(file)),
    "links": with_(Reader, image=lambda self, file: decoded(file)),
    "import": with_(Reader, row=lambda self, file: {"id": file.name, "um_per_px": "wide"}),
}


class Kind:
    """A right one: a dark disc, whose size is the seed's."""

    def draw(self, seeds, optics):
        size = np.array([rng.uniform(1.5, 3) for rng in optics.random(seeds)])
        far = np.hypot(optics.axis, optics.axis[:, None])
        inside = 1 / (1 + np.exp(4 * (far - size[:, None, None])))
        return (1 - 0.5 * inside).astype(np.float32), [{"ecd_um": 2 * r} for r in size]


def kind(change=lambda x, seeds, optics: x, rows=lambda rows, seeds: rows, pick=lambda s: s):
    def draw(self, seeds, optics):
        x, told = Kind.draw(self, pick(seeds), optics)
        return np.asarray(change(x, seeds, optics), np.float32), rows(told, seeds)

    return with_(Kind, draw=draw)


def other_keys(rows, seeds):
    return [row | ({"radius_um": 1.0} if i % 2 else {}) for i, row in enumerate(rows)]


def blind(self, seeds, optics):
    # the side of the grid is all that it takes of the optics
    x = np.linspace(-1, 1, optics.size)
    r = np.array([0.3 + 0.2 * rng.random() for rng in optics.random(seeds)])
    inside = np.hypot(x, x[:, None]) < r[:, None, None]
    return (1 - 0.5 * inside).astype(np.float32), [{"ecd_um": 2.0} for _ in r]


PARTICLE_TYPES = {
    "intensity": kind(lambda x, s, o: x - 0.9),
    "one": kind(lambda x, s, o: x + 0.1 * (len(x) == 1)),
    "order": kind(lambda x, s, o: x + 0.01 * np.arange(len(x))[:, None, None]),
    "same_seed": kind(lambda x, s, o: x + np.random.default_rng().random()),
    "other_seed": kind(pick=lambda s: s & np.uint64(2**32 - 1)),
    "optics": with_(Kind, draw=lambda self, s, o: blind(self, s, o)),
    "background": kind(lambda x, s, o: 176 * x),
    "visible": kind(lambda x, s, o: 1 - 0.001 * x),
    "truth": kind(rows=lambda rows, s: [{"ecd_um": -1.0} for _ in rows]),
    "keys": kind(rows=other_keys),
    "camera": kind(lambda x, s, o: 0 * x),
    "simulated": kind(rows=lambda rows, s: [row | {"colour": "red"} for row in rows]),
}
TABLES = {
    "strategy": (strategies, Strategy, STRATEGIES),
    "reader": (readers, Reader, READERS),
    "particle_type": (particle_types, Kind, PARTICLE_TYPES),
}
CASES = [(k, n) for k, (_, _, broken) in TABLES.items() for n in broken]


def subject(of, thing):
    registered = thing if of == "strategy" else thing()
    trial = Trial(example=export if of == "reader" else None)
    return Subject.of(Plugin(of, "toy", registered, "toy", "0", "toy.py"), trial)


def check_named(module, name):
    return {f.__name__.removeprefix("check_"): f for f in module.CHECKS}[name]


@pytest.mark.parametrize("of", TABLES)
def test_right_ones_pass_every_check(of):
    module, right, _ = TABLES[of]
    tried = subject(of, right)
    for check in module.CHECKS:
        with contextlib.suppress(NotAsked):  # it has no trait that the check is about
            check(tried)
    assert all(isinstance(value, np.ndarray) for value in module.live(tried).values())


@pytest.mark.parametrize("of", TABLES)
def test_every_check_has_a_planted_fault(of):
    module, _, broken = TABLES[of]
    assert {check.__name__ for check in module.CHECKS} == {f"check_{name}" for name in broken}


@pytest.mark.parametrize(("of", "name"), CASES)
def test_a_planted_fault_is_caught_in_one_line(of, name):
    module, _, broken = TABLES[of]
    with pytest.raises((Failed, SvpkitError, ValueError, KeyError)) as error:
        check_named(module, name)(subject(of, broken[name]))
    assert "\n" not in str(error.value)
