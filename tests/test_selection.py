"""Selection of drawn images: planted faults must go, and each rule against its definition."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from sklearn.neighbors import NearestNeighbors

from svpkit.errors import SvpkitError
from svpkit.generate import extractor, selection
from svpkit.particles.particleset import ParticleSet

GOOD = 60


def set_of(counts, seed):
    pixels, labels = toy.images(counts, seed)
    return ParticleSet.from_arrays(pixels, labels, toy.CLASSES)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A trained extractor with the split it was trained on; short, as toy shapes are simple."""
    train = set_of({"disc": 60, "ring": 80, "bar": 60}, 0)
    split = SimpleNamespace(train=lambda: train)
    out = tmp_path_factory.mktemp("extractor")
    with pytest.MonkeyPatch.context() as patch:
        for module in (extractor, selection):
            patch.setattr(module, "Split", SimpleNamespace(open=lambda folder: split))
        patch.setattr(extractor, "PLAN", replace(extractor.PLAN, images=4800))
        extractor.extractor(out, {"seed": 0}, out)
        yield SimpleNamespace(folder=out, train=train)


def select(seen, drawn, tmp_path, by, keep):
    """Run the stage; returns what it kept and what it says."""
    drawn.save(tmp_path / "drawn")
    (tmp_path / "drawn" / "synthetic.json").write_text(json.dumps({"wanted": keep}))
    out = tmp_path / "out"
    out.mkdir()
    selection.selected(out, {"by": by}, seen.folder, tmp_path, tmp_path / "drawn")
    return ParticleSet.open(out), json.loads((out / "selection.json").read_text())


def planted(kind, n=20):
    """Discs in good order, then as many faults, all said to be discs."""
    good = set_of({"disc": GOOD}, 3).images()
    rng = np.random.default_rng(0)
    bad = {
        "noise": rng.normal(170, 40, (n, 1, 16, 16)).clip(0, 255).astype(np.uint8),
        "ring": set_of({"ring": n}, 4).images(),
        "bar": set_of({"bar": n}, 4).images(),
    }[kind]
    images = np.concatenate([good, bad])
    order = rng.permutation(len(images))
    lineage = [f'{{"i": {i}}}' for i in order]
    ids = [f"drawn-{i:03d}" for i in order]
    return ParticleSet.from_arrays(
        images[order],
        ["disc"] * len(order),
        toy.CLASSES,
        id=ids,
        lineage=lineage,
        origin="synthetic",
    )


@pytest.mark.parametrize("kind", ["noise", "ring", "bar"])
@pytest.mark.parametrize("by", ["agreement", "density"])
def test_planted_faults_are_rejected(seen, tmp_path, by, kind):
    drawn = planted(kind)
    kept, said = select(seen, drawn, tmp_path, by=by, keep={"disc": GOOD})
    good = {f"drawn-{i:03d}" for i in range(GOOD)}
    assert len(set(kept.table["id"]) & good) >= GOOD - 1
    record = said["disc"]
    assert (record["drawn"], record["kept"], record["by"]) == (80, 60, by)
    assert record["reject_rate"] == pytest.approx(0.25)
    assert record["score"]["kept"]["0.05"] > record["score"]["drawn"]["0.05"]
    assert record["score"]["kept"]["0.95"] <= record["score"]["drawn"]["0.95"] * 1.01


@pytest.mark.parametrize("by", list(selection.RULES))
def test_rows_keep_order_id_lineage_and_pixels(seen, tmp_path, by):
    drawn = planted("ring")
    kept, _ = select(seen, drawn, tmp_path, by=by, keep={"disc": 30})
    assert len(kept) == 30 and kept.classes == drawn.classes
    table = drawn.table.set_index("id").loc[kept.table["id"]].reset_index()
    for name in ("id", "label", "lineage", "origin", "digest"):
        assert list(table[name]) == list(kept.table[name])
    places = [list(drawn.table["id"]).index(name) for name in kept.table["id"]]
    assert places == sorted(places)
    assert np.array_equal(kept.images(), drawn.images(places))


def test_near_duplicates_are_rejected_by_diversity(seen, tmp_path):
    # 30 different discs, then the first of them forty times with a little noise
    good = set_of({"disc": 30}, 5).images()
    noise = np.random.default_rng(0).integers(-1, 2, (40, *good.shape[1:]))
    again = np.clip(good[:1].astype(int) + noise, 0, 255).astype(np.uint8)
    images = np.concatenate([good, again])
    ids = [f"drawn-{i:03d}" for i in range(70)]
    drawn = ParticleSet.from_arrays(images, ["disc"] * 70, toy.CLASSES, id=ids)
    kept, said = select(seen, drawn, tmp_path, by="diversity", keep={"disc": 24})
    twins = [i for i in map(ids.index, kept.table["id"]) if i == 0 or i >= 30]
    assert len(twins) <= 2
    assert said["disc"]["score"]["kept"]["0.5"] > 2 * said["disc"]["score"]["drawn"]["0.25"]


def test_diversity_keeps_no_noise_and_no_training_images(seen, tmp_path):
    # what lies farthest from the rest is not diverse but wrong, and what is real already is known
    good = set_of({"disc": 60}, 5).images()
    noise = np.random.default_rng(0).integers(0, 255, (8, *good.shape[1:])).astype(np.uint8)
    known = seen.train.of("disc").images()[:20]
    images = np.concatenate([known, good, noise])
    ids = [f"drawn-{i:03d}" for i in range(88)]
    drawn = ParticleSet.from_arrays(images, ["disc"] * 88, toy.CLASSES, id=ids)
    kept, _ = select(seen, drawn, tmp_path, by="diversity", keep={"disc": 40})
    places = np.array([ids.index(name) for name in kept.table["id"]])
    assert places.min() >= 20 and places.max() < 80


@pytest.mark.parametrize("by", list(selection.RULES))
def test_keeping_all_keeps_all(seen, tmp_path, by):
    pixels, labels = toy.images({"disc": 12, "bar": 9}, 6)
    drawn = ParticleSet.from_arrays(pixels, labels, toy.CLASSES)
    kept, said = select(seen, drawn, tmp_path, by=by, keep={"disc": 12, "ring": 0})
    assert kept.digest == drawn.digest
    assert list(said) == ["disc", "bar"]
    assert [said[name]["reject_rate"] for name in said] == [0, 0]


def test_none_kept(seen, tmp_path):
    drawn = set_of({"disc": 3, "bar": 2}, 6)
    kept, said = select(seen, drawn, tmp_path, by="diversity", keep={"disc": 0, "bar": 0})
    assert len(kept) == 0 and kept.classes == toy.CLASSES
    assert said["disc"]["reject_rate"] == 1 and said["disc"]["score"]["kept"] is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"keep": {"disc": 4}, "by": "density"}, "wanted.disc: given 4, allowed are 0 to 3, as"),
        ({"keep": {"disc": -1}, "by": "density"}, "wanted.disc: given -1, allowed are 0 to 3"),
        ({"keep": {"dsic": 1}, "by": "density"}, "wanted: unknown 'dsic'; did you mean 'disc'"),
        ({"keep": {}, "by": "desnity"}, "select.by: unknown 'desnity'; did you mean 'density'"),
    ],
)
def test_what_cannot_be_kept_is_told(seen, tmp_path, params, message):
    with pytest.raises(SvpkitError, match=message):
        select(seen, set_of({"disc": 3}, 6), tmp_path, **params)


def test_agreement_needs_a_head():
    with pytest.raises(SvpkitError, match="'agreement' needs an extractor that names classes"):
        selection.agreement(torch.nn.Identity(), np.zeros((1, 1, 16, 16), np.uint8), 0)


def clouds(n=1100, m=700):
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(m, 8, generator=generator)
    return torch.randn(n, 8, generator=generator) * 1.3, real


def test_density_is_what_it_says():
    drawn, real = clouds()
    near = NearestNeighbors(n_neighbors=5).fit(real.numpy().astype(float))
    own = near.kneighbors()[0][:, -1]
    distance, which = near.kneighbors(drawn.numpy().astype(float))
    factor = (distance[:, -1:] / own[which]).mean(axis=1)
    torch.testing.assert_close(selection.density(drawn, real), torch.from_numpy(1 / factor))


def test_density_of_real_images_is_about_one_and_a_copy_gains_nothing():
    _, real = clouds(m=1400)
    assert float(selection.density(real[700:], real[:700]).median()) == pytest.approx(1, abs=0.1)
    copies = selection.density(real[:700], real[:700])
    assert float(copies.median()) == pytest.approx(1, abs=0.15)
    assert float(selection.density(real[:1] + 100, real)) < 0.05


def test_few_real_images():
    drawn, real = clouds(4, 3)
    assert torch.isfinite(selection.density(drawn, real)).all()
    assert torch.isfinite(selection.density(drawn, real[:1].expand(9, -1))).all()
    with pytest.raises(SvpkitError, match="2 real training images or more .*, here is 1"):
        selection.density(drawn, real[:1])


def test_farthest_is_greedy():
    drawn, real = clouds()
    allowed = torch.ones(len(drawn), dtype=torch.bool)
    allowed[::7] = False
    best, gap = selection.farthest(drawn, real, allowed, 40)
    # from the definition: every distance to all that is covered, again at each step
    x, covered = drawn.double().numpy(), real.double().numpy()
    for at in best.tolist():
        far = np.sqrt(((x[:, None] - covered[None]) ** 2).sum(-1)).min(1)
        assert at == np.argmax(np.where(allowed.numpy(), far, -1))
        assert float(gap[at]) == pytest.approx(far[at], abs=1e-9)
        covered = np.concatenate([covered, x[at : at + 1]])


def test_ties_go_to_the_first():
    x = torch.tensor([[0.0], [3.0], [-3.0], [3.0], [0.0]])
    best, _ = selection.farthest(x, torch.zeros(1, 1), torch.ones(5, dtype=torch.bool), 5)
    assert best.tolist() == [1, 2, 0, 3, 4]
    assert selection._first(torch.tensor([1.0, 2.0, 1.0, 2.0]), 3).tolist() == [1, 3, 0]
