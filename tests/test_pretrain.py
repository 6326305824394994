"""Pre-training, looks, gates and selection, each alone and all in one walk."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import svpkit
from svpkit.api import experiment
from svpkit.errors import SvpkitError
from svpkit.generate.gates import failures
from svpkit.generate.pretrain import adopt
from svpkit.generate.training import save_generator
from svpkit.hookspecs import ImageSpec
from svpkit.particles.particleset import ParticleSet
from svpkit.plugins import discover
from svpkit.recipe import validate
from svpkit.report.drawing import drawing_notes
from svpkit.report.html import Story, marked

OPTIONS = {"architecture": "lean", "width": 16, "timesteps": 50, "blocks": 1}
ALL = (
    "name='all'",
    "generator.train.looks=2",
    "generator.train.patience=2",
    "generator.pretrain={on='train', images=640}",
    "generator.select={by='density', keep=0.5}",
    "balance.synthetic.gates={background_shift_sd=99}",
)


@pytest.fixture(scope="module")
def everything(place, run):
    """The toy recipe with all that a generator can be asked, in the store of the plain one."""
    toy = place / "toy.toml"
    return svpkit.run(toy, overrides=ALL, runs=place / "runs", store=place / "store-pretrain")


def artifacts(run, stage):
    record = json.loads((run.folder / "run.json").read_text())
    return {a["name"] for a in record["artifacts"].values() if a["name"].startswith(f"{stage}-")}


def test_generators_share_one_pre_training(everything, place):
    assert len(artifacts(everything, "pretrain")) == 1
    (name,) = artifacts(everything, "pretrain")
    config = json.loads((place / "store-pretrain" / name / "config.json").read_text())
    assert config["spec"]["classes"] == ["any"]
    assert config["images"] == {"any": 100 + 20 + 20}
    for name in artifacts(everything, "generator"):
        config = json.loads((place / "store-pretrain" / name / "config.json").read_text())
        assert config["adopted"] == 1.0


def test_the_curve_of_kid_is_kept_and_shown(everything, place):
    for name in artifacts(everything, "generator"):
        rows = json.loads((place / "store-pretrain" / name / "history.json").read_text())
        looks = [row["val"] for row in rows if "val" in row]
        assert len(looks) == 2 and all(look["kid"] > 0 for look in looks)
        assert {"kid", "fid", "background_shift_sd", "contrast"} <= set(looks[0])
    page = (everything.folder / "report.html").read_text()
    assert "KID to held-out real images" in page
    assert "The generator was pre-trained on all real training images." in page
    assert "Of 60 ring drawn, 50\u00a0% were set aside by density," in page


def test_what_was_set_aside_stays_in_the_results(everything, place):
    found = everything.results["selection"]
    assert {name: (row["drawn"], row["kept"]) for name, row in found.items()} == {
        "ring": (60, 30),
        "bar": (60, 30),
    }
    assert found["ring"]["reject_rate"] == 0.5
    assert sum("set aside by density" in n for n in everything.results["notes"]) == 2
    kept = [
        ParticleSet.open(place / "store-pretrain" / n) for n in artifacts(everything, "selected")
    ]
    assert sum(len(k) for k in kept) == 60


def test_a_gate_that_fails_stops_the_run_and_keeps_what_is_drawn(everything, place):
    overrides = [
        *ALL,
        "name='gated'",
        "balance.synthetic.gates={coverage=1.1, background_shift_sd=99}",
    ]
    before = {p.name for p in (place / "store-pretrain").glob("*-*")}
    said = r"toy.toml: balance.synthetic.gates: .*ring: coverage is 0\S*, at least 1.1 is wanted"
    with pytest.raises(SvpkitError, match=said):
        svpkit.run(
            place / "toy.toml",
            overrides=overrides,
            runs=place / "runs",
            store=place / "store-pretrain",
        )
    # other gates change no key: nothing was drawn or trained again
    assert {p.name for p in (place / "store-pretrain").glob("*-*")} == before
    assert not (place / "runs" / "gated" / "results.json").exists()


def test_gates_fail_closed():
    row = {
        "copy_rate": 0.02,
        "copy_recall": 0.8,
        "coverage": {"value": 0.4},
        "background_shift_sd": -0.3,
        "c2st": None,
    }
    assert failures("oil", row, {"copy_rate": 0.02, "coverage": 0.4}) == []
    assert failures("oil", row, {"copy_rate": 0.01}) == [
        "oil: copy_rate is 0.02, at most 0.01 is allowed"
    ]
    assert failures("oil", row, {"background_shift_sd": 0.25})[0].startswith("oil: background")
    assert failures("oil", row, {"coverage": 0.5})[0].endswith("at least 0.5 is wanted")
    assert "could not be measured" in failures("oil", row, {"c2st": 0.6})[0]
    # a test that misses copies says nothing of their rate
    for recall in (None, 0.79):
        (said,) = failures("oil", row | {"copy_recall": recall}, {"copy_rate": 0.5})
        assert said.startswith("oil: copy_rate could not be measured, 0.5 is the limit (")
    assert failures("oil", row | {"memorised": {"value": 0.3}}, {"memorised": 0.2})


def built(classes, **options):
    use = discover(builtin_only=True).use(
        "generator", "ddpm", OPTIONS | options, "generator.plugin"
    )
    return use, use(ImageSpec(1, 16, classes))


def test_what_belongs_to_classes_alone_is_not_adopted(tmp_path):
    use, source = built(("any",), label_dropout=0.1)
    for p in source.parameters():
        nn.init.normal_(p)
    images = SimpleNamespace(counts={"any": 1}, digest="x")
    save_generator(tmp_path, source, use, ImageSpec(1, 16, ("any",)), images, [])
    _, model = built(("a", "b"), label_dropout=0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    share = adopt(model, tmp_path)
    labels = [k for k in before if "labels" in k]
    assert len(labels) == 1 and torch.equal(model.state_dict()[labels[0]], before[labels[0]])
    numbers = sum(p.numel() for p in model.parameters())
    assert share == pytest.approx(1 - before[labels[0]].numel() / numbers)
    same = dict(source.named_parameters())
    for name, p in model.named_parameters():
        assert name in labels or torch.equal(p, same[name])


@pytest.mark.parametrize(
    ("pretrain", "said"),
    [
        ({"on": "simulated:mfi-lik"}, "generator.pretrain.options.instrument: given 'mfi-lik'"),
        ({"on": "train", "options": {"protein": 5}}, "generator.pretrain.options: only for"),
        (
            {"on": "simulated:mfi-like", "options": {"oil": 5}},
            "generator.pretrain.options: unknown",
        ),
    ],
)
def test_a_wrong_pre_training_is_told(place, pretrain, said):
    overrides = [f"generator.pretrain={spelt(pretrain)}"]
    with pytest.raises(SvpkitError, match=said):
        experiment(place / "toy.toml", overrides)


def test_the_profile_of_the_data_is_no_pre_training():
    values = {
        "name": "x",
        "data": {"reader": "simulated", "options": {"silicone_oil": 9}},
        "generator": {"classes": ["silicone_oil"], "pretrain": {"on": "simulated:mfi-like"}},
    }
    with pytest.raises(SvpkitError, match="generator.pretrain.on: 'mfi-like' makes the data"):
        experiment(values)
    values["generator"]["pretrain"] = {"on": "simulated:flowcam-like"}
    reader = experiment(values).pretraining
    assert reader.options["silicone_oil"] == 5000 and "protein" not in reader.options


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generator.pretrain={on='rign'}", "generator.pretrain.on: unknown 'rign'.*'ring'"),
        ("generator.pretrain={on=['ring', 'br']}", "generator.pretrain.on: unknown 'br'"),
        ("generator.plugin='copy'", "generator.pretrain: 'copy' has no weights"),
    ],
)
def test_what_cannot_be_learnt_from_is_told(run, place, override, said):
    extra = ["generator.pretrain={on='train'}"] if "plugin" in override else []
    plain = ["generator.options={}", "generator.sample={}"] if "plugin" in override else []
    with pytest.raises(SvpkitError, match=said):
        svpkit.run(
            place / "toy.toml",
            overrides=["name='bad'", override, *extra, *plain],
            runs=place / "runs",
            store=place / "store-pretrain",
        )


def test_simulated_particles_of_another_profile(run, place):
    counts = {"protein": 40, "silicone_oil": 40, "air_bubble": 40}
    table = {"on": "simulated:flowcam-like", "images": 320, "options": counts}
    done = svpkit.run(
        place / "toy.toml",
        overrides=["name='sim'", f"generator.pretrain={spelt(table)}", "generator.train.looks=0"],
        runs=place / "runs",
        store=place / "store-pretrain",
    )
    (name,) = artifacts(done, "pretrain")
    assert json.loads((place / "store-pretrain" / name / "config.json").read_text())["images"] == {
        "any": 120
    }
    # the toys are no simulated particles: the mark is for those
    assert "NEAR ORACLE" not in (done.folder / "report.html").read_text()


def story(origins, on="simulated:flowcam-like"):
    recipe = {"generator": {"pretrain": {"on": on}}}
    generators = {"oil": {"history": [{"images": 5, "val": {"warnings": ["the contrast is 9%"]}}]}}
    empty = {"run": {}, "sets": {}, "arms": {}}
    return Story(recipe=recipe, generators=generators, origins=origins, **empty)


def test_the_simulator_of_the_test_data_is_marked_everywhere():
    near = story(("simulated",))
    assert marked(near) == "SIMULATED, NEAR ORACLE"
    assert "close to an oracle" in drawing_notes(near)[0]
    assert marked(story(("real",))) == "" and "oracle" not in drawing_notes(story(("real",)))[0]
    assert marked(story(("simulated",), on="train")) == "SIMULATED"
    assert drawing_notes(near)[-1] == "Generator of oil, at its last look: the contrast is 9%."


def spelt(table):
    from svpkit.toml import spell

    return spell(table)


def test_patience_needs_looks():
    values = {"name": "x", "data": {"reader": "folder", "path": "x"}}
    train = {"looks": 0, "patience": 3}
    values["generator"] = {"classes": ["a"], "train": train}
    with pytest.raises(SvpkitError, match="generator.train: patience needs looks above 0"):
        validate(values, "here")
