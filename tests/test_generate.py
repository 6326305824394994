"""Noise -> particles: networks, the diffusion loss, drawing, and the stages that do both."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy

from svpkit import draws
from svpkit.default_plugins.ddpm import ddpm
from svpkit.disk import file_digest
from svpkit.errors import SvpkitError
from svpkit.fit import to_float
from svpkit.generate import drawing, schedules, stage, training
from svpkit.generate.diffusion import turn, turned
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import discover

SPEC = ImageSpec(1, 16, ("disc", "bar"))
LEAN = {"architecture": "lean", "width": 8, "mults": (1, 2), "blocks": 1}
EDM = {"prediction": "edm"}


def model(spec=SPEC, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ddpm(spec, **{**LEAN, **options}).eval()


def batch(n, first=0, size=16):
    seeds = draws.seeds(0, "test", index=range(first, first + n))
    return draws.uniform(seeds, (1, size, size), "image") * 2 - 1, torch.arange(n) % 2, seeds


def shaken(net):
    """Give zero-initialised layers something to say."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


def test_reference_is_the_papers_size():
    n = sum(p.numel() for p in ddpm(ImageSpec(1, 64, ("a",))).parameters())
    assert n == pytest.approx(35.71e6, rel=0.005)


@pytest.mark.parametrize("architecture", ["lean", "reference"])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_networks_keep_the_shape(architecture, size):
    net = ddpm(ImageSpec(3, size, ("a", "b")), architecture=architecture, width=8, blocks=1)
    x = torch.zeros(2, 3, size, size)
    assert net.network(x, torch.tensor([0.0, 499.0]), torch.tensor([0, 1])).shape == x.shape


@pytest.mark.parametrize("architecture", ["lean", "reference"])
@pytest.mark.parametrize("width", range(8, 129, 8))
def test_every_width_runs(architecture, width):
    net = ddpm(ImageSpec(1, 8, ("a",)), architecture=architecture, width=width, blocks=1)
    x = torch.zeros(1, 1, 8, 8)
    assert net.network(x, torch.tensor([3.0]), torch.tensor([0])).shape == x.shape
    if architecture == "lean":
        heads = net.network.attend.heads
        assert heads == max(n for n in range(1, max(width // 16, 1) + 1) if 4 * width % n == 0)


def test_labels_and_levels_matter():
    net = shaken(model())
    x, labels, _ = batch(2)
    with torch.no_grad():
        one = net.network(x, torch.tensor([10.0, 10.0]), labels)
        assert not torch.equal(one, net.network(x, torch.tensor([10.0, 10.0]), 1 - labels))
        assert not torch.equal(one, net.network(x, torch.tensor([400.0, 400.0]), labels))


def test_size_must_halve():
    with pytest.raises(SvpkitError, match="mults: 4 resolutions of 'reference' need .* 8, .* 20"):
        ddpm(ImageSpec(1, 20, ("a",)))


def test_forward_has_the_moments_of_q():
    # what the network is given at level t must be N(alpha x0, sigma^2)
    net = model(augment=False, timesteps=50)
    seen = {}

    class Spy(torch.nn.Module):
        def forward(self, x, time, labels):
            seen.update(x=x, time=time)
            return torch.zeros_like(x)

    net.network = Spy()
    n, image = 4000, torch.linspace(-1, 1, 256).view(1, 1, 16, 16)
    loss = net(image.expand(n, -1, -1, -1), torch.zeros(n).long(), batch(n)[2])
    alpha, sigma = (v[seen["time"]][:, None, None, None] for v in schedules.levels(net.lam))
    noise = (seen["x"] - alpha * image) / sigma
    assert float(noise.mean()) == pytest.approx(0, abs=5e-3)
    assert float(noise.var()) == pytest.approx(1, abs=5e-3)
    # the first absolute moment of a normal number, which L1 sees where nothing is predicted
    assert float(loss) == pytest.approx((2 / torch.pi) ** 0.5, abs=5e-3)
    counts = np.bincount(seen["time"].numpy(), minlength=50)
    assert counts.min() > 40 and counts.max() < 130


def test_lognormal_levels():
    net = model(**EDM)
    _, lam = net._levels(draws.seeds(0, "t", index=range(20_000)))
    time, again = net._levels(draws.seeds(0, "t", index=range(20_000)))
    torch.testing.assert_close(lam, again)
    assert float(lam.median()) == pytest.approx(1.2 + np.log(0.5), abs=0.03)
    at = torch.from_numpy(np.interp(time.numpy(), np.arange(500), net.lam.numpy())).float()
    torch.testing.assert_close(at, lam, atol=1e-4, rtol=0)


def test_loss_belongs_to_the_seeds():
    net = shaken(model())
    x, labels, seeds = batch(8)
    with torch.no_grad():
        torch.manual_seed(0)
        one = net(x, labels, seeds)
        torch.manual_seed(1)
        assert torch.equal(one, net(x, labels, seeds))
        assert not torch.equal(one, net(x, labels, seeds + 1))
        # a batch cut in two halves is the same batch
        halves = net(x[:4], labels[:4], seeds[:4]) + net(x[4:], labels[4:], seeds[4:])
        torch.testing.assert_close(one, halves / 2)


@pytest.mark.parametrize("prediction", ["noise", "image", "v", "edm"])
def test_a_perfect_prediction_denoises(prediction):
    # one image known to the network: whatever the noise, sampling must end on it
    image = torch.linspace(-0.9, 0.9, 256).view(1, 1, 16, 16)
    net = model(prediction=prediction)

    class Knows(torch.nn.Module):
        def forward(self, x, time, labels):
            lam = np.interp(time.numpy(), np.arange(500), net.lam.numpy())
            alpha, sigma = schedules.levels(torch.from_numpy(lam).float()[:, None, None, None])
            noise = (x - alpha * image) / sigma
            told = {"noise": noise, "image": image.expand_as(x)}
            return told.get(prediction, alpha * noise - sigma * image)

    net.network = Knows()
    for options in ({"steps": 10}, {"sampler": "ancestral", "steps": 50}):
        out = net.sample(torch.zeros(2).long(), batch(2)[2], **options)
        torch.testing.assert_close(out, image.expand(2, -1, -1, -1), atol=2e-3, rtol=0)


def particles(n=200, classes=("disc",), seed=0):
    pixels, labels = toy.images({name: n for name in classes}, seed)
    return ParticleSet.from_arrays(pixels, labels, classes, um_per_px=[0.5] * len(labels))


def test_matched_start_has_the_images_background():
    # x_T of real images, noised by the forward process, against the matched start's
    levels = draws.rng(0, "levels").normal(180, 20, 400)
    noise = draws.rng(0, "noise").normal(0, 3, (400, 1, 16, 16))
    pixels = (levels[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)
    net = model(ImageSpec(1, 16, ("disc",)))
    net.prepare(ParticleSet.from_arrays(pixels, ["disc"] * 400, ["disc"]))
    alpha, sigma = (float(v[-1]) for v in schedules.levels(net.lam))
    _, _, seeds = batch(4000)
    start = net._start(torch.zeros(4000).long(), seeds, alpha, sigma, "matched")
    real = to_float(torch.from_numpy(pixels)).mean(dim=(1, 2, 3))
    found = start.mean(dim=(1, 2, 3))
    assert float(found.mean()) == pytest.approx(alpha * float(real.mean()), abs=3e-3)
    expected = alpha**2 * float(real.var()) + sigma**2 / 256
    assert float(found.var()) == pytest.approx(expected, rel=0.06)
    plain = net._start(torch.zeros(4000).long(), seeds, alpha, sigma, "noise")
    assert float(plain.mean()) == pytest.approx(0, abs=3e-3)


def test_turns_are_the_eight_symmetries():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    views = turn(x.expand(8, -1, -1, -1), torch.arange(8))
    assert len({tuple(v.flatten().tolist()) for v in views}) == 8
    for g in range(8):
        torch.testing.assert_close(views[g], turned(x, g)[0])
        torch.testing.assert_close(views[g].flatten().sort().values, x.flatten())


def test_no_images_are_drawn():
    none = drawing.draw(model(), np.zeros(0, int), drawing.seeds_of(0, "disc", np.arange(0)), {})
    assert none.shape == (0, 1, 16, 16) and none.dtype == np.uint8
    told = []
    drawing.draw(Remembers(SPEC), np.zeros(0, int), torch.zeros(0).long(), {}, progress=told.append)
    assert not told


@pytest.mark.parametrize("scales", [[], [0.5, 0.7, 2.0]])
def test_the_drawn_scale_is_the_median_of_what_is_known(tmp_path, scales):
    # numpy warns of the median of nothing known, and warnings are errors here
    pixels, labels = toy.images({"disc": 4})
    known = [*scales, *[float("nan")] * (4 - len(scales))]
    train = ParticleSet.from_arrays(pixels, labels, ("disc",), um_per_px=known)
    folder(tmp_path / "chunks")
    np.save(tmp_path / "chunks" / "000-000000.npy", pixels)
    asked = {"generator": SimpleNamespace(plugin=SimpleNamespace(name="ddpm")), "seed": 0}
    drawing.assemble(tmp_path, {"disc": 2}, "0" * 64, asked, train)
    found = ParticleSet.open(tmp_path).table["um_per_px"].to_numpy()
    np.testing.assert_array_equal(found, [0.7 if scales else np.nan] * 2)


def test_too_many_steps():
    with pytest.raises(SvpkitError, match="sample.steps: given 60, at most the 50 timesteps"):
        model(timesteps=50).sample(torch.zeros(1).long(), batch(1)[2], steps=60)


def test_sample_options_are_checked():
    use = discover(builtin_only=True).use("generator", "ddpm", LEAN, "generator.plugin")
    found = training.check_sample_options(use, SPEC, {"steps": 5}, "generator.sample")
    assert found == {
        "sampler": "dpmpp2m",
        "steps": 5,
        "grid": "auto",
        "start": "matched",
        "guidance": 1.0,
    }
    for wrong, said in (
        ({"step": 5}, "generator.sample: unknown 'step'; did you mean 'steps'"),
        ({"sampler": "dpmpp2"}, "generator.sample.sampler: given 'dpmpp2'.*did you mean 'dpmpp2m'"),
        ({"steps": 0}, "generator.sample.steps: given 0"),
    ):
        with pytest.raises(SvpkitError, match=said):
            training.check_sample_options(use, SPEC, wrong, "generator.sample")


def test_epochs_visit_every_image_once():
    order = draws.epochs(10, 4, seed=0)
    places = np.concatenate([order(step) for step in range(10)])
    for epoch in places.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert np.array_equal(order(7), draws.epochs(10, 4, seed=0)(7))

    assert len(draws.epochs(3, 8, seed=0)(5)) == 8


@pytest.fixture
def walked(tmp_path, monkeypatch):
    """A split of toy particles, and what the stages are asked."""
    train, val = particles(60, toy.CLASSES), particles(40, toy.CLASSES, seed=1)
    found = SimpleNamespace(train=lambda: train, val=lambda: val, choose_on_val=True)
    monkeypatch.setattr(stage, "Split", SimpleNamespace(open=lambda folder: found))
    use = discover(builtin_only=True).use("generator", "ddpm", {**LEAN, **EDM}, "generator.plugin")
    plan = SimpleNamespace(
        images=1920,
        batch=32,
        lr=3e-3,
        schedule="cosine",
        warmup=0.05,
        optimizer="adam",
        weight_decay=0.0,
        clip=1.0,
        ema=0.99,
        looks=0,
        patience=0,
    )
    params = {"generator": use, "classes": ["disc"], "train": plan, "seed": 0, "precision": "fp32"}
    params["pretrained"] = False
    rule = SimpleNamespace(draws=lambda counts: {"disc": counts["ring"] + 13})
    sample = {"sampler": "dpmpp2m", "steps": 6}
    draw = {k: params[k] for k in ("generator", "classes", "seed")}
    draw |= {"sample": sample, "rule": lambda: rule, "keep": 1}
    return SimpleNamespace(path=tmp_path, params=params, draw=draw, train=train)


def folder(path):
    path.mkdir(parents=True)
    return path


def test_the_stages_learn_and_draw(walked):
    model_at, drawn_at = folder(walked.path / "model"), folder(walked.path / "drawn")
    stage.generator(model_at, walked.params, walked.path)
    losses = [r["loss"] for r in json.loads((model_at / "history.json").read_text())]
    assert np.mean(losses[-10:]) < 0.87 * np.mean(losses[:5])
    config = json.loads((model_at / "config.json").read_text())
    assert config["images"] == {"disc": 60}
    assert config["digest"] == walked.train.of("disc").with_classes(["disc"]).digest
    assert sorted(p.name for p in model_at.iterdir() if p.is_file()) == [
        "config.json",
        "history.json",
        "model.safetensors",
    ]
    stage.synthetic(drawn_at, walked.draw, model_at, walked.path)
    drawn = ParticleSet.open(drawn_at)
    assert drawn.counts == {"disc": 73, "ring": 0, "bar": 0}
    row = drawn.table.iloc[7]
    digest = file_digest(model_at / "model.safetensors")
    assert row["id"] == f"synthetic-disc-000007-{digest[:8]}" == row["group"]
    assert (row["origin"], row["source"], row["um_per_px"]) == ("synthetic", "synthetic:ddpm", 0.5)
    assert json.loads(row["lineage"]) == {"model": digest, "label": "disc", "seed": 0, "i": 7}
    record = json.loads((drawn_at / "synthetic.json").read_text())
    assert record["images"] == {"disc": 73} and record["seconds_per_image"] > 0
    assert (drawn_at / "chunks").is_dir()  # the store takes it away once the set has its name
    # a bright disc on grey: the middle is brighter than the border, as in real ones
    images = drawn.images().astype(float)
    middle, border = images[:, 0, 6:10, 6:10].mean(), images[:, 0, 0].mean()
    assert middle - border > 25


def test_drawing_goes_on_where_it_stopped(walked, monkeypatch):
    model_at = folder(walked.path / "model")
    walked.params["train"].images = 64
    stage.generator(model_at, walked.params, walked.path)
    whole, broken = folder(walked.path / "whole"), folder(walked.path / "broken")
    stage.synthetic(whole, walked.draw, model_at, walked.path)
    real, calls = drawing.draw, []

    def fails_once(*args, **more):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return real(*args, **more)

    monkeypatch.setattr(drawing, "draw", fails_once)
    with pytest.raises(RuntimeError, match="power cut"):
        stage.synthetic(broken, walked.draw, model_at, walked.path)
    stage.synthetic(broken, walked.draw, model_at, walked.path)
    assert len(calls) == 3
    assert ParticleSet.open(whole).digest == ParticleSet.open(broken).digest


def test_a_loaded_generator_draws_as_the_trained_one(walked):
    model_at = folder(walked.path / "model")
    walked.params["train"].images = 64
    stage.generator(model_at, walked.params, walked.path)
    net = training.load_generator(model_at, walked.params["generator"])
    assert not torch.equal(net.mean, torch.zeros_like(net.mean))
    assert float(net.scale) != 1
    with pytest.raises(SvpkitError, match="no trained generator here"):
        training.load_generator(walked.path, walked.params["generator"])


def test_a_class_without_images_is_named(walked):
    walked.params["classes"] = ["dsic"]
    with pytest.raises(SvpkitError, match="no class 'dsic'"):
        stage.generator(folder(walked.path / "model"), walked.params, walked.path)


def test_broken_weights_are_told():
    net = model(ImageSpec(1, 16, ("disc",)))
    net.centre.fill_(float("nan"))
    with pytest.raises(SvpkitError, match="not finite"):
        drawing.draw(net, np.zeros(2, int), drawing.seeds_of(0, "disc", np.arange(2)), {"steps": 2})


class Remembers:
    """The plainest generator: it gives a training image back."""

    def __init__(self, spec):
        self.images = np.zeros((1, spec.channels, spec.size, spec.size), np.float32)

    def fit(self, particles, seed):
        self.images = particles.images() / np.float32(127.5) - 1

    def sample(self, labels, seeds, *, shift: int = 0):
        return self.images[(seeds.numpy() + shift) % len(self.images)]

    def state(self):
        return {"images": self.images}

    def load_state(self, arrays):
        self.images = arrays["images"]


def test_generators_that_learn_otherwise(walked):
    class Use:
        plugin = SimpleNamespace(name="remembers")

        def __call__(self, spec):
            return Remembers(spec)

        def describe(self):
            return {"plugin": "remembers", "options": {}}

    params = {**walked.params, "generator": Use()}
    model_at, drawn_at = folder(walked.path / "model"), folder(walked.path / "drawn")
    stage.generator(model_at, params, walked.path)
    draw = {**walked.draw, "generator": Use(), "sample": {"shift": 1}}
    stage.synthetic(drawn_at, draw, model_at, walked.path)
    drawn = ParticleSet.open(drawn_at)
    known = set(walked.train.of("disc").table["digest"])
    assert set(drawn.table["digest"]) <= known
    with pytest.raises(SvpkitError, match="unknown 'shfit'; did you mean 'shift'"):
        training.check_sample_options(Use(), SPEC, {"shfit": 1}, "generator.sample")
